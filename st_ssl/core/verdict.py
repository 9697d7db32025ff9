"""Who is ahead of whom: the one meaning of "ahead", for every table, figure and sentence.

A contestant is ahead of a rival where the 95 % bootstrap interval (Efron 1979) of their paired difference, over seeds
and test samples (windows of one recording are drawn together), lies above 0. Pretraining is ahead where it is ahead of
the same network untrained and of the strongest trivial baseline.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from st_ssl.core.random import keyed_rng

DRAWS = 2000
"""Bootstrap draws of an interval."""
FEWEST = 10
"""Test samples below which nothing is called ahead or behind: a bootstrap of so few says too little."""

RIVALS = 2
"""Rivals that it takes to be ahead: the same network untrained, and the strongest trivial baseline."""
MOST = 4096
"""Up to this many samples are drawn one by one. More are first put into this many random groups, to save memory."""

_ROUNDING = 1e-9
_WINDOW = re.compile(r"(.+):window \d+\+\d+", re.S)

Standing = Literal["ahead", "level", "behind"]
Figure = Callable[[np.ndarray], np.ndarray]


def mean_figure(totals: np.ndarray) -> np.ndarray:
    """The mean in per cent, from sums [..., 2] of scores in 0 … 1 and of how many there are; NaN of none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return 100 * totals[..., 0] / totals[..., 1]


@dataclass(frozen=True)
class Outcomes:
    """What one contestant got of M test samples in S seeds.

    ``parts`` float [S, M, K]: what each sample adds to the sums that ``figure`` turns into per cent, [..., K] to [...];
    zeros for a sample that was not judged in that seed. Of value targets the figure is R² itself, not per cent: each
    sample adds 1 less its squared error in units of the variance of the test values, and the mean of that is R².
    """

    parts: np.ndarray
    figure: Figure = mean_figure

    @classmethod
    def of_scores(cls, scores: Sequence[Sequence[float]] | np.ndarray) -> Outcomes:
        """Outcomes whose figure is the mean of ``scores`` [S, M] in 0 … 1, such as whether a sample was told right. NaN
        marks a sample that was not judged."""
        found = np.asarray(scores, dtype=np.float64)
        known = ~np.isnan(found)
        return cls(np.stack([np.where(known, found, 0.0), known.astype(np.float64)], -1))

    def values(self) -> np.ndarray:
        """The figure of each seed, float [S]."""
        return self.figure(self.parts.sum(1))

    def together(self, units: np.ndarray) -> Outcomes:
        """The same outcomes with all samples of one number in ``units`` int64 [M] as one: for samples that are not
        independent, as the windows of one recording are not."""
        if np.array_equal(units, np.arange(self.parts.shape[1])):
            return self
        seeds, _, width = self.parts.shape
        parts = np.zeros((int(units.max()) + 1, seeds, width))
        np.add.at(parts, units, self.parts.swapaxes(0, 1))
        return Outcomes(parts.swapaxes(0, 1), self.figure)


def units_of(names: Sequence[str]) -> np.ndarray:
    """The unit that each sample is drawn with in a bootstrap, int64 [M] from 0. Windows of one recording, as their
    ``names`` tell, are one unit; any other sample is a unit of its own."""
    units: dict[str | int, int] = {}
    found = (_WINDOW.fullmatch(name) for name in names)
    keys = [row if match is None else match[1] for row, match in enumerate(found)]
    return np.array([units.setdefault(key, len(units)) for key in keys], dtype=np.int64)


@dataclass(frozen=True)
class Difference:
    """How far a contestant is from the rival ``name``, in points or in R²: the mean over the seeds, and the interval
    ``low`` to ``high`` that holds 95 % of the bootstrap draws."""

    name: str
    mean: float
    low: float
    high: float

    @property
    def standing(self) -> Standing:
        return "ahead" if self.low > _ROUNDING else "behind" if self.high < -_ROUNDING else "level"

    def told(self, digits: int) -> str:
        """For people, with that many decimals."""
        mean, low, high = (f"{value:+z.{digits}f}" for value in (self.mean, self.low, self.high))
        return f"{self.name} ({mean}, {low} to {high})"


@dataclass(frozen=True)
class Verdict:
    """A contestant against its rivals. ``standing``: ahead where it is ahead of all of them, and there are two, the
    same network untrained and a trivial baseline; behind where one of them is ahead of it; level otherwise.
    ``samples`` and ``seeds``: over how many; ``digits``: decimals of the differences for people."""

    against: tuple[Difference, ...]
    samples: int
    seeds: int
    digits: int = 1

    @property
    def standing(self) -> Standing:
        if self.samples < FEWEST or not self.against:
            return "level"
        found = {difference.standing for difference in self.against}
        ahead = found == {"ahead"} and len(self.against) >= RIVALS
        return "behind" if "behind" in found else "ahead" if ahead else "level"

    def sentence(self, names: Mapping[str, str] | None = None) -> str:
        """All of it for people: "ahead of random (+9.1, +6.0 to +12.2), behind occupancy (-2.0, -3.1 to -0.9)".
        ``names``: what to call some of the rivals."""
        if self.samples < FEWEST:
            return f"undecided: {self.samples} test samples are too few, {FEWEST} are needed"
        words = {"ahead": "ahead of", "level": "level with", "behind": "behind"}
        called = [replace(found, name=(names or {}).get(found.name, found.name)) for found in self.against]
        return ", ".join(f"{words[difference.standing]} {difference.told(self.digits)}" for difference in called)

    def as_json(self) -> dict[str, Any]:
        """For ``from_json``, with the ``standing`` for other readers."""
        return {"standing": self.standing, **asdict(self), "against": [asdict(each) for each in self.against]}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Verdict:
        against = tuple(Difference(**difference) for difference in told["against"])
        return cls(against, int(told["samples"]), int(told["seeds"]), int(told.get("digits", 1)))


def judge(ours: Outcomes, rivals: Mapping[str, Outcomes], digits: int = 1) -> Verdict:
    """``ours`` against each of ``rivals``, of the same seeds and samples in the same order.

    Seeds and samples are drawn with replacement, each by itself: a sample that is drawn counts in all seeds. With a
    single seed the interval is over samples alone. The draws depend on the numbers of seeds and samples only, so that
    the same outcomes give the same verdict everywhere.
    """
    judged = np.any([of.parts.any((0, 2)) for of in (ours, *rivals.values())], 0)
    samples = int(judged.sum())
    against = []
    for name, theirs in rivals.items():
        shape = theirs.parts.shape
        assert shape[:2] == ours.parts.shape[:2], f"{name}: {shape} against {ours.parts.shape}"
        both = [Outcomes(of.parts[:, judged], of.figure) for of in (ours, theirs)]
        differences = both[0].values() - both[1].values()
        if not np.isnan(differences).all():  # or else one of them was judged by no sample
            against.append(Difference(name, float(np.nanmean(differences)), *_interval(*both)))
    return Verdict(tuple(against), samples, len(ours.parts), digits)


def strongest(figures: Mapping[str, float]) -> str | None:
    """The name of the largest of ``figures`` (NaN never is), the first of equal ones; None where there is none."""
    known = {name: value for name, value in figures.items() if not np.isnan(value)}
    return max(known, key=lambda name: known[name]) if known else None


def _interval(ours: Outcomes, theirs: Outcomes) -> tuple[float, float]:
    """The 2.5th and the 97.5th percentile of the difference over the bootstrap draws."""
    both = [_grouped(of.parts) for of in (ours, theirs)]
    rows, counts = _draws(*both[0].shape[:2])
    figures = [
        np.stack([of.figure(counts @ parts) for parts in grouped], 1)  # [draws, S]
        for of, grouped in zip((ours, theirs), both, strict=True)
    ]
    drawn = np.take_along_axis(figures[0] - figures[1], rows, 1)
    known = ~np.isnan(drawn)  # a draw of few samples may hold none that a seed has judged
    sums = np.where(known, drawn, 0.0).sum(1)[known.any(1)]
    low, high = np.percentile(sums / known.sum(1)[known.any(1)], [2.5, 97.5])
    return float(low), float(high)


def _grouped(parts: np.ndarray) -> np.ndarray:
    """``parts`` [S, M, K] as they are, or summed over ``MOST`` groups of samples, the same for all contestants."""
    samples = parts.shape[1]
    if samples <= MOST:
        return parts
    order = keyed_rng("bootstrap groups", samples).permutation(samples)
    return np.add.reduceat(parts[:, order], np.linspace(0, samples, MOST, endpoint=False).astype(int), axis=1)


@lru_cache(maxsize=4)
def _draws(seeds: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Of every draw the seeds, int64 [DRAWS, S], and how often each sample is in it, float64 [DRAWS, M]."""
    rng = keyed_rng("bootstrap", seeds, samples)
    rows = rng.integers(0, seeds, (DRAWS, seeds))
    drawn = rng.integers(0, samples, (DRAWS, samples)) + samples * np.arange(DRAWS)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=DRAWS * samples).reshape(DRAWS, samples)
    return rows, counts.astype(np.float64)
