from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from st_ssl.core.errors import MissingDependencyError, UserError
from st_ssl.methods.masked.videomae import VideoMAE
from st_ssl.report.page import write_report

from .browser import Browser, needs_browser
from .conftest import BROKEN, LABEL, SCRIPT

VOID = {"meta", "img", "br", "link", "input", "hr", "col", "wbr"}
SECTIONS = {
    "cvrl": ["curves", "views", "neighbours", "map", "probes", "data", "broken", "config"],
    "videomae": ["curves", "views", "pictures", "neighbours", "map", "probes", "data", "broken", "config"],
}


class Page(HTMLParser):
    """Checks that tags are balanced; keeps tags with their attributes, and the text of each element with an id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[tuple[str, str]] = []
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append((tag, values))
        if tag not in VOID:
            self.open.append((tag, values.get("id", "")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, name in self.open:
            if name.startswith(("run", "summary")):
                self.texts[name] = self.texts.get(name, "") + data


@pytest.fixture(scope="session")
def written(suite: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(suite, tmp_path_factory.mktemp("report") / "new" / "report.html")


@pytest.fixture(scope="session")
def page(written: Path) -> Page:
    return Page(written.read_text())


def test_has_every_section_of_every_run(page: Page) -> None:
    ids = [values["id"] for tag, values in page.tags if tag == "section"]
    for number, (name, sections) in enumerate(SECTIONS.items(), 1):
        assert [i for i in ids if i.startswith(f"run{number}-")] == [f"run{number}-{s}" for s in sections]
        assert name in page.texts["summary"]
    links = {values["href"][1:] for tag, values in page.tags if tag == "a"}
    assert links <= {values.get("id") for _, values in page.tags}
    assert set(ids) <= links


def test_loads_nothing_and_runs_nothing(written: Path, page: Page) -> None:
    text = written.read_text()
    assert not re.search(r"https?:|//[a-z]", re.sub(r"data:image/jpeg;base64,[^\"]+", "", text))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "i>"})
    assert not [name for _, values in page.tags for name in values if name.startswith("on")]
    sources = [values["src"] for tag, values in page.tags if tag == "img"]
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)


def test_every_picture_says_what_it_shows(page: Page) -> None:
    assert all(values["alt"] for tag, values in page.tags if tag == "img")
    assert all(values["aria-label"] for tag, values in page.tags if tag == "svg")
    ids = [values["id"] for _, values in page.tags if "id" in values]
    assert len(ids) == len(set(ids))


def test_names_and_labels_are_text(page: Page) -> None:
    assert Path(SCRIPT).name in page.texts["run1-views"]
    assert LABEL in page.texts["run1-views"]
    assert LABEL in page.texts["run1-map"]
    assert BROKEN in page.texts["run1-broken"]
    assert "1 broken" in page.texts["run1-broken"]


def test_sections_show_what_they_are_about(suite: list[Path], page: Page) -> None:
    for title in ("Loss", "Learning rate", "Gradient norm", "Feature spread", "Effective rank", "Waiting for data"):
        assert title in page.texts["run1-curves"]
    assert page.texts["run1-views"].count("View 2") == 18  # the broken one is replaced by another
    for caption in ("Input", "Visible", "Reconstruction"):
        assert page.texts["run2-pictures"].count(caption) == 18
    assert "reconstruction" in (VideoMAE.exhibits.__doc__ or "")
    assert (VideoMAE.exhibits.__doc__ or "").split("\n")[0] in page.texts["run2-pictures"]
    assert "With the weights of step 9" in page.texts["run2-pictures"]
    for factor in ("scene", "shape", "motion", "tempo", "camera", "region", "order"):
        assert page.texts["run1-neighbours"].count(f"✓ {factor}") + page.texts["run1-neighbours"].count(
            f"✗ {factor}"
        ) == (5 * 2 * 5)
    assert "t-SNE" in page.texts["run1-map"]
    target = json.loads((suite[0] / "probe.json").read_text())["targets"]["scene"]["probes"]["linear"]["random"]
    assert f"{target['mean']:.1f} ± {target['std']:.1f}" in page.texts["run1-probes"]
    scene = json.loads((suite[0] / "probe.json").read_text())["targets"]["scene"]["retrieval"]
    for text in ("Retrieval", "R@1", "R@5", f"{scene['chance']['R@5']:.1f}"):
        assert text in page.texts["run1-probes"], text
    recall = scene["probes"]["R@5"]["raw"]
    assert f"{recall['mean']:.1f} ± {recall['std']:.1f}" in page.texts["run1-probes"]
    assert page.texts["run1-probes"].count("raw pixels: 4 frames") == 2  # a legend for probes, and one for retrieval
    assert not re.search("occupancy|coordinates", page.texts["run1-probes"])  # which only clouds have
    assert all(f"{kind}, %" in page.texts["summary"] for kind in ("kNN", "linear", "R@1"))
    assert "Not probed yet" in page.texts["run2-probes"]
    assert f"st-ssl probe {suite[1]}" in page.texts["run2-probes"]
    assert "num_frames: 4" in page.texts["run1-config"]


def test_leaves_the_run_alone_and_tells_what_is_missing(suite: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "bare"
    run.mkdir()
    config = (suite[1] / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(suite[1].parent / "videos"), str(tmp_path / "gone")))
    (run / "probe.json").write_text('{"targets": {"scene": 3}}')
    (run / "metrics.jsonl").write_text('{"step": 1, "lo')
    page = Page(write_report([run], tmp_path / "report.html").read_text())
    assert "No metrics yet" in page.texts["run1-curves"]
    for kind in ("views", "neighbours", "map", "pictures"):
        assert re.search("does not exist|no encoder.json|No checkpoint yet", page.texts[f"run1-{kind}"]), kind
    assert "not the result of a probe" in page.texts["run1-probes"]
    assert "None." in page.texts["run1-broken"]
    assert sorted(p.name for p in run.iterdir()) == ["config.yaml", "metrics.jsonl", "probe.json"]


def test_a_damaged_checkpoint_is_passed_over_and_left_in_place(suite: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(suite[1], run)
    folders = sorted(p.name for p in (run / "checkpoints").iterdir())
    with (run / "checkpoints" / folders[-1] / "model.safetensors").open("r+b") as file:
        file.truncate(50)
    text = write_report([run], tmp_path / "report.html").read_text()
    assert f"With the weights of step {int(folders[-2][5:])}" in text
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == folders


def test_retrieval_alone_is_shown_alone(suite: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "bare"
    run.mkdir()
    shutil.copy(suite[0] / "config.yaml", run)
    result = json.loads((suite[0] / "probe.json").read_text())
    for target in result["targets"].values():
        target["probes"] = {}
    (run / "probe.json").write_text(json.dumps(result))
    text = write_report([run], tmp_path / "report.html").read_text()
    page = Page(text)
    assert text.count("<th>R@k</th>") == 1
    assert "<th>probe</th>" not in text
    assert "R@5" in page.texts["run1-probes"]
    assert "R@1, %" in page.texts["summary"]
    assert "kNN, %" not in page.texts["summary"]


def test_runs_of_one_name_are_told_apart(suite: list[Path], tmp_path: Path) -> None:
    runs = [tmp_path / parent / "seed" for parent in ("one", "two")]
    for run in runs:
        run.mkdir(parents=True)
        shutil.copy(suite[0] / "config.yaml", run)
    page = Page(write_report(runs, tmp_path / "report.html").read_text())
    assert all(str(run) in page.texts["summary"] for run in runs)


def test_unlabelled_videos_are_told_apart_by_which_they_are(suite: list[Path], tmp_path: Path) -> None:
    videos, run = tmp_path / "videos", tmp_path / "run"
    videos.mkdir()
    for path in sorted((suite[0].parent / "videos" / "test").glob("*.mp4"))[:6]:
        shutil.copy(path, videos)
    shutil.copytree(suite[0], run)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace(str(suite[0].parent / "videos"), str(videos)))
    page = Page(write_report([run], tmp_path / "report.html").read_text())
    assert "✓ sample" in page.texts["run1-neighbours"]
    assert "no labels" in page.texts["run1-map"]
    assert "Principal components" in page.texts["run1-map"]


def test_a_report_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.yaml"):
        write_report([tmp_path], tmp_path / "report.html")
    with pytest.raises(UserError, match="at least one run"):
        write_report([], tmp_path / "report.html")


def test_names_the_extra_that_is_not_installed(
    suite: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"the report needs .*matplotlib.*st_ssl\[viz\]"):
        write_report(suite, tmp_path / "report.html")


def test_importing_the_page_is_cheap() -> None:
    code = "import sys, st_ssl.report.page; print([m for m in ('torch', 'matplotlib', 'jinja2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@needs_browser
def test_a_browser_shows_it_without_errors(written: Path, browser: Browser) -> None:
    from PIL import Image

    browser.open(written.as_uri(), 1200, 3000)
    pixels = np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("RGB"))
    assert pixels.shape == (3000, 1200, 3)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 2000
    assert [len(np.unique(band.reshape(-1, 3), axis=0)) > 20 for band in np.split(pixels, 10)] == [True] * 10
    assert browser.ask("document.getElementById('run2-config') !== null")
    assert browser.ask("document.scripts.length") == 0
    assert browser.complaints == []
