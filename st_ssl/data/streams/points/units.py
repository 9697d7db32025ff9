"""Ranges of colours and intensities: decided once for a data set, and the same for all of its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from st_ssl.core.errors import SampleError

Range = tuple[float, float]
_UNITS = {"float": (1.0, 255.0, 65535.0), "int": (255.0, 65535.0)}
_SIGNED = {"intensity": (-2048.0, 2047.0), "color": (-1.0, 1.0)}  # Leica's scanners; colours around 0
_STRAY = 0.01
_SLACK = 1.001  # 1.0000001 is a rounding error, not another range


@dataclass(frozen=True)
class Spread:
    """What the values of an attribute are like in one file: the lowest and highest; those that 1 % lie below (of all)
    and above (of those that are not 0), but for one value at least; whether some are no whole numbers; and whether
    their type is a byte, another whole number or a float."""

    low: float
    high: float
    few_below: float
    few_above: float
    fractions: bool
    kind: Literal["byte", "int", "float"]


def spread(values: np.ndarray) -> Spread | None:
    """The spread of the numbers in ``values``; None where none is finite."""
    kind: Literal["byte", "int", "float"] = (
        "byte" if values.dtype == np.uint8 else "float" if values.dtype.kind == "f" else "int"
    )
    finite = values[np.isfinite(values)] if kind == "float" else values.reshape(-1)
    if finite.size == 0:
        return None
    some = finite[:: max(1, finite.size // 100_000)]
    positive = some[some > 0]
    above = float(np.quantile(positive, 1 - _STRAY, method="lower")) if positive.size else 0.0
    below = float(np.quantile(some, _STRAY, method="higher"))
    fractions = kind == "float" and bool((np.floor(some) != some).any())
    return Spread(float(finite.min()), float(finite.max()), below, above, fractions, kind)


def decide_range(name: str, spreads: Sequence[Spread]) -> Range:
    """The range of ``name`` ("color", "intensity") in a data set, of whose files the spreads are given.

    Every file votes for 0 to the smallest of 1 (not of whole types), 255 and 65535 that holds 99 % of its values, or
    to its highest value; half of the votes or more decide. Files of bytes do not vote: those are 0 … 255 by their type.
    Where more than half of the files have more than 1 % of their values below 0, the range is -2048 … 2047 for
    intensities that are whole numbers and -1 … 1 for colours where these hold all values, or else from the lowest to
    the highest.
    """
    voters = [one for one in spreads if one.kind != "byte"]
    if not voters:
        return 0.0, 255.0 if spreads else 1.0
    signed = [one for one in voters if one.few_below < 0]
    if 2 * len(signed) > len(voters):
        low, high = min(one.low for one in signed), max(one.high for one in signed)
        usual = _SIGNED[name]
        fits = usual[0] <= low and high <= usual[1] and (name == "color" or not any(one.fractions for one in signed))
        return usual if fits else (low, high)
    votes = sorted(_vote(one) for one in voters)
    high = votes[len(votes) // 2]
    return 0.0, high if high <= _UNITS["float"][-1] else votes[-1]


def _vote(one: Spread) -> float:
    units = _UNITS["int" if one.kind == "int" else "float"]
    return next((unit for unit in units if one.few_above <= unit * _SLACK), one.high)


def check_range(ends: Range) -> Range:
    """``ends`` as they are; ``ValueError`` where they are not two finite numbers, the lower one first."""
    if not (np.isfinite(ends).all() and ends[0] < ends[1]):
        raise ValueError(f"expected [low, high] with low below high, not [{ends[0]:g}, {ends[1]:g}]")
    return ends


def disagreement(name: str, one: Spread, decided: Range) -> str | None:
    """Why a file whose values have the spread ``one`` is no file of a data set with the range ``decided``; None where
    it may be one."""
    low, high = decided
    if one.kind == "byte":
        return None
    outside = one.few_below < low - (high - low) * _STRAY or one.few_above > high + (high - low) * (_SLACK - 1)
    smaller = one.fractions and one.high <= _SLACK and high >= _UNITS["int"][0] and low >= 0
    if not outside and not smaller:
        return None
    return f"its {name} lies in {one.low:g} … {one.high:g}, that of the data set in {low:g} … {high:g}"


def scaled(path: str, name: str, values: np.ndarray, decided: Range | None) -> np.ndarray:
    """``values`` [N, k] with ``decided`` (None: what this file alone says) as 0 … 1, float32; what lies outside is
    clipped. ``SampleError`` where the file disagrees with it."""
    if decided is None:
        one = spread(values)
        decided = decide_range(name, [one] if one is not None else [])
    elif values.size and values.dtype != np.uint8:
        low, high = float(np.nanmin(values)), float(np.nanmax(values))  # quick, and enough for most files
        if low < decided[0] or high > decided[1] or high <= _SLACK < decided[1]:
            one = spread(values)
            if one is not None and (why := disagreement(name, one, decided)) is not None:
                raise SampleError(path, f"{why} (data.{name}_range=[low, high] sets another)")
    first, last = (0.0, 255.0) if values.dtype == np.uint8 else decided
    share = (values - np.float64(first)) / max(last - first, 1e-12)
    return np.clip(share, 0, 1).astype(np.float32)
