"""The learning curve of a run: what ``probe --steps`` found of its kept checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from st_ssl.core.errors import DataError
from st_ssl.core.summary import KINDS, MEASURES
from st_ssl.engine.learning_curve import told_trend
from st_ssl.engine.probe_files import CURVE
from st_ssl.report.contestants import CONTESTANTS, Key, called, keys
from st_ssl.report.curves import Panel, over_log_axis
from st_ssl.report.folder import RunFolder


@dataclass(frozen=True)
class LearningCurves:
    """One panel for each target and kind of probe, with their legend ``keys``."""

    panels: list[Panel]
    keys: list[Key]


def learning_curves(run: RunFolder) -> LearningCurves | None:
    """The content of ``curve.json``; None where there is none. Raises ``DataError`` where it is something else."""
    file = run.directory / CURVE
    if not file.is_file():
        return None
    result = run.probe(file)
    try:
        found = [
            (name, key, target["chance"], row)
            for name, target in result["targets"].items()
            for key, row in target["probes"].items()
            if key not in MEASURES
        ]
        panels = [_panel(name, key, chance, row, result) for name, key, chance, row in found]
        everyone = dict.fromkeys(who for _, _, _, row in found for who in row if who != "trend")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{file} is not a learning curve: {error!r}") from error
    return LearningCurves(panels, keys(everyone))


def _panel(name: str, key: str, chance: float, row: dict[str, Any], result: dict[str, Any]) -> Panel:
    steps, kind = result["steps"], KINDS.get(key, key)
    there = [who for who in dict.fromkeys([*CONTESTANTS, *row]) if who in row and who != "trend"]
    lines = {
        who: [one["mean"] for one in row[who]] if who == "pretrained" else [row[who]["mean"]] * len(steps)
        for who in there
    }
    said = ", ".join(f"{called(who)} {values[0]:.1f} to {values[-1]:.1f}" for who, values in lines.items())
    alt = f"{kind} probe of {name} at steps {steps[0]} to {steps[-1]}: {said}"
    figure = over_log_axis(steps, lines, chance, ("step", f"{kind}, % right"), alt)
    return Panel(
        f"{name}, {kind}", f"{lines['pretrained'][-1]:.1f}", figure, told_trend(row["trend"], result["half"], steps[-1])
    )
