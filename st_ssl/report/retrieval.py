"""Retrieval as a table and as curves over k: how far down the nearest video of the same class is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from st_ssl.core.summary import plus_minus
from st_ssl.report.contestants import CONTESTANTS, Key, contestant, keys
from st_ssl.report.curves import Panel
from st_ssl.report.figures import ACCENT, INK, draw

_CHANCE: dict[str, Any] = {"color": INK, "linestyle": (0, (3, 2)), "linewidth": 0.7}


@dataclass(frozen=True)
class RetrievalRow:
    """One R@k of one target; ``best`` of pretrained and random is set in bold. ``rows``: how many rows the target has,
    0 in all but its first."""

    target: str
    classes: int
    rows: int
    key: str
    cells: list[tuple[str, str]]
    chance: str


@dataclass(frozen=True)
class RetrievalTable:
    """``contestants`` across, R@k of all targets down, a panel of curves for each target, and its legend."""

    contestants: list[str]
    rows: list[RetrievalRow]
    panels: list[Panel]
    keys: list[Key]


def retrieval_table(targets: dict[str, Any]) -> RetrievalTable | None:
    """The retrieval in the targets of a ``probe.json``; None where there is none."""
    found = {name: target for name, target in targets.items() if "retrieval" in target}
    if not found:
        return None
    contestants: dict[str, None] = {}
    for target in found.values():
        for cells in target["retrieval"]["probes"].values():
            contestants.update(dict.fromkeys(cells))
    rows = []
    for name, target in found.items():
        probes, chance = target["retrieval"]["probes"], target["retrieval"]["chance"]
        for at, (key, cells) in enumerate(probes.items()):
            texts = [_cell(cells, who) for who in contestants]
            span = 0 if at else len(probes)
            rows.append(RetrievalRow(name, int(target["classes"]), span, key, texts, f"{chance[key]:.1f}"))
    panels = [_curves(name, target) for name, target in found.items()]
    return RetrievalTable(list(contestants), rows, panels, keys(contestants))


def _cell(cells: dict[str, Any], who: str) -> tuple[str, str]:
    """What stands in a cell, and its style: bold for the better of pretrained and random, coloured for a win."""
    if who not in cells:
        return "–", ""
    rival = {"pretrained": "random", "random": "pretrained"}.get(who)
    best = rival in cells and cells[who]["mean"] > cells[rival]["mean"]
    style = ("best won" if who == "pretrained" else "best") if best else ""
    return plus_minus(cells[who]), style


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

    told = ", ".join(f"{who} {values[0]:.1f}" for who, values in lines.items())
    return Panel(
        name,
        f"{target['classes']} classes",
        draw(3.4, 1.9, paint, f"Retrieval of {name}, {next(iter(probes))}: {told}"),
    )


def line_of(who: str) -> dict[str, Any]:
    """How the figures of one contestant are drawn: those of the baselines without a line."""
    shown, line = contestant(who), "-" if who in ("pretrained", "random") else "none"
    colour = ACCENT if who == "pretrained" else INK
    return {"color": colour, "marker": shown.marker, "mfc": shown.fill, "linestyle": line, "ms": 4, "mew": 0.9}
