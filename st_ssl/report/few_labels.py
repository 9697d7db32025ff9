"""What features are worth with few labels: accuracy over the share of the labels, and few-shot episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from st_ssl.report.contestants import CONTESTANTS, Key, called, keys
from st_ssl.report.curves import Panel, over_log_axis
from st_ssl.report.standings import Standings, section_questions, standings


@dataclass(frozen=True)
class FewLabels:
    """Tables of few-shot ``episodes`` and of label ``curves`` with ``panels`` of these; either may be missing.
    ``keys``: the legend of both."""

    episodes: Standings | None
    curves: Standings | None
    panels: list[Panel]
    keys: list[Key]


def few_labels(targets: dict[str, Any]) -> FewLabels | None:
    """Episodes and label curves in the targets of a ``probe.json``; None where there are none."""
    episodes, curves = (standings(section_questions(targets, section)) for section in ("few_shot", "curve"))
    tables = [table for table in (episodes, curves) if table is not None]
    if not tables:
        return None
    everyone = dict.fromkeys(who for table in tables for who in table.contestants[:-1])
    panels = [_curve(name, target) for name, target in targets.items() if "curve" in target]
    return FewLabels(episodes, curves, panels, keys(everyone))


def _curve(name: str, target: dict[str, Any]) -> Panel:
    told = target["curve"]
    order = np.argsort(told["fractions"], kind="stable")
    shares = [100 * told["fractions"][i] for i in order]
    cells = [list(told["probes"].values())[i] for i in order]
    there = [who for who in dict.fromkeys([*CONTESTANTS, *cells[0]]) if who in cells[0]]
    lines = {who: [cell[who]["mean"] for cell in cells] for who in there}
    said = ", ".join(f"{called(who)} {values[0]:.1f} to {values[-1]:.1f}" for who, values in lines.items())
    alt = f"Linear probe of {name} with {shares[0]:g} to {shares[-1]:g} per cent of the labels: {said}"
    heads = ("% of the labels", "linear, % right")
    return Panel(name, f"{target['classes']} classes", over_log_axis(shares, lines, told["chance"], heads, alt))
