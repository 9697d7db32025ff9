"""The page of a study, and its tables for the console: gains by method and factor, claims, costs, trials."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from st_ssl.core.summary import KINDS, MEASURES, decimals
from st_ssl.engine.console import PlainConsole
from st_ssl.report.contestants import called
from st_ssl.report.figures import require_matplotlib
from st_ssl.report.templates import templates, write_page
from st_ssl.study.compare import Claim, Column, Comparison
from st_ssl.study.study import Findings

_FULL = 30.0  # points of gain that have the strongest colour
_STYLES = {"holds": "holds", "the opposite holds": "against"}


def write_study_page(found: Findings, output: Path) -> Path:
    """Write the page of a study to ``output`` and return it."""
    require_matplotlib()
    text = (
        templates()
        .get_template("study.html")
        .render(
            title=found.title or "A study of methods",
            warnings=warnings_of(found),
            summary=summary_of(found),
            tables=[_heat(column, found) for column in found.columns],
            claims=[_told_claim(claim) for claim in found.claims],
            costs=found.costs,
            trials=found.trials,
            missing=found.missing,
            hardware="Hardware: " + "; ".join(found.hardware) + ".",
        )
    )
    return write_page(text, output)


def print_findings(found: Findings) -> None:
    """The tables of a study, for the console."""
    shown = PlainConsole()
    for column in found.columns:
        table = Table("", *column.targets, title=_caption(column, found), title_justify="left")
        for arm in column.arms:
            table.add_row(Text(arm), *(_cell(column.gains[arm].get(target), column.key) for target in column.targets))
        for name, cells in _floors(column):
            digits = decimals(column.key)
            table.add_row(Text(name, "dim"), *(Text("–" if f is None else f"{f:.{digits}f}", "dim") for f, _ in cells))
        shown.print(table)
    if found.claims:
        table = Table("claim", "by", "difference", "95 % interval", "verdict", title="claims", title_justify="left")
        for told in map(_told_claim, found.claims):
            word = f"{told['word']}{told['control'] and ': ' + told['control']}"
            table.add_row(
                *(Text(str(one)) for one in (told["name"], told["by"], told["difference"], told["interval"], word))
            )
        shown.print(table)
    for line in warnings_of(found):
        print(line)


def warnings_of(found: Findings) -> list[str]:
    """What must be known before anything is read off."""
    told = []
    broken = [claim.config.name for claim in found.claims if claim.passed is False]
    if broken:
        told.append(f"The instrument is broken: this control failed: {'; '.join(broken)}.")
    if found.missing:
        count = len(found.missing)
        told.append(f"{count} cell{'s are' if count > 1 else ' is'} not done: the figures are of those that are.")
    if found.elsewhere:
        told.append(f"{found.elsewhere} cells are left out: what they would be held against is from other hardware.")
    return told


def summary_of(found: Findings) -> str:
    """What there is, in two sentences."""
    arms = dict.fromkeys(arm for column in found.columns for arm in column.arms)
    seeds = max((count for column in found.columns for count in column.seeds.values()), default=0)
    networks = dict.fromkeys(column.network for column in found.columns)
    told = f"{len(arms)} arms on {len(networks)} network{'s' * (len(networks) != 1)}, {seeds} seeds."
    words = [claim.word for claim in found.claims]
    if words:
        counts = [f"{word} {words.count(word)}" for word in dict.fromkeys(words)]
        told += f" Verdicts of {len(words)} claims: {', '.join(counts)}."
    return told


@dataclass(frozen=True)
class _Cell:
    """One gain in the page. ``strength`` 0 … 1 is how strong its colour is."""

    mean: float
    figure: float
    interval: str
    sure: bool
    chosen: bool
    strength: float
    share: str


def _heat(column: Column, found: Findings) -> dict[str, Any]:
    digits, full = decimals(column.key), _FULL / 100 if column.key in MEASURES else _FULL
    rows = []
    most = max(column.seeds.values(), default=0)
    for arm in column.arms:
        cells: list[_Cell | None] = []
        for target in column.targets:
            gain = column.gains[arm].get(target)
            if gain is None:
                cells.append(None)
                continue
            share = column.share(arm, target)
            told = "" if share is None else f"{100 * share:.0f} %"
            interval = f"{arm}, {target}: {gain.low:+z.{digits}f} to {gain.high:+z.{digits}f}"
            figure = float(np.mean(column.figures[arm][target]))
            strength = min(1.0, abs(gain.mean) / full)
            chosen = column.chosen.get(target) == arm
            cells.append(_Cell(gain.mean, figure, interval, gain.sure, chosen, strength, told))
        seeds = column.seeds[arm]
        note = "" if seeds == most else f"{seeds} seed{'s' * (seeds != 1)}"
        rows.append({"name": arm, "note": note, "cells": cells})
    choices = []
    for target, arm in column.chosen.items():
        own = column.gains[arm].get(target)
        choices.append((target, arm, None if own is None else own.mean))
    return {
        "caption": _caption(column, found),
        "targets": [f"{target}" for target in column.targets],
        "digits": digits,
        "rows": rows,
        "floors": _floors(column),
        "choices": choices,
    }


def _caption(column: Column, found: Findings) -> str:
    seeds = max(column.seeds.values(), default=0)
    kind = KINDS.get(column.key, column.key)
    budget = f", equal {column.budget}" if column.budget else ""
    return f"{column.network}, {kind} probe{budget}: gain over the untrained network, {seeds} seed{'s' * (seeds != 1)}"


def _floors(column: Column) -> list[tuple[str, list[tuple[float | None, str]]]]:
    """What stands below the gains: the untrained network, the strongest baseline with its name, the supervised ceiling
    and chance."""
    best = [column.best_baseline(target) for target in column.targets]
    floors: list[tuple[str, list[tuple[float | None, str]]]] = [
        ("untrained", [(_mean(column.untrained[target]), "") for target in column.targets]),
        ("best baseline", [(None, "") if one is None else (one[1], called(one[0])) for one in best]),
    ]
    if any(figure is not None for figure in column.supervised.values()):
        floors.append(("supervised", [(column.supervised[target], "") for target in column.targets]))
    if column.key not in MEASURES:
        floors.append(("chance", [(column.chance.get(target), "") for target in column.targets]))
    return floors


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _cell(gain: Comparison | None, key: str) -> Text:
    if gain is None:
        return Text("–", "dim")
    return Text(f"{gain.mean:+z.{decimals(key)}f}", "bold" if gain.sure else "")


def _told_claim(claim: Claim) -> dict[str, str]:
    config, found = claim.config, claim.found
    digits = 2 if config.metric is not None else decimals(config.kind)
    by = config.metric or f"{config.target}, {KINDS.get(config.kind, config.kind)}"
    control = {None: "", True: "control passed", False: "CONTROL FAILED"}[claim.passed]
    told = {"name": config.name, "arms": f"{config.more} against {config.less}", "by": by, "word": claim.word}
    told |= {"control": control, "style": _STYLES.get(claim.word, "open")}
    if found is None:
        return told | {"difference": "–", "interval": "–", "seeds": ""}
    seeds = ", ".join(f"{value:+z.{digits}f}" for value in found.values)
    interval = f"{found.low:+z.{digits}f} to {found.high:+z.{digits}f}"
    return told | {"difference": f"{found.mean:+z.{digits}f}", "interval": interval, "seeds": seeds}
