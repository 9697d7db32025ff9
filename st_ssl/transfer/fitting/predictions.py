"""What a fine-tuned network said of test samples, in files for people and programs to look at."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from st_ssl.core.evenly import evenly
from st_ssl.core.files import csv_text, replace_text, write_atomically
from st_ssl.core.summary import null
from st_ssl.core.types import Entry
from st_ssl.transfer.features.cloud_tokens import in_file_frame
from st_ssl.transfer.tasks.ballot import Shown
from st_ssl.transfer.tasks.base import Task
from st_ssl.transfer.tasks.detection import Detect
from st_ssl.transfer.tasks.labels import LabelTask
from st_ssl.transfer.tasks.metrics import IGNORE, ScoreMeter, average_precisions, calibrated, confusion_matrix

Keep = Callable[[Shown, np.ndarray, np.ndarray, np.ndarray], None]
"""Given what a batch was asked about, and probabilities [T, K], truth [T] and sample [T], as a ``Meter`` is."""


@dataclass(frozen=True)
class Predictions:
    """The files in ``folder``, which take the place of those of an earlier time: see ``CloudKeeper`` for clouds, of
    which at most ``limit`` are kept (None: all), spread evenly over the test part, ``BoxKeeper`` for boxes in sweeps,
    and ``VideoKeeper`` for videos, of which all are, as these files are small.

    ``classes.json`` has the names of the classes, by number; ``about.json`` which fit it was, and ``limit``.
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

    def keeper(
        self, task: Task, classes: Sequence[str], tested: Sequence[Entry], about: dict[str, Any]
    ) -> Keeper | None:
        """What ``evaluate`` gives the predictions for ``tested`` to; ``about`` says which fit they are of. None for a
        task on videos that is not about their labels."""
        if isinstance(task, Detect):
            return BoxKeeper(self, task, classes, tested, about)
        if task.modality == "points":
            return CloudKeeper(self, task, classes, tested, about)
        return VideoKeeper(self, task, classes, tested, about) if isinstance(task, LabelTask) else None


@dataclass
class Keeper(ABC):
    """Takes what is said of samples that are among ``tested``, batch by batch (it is a ``Keep``), and writes it."""

    place: Predictions
    task: Task
    classes: Sequence[str]
    tested: Sequence[Entry]
    about: dict[str, Any]

    def __post_init__(self) -> None:
        self.folder, self.about = self.place.folder, self.about | {"limit": self.place.limit}
        self.folder.mkdir(parents=True, exist_ok=True)
        for pattern in ("[0-9][0-9][0-9][0-9]*.npz", "*.csv", "scores.npy", "index.jsonl"):
            for old in self.folder.glob(pattern):
                old.unlink()
        replace_text(self.folder / "classes.json", json.dumps(list(self.classes), indent=2) + "\n")

    @abstractmethod
    def __call__(self, asked: Shown, scores: np.ndarray, truth: np.ndarray, sample: np.ndarray) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Write what can be said only once all samples are in, and ``about.json``."""

    def _tell(self, **more: Any) -> None:
        replace_text(self.folder / "about.json", json.dumps(self.about | more, indent=2) + "\n")


@dataclass
class CloudKeeper(Keeper):
    """``0000.npz`` … one for each cloud: ``xyz`` float64 [N, 3] as the file has it, and ``label`` and ``prediction``
    int64, [N] where points are asked about (``xyz`` is then all of the file) or [] for the whole cloud (``xyz`` is what
    the network was shown first); -1 is no label. ``about.json`` has the path of each, or the file that was packed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        tested, limit = self.tested, self.place.limit
        count = len(tested) if limit is None else min(limit, len(tested))
        self.files = {id(tested[row]): f"{number:04d}.npz" for number, row in enumerate(evenly(len(tested), count))}
        self.clouds: dict[str, str] = {}

    def __call__(self, asked: Shown, scores: np.ndarray, truth: np.ndarray, sample: np.ndarray) -> None:
        predicted = self.task.predicted(scores, sample, asked.entries)
        for number, entry in enumerate(asked.entries):
            if name := self.files.get(id(entry)):
                own = sample == number
                label, prediction = truth[own], predicted[own]
                if not self.task.whole:
                    label, prediction = label[0], prediction[0]
                xyz = in_file_frame(asked.view, number, asked.view.points.part(number, number + 1).xyz)
                with write_atomically(self.folder / name) as unfinished, unfinished.open("wb") as stream:
                    np.savez_compressed(stream, xyz=xyz, label=label, prediction=prediction)
                self.clouds[name] = entry.shown

    def close(self) -> None:
        self._tell(clouds=dict(sorted(self.clouds.items())))


@dataclass
class BoxKeeper(Keeper):
    """All test sweeps, of which ``limit`` with their points, spread evenly.

    ``boxes.npz``: of every box found the number of its sweep ``sweep`` int64 [K], ``classes`` int64 [K], ``score``
    float32 [K] and ``values`` float32 [K, 9] (``st_ssl.core.boxes.BOX``); of the true ones ``true_sweep``,
    ``true_classes`` (-1: neither right nor wrong), ``true_values`` and ``true_points``, how many are in them.
    ``0000.npz`` …, by the number of the sweep: its points ``xyz`` float32 [N, 3]. ``about.json`` has the ``overlaps``
    by which boxes are the same, and of each sweep the drive and which of its sweeps it is."""

    task: Detect

    def __post_init__(self) -> None:
        super().__post_init__()
        limit = len(self.tested) if self.place.limit is None else self.place.limit
        self.shown = set(evenly(len(self.tested), limit).tolist())
        self.numbers = {id(entry): number for number, entry in enumerate(self.tested)}
        self.found: list[tuple[np.ndarray, np.ndarray]] = []
        self.sweeps: dict[int, tuple[str, int]] = {}

    def __call__(self, asked: Shown, scores: np.ndarray, truth: np.ndarray, sample: np.ndarray) -> None:
        of = np.array([self.numbers[id(entry)] for entry in asked.entries])
        own = np.concatenate([of[scores[:, 0].astype(int)][:, None], scores[:, 1:]], 1)
        self.found.append((own, np.concatenate([of[sample][:, None], truth], 1)))
        for place, (number, entry) in enumerate(zip(of.tolist(), asked.entries, strict=True)):
            self.sweeps[number] = (entry.shown, entry.start)
            if number in self.shown:
                xyz = asked.view.points.part(place, place + 1).xyz.cpu().numpy()
                self._write(f"{number:04d}.npz", xyz=xyz)

    def _write(self, name: str, **arrays: Any) -> None:
        with write_atomically(self.folder / name) as unfinished, unfinished.open("wb") as stream:
            np.savez_compressed(stream, **arrays)

    def close(self) -> None:
        found, true = (np.concatenate(rows) for rows in zip(*self.found, strict=True))
        self._write(
            "boxes.npz",
            sweep=found[:, 0].astype(np.int64),
            classes=found[:, 1].astype(np.int64),
            score=found[:, 2].astype(np.float32),
            values=found[:, 3:].astype(np.float32),
            true_sweep=true[:, 0].astype(np.int64),
            true_classes=true[:, 1].astype(np.int64),
            true_values=true[:, 2:11].astype(np.float32),
            true_points=true[:, 11].astype(np.int64),
        )
        config = self.task.config
        sweeps = {str(number): list(self.sweeps[number]) for number in sorted(self.sweeps)}
        self._tell(overlaps=self.task.overlaps, overlap_of=config.overlap_of, sweeps=sweeps)


@dataclass
class VideoKeeper(Keeper):
    """All test videos, in the order of the test part; those that are broken are left out.

    ``scores.npy`` float32 [N, K]: probabilities. ``index.jsonl``, a line for each: ``row``, ``path`` (and ``source``,
    the file that was packed; ``start`` and ``num_frames`` of a part of a file), ``label`` (null: none), ``prediction``
    and its ``probability``; where a video may have several, ``tags``, and lists of what is more likely than not.
    ``per_class.csv``: how many videos have each class, and its accuracy, or average precision, in per cent (empty where
    none has it). ``confusion.csv``: how many videos of the class of a row were taken for the class of a column; not of
    tags. ``about.json`` also has how many are ``judged`` (those with a label that is a class), and the ``calibration``:
    the bounds of bins of confidence, and of each bin how many predictions are in it, their mean confidence and the
    share that is right (null where there are none).
    """

    task: LabelTask

    def __post_init__(self) -> None:
        super().__post_init__()
        self.about["limit"] = None
        self.labels = self.task.labels
        self.seen = ScoreMeter(len(self.classes), self.labels.several)
        self.entries: list[Entry] = []

    def __call__(self, asked: Shown, scores: np.ndarray, truth: np.ndarray, sample: np.ndarray) -> None:
        self.seen.add(scores, truth, sample, asked.entries)
        self.entries += asked.entries

    def close(self) -> None:
        """Write the scores and the index of all samples, in the order of the test split."""
        # several processes leave out their broken videos each for itself, and then are not in step
        places = {id(entry): number for number, entry in enumerate(self.tested)}
        order = sorted(range(len(self.entries)), key=lambda row: places[id(self.entries[row])])
        scores, truth, entries = self.seen.scores[order], self.seen.truth[order], [self.entries[row] for row in order]
        with write_atomically(self.folder / "scores.npy") as unfinished, unfinished.open("wb") as stream:
            np.save(stream, scores, allow_pickle=False)
        rows = map(self._row, range(len(scores)), entries, scores)
        replace_text(self.folder / "index.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        if truth.ndim == 1:
            confusion = confusion_matrix(truth, scores.argmax(1), len(self.classes))
            table = [["", *self.classes], *([n, *r] for n, r in zip(self.classes, confusion.tolist(), strict=True))]
            replace_text(self.folder / "confusion.csv", csv_text(table))
            count = confusion.sum(1)
            what, share = "accuracy", np.diagonal(confusion) / np.maximum(count, 1)
        else:
            what, share = "average_precision", average_precisions(scores, truth)
            count = (truth == 1).sum(0)
        each = zip(self.classes, count.tolist(), (100 * share).tolist(), strict=True)
        lines = [[name, number, f"{value:.2f}" if number else ""] for name, number, value in each]
        replace_text(self.folder / "per_class.csv", csv_text([["class", "count", what], *lines]))
        found = calibrated(scores, truth)
        bins = {
            "bounds": np.linspace(0, 1, len(found.count) + 1).tolist(),
            "count": found.count.tolist(),
            "confidence": list(map(null, found.confidence)),
            "right": list(map(null, found.right)),
        }
        known = truth != IGNORE if truth.ndim == 1 else (truth != IGNORE).all(1)
        self._tell(samples=len(scores), judged=int(known.sum()), calibration=bins)

    def _row(self, row: int, entry: Entry, scores: np.ndarray) -> dict[str, Any]:
        about: dict[str, Any] = {"row": row, "path": entry.path}
        if entry.source:
            about["source"] = entry.source
        if (entry.start, entry.num_frames) != (0, None):
            about |= {"start": entry.start, "num_frames": entry.num_frames}
        own = self.labels.of(entry)
        if self.labels.several:
            chosen = [i for i in (-scores).argsort(kind="stable") if scores[i] > 0.5]
            about |= {"tags": list(own), "prediction": [self.classes[i] for i in chosen]}
            return about | {"probability": [round(float(scores[i]), 6) for i in chosen]}
        best = int(scores.argmax())
        about |= {"label": own[0] if own else None, "prediction": self.classes[best]}
        return about | {"probability": round(float(scores[best]), 6)}
