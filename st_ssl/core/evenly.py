"""A few of many, evenly spread."""

from __future__ import annotations

import numpy as np


def evenly(count: int, most: int) -> np.ndarray:
    """At most ``most`` of the rows 0 … ``count`` - 1, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, max(0, count - 1), min(most, count)).round().astype(int))
