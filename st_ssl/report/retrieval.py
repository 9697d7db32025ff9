"""Retrieval as a table and as curves over k: how far down the nearest video of the same class is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from st_ssl.report.contestants import CONTESTANTS, Key, called, keys, line_of
from st_ssl.report.curves import Panel
from st_ssl.report.figures import INK, draw
from st_ssl.report.standings import Question, Standings, section_questions, standings

_CHANCE: dict[str, Any] = {"color": INK, "linestyle": (0, (3, 2)), "linewidth": 0.7}


@dataclass(frozen=True)
class Retrieval:
    """R@k of all targets down, a panel of curves for each target, and its legend."""

    table: Standings
    panels: list[Panel]
    keys: list[Key]


def retrieval(targets: dict[str, Any]) -> Retrieval | None:
    """The retrieval in the targets of a ``probe.json``; None where there is none."""
    table = standings(question for name, target in targets.items() for question in recall_questions(name, target))
    if table is None:
        return None
    panels = [_curves(name, target) for name, target in targets.items() if "retrieval" in target]
    return Retrieval(table, panels, keys(table.contestants[:-1]))


def recall_questions(name: str, target: dict[str, Any]) -> Iterator[Question]:
    """Each R@k of one target."""
    if told := target.get("retrieval"):
        yield from section_questions(name, told, f"{target['classes']} classes")


def _curves(name: str, target: dict[str, Any]) -> Panel:
    probes, chance = target["retrieval"]["probes"], target["retrieval"]["chance"]
    ks = [int(key.removeprefix("R@")) for key in probes]
    lines, first = {"chance": list(chance.values())}, next(iter(probes.values()))
    for who in dict.fromkeys([*CONTESTANTS, *first]):
        if all(who in cells for cells in probes.values()):
            lines[who] = [cells[who]["mean"] for cells in probes.values()]

    def paint(axis: Any) -> None:
        for who, values in lines.items():
            axis.plot(ks, values, **_CHANCE if who == "chance" else line_of(who))
        axis.set_xscale("log")
        axis.set_xticks(ks, [str(k) for k in ks])
        axis.set_xticks([], minor=True)
        axis.set_ylim(0, 103)
        axis.set_xlabel("k nearest training samples")
        axis.set_ylabel("R@k, %")
        axis.grid(axis="y")

    told = ", ".join(f"{called(who)} {values[0]:.1f}" for who, values in lines.items())
    return Panel(
        name,
        f"{target['classes']} classes",
        draw(3.4, 1.9, paint, f"Retrieval of {name}, {next(iter(probes))}: {told}"),
    )
