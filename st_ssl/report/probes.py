"""What a run learned, as a table and as dots: probes of the pretrained encoder beside the same network untrained and
trivial baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from st_ssl.core.errors import DataError
from st_ssl.core.summary import KINDS, MEASURES, R2, RANK, decimals, extent
from st_ssl.report.contestants import FIRST, NAMES, Key, called, contestant, keys, listed
from st_ssl.report.curves import Panel
from st_ssl.report.few_labels import FewLabels, few_labels
from st_ssl.report.figures import ACCENT, FAINT, INK, draw
from st_ssl.report.folder import RunFolder
from st_ssl.report.retrieval import Retrieval, retrieval
from st_ssl.report.standings import Question, Standing, Standings, probe_questions, section_questions, standings


@dataclass(frozen=True)
class Headline:
    """One kind of probe in a line: means over the targets in per cent, or R², of the strongest trivial baseline by its
    ``name``; the ``standing`` of these means, None without a verdict; in how many targets pretraining is ahead and
    behind (``counts``, "" where that says nothing); ``digits``: decimals of the means."""

    pretrained: float
    random: float
    name: str
    baseline: float
    standing: Standing | None
    counts: str
    digits: int = 1


@dataclass(frozen=True)
class ProbeTable:
    """The probes of one data set. ``table`` of targets with classes, that of ``values``, and ``panels`` with their
    legend ``keys``: every kind but ``retrieval`` and ``few``, None where there are none; ``cautions``: what to keep in
    mind with all of them."""

    table: Standings | None
    values: Standings | None
    panels: list[Panel]
    keys: list[Key]
    note: str
    cautions: list[str]
    headlines: dict[str, Headline]
    retrieval: Retrieval | None
    few: FewLabels | None
    pretrainings: int | None


def probe_table(run: RunFolder, name: str = "probe.json") -> ProbeTable:
    """The content of the file ``name`` of a run. Raises ``DataError`` where it is missing or is not a probe."""
    file = run.directory / name
    result = run.probe(file)
    try:
        targets = result["targets"]
        asked = [q for name, target in targets.items() for q in probe_questions(name, target, extent(target))]
        table = standings(question for question in asked if question.key not in MEASURES)
        values = standings(question for question in asked if question.key in MEASURES)
        panels = [_dots(name, target) for name, target in targets.items() if target["probes"]]
        found, few = retrieval(targets), few_labels(targets)
        headlines = _headlines(result)
        note, pretrainings = _note(result), result.get("pretrainings")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{file} is not the result of a probe: {error!r}") from error
    cautions = [text] if (text := one_pretraining({run.name: pretrainings})) else []
    encoder = run.directory / "encoder.safetensors"
    if encoder.is_file() and encoder.stat().st_mtime > file.stat().st_mtime:
        cautions.append("The encoder is newer than this probe: probe again for its present state.")
    legend = keys(dict.fromkeys(who for one in (table, values) if one for who in one.contestants[:-1]))
    return ProbeTable(table, values, panels, legend, note, cautions, headlines, found, few, pretrainings)


def beaten_by(headlines: dict[str, Headline]) -> str:
    """Who is ahead of the pretrained encoder by which probes, in words: "occupancy (kNN, linear)"; "" for nobody."""
    found: dict[str, list[str]] = {}
    for kind, line in headlines.items():
        for who in line.standing.beaten_by if line.standing else []:
            found.setdefault("the untrained network" if who == NAMES["random"] else who, []).append(kind)
    return listed(f"{who} ({', '.join(kinds)})" for who, kinds in found.items()) if found else ""


def one_pretraining(runs: dict[str, int | None]) -> str:
    """The caution for ``runs`` (name to number of pretrainings) that rest on a single pretraining; "" for none."""
    single = [name for name, pretrainings in runs.items() if pretrainings == 1]
    if not single:
        return ""
    of = "" if len(runs) == 1 else " each" if len(single) == len(runs) else f" ({', '.join(single)})"
    return f"One pretraining{of}: nothing here tells how much another seed would differ."


def _note(result: dict[str, Any]) -> str:
    """What all figures are of: samples, seeds, data, and how features were prepared."""
    note = f"{result['sizes']['train']} train and {result['sizes']['test']} test samples, {result['seeds']} seed"
    note += "s" if result["seeds"] != 1 else ""
    if "config" in result:
        data = result["config"]["data"]
        note += f", of {data.get('root') or data.get('list') or 'planted data'}"
    note += "."
    if "splits" in result:
        note = f"Mean ± standard deviation over the official splits {', '.join(map(str, result['splits']))}: {note}"
    prepared: dict[str, list[str]] = {}
    for kind, words in result.get("prepared", {}).items():
        prepared.setdefault(words, []).append(KINDS.get(kind, kind))
    if prepared:
        note += f" Features: {'; '.join(f'{listed(kinds)}: {words}' for words, kinds in prepared.items())}."
    return note


def _dots(name: str, target: dict[str, Any]) -> Panel:
    kinds, chance = [kind for kind in target["probes"] if MEASURES.get(kind) != RANK], target["chance"]
    values = "classes" not in target

    def paint(axis: Any) -> None:
        """A row for each probe: mean ± standard deviation in per cent, or R², of all who were probed; a line at
        chance. An axis of R² begins at -1 at the least: what is worse tells no more."""
        axis.axvline(chance, color=INK, linewidth=0.7, linestyle=(0, (3, 2)), zorder=0)
        for y, kind in enumerate(kinds):
            probes = target["probes"][kind]
            pair = [probes[who]["mean"] for who in FIRST if who in probes]
            axis.plot([min(pair), max(pair)], [y, y], color=FAINT, linewidth=2.4, zorder=1)
            for who, value in reversed(probes.items()):
                shown = contestant(who)
                edge = ACCENT if who == "pretrained" else INK
                look = {"fmt": shown.marker, "color": edge, "mfc": shown.fill, "mec": edge, "ms": 4.6, "mew": 0.9}
                axis.errorbar(value["mean"], y, xerr=[[value["std"]], [value["std"]]], elinewidth=0.8, **look)
        axis.set_yticks(range(len(kinds)), [KINDS.get(kind, kind) for kind in kinds])
        axis.set_ylim(len(kinds) - 0.5, -0.5)
        if values:
            least = min(cell["mean"] - cell["std"] for kind in kinds for cell in target["probes"][kind].values())
            axis.set_xlim(max(-1, min(-0.05, 1.05 * least)), 1.02)
        else:
            axis.set_xlim(0, 100)
        axis.set_xlabel(R2 if values else "% right")
        axis.tick_params(axis="y", length=0)

    asked = [question for question in probe_questions(name, target, "") if question.key in kinds]
    told = "; ".join(f"{KINDS.get(q.key, q.key)} {_against(q)}" for q in asked)
    alt = f"Probes of {name}: {told}" if values else f"Probe accuracies for {name}, per cent: {told}"
    return Panel(name, extent(target), draw(3.5, 0.55 + 0.27 * len(kinds), paint, alt))


def _against(question: Question) -> str:
    shown = [*(who for who in FIRST if who in question.figures), question.rival]
    return ", ".join(f"{called(who)} {question.mean(who):.{decimals(question.key)}f}" for who in shown)


def _headlines(result: dict[str, Any]) -> dict[str, Headline]:
    """Every kind of probe by its name, and the first R@k; no rank correlations, which have no verdict."""
    asked: dict[str, list[Question]] = {}
    for name, target in result["targets"].items():
        recall = list(section_questions({name: target}, "retrieval"))[:1]
        for question in [*probe_questions(name, target, ""), *recall]:
            if MEASURES.get(question.key) != RANK:
                asked.setdefault(question.key, []).append(question)
    order = sorted(asked, key=lambda kind: [*KINDS, kind].index(kind))
    overall = result.get("overall", {"probes": {}, "verdicts": {}})
    return {
        KINDS.get(kind, kind): _headline(asked[kind], overall["probes"].get(kind), overall["verdicts"].get(kind))
        for kind in order
    }


def _headline(
    questions: list[Question], figures: dict[str, dict[str, Any]] | None, verdict: dict[str, Any] | None
) -> Headline:
    """The means over ``questions`` of one kind in all targets, or the ``figures`` of these that were judged."""
    if figures is None:
        everywhere = [who for who in questions[0].figures if all(who in question.figures for question in questions)]
        figures = {who: {"mean": float(np.mean([q.mean(who) for q in questions]))} for who in everywhere}
    chance = float(np.mean([question.chance for question in questions]))
    mean = Question("", "", "", figures, chance, verdict)
    standing = Standing.of(verdict) if verdict else None
    found = [question.verdict["standing"] for question in questions if question.verdict]
    ahead, behind = found.count("ahead"), found.count("behind")
    counts = f"ahead in {ahead or 'none'} of {len(questions)} factors" + f", behind in {behind}" * (behind > 0)
    counts = counts if len(questions) > 1 and found else ""
    pretrained, random, baseline = (mean.mean(who) for who in ("pretrained", "random", mean.rival))
    return Headline(pretrained, random, called(mean.rival), baseline, standing, counts, decimals(questions[0].key))
