"""Cells of a study: one training each, whose result is one small JSON file that all studies share.

A cell's name is a hash of all that its result depends on: configuration, code, and hardware. So a study that is killed
loses the cell under way and nothing else, and a result of other code or another machine is never taken for this one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from st_ssl.core.errors import OutputError
from st_ssl.core.files import replace_text
from st_ssl.core.plain_json import NOT_PLAIN, load_json
from st_ssl.core.verdict import Outcomes
from st_ssl.transfer.probes.scores import Scores

FORMAT = 1
Json = dict[str, Any]
Part = Literal["test", "val"]
PARTS: tuple[Part, ...] = ("test", "val")
"""What a study is told by, and what choices are made by."""

Kind = Literal["arm", "reference", "supervised", "pace"]


@dataclass(frozen=True)
class Cell:
    """One training, or one measurement, of a study.

    ``arm``: an arm with a ``seed``, perhaps a ``trial`` of it, trained for a ``budget``; ``reference``: what the
    untrained ``network`` and trivial baselines get with a ``seed``; ``supervised``: the network trained with the labels
    of a ``target``; ``pace``: the seconds that an epoch of an arm takes. ``inputs`` is all that the result depends on
    besides ``code`` and ``hardware``.
    """

    kind: Kind
    network: str
    inputs: Json = field(hash=False)
    code: str
    hardware: str
    arm: str = ""
    seed: int = 0
    budget: str = ""
    trial: int | None = None
    target: str = ""

    @property
    def key(self) -> str:
        """The name of its file."""
        told = [FORMAT, self.kind, self.inputs, self.code, self.hardware]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:20]

    @property
    def told(self) -> str:
        """For people: "cvrl, seed 1, equal time"."""
        if self.kind == "reference":
            return f"{self.network} untrained and baselines, seed {self.seed}"
        if self.kind == "supervised":
            return f"{self.network} supervised, {self.target}"
        if self.kind == "pace":
            return f"{self.arm}: how long an epoch takes"
        trial = "" if self.trial is None else f", trial {self.trial + 1}"
        return f"{self.arm}{trial}, seed {self.seed}{self.budget and f', equal {self.budget}'}"


class Store:
    """A folder of finished cells, and of those under way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, cell: Cell) -> Json | None:
        """What is known of a cell: its ``result`` and its ``cost``; None where it is not done."""
        file = self._file(cell)
        if not file.is_file():
            return None
        try:
            found: Json = load_json(file.read_text(encoding="utf-8"))
            if found["key"] != cell.key:
                raise ValueError(f"it says that it is {found['key']}")
            return {"result": found["result"], "cost": found["cost"]}
        except NOT_PLAIN as error:
            raise OutputError(f"{file} is not a finished cell ({error!r}): remove it, and it is made again") from error

    def write(self, cell: Cell, result: Json, cost: Json) -> None:
        """Keep a finished cell."""
        about = {"key": cell.key, "kind": cell.kind, "told": cell.told, "code": cell.code, "hardware": cell.hardware}
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**about, "result": result, "cost": cost, "inputs": cell.inputs}, indent=1)
        replace_text(self._file(cell), text + "\n")

    def hardware(self) -> list[str]:
        """All hardware that finished cells are from."""
        found: dict[str, None] = {}
        for file in sorted(self.folder.glob("*.json")):
            try:
                found[str(load_json(file.read_text(encoding="utf-8"))["hardware"])] = None
            except NOT_PLAIN as error:
                raise OutputError(f"{file} is not a finished cell ({error!r}): remove it") from error
        return list(found)

    @contextmanager
    def claimed(self, cell: Cell) -> Iterator[Path | None]:
        """A folder to work in that no other process has, until the block ends; None where another one has it. What a
        killed process left there is still in it."""
        work = self.folder / "unfinished" / cell.key
        work.mkdir(parents=True, exist_ok=True)
        with (self.folder / "unfinished" / f".{cell.key}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
            yield work

    def _file(self, cell: Cell) -> Path:
        return self.folder / f"{cell.key}.json"


def packed(scores: Scores, who: Mapping[str, str]) -> Json:
    """What everyone got of each sample, ready for JSON: by target, row of a probe, and name (``who`` of ``scores`` to
    the name it gets). Right and wrong are a text of "1" and "0", "-" where a sample was not judged; scores of values
    are a list, null where one was not."""
    told: Json = {"samples": scores.samples, "scores": {}}
    for (target, key, name), seeds in scores.cells.items():
        if name in who:
            (parts,) = seeds
            cell = told["scores"].setdefault(target, {}).setdefault(key, {})
            cell[who[name]] = _packed(parts)
    return told


def _packed(parts: np.ndarray) -> str | list[float | None]:
    """Sums and counts [M, 2] of one score a sample."""
    scores, judged = parts[:, 0], parts[:, 1] > 0
    if np.isin(scores, (0.0, 1.0)).all() and (parts[judged, 1] == 1).all():
        return "".join("-" if not known else str(int(score)) for score, known in zip(scores, judged, strict=True))
    means = scores / np.maximum(parts[:, 1], 1)
    return [float(f"{mean:.9g}") if known else None for mean, known in zip(means, judged, strict=True)]


def outcomes(told: Sequence[str | list[float | None]], unit: float = 100.0) -> Outcomes:
    """What one contestant got in several seeds, of what ``packed`` wrote of each. ``unit``: 100 for per cent."""
    scores = np.array([_unpacked(one) for one in told], dtype=np.float64)
    found = Outcomes.of_scores(scores)
    return found if unit == 100.0 else Outcomes(found.parts, _plain_mean)


def _unpacked(told: str | list[float | None]) -> list[float]:
    if isinstance(told, str):
        return [{"0": 0.0, "1": 1.0}.get(letter, np.nan) for letter in told]
    return [np.nan if score is None else score for score in told]


def _plain_mean(totals: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return totals[..., 0] / totals[..., 1]
