"""Files of boxes as people keep their own: a line a box, which ``data.layout=own`` reads."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from st_ssl.core.boxes import Boxes
from st_ssl.core.errors import OutputError
from st_ssl.core.files import replace_text

HEAD = "# class x y z length width height yaw [vx vy], in metres, radians and m/s; behind #: the score\n"


def write_boxes(file: Path, boxes: Boxes, classes: Sequence[str]) -> None:
    """Write ``boxes`` to ``file``, in their order; the score, where they have one, is a comment, so that the file can
    be read as labels, too."""
    lines = [HEAD]
    for row, (values, number) in enumerate(zip(boxes.values, boxes.classes.tolist(), strict=True)):
        told = values if np.isfinite(values).all() else values[:7]
        score = f"  # {boxes.facts['score'][row]:.4f}" if "score" in boxes.facts else ""
        lines.append(f"{classes[number]} {' '.join(f'{value:.4f}' for value in told)}{score}\n")
    replace_text(file, "".join(lines))


class BoxFolder:
    """``boxes/NAME.txt`` for each sweep, NAME that of its file (with a number where several have the same), and
    ``index.jsonl`` with a line for each: path, file, and the number of its boxes by class; or path and error. Raises
    ``OutputError`` where ``folder`` holds other files."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.folder, self.classes = folder, list(classes)
        self.rows: list[dict[str, Any]] = []
        self._names: Counter[str] = Counter()
        if folder.is_dir() and any(folder.iterdir()) and not (folder / "index.jsonl").is_file():
            raise OutputError(f"--output {folder}: it holds other files; name a new or an empty folder")
        (folder / "boxes").mkdir(parents=True, exist_ok=True)
        for old in (folder / "boxes").glob("*.txt"):
            old.unlink()
        self._write()

    def add(self, path: str, boxes: Boxes) -> None:
        """Write the boxes of one sweep."""
        stem = re.sub(r"[^\w.-]", "_", Path(path).stem) or "sweep"
        self._names[stem] += 1
        name = f"boxes/{stem}{f'_{self._names[stem]}' if self._names[stem] > 1 else ''}.txt"
        write_boxes(self.folder / name, boxes, self.classes)
        counts = Counter(self.classes[number] for number in boxes.classes.tolist())
        self.rows.append({"path": path, "file": name, "boxes": {own: counts[own] for own in self.classes}})
        self._write()

    def close(self, bad: Mapping[str, str]) -> None:
        """Tell of the sweeps that could not be read, too, and why."""
        self.rows += [{"path": path, "error": reason} for path, reason in bad.items()]
        self._write()

    def _write(self) -> None:
        replace_text(self.folder / "index.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows))
