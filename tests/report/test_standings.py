"""Tables of who is ahead: what wins is highlighted, what loses is said to lose, and all of it is seen at a glance."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from st_ssl.core.verdict import FEWEST, Difference, Verdict
from st_ssl.engine.run_config import RunConfig
from st_ssl.report.contestants import called
from st_ssl.report.folder import RunFolder
from st_ssl.report.page import write_report
from st_ssl.report.probes import ProbeTable, probe_table
from st_ssl.report.standings import Question, Standing, standings

from .browser import Browser, needs_browser
from .results import CLOUDS, FACTORS, KINDS, VIDEOS, figure, probe_result, verdict, write_run
from .test_page import Page


def table_of(result: dict[str, Any], folder: Path) -> ProbeTable:
    folder.mkdir(exist_ok=True)
    (folder / "probe.json").write_text(json.dumps(result))
    return probe_table(RunFolder(folder, "run", RunConfig.model_construct()))


@pytest.mark.parametrize(
    ("random", "lead", "words", "style", "beaten_by"),
    [
        (9.1, 2.6, "ahead", "ahead", []),
        (9.1, 0.5, "level with raw pixels", "level", []),
        (0.5, 0.5, "level with untrained and raw pixels", "level", []),
        (9.1, -2.0, "behind raw pixels", "behind", ["raw pixels"]),
        (-9.1, -2.0, "behind untrained and raw pixels", "behind", ["untrained", "raw pixels"]),
        (-9.1, 0.5, "behind untrained", "behind", ["untrained"]),
    ],
)
def test_a_standing_is_said_in_words(random: float, lead: float, words: str, style: str, beaten_by: list[str]) -> None:
    found = Standing.of(verdict(random, "raw", lead))
    assert (found.words, found.style, found.beaten_by) == (words, style, beaten_by)
    assert found.rivals[1] == ("raw pixels", f"{lead - 1:+.1f} to {lead + 1:+.1f}")
    assert found.title.endswith(
        f"raw pixels ({lead:+.1f}, {lead - 1:+.1f} to {lead + 1:+.1f}); 240 test samples, 3 seeds"
    )


def test_too_few_samples_decide_nothing() -> None:
    found = Standing.of(verdict(9.1, "raw", 9.0, samples=FEWEST - 1, seeds=1))
    assert (found.words, found.style) == ("undecided", "level")
    assert "too few" in found.title and found.title.endswith("1 seed")


def test_a_winner_alone_is_highlighted_and_the_strongest_is_marked() -> None:
    """Whoever has the larger figure: the verdict decides."""
    figures = {"pretrained": figure(60), "random": figure(50), "raw": figure(40), "frames": figure(55, 1)}

    def styles(lead: float | None, rival: str = "frames") -> list[str]:
        told = None if lead is None else verdict(9.1, rival, lead)
        table = standings([Question("shape", "8 classes", "knn", figures, 12.5, told)])
        assert table is not None and table.heads[3:] == ["pooled frames", "chance"]
        assert [cell.spread for cell in table.rows[0].cells[2:4]] == ["± 1.2", ""]  # one value has no spread
        return [cell.style for cell in table.rows[0].cells]

    assert styles(5.0) == ["won", "", "", "strongest", ""]
    assert styles(0.5) == styles(-5.0) == styles(None) == ["", "", "", "strongest", ""]
    assert styles(5.0, "chance") == ["won", "", "", "", "strongest"]


def test_a_run_that_loses_is_said_to_lose(tmp_path: Path) -> None:
    leads = dict(zip(FACTORS, (-2.0, 2.6, -4.1), strict=True))
    table = table_of(probe_result(leads), tmp_path)
    assert list(table.headlines) == ["kNN", "linear", "linear SVM", "attentive", "R@1"]
    line = table.headlines["linear"]
    assert (line.pretrained, line.random, line.name) == (64.5, pytest.approx(55.4), "occupancy")
    assert line.baseline == pytest.approx(64.5 + 3.5 / 3)
    assert line.standing is not None and line.standing.words == "behind occupancy"
    assert line.counts == "ahead in 1 of 3 factors, behind in 2"
    assert table.cautions == ["One pretraining: nothing here tells how much another seed would differ."]
    assert "kNN: centred on the training features; linear and linear SVM: standard scores" in table.note
    assert table.retrieval is not None and table.few is not None
    for found in (table.table, table.retrieval.table, table.few.episodes, table.few.curves):
        assert found is not None
        words = [row.standing.words for row in found.rows if row.standing]
        assert len(words) == len(found.rows) and set(words) == {"behind occupancy", "ahead"}
        assert {cell.style for row in found.rows for cell in row.cells[3:4]} == {"strongest"}


def test_more_than_one_pretraining_needs_no_warning(tmp_path: Path) -> None:
    assert table_of(probe_result(2.6, pretrainings=3), tmp_path).cautions == []


def test_values_have_a_table_of_their_own(tmp_path: Path) -> None:
    """Beside targets with classes: R² with three decimals and a verdict, rank correlations without one."""
    result = probe_result(2.6)
    r2 = {
        who: {"mean": m, "std": 0.0123, "values": [m, m]}
        for who, m in (("pretrained", 0.5), ("random", -0.2), ("raw", 0.1))
    }
    told = Verdict((Difference("random", 0.7, 0.6, 0.8), Difference("raw", 0.4, 0.305, 0.5)), 240, 3, 3).as_json()
    probes = {"knn_r2": r2, "knn_rank": r2}
    result["targets"]["speed"] = {"range": [0.5, 2.0], "chance": 0.0, "probes": probes, "verdicts": {"knn_r2": told}}
    result["overall"]["probes"]["knn_r2"], result["overall"]["verdicts"]["knn_r2"] = r2, told
    table = table_of(result, tmp_path)
    assert table.table is not None and table.values is not None
    assert {row.target for row in table.table.rows} == set(FACTORS)
    first, second = table.values.rows
    assert (first.target, first.what, first.key, second.key) == ("speed", "0.5 to 2", "kNN R²", "kNN rank correlation")
    assert [(cell.value, cell.spread) for cell in first.cells[:2]] == [("0.500", "± 0.012"), ("-0.200", "± 0.012")]
    assert first.standing is not None and first.standing.words == "ahead" and second.standing is None
    assert first.standing.rivals == [("untrained", "+0.600 to +0.800"), ("raw pixels", "+0.305 to +0.500")]
    line = table.headlines["kNN R²"]
    assert (line.pretrained, line.baseline, line.digits) == (0.5, 0.1, 3)
    assert "kNN rank correlation" not in table.headlines
    assert table.panels[-1].value == "0.5 to 2" and "raw pixels 0.100" in str(table.panels[-1].figure)


def test_a_probe_without_verdicts_highlights_nothing(tmp_path: Path) -> None:
    result = probe_result(20.0)
    for name in ("overall", "pretrainings", "prepared"):
        del result[name]
    for target in result["targets"].values():
        for part in (target, target["retrieval"], target["few_shot"], target["curve"]):
            del part["verdicts"]
    table = table_of(result, tmp_path)
    assert table.table is not None and not table.table.judged
    assert {cell.style for row in table.table.rows for cell in row.cells} == {"", "strongest"}
    assert not table.cautions
    line = table.headlines["kNN"]
    assert (line.standing, line.counts, line.name) == (None, "", "occupancy")
    assert line.baseline == pytest.approx(44.5)


@pytest.fixture(scope="module")
def pages(suite: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page in which a baseline wins, with six of them, and one with a winner too."""
    home, config = tmp_path_factory.mktemp("verdicts"), suite[0] / "config.yaml"
    leads = dict(zip(FACTORS, (-2.0, 2.6, -4.1), strict=True))
    loser = write_run(home / "loser", config, probe_result(leads, baselines=(*CLOUDS, "raw", "differences")))
    winner = write_run(home / "winner", config, probe_result(8.3, "frames", VIDEOS, pretrainings=3))
    return {
        "loses": write_report([loser], home / "loses.html"),
        "both": write_report([winner, loser], home / "both.html"),
    }


def test_the_summary_says_first_who_lost(pages: dict[str, Path]) -> None:
    text = Page(pages["both"].read_text()).texts["summary"]
    assert "loser loses to occupancy (kNN, linear, linear SVM, attentive, R@1)." in text
    assert text.index("loses to") < text.index("Ahead means")
    assert "winner loses" not in text and "line to beat" not in text
    assert "One pretraining (loser): nothing here tells" in text
    plain = re.sub(r"\s+", " ", text)
    assert "64.5 vs 55.4 untrained, 56.2 pooled frames" in plain
    assert "64.5 vs 55.4 untrained, 65.7 occupancy" in plain
    assert plain.count("ahead in 3 of 3 factors") == plain.count("ahead in 1 of 3 factors, behind in 2") == 5


def test_only_winners_are_in_their_colour(pages: dict[str, Path]) -> None:
    won = [v["class"] for t, v in Page(pages["loses"].read_text()).tags if t == "span" and v.get("class") == "won"]
    # one factor of three: four kinds of probes, two R@k, two shares of the labels, the episodes
    assert len(won) == len(KINDS) + 2 + 2 + 1
    text = pages["loses"].read_text()
    assert text.count('class="standing behind"') == 5 + 2 * len(won)
    assert 'title="ahead of untrained (+9.1, +8.1 to +10.1), behind occupancy (-2.0, -3.0 to -1.0); 240' in text


@needs_browser
@pytest.mark.parametrize("name", ["loses", "both"])
def test_every_baseline_is_seen_without_scrolling(name: str, pages: dict[str, Path], browser: Browser) -> None:
    browser.open(pages[name].as_uri(), 1300, 900)
    heads = browser.ask("[...document.querySelectorAll('.scroll')].map(box => box.innerText).join(' ')").lower()
    shown = {"loses": CLOUDS, "both": (*CLOUDS, *VIDEOS)}[name]
    assert all(word in heads for who in shown for word in called(who).split())
    boxes = browser.ask("[...document.querySelectorAll('.scroll')].map(box => [box.scrollWidth, box.clientWidth])")
    assert len(boxes) >= 6 and all(inner <= outer for inner, outer in boxes)
    assert browser.ask("document.documentElement.scrollWidth") <= 1300
    colours = "[...new Set([...document.querySelectorAll('.behind')].map(told => getComputedStyle(told).color))]"
    won = "getComputedStyle(document.querySelector('.won')).color"
    (behind,) = browser.ask(colours)
    assert behind != browser.ask(won) and behind != browser.ask("getComputedStyle(document.body).color")
