"""Retrieval as a table and as curves over k: how far down the nearest video of the same class is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from st_ssl.report.contestants import CONTESTANTS, Key, called, keys
from st_ssl.report.curves import Panel, over_log_axis
from st_ssl.report.standings import Standings, section_questions, standings


@dataclass(frozen=True)
class Retrieval:
    """R@k of all targets down, a panel of curves for each target, and its legend."""

    table: Standings
    panels: list[Panel]
    keys: list[Key]


def retrieval(targets: dict[str, Any]) -> Retrieval | None:
    """The retrieval in the targets of a ``probe.json``; None where there is none."""
    table = standings(section_questions(targets, "retrieval"))
    if table is None:
        return None
    panels = [_curves(name, target) for name, target in targets.items() if "retrieval" in target]
    return Retrieval(table, panels, keys(table.contestants[:-1]))


def _curves(name: str, target: dict[str, Any]) -> Panel:
    probes, chance = target["retrieval"]["probes"], list(target["retrieval"]["chance"].values())
    ks, cells = [int(key.removeprefix("R@")) for key in probes], list(probes.values())
    there = [who for who in dict.fromkeys([*CONTESTANTS, *cells[0]]) if all(who in cell for cell in cells)]
    lines = {who: [cell[who]["mean"] for cell in cells] for who in there}
    told = ", ".join(f"{called(who)} {values[0]:.1f}" for who, values in ({"chance": chance} | lines).items())
    alt = f"Retrieval of {name}, {next(iter(probes))}: {told}"
    heads = ("k nearest training samples", "R@k, %")
    return Panel(name, f"{target['classes']} classes", over_log_axis(ks, lines, chance, heads, alt))
