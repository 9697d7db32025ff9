"""What features are worth with few labels: accuracy over the share of the labels, and few-shot episodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from st_ssl.report.contestants import CONTESTANTS, Key, called, keys, line_of
from st_ssl.report.curves import Panel
from st_ssl.report.figures import INK, draw
from st_ssl.report.standings import Question, Standings, section_questions, standings


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
    episodes = standings(question for name, target in targets.items() for question in _episodes(name, target))
    curves = standings(question for name, target in targets.items() for question in _shares(name, target))
    tables = [table for table in (episodes, curves) if table is not None]
    if not tables:
        return None
    everyone = dict.fromkeys(who for table in tables for who in table.contestants[:-1])
    panels = [_curve(name, target) for name, target in targets.items() if "curve" in target]
    return FewLabels(episodes, curves, panels, keys(everyone))


def _episodes(name: str, target: dict[str, Any]) -> Iterator[Question]:
    if told := target.get("few_shot"):
        what = f"{told['ways']} classes, {told['shots']} shots, {told['episodes']} episodes"
        yield from section_questions(name, told, what)


def _shares(name: str, target: dict[str, Any]) -> Iterator[Question]:
    if told := target.get("curve"):
        yield from section_questions(name, told, f"{target['classes']} classes")


def _curve(name: str, target: dict[str, Any]) -> Panel:
    told = target["curve"]
    order = sorted(range(len(told["fractions"])), key=lambda i: told["fractions"][i])
    cells = [list(told["probes"].values())[i] for i in order]
    shares = [100 * told["fractions"][i] for i in order]
    lines = {
        who: [cell[who]["mean"] for cell in cells]
        for who in dict.fromkeys([*CONTESTANTS, *cells[0]])
        if who in cells[0]
    }

    def paint(axis: Any) -> None:
        axis.axhline(told["chance"], color=INK, linestyle=(0, (3, 2)), linewidth=0.7)
        for who, values in lines.items():
            axis.plot(shares, values, **line_of(who))
        axis.set_xscale("log")
        axis.set_xticks(shares, [f"{share:g}" for share in shares])
        axis.set_xticks([], minor=True)
        axis.set_ylim(0, 103)
        axis.set_xlabel("% of the labels")
        axis.set_ylabel("linear, % right")
        axis.grid(axis="y")

    said = ", ".join(f"{called(who)} {values[0]:.1f} to {values[-1]:.1f}" for who, values in lines.items())
    alt = f"Linear probe of {name} with {shares[0]:g} to {shares[-1]:g} per cent of the labels: {said}"
    return Panel(name, f"{target['classes']} classes", draw(3.4, 1.9, paint, alt))
