"""The page about boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from st_ssl.data.box_checks import BoxReport, Frame, check_boxes
from st_ssl.data.synthetic.drives import CLASSES
from st_ssl.report.boxes import SHOWN, examples, write_box_page
from tests.data.box_checks.made import MISTAKES, frames, spoilt

from .browser import Browser, needs_browser


@pytest.fixture(scope="module")
def low() -> tuple[list[Frame], BoxReport]:
    """Sweeps whose boxes have their bottoms for centres, one of them huge."""
    made = spoilt(frames(), MISTAKES["bottom"])
    made[0][2].values[0, 3] = 1e6
    return made, check_boxes(made, CLASSES)


@pytest.fixture(scope="module")
def page(low: tuple[list[Frame], BoxReport], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, report = low
    return write_box_page(made[:2], report, tmp_path_factory.mktemp("boxes") / "a" / "boxes.html", "Mine <1>")


def test_the_page_tells_findings_counts_and_sizes(low: tuple[list[Frame], BoxReport], page: Path) -> None:
    text = page.read_text()
    (finding,) = low[1].mistakes
    assert "Mine &lt;1&gt;" in text
    assert f"<td>{finding.guess}</td>" in text
    assert f"Centres{finding.guess.removeprefix('centres')}.</p>" in text
    assert text.count("as they should be, by the guess") == 2 * 2  # a caption, and what the still picture shows
    assert "1 of which are far out, huge or nonsense, and not drawn" in text
    assert "not to be used before what is wrong is right" in text
    assert all(f"<tr><th>{name}</th>" in text for name in CLASSES)


def test_nothing_found_is_a_page_too(tmp_path: Path) -> None:
    text = write_box_page([], check_boxes([], ()), tmp_path / "boxes.html").read_text()
    assert "too few boxes to judge" in text


def test_sweeps_with_findings_are_shown_first(low: tuple[list[Frame], BoxReport]) -> None:
    made, report = low
    names = [name for name, _, _ in made] * 2
    chosen = examples(report, names)
    assert report.mistakes[0].example is not None
    assert chosen[0] == report.mistakes[0].example[0]
    assert len(set(chosen)) == len(chosen) == min(SHOWN, len(made))


def test_the_repair_puts_boxes_back(low: tuple[list[Frame], BoxReport]) -> None:
    repair = low[1].mistakes[0].repair
    assert repair is not None
    for (_, _, wrong), (_, _, right) in zip(low[0][1:], frames()[1:], strict=True):
        np.testing.assert_allclose(repair(wrong).values, right.values, atol=1e-5)


@needs_browser
def test_a_browser_draws_the_sweeps(page: Path, browser: Browser) -> None:
    browser.open(page.as_uri(), 1000, 900)
    browser.until("document.querySelectorAll('.stage canvas').length === 2")
    assert browser.complaints == []
    assert browser.ask("document.documentElement.scrollWidth <= innerWidth")
