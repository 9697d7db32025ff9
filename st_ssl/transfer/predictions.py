"""What a fine-tuned network said of test clouds, in files for people to look at."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from st_ssl.files import replace_text, write_atomically
from st_ssl.transfer.tasks import Shown, Task
from st_ssl.types import Entry

Keep = Callable[[Shown, np.ndarray, np.ndarray, np.ndarray], None]
"""Given what a batch was asked about, and probabilities [T, K], truth [T] and sample [T], as a ``Meter`` is."""


@dataclass(frozen=True)
class Predictions:
    """The files in ``folder``, which take the place of those of an earlier time.

    ``0000.npz`` … one for each of at most ``limit`` clouds (None: all), spread evenly over the test part: ``xyz``
    float32 [N, 3], and ``label`` and ``prediction`` int64, [N] where points are asked about (``xyz`` is then all of the
    file) or [] for the whole cloud (``xyz`` is what the network was shown first); -1 is no label. ``classes.json`` has
    the names of the classes, by number; ``about.json`` which fit it was, ``limit``, and the path of each cloud.
    """

    folder: Path
    limit: int | None = 8

    def there(self) -> bool:
        """Whether an earlier time has left as many."""
        try:
            limit = json.loads((self.folder / "about.json").read_text())["limit"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return limit is None or (self.limit is not None and self.limit <= limit)

    def keeper(self, task: Task, classes: Sequence[str], tested: Sequence[Entry], about: dict[str, Any]) -> Keep:
        """What ``evaluate`` gives the predictions for ``tested`` to; ``about`` says which fit they are of."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob("[0-9][0-9][0-9][0-9]*.npz"):
            old.unlink()
        replace_text(self.folder / "classes.json", json.dumps(list(classes), indent=2) + "\n")
        count = len(tested) if self.limit is None else min(self.limit, len(tested))
        rows = np.linspace(0, len(tested) - 1, count).round().astype(int)
        files = {id(tested[row]): f"{number:04d}.npz" for number, row in enumerate(rows)}
        clouds: dict[str, str] = {}

        def keep(asked: Shown, scores: np.ndarray, truth: np.ndarray, sample: np.ndarray) -> None:
            predicted = task.predicted(scores, sample, asked.entries)
            for number, entry in enumerate(asked.entries):
                if name := files.get(id(entry)):
                    own = sample == number
                    label, prediction = truth[own], predicted[own]
                    if not task.whole:
                        label, prediction = label[0], prediction[0]
                    xyz = asked.view.points.part(number, number + 1).xyz.cpu().numpy()
                    _write(self.folder / name, xyz=xyz, label=label, prediction=prediction)
                    clouds[name] = entry.path
            described = about | {"limit": self.limit, "clouds": dict(sorted(clouds.items()))}
            replace_text(self.folder / "about.json", json.dumps(described, indent=2) + "\n")

        return keep


def _write(file: Path, **arrays: np.ndarray) -> None:
    with write_atomically(file) as unfinished, unfinished.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]  # none is called allow_pickle
