"""Probes run, and what is printed of them: tables of each kind with the strongest baseline, and verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from rich.table import Column, Table
from rich.text import Text

from st_ssl.core.files import check_file, replace_text
from st_ssl.core.summary import MEASURES, decimals, extent, plus_minus
from st_ssl.core.verdict import Verdict
from st_ssl.data.base import DATA, BadSample
from st_ssl.engine.console import PlainConsole, console
from st_ssl.engine.quarantine import Quarantine
from st_ssl.engine.run_config import EncoderProbeConfig, RunConfig
from st_ssl.engine.run_files import data_name, pretraining_data, same_data
from st_ssl.report.contestants import FIRST, NAMES, called
from st_ssl.report.standings import Question, Standing, probe_questions, section_questions
from st_ssl.transfer.probes.official_splits import probe_splits
from st_ssl.transfer.probes.probe import probe_runs
from st_ssl.transfer.probes.probe_config import ProbeConfig

SECTIONS = {
    "retrieval": ("retrieval", "% with one right among the k nearest"),
    "few_shot": ("few-shot", "% right ± 95 % interval, {ways} classes, {shots} shots, {episodes} episodes"),
    "curve": ("linear probe by the share of the labels", "% right"),
}
"""The title of each section of a target, and what its figures are."""


def probe_and_print(
    runs: list[Path], config: RunConfig | EncoderProbeConfig, probe: ProbeConfig, device: torch.device, output: Path
) -> None:
    """Probe ``runs`` on the data of ``config``, write ``output`` and print the table."""
    check_file(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    source = DATA.build(config.data)
    with console.status("probe") as status:

        def tell(message: str) -> None:
            status.update(console.render_str(message))

        if probe.splits:
            result = probe_splits(config.data, runs, probe, device, tell)
        else:
            result = probe_runs(source, runs, probe, device, tell)
    result["config"] = probe_inputs(config, probe)
    own = pretraining_data(runs[0])
    # What is broken elsewhere does not count against the run.
    if result["bad"] and own is not None and same_data(own, result["config"]["data"]):
        quarantine = Quarantine(runs[0] / "bad_samples.jsonl", len(source.entries()), config.data.max_bad_share)
        quarantine.add(BadSample(b["path"], b["reason"]) for b in result["bad"])
    replace_text(output, json.dumps(result, indent=2) + "\n")
    for table in probe_tables(result):
        PlainConsole().print(table)
    for line in verdict_lines(result):
        print(line)
    print(f"tested on {result['tested']}")
    print(f"written to {output}")


def probe_inputs(config: RunConfig | EncoderProbeConfig, probe: ProbeConfig) -> dict[str, Any]:
    """What a probe's figures depend on besides the encoder."""
    return {"probe": probe.model_dump(mode="json"), "data": config.data.model_dump(mode="json")}


def probe_tables(result: dict[str, Any]) -> list[Any]:
    """One table per kind of probe: a target a row, per cent, mean ± std over the seeds, with the strongest baseline and
    the verdict; and where there are several baselines one of all of them."""
    sizes = result["sizes"]
    parts = f"{sizes['train']} train, {sizes['test']} test, {result['seeds']} seed{'s' * (result['seeds'] != 1)}"
    if "splits" in result:
        parts = f"mean ± std over splits {', '.join(map(str, result['splits']))}; {parts}"
    how = f"({contestant(result)}; {parts})"
    targets = {f"{name} ({extent(told).removesuffix(' classes')})": told for name, told in result["targets"].items()}
    asked = [question for name, target in targets.items() for question in probe_questions(name, target, "")]
    tables = []
    for kind in dict.fromkeys(question.key for question in asked):
        rows: list[tuple[str, Question | None]] = [(one.target, one) for one in asked if one.key == kind]
        tables += _tables(f"{kind.partition('_')[0]} probe", MEASURES.get(kind, "% right"), how, rows)
    for section, (title, figure) in SECTIONS.items():
        rows = []
        for name in (name for name, target in targets.items() if section in target):
            rows += [(name, None), *((f"  {q.key}", q) for q in section_questions({name: targets[name]}, section))]
            figure = figure.format_map(targets[name][section])
        tables += _tables(title, figure, how, rows) if rows else []
    return tables


def _tables(title: str, figure: str, how: str, rows: list[tuple[str, Question | None]]) -> list[Table]:
    """The table of the networks, the strongest baseline and the verdict; and that of all baselines, if there is more
    than one. A row is its name and what was asked, None for a heading."""
    asked = [question for _, question in rows if question is not None]
    everyone = dict.fromkeys(who for question in asked for who in question.figures)
    networks = [who for who in everyone if who in FIRST]
    baselines = [who for who in everyone if who not in FIRST]
    words = ["best baseline", "verdict"] if any(question.verdict for question in asked) else []
    first = _table(f"{title}, {figure} {how}", [*map(called, networks), "chance"], words)
    for name, question in rows:
        first.add_row(name, *(_cells(question, networks) if question is not None else []))
    if len(baselines) < 2:
        return [first]
    second = _table(f"{title}, baselines, {figure} {how}", [called(who).replace(" ", "\n") for who in baselines])
    for name, question in rows:
        second.add_row(name, *([_told(question, who) for who in baselines] if question is not None else []))
    return [first, second]


def _table(title: str, figures: Iterable[str], words: Iterable[str] = ()) -> Table:
    columns = (Column(head, justify="right", no_wrap=True) for head in figures)
    return Table(Column("target", no_wrap=True), *columns, *words, title=title, title_justify="left")


def _cells(question: Question, networks: list[str]) -> list[str | Text]:
    """What the networks got, and chance; with a verdict the strongest baseline, and whom pretraining is ahead of."""
    verdict = question.verdict
    won = verdict is not None and verdict["standing"] == "ahead"
    cells: list[str | Text] = [
        Text(_told(question, who), "bold" if won and who == "pretrained" else "") for who in networks
    ]
    cells.append(_told(question, "chance"))
    if verdict is not None:
        best = [one["name"] for one in verdict["against"][1:2]]
        cells += ["".join(f"{_told(question, who)} {called(who)}" for who in best), Standing.of(verdict).words]
    return cells


def _told(question: Question, who: str) -> str:
    """What a contestant got; chance for one that was not asked."""
    digits = decimals(question.key)
    figures = question.figures
    return plus_minus(figures[who], digits) if who in figures else f"{question.chance:.{digits}f}"


def verdict_lines(result: dict[str, Any]) -> list[str]:
    """What the probe says, kind by kind, over all targets; and what it cannot say."""
    values = sum("range" in target for target in result["targets"].values())
    lines = []
    for key, verdict in result["overall"]["verdicts"].items():
        if verdict is not None:
            count = values if key in MEASURES else len(result["targets"]) - values
            mean = f", mean of {count} targets" if count > 1 else ""
            prepared = result["prepared"].get("retrieval" if key.startswith("R@") else key)
            told = Verdict.from_json(verdict).sentence(NAMES)
            lines.append(f"{key}{mean}: {told}{f'; features: {prepared}' if prepared else ''}")
    lines.append("ahead or behind: the 95 % interval of the paired difference, over seeds and test samples, excludes 0")
    if result["pretrainings"] == 1:
        lines.append("one pretraining: how much another would differ is not in these figures")
    return lines


def contestant(result: dict[str, Any]) -> str:
    """Which runs are judged on which data; runs of one name by their folders."""
    names = [Path(run).absolute().name for run in result["runs"]]
    names = names if len(set(names)) == len(names) else result["runs"]
    return ", ".join(names) + (f" on {data_name(result['config']['data'])}" if "config" in result else "")
