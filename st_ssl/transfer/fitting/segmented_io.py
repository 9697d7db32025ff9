"""What was said of the points of clouds, in files: ``.npz`` for programs, ``.ply`` for viewers too."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from st_ssl.core.errors import OutputError
from st_ssl.core.files import replace_text, write_atomically
from st_ssl.data.base import BadSample
from st_ssl.transfer.fitting.predict import Segmented

Form = Literal["npz", "ply"]


class SegmentedFolder:
    """``NAME.npz`` or ``NAME.ply`` of each cloud, NAME that of its file (with a number where several have the same):
    ``xyz`` float64 [N, 3], ``segment`` [N], ``probability`` float32 [N], and the names of the ``classes``, in a PLY as
    comments. ``index.jsonl`` has a line for each: path, file, points, and the share of its points by class; or path and
    error. Raises ``OutputError`` where ``folder`` holds other files."""

    def __init__(self, folder: Path, form: Form, classes: Sequence[str]) -> None:
        self.folder, self.form, self.classes = folder, form, list(classes)
        self.rows: list[dict[str, Any]] = []
        self._names: Counter[str] = Counter()
        if folder.is_dir() and any(folder.iterdir()) and not (folder / "index.jsonl").is_file():
            raise OutputError(f"--output {folder}: it holds other files; name a new or an empty folder")
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("index.jsonl"):
            for name in _files(old):
                (folder / name).unlink(missing_ok=True)
        self._write()

    def add(self, found: Segmented) -> None:
        """Write one cloud."""
        stem = re.sub(r"[^\w.-]", "_", re.sub(r"\.\w+(?=#|$)", "", Path(found.path).name)) or "cloud"
        self._names[stem] += 1
        name = f"{stem}{f'_{self._names[stem]}' if self._names[stem] > 1 else ''}.{self.form}"
        with write_atomically(self.folder / name) as unfinished, unfinished.open("wb") as stream:
            if self.form == "npz":
                arrays = {"xyz": found.xyz, "segment": found.segment, "probability": found.probability}
                np.savez_compressed(stream, **arrays, classes=np.array(self.classes))  # type: ignore[arg-type]
            else:
                stream.writelines(ply(found, self.classes))
        share = shares(found, len(self.classes))
        told = dict(zip(self.classes, share.round(6).tolist(), strict=True))
        self.rows.append({"path": found.path, "file": name, "points": len(found.xyz), "share": told})
        self._write()

    def close(self, bad: Sequence[BadSample]) -> None:
        """Tell of what could not be read, too."""
        self.rows += [{"path": one.path, "error": one.reason} for one in bad]
        self._write()

    def _write(self) -> None:
        replace_text(self.folder / "index.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows))


def _files(index: Path) -> Iterator[str]:
    """The files that an earlier call has written beside its index."""
    for line in index.read_text().splitlines():
        with suppress(ValueError, AttributeError):
            name = str(json.loads(line).get("file"))
            if Path(name).name == name and name.endswith((".npz", ".ply")):
                yield name


def shares(found: Segmented, num_classes: int) -> np.ndarray:
    """The share of the points that are of each class, float [K]."""
    return np.bincount(found.segment, minlength=num_classes) / max(1, len(found.segment))


def ply(found: Segmented, classes: Sequence[str]) -> Iterator[bytes]:
    """A binary PLY: x, y and z double, segment int and probability float."""
    names = "".join(f"comment class {number} {' '.join(name.split())}\n" for number, name in enumerate(classes))
    fields = [(axis, "<f8") for axis in "xyz"] + [("segment", "<i4"), ("probability", "<f4")]
    kinds = {"<f8": "double", "<i4": "int", "<f4": "float"}
    properties = "".join(f"property {kinds[kind]} {name}\n" for name, kind in fields)
    head = f"ply\nformat binary_little_endian 1.0\n{names}element vertex {len(found.xyz)}\n{properties}end_header\n"
    yield head.encode("ascii", "backslashreplace")
    columns = [*found.xyz.T, found.segment, found.probability]
    table = np.empty(len(found.xyz), dtype=fields)
    for (name, _), column in zip(fields, columns, strict=True):
        table[name] = column
    yield table.tobytes()
