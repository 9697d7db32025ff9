"""How a fit does on test samples as it goes on, so that anyone sees whether it was given too few steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from st_ssl.core.types import Entry
from st_ssl.transfer.fitting.label_fractions import Group, at_most

SHARES = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)
"""Of its steps, after which a fit is looked at."""

SAMPLES = 500
"""Test samples that it is looked at with, at most."""

IMPROVING, POINTS = 0.2, 3.0
"""Scratch is starved where the second half of its steps brought more than this share of its whole gain above chance,
and at least this many points. A small rise is no sign: the falling learning rate lifts the end of every curve."""


def marks(total: int) -> list[int]:
    """The steps of ``total`` after which a fit is looked at, in order."""
    return sorted({max(1, round(share * total)) for share in SHARES})


def curve_samples(test: Sequence[Entry], group: Group) -> list[Entry]:
    """The test samples that it is looked at with, the same ones for all fits: the same share of every class."""
    return at_most(test, SAMPLES, group, "curve")


def improving(curve: Sequence[float], half: int, chance: float) -> bool:
    """Whether a network was still learning when its ``curve`` ended, by ``IMPROVING`` and ``POINTS``: ``half`` is where
    in it half of the steps were done. False where either figure is not known."""
    rise = curve[-1] - curve[half]
    return not math.isnan(rise) and rise >= POINTS and rise > IMPROVING * (curve[-1] - chance)


def too_few(steps: int, scratch_steps: int | None) -> str:
    """What people are told where scratch has fewer ``steps`` than the recipe knows it to need."""
    return (
        f"scratch is given {steps} steps, and on the recipe's own data it went on improving up to "
        f"scratch_steps={scratch_steps}: what is ahead of it may be so for want of steps alone"
    )


def starved(
    rows: Sequence[dict[str, Any]], metric: str, classes: int, scratch_steps: int | None = None
) -> list[dict[str, Any]]:
    """The fractions of the labels where scratch had fewer than ``scratch_steps``, or was still improving when its steps
    were over, by the mean of its curves: of ``rows`` as ``finetune`` has them, ready for JSON, with what people are
    ``told``. Chance is that of so many classes."""
    found = []
    for row in rows:
        if row["mode"] == "scratch":
            told = _improving(row, metric, classes)
            if not told and row["steps"] < (scratch_steps or 0):
                told = too_few(row["steps"], scratch_steps)
            if told:
                found.append({"fraction": row["fraction"], "told": told})
    return found


def _improving(row: dict[str, Any], metric: str, classes: int) -> str:
    """What people are told of a row whose curve was still rising; nothing of any other."""
    if "curve" not in row:
        return ""
    steps, values = row["curve"]["steps"], np.array(row["curve"]["values"], dtype=float)
    curve = [float(np.mean(v[~np.isnan(v)])) if (~np.isnan(v)).any() else math.nan for v in values.T]
    half, total = steps.index(max(1, round(steps[-1] / 2))), steps[-1]
    if not improving(curve, half, 100 / classes if classes else curve[0]):
        return ""
    return (
        f"scratch was still improving with {100 * row['fraction']:g} % of the labels: {metric} {curve[half]:.1f} after "
        f"{steps[half]} steps, {curve[-1]:.1f} after {total}. What is ahead of it may be so for want of steps alone: "
        f"try steps={2 * total}"
    )
