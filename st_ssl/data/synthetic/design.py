"""Balanced designs: factors that are independent because they are dealt like cards, and data sets of such samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np

from st_ssl.core.config import Config
from st_ssl.core.errors import DataError, nearest
from st_ssl.core.files import claim_folder, csv_text, replace_text, write_atomically
from st_ssl.core.random import Key, keyed_rng
from st_ssl.data.loading.parallel_map import parallel_map


@lru_cache(maxsize=256)
def deal(values: tuple[str, ...], count: int, *key: Key) -> tuple[str, ...]:
    """One of ``values`` for each of ``count`` samples, each as often as any other (give or take one), in an order that
    depends on ``key`` alone."""
    raw = keyed_rng(*key).bit_generator.random_raw(count)
    return tuple(values[rank % len(values)] for rank in np.argsort(np.argsort(raw, kind="stable")).tolist())


class PlantedConfig(Config):
    """Has ``num_train``, ``num_test`` and perhaps ``num_val``: how many samples there are of each split."""

    kind: ClassVar[str]
    """"video", say: what messages, keys of random numbers and what is written call a sample."""
    version: ClassVar[int]
    """Grows where the same configuration gives other samples."""

    def counts(self) -> dict[str, int]:
        """The number of samples of each split."""
        return {name: getattr(self, f"num_{name}") for name in ("train", "val", "test") if hasattr(self, f"num_{name}")}

    def count(self, split: str) -> int:
        """Number of samples of a split; ``DataError`` where there is no such split."""
        counts = self.counts()
        if split not in counts:
            raise DataError(f"split {split!r} is not one of {', '.join(counts)}{nearest(split, counts)}")
        return counts[split]

    def deal(self, factors: Mapping[str, tuple[str, ...]], split: str, index: int) -> dict[str, str]:
        """The factors of sample ``index`` of ``split``; ``DataError`` where there is no such sample."""
        count = self.count(split)
        if not 0 <= index < count:
            raise DataError(f"{self.kind} {index} of split {split!r}: there are {self.kind}s 0 to {count - 1}")
        key = (self.seed, f"synthetic-{self.kind}", split)  # type: ignore[attr-defined]
        return {factor: deal(values, count, *key, factor)[index] for factor, values in factors.items()}


@dataclass(frozen=True)
class Planted:
    """One sample's truth."""

    split: str
    index: int
    factors: dict[str, str]
    form: ClassVar[str]

    @property
    def path(self) -> str:
        """Where the sample lies, relative to the root of the data set."""
        return f"{self.split}/{self.form.format(self.index)}"

    def row(self) -> tuple[Any, ...]:
        """What ``factors.csv`` tells of it."""
        return self.path, self.split, *self.factors.values()


C = TypeVar("C", bound=PlantedConfig)
S = TypeVar("S", bound=Planted)
M = TypeVar("M")


def save_bytes(path: Path, content: Any) -> None:
    """Write a file: one with its own name is complete."""
    with write_atomically(path) as unfinished:
        unfinished.write_bytes(content)


def write_planted(
    root: Path,
    config: C,
    about: dict[str, Any],
    plan: Callable[[C, str, int], S],
    make: Callable[[C, S], M],
    num_workers: int,
    progress: bool,
    columns: Sequence[str] = (),
    save: Callable[[Path, M], None] = save_bytes,
) -> Path:
    """Write a data set under ``root`` and return ``root``: ``synthetic.json`` (first) with the configuration and
    ``about``, for each sample of ``plan`` by ``save`` what ``make`` makes of it, and the samples' rows under
    ``columns``, if there are any, as ``factors.csv`` (last). ``num_workers`` processes are started; 0 or 1
    stays in this one.

    A run that was stopped is taken up where it ended; finished samples are kept, and a finished data set returns at
    once. A folder that holds anything else, or the samples of another configuration, is a ``DataError`` and is left as
    it is.
    """
    root, what = Path(root), f"synthetic {config.kind}s"
    stamp = {"format": f"st_ssl {what}", "version": config.version, "config": config.model_dump(), **about}
    claim_folder(root, "synthetic.json", stamp, f"set of {what}")
    samples = [plan(config, split, index) for split, count in config.counts().items() for index in range(count)]
    missing = [sample for sample in samples if not (root / sample.path).exists()]
    for folder in {(root / sample.path).parent for sample in samples}:
        folder.mkdir(parents=True, exist_ok=True)
    done = len(samples) - len(missing)
    shown = progress and bool(missing)
    for sample, made in parallel_map(partial(make, config), missing, num_workers, what, done, shown):
        save(root / sample.path, made)
    if columns and (missing or not (root / "factors.csv").exists()):
        replace_text(root / "factors.csv", csv_text([columns, *(sample.row() for sample in samples)]))
    return root
