"""What fine-tuning found: tables for people and for programs, and who is ahead of whom."""

from __future__ import annotations

from typing import Any

from rich.table import Column, Table

from st_ssl.cli.probe.probing import contestant
from st_ssl.core.files import csv_text
from st_ssl.core.summary import plus_minus, times
from st_ssl.core.verdict import FEWEST, Verdict, strongest
from st_ssl.report.contestants import NAMES, called

_COLUMNS = ("mode", "fraction", "repeat", "metric", "value")


def finetune_csv(result: dict[str, Any]) -> str:
    """A line for each figure of each fit; ``repeat`` counts from 1, and a figure that there is not is empty. Of several
    official splits the first column is the number of the split."""
    splits = result.get("by_split")
    rows: list[list[Any]] = []
    for split, part in (splits or {"": result}).items():
        for row in part["results"]:
            for metric, figure in row["metrics"].items():
                for repeat, value in enumerate(figure["values"], 1):
                    told = "" if value is None else value
                    rows.append([split, row["mode"], f"{row['fraction']:g}", repeat, metric, told])
    return csv_text(row[splits is None :] for row in [["split", *_COLUMNS], *rows])


def finetune_tables(result: dict[str, Any], task: str) -> list[Any]:
    """One table for each figure: fractions of the labels down, modes across, per cent, mean ± std, and the strongest
    baseline where there is any; with the labels that were used and how often they were drawn. Of a single fraction one
    table, with the figures down."""
    rows = result["results"]
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    fractions = list(dict.fromkeys(row["fraction"] for row in rows))
    cells = {(row["mode"], row["fraction"]): row["metrics"] for row in rows}
    best = {fraction: found for fraction in fractions if (found := best_baseline(result, fraction))}
    named = {name for name, _ in best.values()}
    names = [name for name in rows[0]["metrics"] if not name.startswith("IoU_")]  # classes are in the JSON
    used = {row["fraction"]: _labels(row) for row in rows}
    how = f"({contestant(result)}; tested on {result['sizes']['test']})"
    if "splits" in result:
        how = f"({contestant(result)}; mean ± std over splits {', '.join(map(str, result['splits']))})"

    def baseline(name: str, fraction: float) -> str:
        who, figures = best.get(fraction, ("", {}))
        told = plus_minus(figures[name]) if name in figures else "–"
        return told if len(named) == 1 or name not in figures else f"{called(who)} {told}"

    def table(title: str, head: str, lines: list[tuple[str, str, float]]) -> Table:
        """``lines`` are what is written in front, the figure, and the fraction."""
        shown = any(name in best.get(fraction, ("", {}))[1] for _, name, fraction in lines)
        last = [called(*named) if len(named) == 1 else "best baseline"] if shown else []
        made = _table(f"{task}: {title}, % {how}", head, [*modes, *last])
        for front, name, fraction in lines:
            own = [plus_minus(cells[mode, fraction][name]) for mode in modes]
            made.add_row(front, *own, *([baseline(name, fraction)] if shown else []))
        return made

    if len(fractions) == 1:
        told = f"{100 * fractions[0]:g} % of the labels ({used[fractions[0]]})"
        return [table(told, "figure", [(name, name, fractions[0]) for name in names])]
    return [table(name, "labels", [(f"{100 * f:g} % ({used[f]})", name, f) for f in fractions]) for name in names]


def _table(title: str, first: str, heads: list[str]) -> Table:
    figures = (Column(head, justify="right", no_wrap=True) for head in heads)
    return Table(first, *figures, title=title, title_justify="left")


def _labels(row: dict[str, Any]) -> str:
    """How many labels the fits of a row used, and how often they were drawn."""
    train, val = row["labels"]["train"], row["labels"]["val"]
    return f"{train} train{f', {val} val' if val else ''}, {times(row['repeats'])}"


def best_baseline(result: dict[str, Any], fraction: float) -> tuple[str, dict[str, Any]] | None:
    """The name and the figures of the baseline that is strongest with that fraction of the labels, if there is any."""
    found = {row["name"]: row["metrics"] for row in result.get("baselines", []) if row["fraction"] == fraction}
    best = strongest({name: metrics[result["metric"]]["mean"] for name, metrics in found.items()})
    return None if best is None else (best, found[best])


def verdict_lines(result: dict[str, Any]) -> list[str]:
    """A line for each mode but ``scratch`` and each fraction of the labels: whom it is ahead of, or why that is not
    told."""
    several = len({row["fraction"] for row in result["results"]}) > 1
    lines = []
    for row in result.get("verdicts", []):
        front = f"{row['mode']}, {100 * row['fraction']:g} % of the labels" if several else row["mode"]
        if row["verdict"] is None:
            lines.append(f"{front}: no verdict: {row['why']}")
            continue
        verdict = Verdict.from_json(row["verdict"])
        key = (row["mode"], row["fraction"])
        (done,) = [len(own["epochs"]) for own in result["results"] if (own["mode"], own["fraction"]) == key]
        of = "" if verdict.seeds == done else f" (over {verdict.seeds} of {done} repetitions)"
        alone = verdict.standing == "level" and all(one.standing == "ahead" for one in verdict.against)
        more = "; not called ahead, as there is no other rival" if alone and verdict.samples >= FEWEST else ""
        lines.append(f"{front}: {verdict.sentence(NAMES)}{of}{more}")
    return lines


def split_tables(result: dict[str, Any], task: str) -> list[Any]:
    """The main figure of each official split, with most labels: splits down, modes across, and the strongest baseline
    of each where there is any; nothing without splits."""
    if "splits" not in result:
        return []
    metric, most = result["metric"], max(row["fraction"] for row in result["results"])
    rows = [row for row in result["results"] if row["fraction"] == most]
    best = {number: best_baseline(result["by_split"][str(number)], most) for number in result["splits"]}
    heads = [*(row["mode"] for row in rows), *(["best baseline"] if any(best.values()) else [])]
    table = _table(f"{task}: {metric} of each split, %, {100 * most:g} % of the labels", "split", heads)
    for at, (number, found) in enumerate(best.items()):
        values = [row["metrics"][metric]["values"][at] for row in rows]
        baseline = [f"{found[1][metric]['mean']:.1f} {called(found[0])}"] if found else []
        table.add_row(str(number), *("–" if value is None else f"{value:.1f}" for value in values), *baseline)
    return [table]
