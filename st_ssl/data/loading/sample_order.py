"""The order of a run as a function: which samples make up step k. Nothing is remembered, so any step can be resumed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from st_ssl.core.random import keyed_rng

SampleKey = tuple[int, int] | tuple[int, int, int]
"""(pass over the data set, sample index): with the seed it determines every draw of the sample. A third number is the
update that the sample is for: draws that all samples of a batch share depend on it alone."""


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    return keyed_rng(seed, "order", epoch).permutation(num_samples)


@dataclass(frozen=True)
class Order:
    """Batches of ``batch_size`` (over all processes) out of ``num_samples``; each pass is a permutation of its own.

    A pass takes every sample at most once and leaves out the remainder that does not fill a batch.
    """

    seed: int
    num_samples: int
    batch_size: int

    def __post_init__(self) -> None:
        assert 0 < self.batch_size <= self.num_samples

    @property
    def steps_per_pass(self) -> int:
        return self.num_samples // self.batch_size

    def step(self, step: int) -> list[tuple[int, int, int]]:
        """The samples of global step ``step`` (from 0), for all processes."""
        epoch, position = divmod(step, self.steps_per_pass)
        indices = _permutation(self.seed, epoch, self.num_samples)
        return [(epoch, int(i), step) for i in indices[position * self.batch_size : (position + 1) * self.batch_size]]


@dataclass(frozen=True)
class StepSampler:
    """A batch sampler for ``DataLoader``: this process's share of the steps from ``start`` to ``stop``."""

    order: Order
    start: int
    stop: int
    rank: int = 0
    world_size: int = 1

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        share = self.order.batch_size // self.world_size
        for step in range(self.start, self.stop):
            yield self.order.step(step)[self.rank * share : (self.rank + 1) * share]
