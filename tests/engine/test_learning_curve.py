"""Probes of the checkpoints that a run keeps."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from st_ssl.cli import guarded
from st_ssl.cli.probe import main
from st_ssl.encoders.base import load_encoder
from st_ssl.engine.learning_curve import encoder_at, kept_steps, told_trend
from st_ssl.report.page import write_report
from tests.runs import tiny, train
from tests.transfer.tiny import write_dataset

PROBE = {"kinds": ["knn", "linear"], "seeds": 1, "knn_k": 3}
KEPT: dict[str, Any] = {"engine": {"keep_at": [0.25, 0.6], "keep_last": 1, "epochs": 3}, "probe": PROBE}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    train(tiny(write_dataset(tmp_path / "data"), tmp_path / "run", **KEPT))
    return tmp_path / "run"


def called(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["probe", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "200")
    return guarded(main)


def test_the_checkpoints_asked_for_are_kept_and_no_others(run: Path) -> None:
    assert kept_steps(run) == [3, 7, 12]  # a quarter, 0.6 and the end of 12 steps


@pytest.mark.parametrize(("method", "changes"), [("cvrl", {}), ("videomae", {"engine": {"ema": 0.5}}), ("vjepa", {})])
def test_the_encoder_of_the_last_checkpoint_is_the_one_that_the_run_left(
    videos: Path, tmp_path: Path, method: str, changes: dict[str, Any]
) -> None:
    train(tiny(videos, tmp_path / "run", method, **changes))
    expected = load_encoder(tmp_path / "run").state_dict()
    found = encoder_at(tmp_path / "run", kept_steps(tmp_path / "run")[-1]).state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_steps_are_probed_told_and_shown(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, run, "--steps") == 0
    told = capsys.readouterr().out
    assert "step 3" in told and "step 12" in told and "untrained" in told
    assert "from step 7 to 12" in told
    result = json.loads((run / "curve.json").read_text())
    assert result["steps"] == [3, 7, 12] and result["half"] == 7
    row = next(iter(result["targets"].values()))["probes"]["knn"]
    assert len(row["pretrained"]) == 3 and row["trend"]["low"] <= row["trend"]["mean"] <= row["trend"]["high"]
    assert called(monkeypatch, run) == 0  # the usual probe says the same of the last step
    usual = json.loads((run / "probe.json").read_text())["targets"]
    for name, target in result["targets"].items():
        for key, row in target["probes"].items():
            cells = usual[name]["probes"][key]
            assert row["pretrained"][-1] == cells["pretrained"]
            assert {who: row[who] for who in cells if who != "pretrained"} == {
                who: cell for who, cell in cells.items() if who != "pretrained"
            }
    page = write_report([run], tmp_path / "report.html").read_text()
    assert "Learning curve" in page and "probe of" in page


def test_refusals(
    videos: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tiny(videos, tmp_path / "one", engine={"epochs": 1}))
    assert called(monkeypatch, tmp_path / "one", "--steps") == 2
    assert "engine.keep_at=[0.1,0.25,0.5]" in capsys.readouterr().err
    assert called(monkeypatch, run, "--steps", "--splits", "1,2") == 2
    assert "--steps and --splits do not go together" in capsys.readouterr().err
    assert called(monkeypatch, run, "--steps", "probe.kinds=[retrieval]") == 2
    assert "expected knn, linear, svm" in capsys.readouterr().err


def test_a_trend_in_words() -> None:
    def words(low: float, high: float) -> str:
        return told_trend({"mean": (low + high) / 2, "low": low, "high": high}, 5, 10)

    assert words(1, 3) == "still improving (+2.0, +1.0 to +3.0, from step 5 to 10): more pretraining may help"
    assert words(-3, -1).startswith("falling (-2.0")
    assert words(-1, 3) == "level (+1.0, -1.0 to +3.0, from step 5 to 10)"
    assert told_trend(None, 5, 10) == ""
