"""Figures of several repeats as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def plus_minus(figure: Mapping[str, Any]) -> str:
    """The mean of a figure with its spread: half the 95 % ``interval`` where it has one, else the standard deviation
    ``std`` of its ``values``, which a single one does not have. A dash where there is none."""
    if figure["mean"] is None:
        return "–"
    single = len(figure.get("values", (0, 0))) == 1
    spread = figure.get("interval", None if single else figure["std"])
    return f"{figure['mean']:.1f}" + ("" if spread is None else f" ± {spread:.1f}")


def times(count: int) -> str:
    """How often something was done."""
    return "once" if count == 1 else f"{count} times"
