"""``probe`` as it is called: results on several data sets stand beside each other, and tables say whose they are."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from st_ssl.cli import guarded
from st_ssl.cli.probe import main
from st_ssl.cli.probe.probing import probe_tables
from st_ssl.core.verdict import Outcomes, judge
from st_ssl.report.contestants import NAMES
from st_ssl.report.page import write_report
from tests.runs import tiny, write_config
from tests.transfer.tiny import write_dataset, write_encoder

pytest.importorskip("av")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose data have gone, with an encoder."""
    run = write_encoder(tmp_path / "mine")
    data = tiny(tmp_path / "own", run, "videomae", encoder={"dim": 24, "depth": 1, "heads": 3})
    write_config(run / "config.yaml", data | {"probe": {"kinds": ["knn"], "seeds": 1, "knn_k": 3}})
    return run


def called(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["probe", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "200")
    return guarded(main)


def test_results_on_several_data_sets_stand_beside_each_other(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "own")
    for folder in ("labelled", "elsewhere/labelled"):
        shutil.copytree(tmp_path / "own", tmp_path / folder)
    assert called(monkeypatch, run, "data.num_workers=1") == 0  # the same data, read in another way
    assert "knn probe, % right (mine on own; 16 train, 8 test, 1 seed)" in " ".join(capsys.readouterr().out.split())
    own = (run / "probe.json").read_bytes()
    assert called(monkeypatch, run, f"data.root={tmp_path / 'labelled'}") == 0
    assert "(mine on labelled; " in capsys.readouterr().out
    assert (run / "probe.json").read_bytes() == own
    other = json.loads((run / "probe_labelled.json").read_text())
    assert other["config"]["data"]["root"] == str(tmp_path / "labelled")
    assert called(monkeypatch, run, f"data.root={tmp_path / 'elsewhere' / 'labelled'}") == 2
    told = capsys.readouterr().err
    assert "probe_labelled.json is the probe of other data (root: " in told and "--output" in told
    assert json.loads((run / "probe_labelled.json").read_text()) == other
    page = write_report([run], tmp_path / "report.html").read_text()
    assert 'id="run1-probes"' in page and 'id="run1-probes2"' in page and "Probes on labelled" in page
    assert page.count(f"1 seed, of {tmp_path / 'own'}.") == 1
    assert page.count(f"1 seed, of {tmp_path / 'labelled'}.") == 1


def test_other_settings_leave_the_own_result_alone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "own")
    assert called(monkeypatch, run) == 0
    own = (run / "probe.json").read_bytes()
    assert called(monkeypatch, run, "probe.kinds=[retrieval]") == 0
    assert f"written to {run / 'probe_retrieval.json'}\n" in capsys.readouterr().out
    assert called(monkeypatch, run, "probe.kinds=[retrieval]", "--output", run / "probe.json") == 2
    assert "is for the probe of the run's own data and settings: name another file" in capsys.readouterr().err
    assert (run / "probe.json").read_bytes() == own
    page = write_report([run], tmp_path / "report.html").read_text()
    assert 'id="run1-probes2"' in page and "Probes, retrieval" in page


def test_splits_that_the_data_have_not(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dataset(tmp_path / "own")
    assert called(monkeypatch, run, "--splits", "1,2") == 2
    assert "splits: the format factors has no numbered splits" in capsys.readouterr().err
    assert called(monkeypatch, run, "--splits", "one") == 2
    assert "'probe.splits=[one]': probe.splits.0: must be a whole number, not 'one'" in capsys.readouterr().err


def test_tables_of_many_baselines_fit_a_terminal() -> None:
    names = ("pretrained", "random", "coordinates", "occupancy", "histograms", "metadata")
    cells = {who: {"mean": 10.0 + i, "std": 1.0, "values": [9.0 + i, 11.0 + i]} for i, who in enumerate(names)}
    scores = {who: Outcomes.of_scores(np.full((2, 40), 0.1 + 0.01 * i)) for i, who in enumerate(names)}
    verdict = judge(scores["pretrained"], {"random": scores["random"], "metadata": scores["metadata"]}).as_json()
    targets = {"occlusion": {"classes": 3, "chance": 33.3, "probes": {"svm": cells}, "verdicts": {"svm": verdict}}}
    tables = probe_tables({"runs": ["a"], "seeds": 2, "sizes": {"train": 2, "test": 2}, "bad": [], "targets": targets})
    console = Console(width=80, record=True, file=io.StringIO())
    for table in tables:
        console.print(table)
    shown = console.export_text()
    assert "…" not in shown and shown.count("occlusion (3)") == 2
    for i, who in enumerate(names):
        assert NAMES[who].split()[-1] in shown and f" {10 + i}.0 ± 1.0 " in shown
    assert "behind" in shown and "15.0 ± 1.0" in shown
