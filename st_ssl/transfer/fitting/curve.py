"""How a fit does on test samples as it goes on, so that anyone sees whether it was given too few steps."""

from __future__ import annotations

from collections.abc import Sequence

from st_ssl.core.types import Entry
from st_ssl.transfer.fitting.label_fractions import Group, at_most

SHARES = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)
"""Of its steps, after which a fit is looked at."""

SAMPLES = 500
"""Test samples that it is looked at with, at most."""


def marks(total: int) -> list[int]:
    """The steps of ``total`` after which a fit is looked at, in order."""
    return sorted({max(1, round(share * total)) for share in SHARES})


def curve_samples(test: Sequence[Entry], group: Group) -> list[Entry]:
    """The test samples that it is looked at with, the same ones for all fits: the same share of every class."""
    return at_most(test, SAMPLES, group, "curve")
