"""Studies as they are called: cells made once, gone on with after a kill, and told together."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import pytest

from st_ssl.cli import guarded
from st_ssl.cli.study import main
from st_ssl.core.files import replace_text
from tests.runs import call, fork
from tests.study.study_files import METHOD, cells, result, write_study
from tests.transfer.tiny import write_dataset
from tests.waiting import until


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("study") / "data")


def called(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["study", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "200")
    return guarded(main)


def test_a_study_from_nothing_to_its_page(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = [{"optim": {"lr": 1e-3}}, {"optim": {"lr": 3e-3}}]
    supervised = {
        "task": {"name": "recognise", "head": "linear", "clips": 1, "crops": 1},
        "epochs": 2,
        "batch_size": 4,
        "optim": {"lr": 1e-3, "lr_batch": None},
        "schedule": {"warmup_epochs": 0},
    }
    arms = {"cvrl": {"network": "cnn", "method": METHOD, "trials": trials}}
    budget = {"seconds": 0.01, "frames": 300}
    file = write_study(root, tmp_path, arms=arms, budget=budget, supervised=supervised)
    assert called(monkeypatch, file, "--dry-run") == 0
    assert "0 of " in capsys.readouterr().out
    assert called(monkeypatch, file) == 0
    told = capsys.readouterr().out
    assert "kNN probe, equal time" in told and "kNN probe, equal frames" in told and "supervised" in told
    found = result(tmp_path)
    assert not found["missing"]
    assert [trial["arm"] for trial in found["trials"]] == ["cvrl", "cvrl"]
    assert sum(trial["chosen"] for trial in found["trials"]) == 1
    table = found["tables"][0]
    assert set(table["gains"]["cvrl"]) == {"light", "length", "chance", "some"}
    assert all(isinstance(figure, float) for figure in table["supervised"].values())
    page = (tmp_path / "page" / "report.html").read_text()
    assert "Tiny" in page and "the supervised network" in page and "Tuning trials" in page
    assert "built-in" not in page and "object at" not in page
    made = cells(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").glob("*.json")}
    assert called(monkeypatch, file) == 0  # nothing is made twice
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").glob("*.json")} == times
    assert cells(tmp_path) == made and result(tmp_path) == found
    assert not any((tmp_path / "cells" / "unfinished").glob("[!.]*"))


def test_a_study_killed_anywhere_and_gone_on_with_says_the_same(root: Path, tmp_path: Path) -> None:
    """It is killed as soon as another cell, or another checkpoint of the cell under way, is there."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert call("study", write_study(root, whole))[0] == 0

    def there() -> int:
        done = list((parts / "cells").glob("*.json"))
        return len(done) * 10 + len(list((parts / "cells" / "unfinished").glob("*/run/checkpoints/step_*")))

    def more(before: int) -> bool:
        return there() > before

    file, killed = write_study(root, parts), 0
    while killed < 5:
        before = there()
        process = fork("study", parts, file)
        until(partial(more, before), process)
        if process.poll() is not None:
            break
        process.kill()
        killed += 1
    assert killed == 5
    assert call("study", file)[0] == 0
    assert {name: one["result"] for name, one in cells(parts).items()} == {
        name: one["result"] for name, one in cells(whole).items()
    }
    assert result(parts) == result(whole)


def test_shards_make_what_one_call_makes_and_no_pair_is_of_two_machines(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_study(root, tmp_path)
    assert called(monkeypatch, file, "--shard", "1/2") == 0
    told = capsys.readouterr().out
    assert "3 cells are not done" in told
    first = set(cells(tmp_path))
    monkeypatch.setattr("st_ssl.study.code._processor", lambda: "Another CPU")
    assert called(monkeypatch, file, "--shard", "2/2") == 0
    second = cells(tmp_path)
    assert first < set(second) and len(second) == 6
    found = result(tmp_path)
    assert not found["missing"] and found["elsewhere"] == 0 and len(found["hardware"]) == 2
    assert found["tables"][0]["seeds"] == {"cvrl": 2, "any": 2}
    moved = next(name for name in sorted(first) if second[name]["kind"] == "reference")
    (tmp_path / "cells" / moved).unlink()  # its arms have nothing left to be held against
    assert called(monkeypatch, file, "--page") == 0
    assert result(tmp_path)["tables"][0]["seeds"] == {"cvrl": 1, "any": 1}
    assert called(monkeypatch, file, "--shard", "3/2") == 2
    assert "expected I/N" in capsys.readouterr().err


def test_a_damaged_cell_is_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_study(root, tmp_path, seeds=[0])
    assert called(monkeypatch, file) == 0
    capsys.readouterr()
    damaged = next(iter((tmp_path / "cells").glob("*.json")))
    replace_text(damaged, json.dumps({"key": "other"}))
    assert called(monkeypatch, file) == 2
    assert f"{damaged} is not a finished cell" in capsys.readouterr().err


def test_a_failed_control_is_said_first(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    control = {
        "name": "nothing is more than itself",
        "more": "cvrl",
        "less": "cvrl",
        "target": "light",
        "control": True,
    }
    assert called(monkeypatch, write_study(root, tmp_path, seeds=[0], claims=[control])) == 0
    words = "The instrument is broken: this control failed: nothing is more than itself."
    assert words in capsys.readouterr().out
    assert words in (tmp_path / "page" / "report.html").read_text()
