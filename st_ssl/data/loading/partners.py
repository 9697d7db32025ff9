"""Which recordings the views of a sample are of: its own, or, to see what a pair is worth, those of another one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError, nearest
from st_ssl.core.random import Key, keyed_rng
from st_ssl.core.types import ALIKE, Entry


class PairsConfig(Config):
    """Which recording all views of a sample but the first are of.

    ``own``: the sample's own, as methods have it. Two controls: ``any``, that of any other sample, so that a pair
    has nothing in common; ``class``, that of another sample with the same ``label``, so that pairs are as good as
    labels make them; views then have the label ``alike``, by which a method may take no sample of the class for a
    negative. Pretraining then uses labels, and is no longer self-supervised. ``share``: of the samples, drawn anew
    each epoch, that have a partner; the others keep their own."""

    partner: Literal["own", "any", "class"] = "own"
    share: float = Field(default=1.0, gt=0, le=1)
    label: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _label_of_class(self) -> PairsConfig:
        if (self.partner == "class") != (self.label is not None):
            raise ValueError("pairs.label is for pairs.partner=class, which needs it")
        if self.partner == "own" and self.share < 1:
            warnings.warn(f"pairs.share={self.share:g} is ignored: each sample is its own partner", stacklevel=3)
        return self


class Partners:
    """The partner of each sample in each epoch: drawn anew, never itself unless there is no other. Raises
    ``ConfigError`` where samples lack the label."""

    def __init__(self, config: PairsConfig, entries: Sequence[Entry], seed: Key) -> None:
        self.seed, self.share, self.labelled = seed, config.share, config.label is not None
        count = len(entries)
        self._classes = np.zeros(count, dtype=np.int64)
        if config.label is not None:
            labels = [entry.labels.get(config.label) for entry in entries]
            if None in labels:
                names = dict.fromkeys(name for entry in entries for name in entry.labels)
                what = f"{labels.count(None)} of {count} samples have no label {config.label!r}"
                raise ConfigError(f"pairs.label={config.label}: {what}{nearest(config.label, names)}")
            self._classes = np.unique(np.array(labels), return_inverse=True)[1]
        self._members = [np.flatnonzero(self._classes == one) for one in range(int(self._classes.max(initial=0)) + 1)]

    def alike(self, index: int) -> dict[str, np.ndarray]:
        """The label of the views of the sample ``index`` that tells its class, where partners are of one."""
        return {ALIKE: self._classes[index]} if self.labelled else {}

    def of(self, epoch: int, index: int) -> int:
        """The number of the partner of the sample ``index``."""
        members = self._members[self._classes[index]]
        others = members[members != index]
        rng = keyed_rng(self.seed, epoch, index, "partner")
        if not len(others) or rng.random() >= self.share:
            return index
        return int(others[rng.integers(len(others))])


def partners(config: PairsConfig, entries: Sequence[Entry], seed: Key) -> Partners | None:
    """Whom samples are paired with; None where each is its own partner."""
    return None if config.partner == "own" else Partners(config, entries, seed)
