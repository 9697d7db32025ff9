"""``probe --steps``: the learning curve of a run, as tables and a file for the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from rich.table import Column, Table

from st_ssl.core.files import check_file, replace_text
from st_ssl.core.summary import KINDS, MEASURES, decimals, plus_minus
from st_ssl.data.base import DATA
from st_ssl.engine.console import PlainConsole, console
from st_ssl.engine.learning_curve import learning_curve, told_trend
from st_ssl.engine.run_config import EncoderProbeConfig, RunConfig
from st_ssl.report.contestants import called
from st_ssl.transfer.probes.probe_config import ProbeConfig
from st_ssl.transfer.probes.scores import FIRST


def curve_and_print(
    runs: list[Path], config: RunConfig | EncoderProbeConfig, probe: ProbeConfig, device: torch.device, output: Path
) -> None:
    """Probe the kept checkpoints of ``runs``, write ``output`` and print a table for each kind of probe."""
    check_file(output)
    with console.status("probe") as status:
        result = learning_curve(
            DATA.build(config.data), runs, probe, device, lambda message: status.update(console.render_str(message))
        )
    result["config"] = {"probe": probe.model_dump(mode="json"), "data": config.data.model_dump(mode="json")}
    output.parent.mkdir(parents=True, exist_ok=True)
    replace_text(output, json.dumps(result, indent=2) + "\n")
    for table in curve_tables(result):
        PlainConsole().print(table)
    for line in trend_lines(result):
        print(line)
    print(f"written to {output}")


def curve_tables(result: dict[str, Any]) -> list[Table]:
    """One table per row of the probes: a target a row, a step a column, the untrained network before them and the
    strongest baseline behind."""
    tables = []
    for key in dict.fromkeys(key for target in result["targets"].values() for key in target["probes"]):
        heads = ["untrained", *(f"step {step}" for step in result["steps"])]
        columns = [Column(head, justify="right") for head in (*heads, "best baseline")]
        measure = MEASURES.get(key, "% right")
        table = Table("target", *columns, title=f"{KINDS.get(key, key)}, {measure}", title_justify="left")
        for name, target in result["targets"].items():
            if key in target["probes"]:
                table.add_row(name, *_cells(target["probes"][key], key))
        tables.append(table)
    return tables


def _cells(row: dict[str, Any], key: str) -> list[str]:
    digits = decimals(key)
    others = {who: figure for who, figure in row.items() if who not in (*FIRST, "trend") and figure["mean"] is not None}
    best = max(others, key=lambda who: others[who]["mean"], default=None)
    told = "–" if best is None else f"{plus_minus(others[best], digits)} {called(best)}"
    return [plus_minus(row["random"], digits), *(plus_minus(one, digits) for one in row["pretrained"]), told]


def trend_lines(result: dict[str, Any]) -> list[str]:
    """Whether each target still improves over the second half of the run."""
    lines = []
    for name, target in result["targets"].items():
        for key, row in target["probes"].items():
            if told := told_trend(row["trend"], result["half"], result["steps"][-1]):
                lines.append(f"{name}, {KINDS.get(key, key)}: {told}")
    if lines:
        lines.append("the learning rate of a run falls to its end: an earlier checkpoint is no shorter run")
    return lines
