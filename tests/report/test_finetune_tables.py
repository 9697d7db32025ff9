"""Figures of fine-tuning beside the strongest baseline, and what is said where it loses or starves."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from st_ssl.core.verdict import Difference, Verdict
from st_ssl.report.finetune_tables import figure_tables
from st_ssl.report.page import write_report

from .browser import Browser, needs_browser
from .results import figure
from .test_page import Page

MODES = {"scratch": 40.0, "frozen": 48.0, "full": 50.5}


def verdict(scratch: float, occupancy: float) -> dict[str, Any]:
    leads = (("scratch", scratch), ("occupancy", occupancy))
    return Verdict(tuple(Difference(name, lead, lead - 1, lead + 1) for name, lead in leads), 200, 3).as_json()


def result(modes: Mapping[str, float] = MODES) -> dict[str, Any]:
    """Fine-tuning is ahead with 10 % of the labels, and behind occupancy with 1 %, where labels are scarce."""
    rows = [
        {
            "mode": mode,
            "fraction": share,
            "epochs": [3, 4, 5],
            "labels": {"train": round(4800 * share), "val": 30},
            "metrics": {"top1": figure(value), "mean_class": figure(value - 5)},
            "curve": {"steps": [10, 20, 40], "values": [[10.0, None, value - 2], [None, None, value + 2]]},
        }
        for share in (0.01, 0.1)
        for mode, value in modes.items()
    ]
    scores = {0.01: {"occupancy": 54.0, "histograms": 20.0}, 0.1: {"occupancy": 45.0, "histograms": 20.0}}
    baselines = [
        {"name": name, "fraction": share, "metrics": {"top1": figure(value), "mean_class": figure(90 - value)}}
        for share, found in scores.items()
        for name, value in found.items()
    ]
    verdicts = [
        {
            "mode": mode,
            "fraction": share,
            "verdict": verdict(modes[mode] - 40, modes[mode] - scores[share]["occupancy"]),
        }
        for share in scores
        for mode in modes
        if mode != "scratch"
    ]
    starved = [{"fraction": 0.01, "told": "3 classes have no label at all"}]
    told = {"results": rows, "metric": "top1", "baselines": baselines, "verdicts": verdicts, "starved": starved}
    return told | {"config": {"task": {"name": "classify"}}}


def tables_of(folder: Path, told: dict[str, Any]) -> Any:
    (folder / "shapes.json").write_text(json.dumps(told))
    return figure_tables(folder / "shapes.json")


def test_the_strongest_baseline_stands_beside_the_modes(tmp_path: Path) -> None:
    (table,) = tables_of(tmp_path, result())
    assert (table.title, table.heads) == ("shapes: classify, %, 3 times", list(MODES))
    few, more, mean_few, _ = table.rows
    assert [row.name for row in table.rows[1:3]] == ["top1, 10 % of the labels", "mean_class, 1 % of the labels"]
    assert few.baseline == ("54.0 ± 1.2", "occupancy") and few.labels == "48 train, 30 val"
    assert [(mode, told.words) for mode, told in few.standings] == [
        ("frozen", "behind occupancy"),
        ("full", "behind occupancy"),
    ]
    assert [told.words for _, told in more.standings] == ["ahead", "ahead"]
    assert [[cell.style for cell in row.cells] for row in (few, more)] == [["", "", ""], ["", "won", "won"]]
    # of another metric the strongest may be another; no verdict is of it
    assert mean_few.baseline == ("70.0 ± 1.2", "shape distributions") and mean_few.standings == []
    assert {cell.style for cell in mean_few.cells} == {""}


def test_why_there_is_no_verdict_is_told(tmp_path: Path) -> None:
    told = result()
    told["verdicts"][0] |= {"verdict": None, "why": "mAP is not made of sums over test samples"}
    row = tables_of(tmp_path, told)[0].rows[0]
    assert [(standing.words, standing.title) for _, standing in row.standings[:1]] == [
        ("no verdict", "mAP is not made of sums over test samples")
    ]
    assert row.standings[1][1].words == "behind occupancy" and row.baseline[1] == "occupancy"


def test_curves_are_means_of_what_is_known(tmp_path: Path) -> None:
    panels = tables_of(tmp_path, result())[0].panels
    assert [panel.title for panel in panels] == ["1 % of the labels", "10 % of the labels"]
    figure = str(panels[0].figure)
    assert (
        "top1 over the steps of training with 1 % of the labels, at the end: scratch 40.0, frozen 48.0, full 50.5"
        in (figure)
    )
    assert all(mode in re.sub("aria-label=.*?>", "", figure) for mode in MODES)


def test_a_result_of_before_is_figures_alone(tmp_path: Path) -> None:
    told = result()
    for name in ("metric", "baselines", "verdicts", "starved"):
        del told[name]
    for row in told["results"]:
        del row["labels"], row["curve"]
    (table,) = tables_of(tmp_path, told)
    assert not (table.baselines or table.labels or table.judged or table.panels or table.starved)
    assert [cell.value for cell in table.rows[1].cells] == ["40.0", "48.0", "50.5"]
    assert {cell.style for row in table.rows for cell in row.cells} == {""}


@pytest.fixture(scope="module")
def page(suite: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finetuned") / "run"
    (run / "finetune").mkdir(parents=True)
    (run / "config.yaml").write_text((suite[0] / "config.yaml").read_text())
    (run / "finetune" / "shapes.json").write_text(json.dumps(result(MODES | {"last": 42.0, "lora": 49.0})))
    return write_report([run], run.parent / "report.html")


def test_the_page_warns_of_starved_shares_first(page: Path) -> None:
    text = Page(page.read_text()).texts["run1-finetune"]
    assert "1 % of the labels: 3 classes have no label at all" in text
    assert text.index("3 classes have") < text.index("shapes: classify")
    assert "full: behind occupancy" in re.sub(r"\s+", " ", text) and "Nothing was chosen by it" in text


@needs_browser
def test_the_table_fits(page: Path, browser: Browser) -> None:
    browser.open(page.as_uri(), 1300, 900)
    assert browser.ask("[...document.querySelectorAll('.scroll')].every(box => box.scrollWidth <= box.clientWidth)")
