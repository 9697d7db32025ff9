"""What fine-tuning brought: a table of the modes beside the strongest baseline, and curves over the steps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from st_ssl.core.errors import DataError
from st_ssl.core.summary import plus_minus
from st_ssl.core.verdict import strongest
from st_ssl.report.contestants import called
from st_ssl.report.curves import Panel
from st_ssl.report.figures import ACCENT, INK, draw
from st_ssl.report.standings import Cell, Standing

SCRATCH = "scratch"
_LINES = {SCRATCH: (INK, "-"), "frozen": (ACCENT, ":"), "full": (ACCENT, "-"), "last": (ACCENT, "--")}
_OTHERWISE = (ACCENT, "-.")


@dataclass(frozen=True)
class FigureRow:
    """One metric at one share of the labels: a cell for each mode, the strongest ``baseline`` (its figure and its
    name), the ``labels`` used, and the standing of each mode that was judged by this metric."""

    name: str
    cells: list[Cell]
    baseline: tuple[str, str]
    labels: str
    standings: list[tuple[str, Standing]]


@dataclass(frozen=True)
class FigureTable:
    """Per cent, for each mode (``heads``); ``baselines``, ``labels`` and ``judged``: whether any row has them.
    ``starved``: what to say first of shares of the labels that are too few."""

    title: str
    heads: list[str]
    rows: list[FigureRow]
    panels: list[Panel]
    starved: list[str]

    @property
    def baselines(self) -> bool:
        return any(row.baseline[0] for row in self.rows)

    @property
    def labels(self) -> bool:
        return any(row.labels for row in self.rows)

    @property
    def judged(self) -> bool:
        return any(row.standings for row in self.rows)


def figure_tables(file: Path) -> list[FigureTable]:
    """The figures of one result: those of all classes together for each share of the labels, and the IoU of every class
    with most labels. Raises ``DataError`` where ``file`` is not the result of a fine-tuning."""
    try:
        result = json.loads(file.read_text())
        rows, classes = result["results"], result.get("classes", [])
        modes = list(dict.fromkeys(row["mode"] for row in rows))
        shares = list(dict.fromkeys(row["fraction"] for row in rows))
        names = list(rows[0]["metrics"])
        whole = [name for name in names if not name.startswith("IoU_")]
        single = [name for name in names if name.startswith("IoU_")]
        most, task = max(shares), result["config"]["task"]["name"]
        repeats = sorted({len(figure["values"]) for row in rows for figure in row["metrics"].values()})
        times = " or ".join("once" if count == 1 else f"{count} times" for count in repeats)
        times = f"{repeats[-1]} splits" if "splits" in result else times
        starved = [f"{_percent(told['fraction'])}: {told['told']}" for told in result.get("starved", [])]
        figures = [_row(result, f"{name}, {_percent(share)}", name, share, modes) for name in whole for share in shares]
        panels = [panel for share in shares if (panel := _curves(result, share, names[0])) is not None]
        each = [_row(result, _class_name(name, classes), name, most, modes) for name in single]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{file} is not the result of a fine-tuning: {error!r}") from error
    tables = [FigureTable(f"{file.stem}: {task}, %, {times}", modes, figures, panels, starved)]
    if each:
        tables.append(FigureTable(f"{file.stem}: IoU of every class, %, {_percent(most)}", modes, each, [], []))
    return tables


def _percent(share: float) -> str:
    return f"{100 * share:g} % of the labels"


def _row(result: dict[str, Any], title: str, metric: str, share: float, modes: list[str]) -> FigureRow:
    """``metric`` at one ``share`` of the labels; the verdicts are of the metric that the task goes by."""
    own = {row["mode"]: row for row in result["results"] if row["fraction"] == share}
    main = result.get("metric") == metric
    verdicts = {
        told["mode"]: told
        for told in result.get("verdicts", [])
        if main and told["fraction"] == share and told["mode"] in own
    }
    standings = {
        mode: Standing.of(told["verdict"]) if told["verdict"] else Standing.unknown(told["why"])
        for mode, told in verdicts.items()
    }
    cells = []
    for mode in modes:
        figure = own.get(mode, {}).get("metrics", {}).get(metric)
        value, _, spread = ("–" if figure is None else plus_minus(figure)).partition(" ± ")
        won = mode in standings and standings[mode].style == "ahead"
        cells.append(Cell(value, spread and f"± {spread}", "won" * won))
    baselines = {
        told["name"]: told["metrics"][metric]
        for told in result.get("baselines", [])
        if told["fraction"] == share and metric in told["metrics"]
    }
    judged = [told["verdict"] for told in verdicts.values() if told["verdict"]]
    rivals = [one["name"] for verdict in judged for one in verdict["against"] if one["name"] != SCRATCH]
    means = {who: figure["mean"] for who, figure in baselines.items() if figure["mean"] is not None}
    rival = rivals[0] if rivals else strongest(means)
    value = plus_minus(baselines[rival]) if rival in baselines else "–" * (rival is not None)
    counts = next((row["labels"] for row in own.values() if "labels" in row), None)
    labels = "" if counts is None else f"{counts['train']:,} train" + f", {counts['val']:,} val" * (counts["val"] > 0)
    return FigureRow(title, cells, (value, called(rival) if rival else ""), labels, list(standings.items()))


def _curves(result: dict[str, Any], share: float, first: str) -> Panel | None:
    """The figure over the steps of all modes at one ``share`` of the labels; None where there is none."""
    metric = result.get("metric", first)
    lines: dict[str, tuple[list[int], list[float]]] = {}
    for row in result["results"]:
        if row["fraction"] == share and "curve" in row:
            values = np.array(row["curve"]["values"], dtype=float)  # repeats × steps, null is not a number
            known = ~np.isnan(values).all(0)
            lines[row["mode"]] = (
                np.array(row["curve"]["steps"])[known].tolist(),
                np.nanmean(values[:, known], 0).tolist(),
            )
    lines = {mode: line for mode, line in lines.items() if line[0]}
    if not lines:
        return None

    def paint(axis: Any) -> None:
        for mode, (steps, values) in lines.items():
            colour, line = _LINES.get(mode, _OTHERWISE)
            axis.plot(steps, values, color=colour, linestyle=line, label=mode, marker="." if len(steps) == 1 else None)
        axis.grid(axis="y")
        axis.set_xlabel("step")
        axis.set_ylabel(f"{metric}, %")
        axis.locator_params(axis="x", nbins=5, integer=True)
        axis.legend(frameon=False, fontsize=6.5)

    told = ", ".join(f"{mode} {values[-1]:.1f}" for mode, (_, values) in lines.items())
    alt = f"{metric} over the steps of training with {_percent(share)}, at the end: {told}"
    return Panel(_percent(share), metric, draw(3.4, 1.9, paint, alt))


def _class_name(metric: str, classes: list[str]) -> str:
    number = metric.removeprefix("IoU_")
    return str(classes[int(number)]) if number.isdigit() and int(number) < len(classes) else number
