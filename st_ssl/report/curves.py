"""The curves of a run: small multiples over the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from st_ssl.report.contestants import line_of
from st_ssl.report.figures import ACCENT, INK, draw
from st_ssl.report.folder import RunFolder

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Panel:
    """One small figure with its title, the newest value beside it, and a line that says what to look for."""

    title: str
    value: str
    figure: Markup
    note: str = ""


# metric -> title, unit, factor from the metric to the unit, note
_KNOWN: dict[str, tuple[str, str, float, str]] = {
    "loss": ("Loss", "", 1.0, "What is minimised: it should fall, then level off."),
    "lr": ("Learning rate", "", 1.0, "As scheduled."),
    "grad_norm": ("Gradient norm", "", 1.0, "Before clipping; spikes are steps that nearly went wrong."),
    "feature_spread": ("Feature spread", "", 1.0, "1: features point everywhere. Near 0: collapsed."),
    "effective_rank": ("Effective rank", "dimensions", 1.0, "How many dimensions are in use. Near 1: collapsed."),
    "clips_per_second": ("Speed", "samples/s", 1.0, "Over all processes."),
    "data_wait": ("Waiting for data", "%", 100.0, "Share of the time; if high, add data.num_workers."),
}
_HIDDEN = {"step", "epoch", "broken", "seconds"}
_MOST = 1000  # points in a curve


def curve_panels(run: RunFolder) -> list[Panel]:
    """One panel per metric: loss, what else the method logged, schedule, collapse gauge, speed."""
    rows = run.metrics
    named = dict.fromkeys(name for row in rows for name in row)
    others = [name for name in named if name not in _KNOWN and name not in _HIDDEN]
    order = ["loss", *others, *(name for name in _KNOWN if name != "loss")]
    return [_panel(name, rows) for name in order if any(_finite(row.get(name)) for row in rows)]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _panel(name: str, rows: list[dict[str, float]]) -> Panel:
    title, unit, factor, note = _KNOWN.get(
        name, (name.replace("_", " ").capitalize(), "", 1.0, "Logged by the method.")
    )
    points = [(row["step"], factor * row[name]) for row in rows if _finite(row.get(name))]
    newest = number(points[-1][1]) + {"%": "%", "samples/s": " samples/s"}.get(unit, "")
    steps, values = np.array(points[:: math.ceil(len(points) / _MOST)], dtype=float).T

    def paint(axis: Any) -> None:
        """The values over the steps, faint behind their moving mean where there are many."""
        smooth = len(values) >= 40 and name not in ("lr", "effective_rank", "feature_spread")
        axis.plot(steps, values, color=ACCENT, alpha=0.35 if smooth else 1, marker="." if len(values) == 1 else None)
        if smooth:
            axis.plot(steps, _moving_mean(values, len(values) // 20), color=ACCENT)
        axis.grid(axis="y")
        axis.set_xlabel("step")
        axis.set_ylabel(unit)
        axis.locator_params(axis="x", nbins=5, integer=True)
        if name == "grad_norm" and values.min() > 0 and values.max() > 30 * values.min():
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(lambda value, _: number(value))
            axis.yaxis.set_minor_formatter(lambda value, _: "")
        elif name in ("clips_per_second", "effective_rank", "lr"):
            axis.set_ylim(0, None if values.max() > 0 else 1)
        elif name in ("feature_spread", "data_wait"):
            axis.set_ylim(0, max(1.0 if name == "feature_spread" else 100.0, float(values.max())))

    alt = f"{title} over {len(rows)} logged steps, last {newest}"
    return Panel(title, newest, draw(2.7, 1.6, paint, alt), note)


def over_log_axis(
    points: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    chance: float | Sequence[float],
    heads: tuple[str, str],
    alt: str,
) -> Markup:
    """Per cent at each of ``points`` for every contestant in ``lines``, chance dashed, with ``heads`` at the axes."""
    dashed: dict[str, Any] = {"color": INK, "linestyle": (0, (3, 2)), "linewidth": 0.7}

    def paint(axis: Any) -> None:
        if isinstance(chance, Sequence):
            axis.plot(points, chance, **dashed)
        else:
            axis.axhline(chance, **dashed)
        for who, values in lines.items():
            axis.plot(points, values, **line_of(who))
        axis.set_xscale("log")
        axis.set_xticks(points, [f"{point:g}" for point in points])
        axis.set_xticks([], minor=True)
        axis.set_ylim(0, 103)
        axis.set_xlabel(heads[0])
        axis.set_ylabel(heads[1])
        axis.grid(axis="y")

    return draw(3.4, 1.9, paint, alt)


def _moving_mean(values: np.ndarray, reach: int) -> np.ndarray:
    """The mean of each value and up to ``reach`` on both sides."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(0, index - reach), np.minimum(len(values), index + reach + 1)
    return (total[high] - total[low]) / (high - low)


def number(value: float) -> str:
    """A figure for people: four digits at most, no needless zeros."""
    if not math.isfinite(value):
        return "not finite"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
