"""What features are worth with few labels: accuracy over the share of the labels, and few-shot episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from st_ssl.core.summary import plus_minus
from st_ssl.report.contestants import CONTESTANTS, Key, keys
from st_ssl.report.curves import Panel
from st_ssl.report.figures import INK, draw
from st_ssl.report.retrieval import line_of


@dataclass(frozen=True)
class EpisodeRow:
    """One classifier of one target's episodes. ``rows``: how many rows the target has, 0 in all but its first; ``what``
    the episodes are."""

    target: str
    what: str
    rows: int
    key: str
    cells: list[str]
    chance: str


@dataclass(frozen=True)
class FewLabels:
    """``rows`` of few-shot episodes with ``contestants`` across, and ``panels`` of label curves; either may be empty.
    ``keys``: the legend of both."""

    contestants: list[str]
    rows: list[EpisodeRow]
    panels: list[Panel]
    keys: list[Key]


def few_labels(targets: dict[str, Any]) -> FewLabels | None:
    """Episodes and label curves in the targets of a ``probe.json``; None where there are none."""
    curves = {name: target for name, target in targets.items() if "curve" in target}
    episodes = {name: target["few_shot"] for name, target in targets.items() if "few_shot" in target}
    if not curves and not episodes:
        return None
    contestants = _contestants(list(episodes.values()))
    rows = []
    for name, told in episodes.items():
        what = f"{told['ways']} classes, {told['shots']} shots, {told['episodes']} episodes"
        for at, (key, cells) in enumerate(told["probes"].items()):
            texts = [_cell(cells.get(who)) for who in contestants]
            rows.append(EpisodeRow(name, what, 0 if at else len(told["probes"]), key, texts, f"{told['chance']:.1f}"))
    everyone = dict.fromkeys([*contestants, *_contestants([target["curve"] for target in curves.values()])])
    panels = [_curve(name, target) for name, target in curves.items()]
    return FewLabels(contestants, rows, panels, keys(everyone))


def _contestants(sections: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(who for told in sections for cells in told["probes"].values() for who in cells))


def _cell(cell: dict[str, Any] | None) -> str:
    return "–" if cell is None else plus_minus(cell)


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

    said = ", ".join(f"{who} {values[0]:.1f} to {values[-1]:.1f}" for who, values in lines.items())
    alt = f"Linear probe of {name} with {shares[0]:g} to {shares[-1]:g} per cent of the labels: {said}"
    return Panel(name, f"{target['classes']} classes", draw(3.4, 1.9, paint, alt))
