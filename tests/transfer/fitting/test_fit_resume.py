"""A fit that is stopped or killed goes on in the middle, to the same figures and weights to the last bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from st_ssl.core.errors import OutputError
from st_ssl.core.types import Entry
from st_ssl.transfer.fitting import finetune as grid
from st_ssl.transfer.fitting import fit as fitting
from st_ssl.transfer.fitting import fit_checkpoint as unfinished
from st_ssl.transfer.fitting.finetune import finetune
from st_ssl.transfer.fitting.finetune_config import FinetuneConfig
from st_ssl.transfer.fitting.fit_checkpoint import Unfinished
from st_ssl.transfer.fitting.outcomes import OutcomeStore
from st_ssl.transfer.fitting.task_loader import Interrupted
from tests.runs import ROOT
from tests.transfer.clouds import TinySource, register, settings, tiny_registered
from tests.transfer.fits import CPU, few, write_run

__all__ = ["tiny_registered"]


def everything(**changes: Any) -> FinetuneConfig:
    """Two fits of five steps an epoch with all that has a state: dropout, batch norm, averages, patience."""
    own = {
        "modes": ("scratch", "full"),
        "epochs": 3,
        "ema": 0.9,
        "patience": 3,
        "save": True,
        "batch_size": 6,
        "curve": True,
    }
    return settings({"name": "segment", "augment": {"rotation": "so3"}}, **own | changes)


def source() -> TinySource:
    """One of whose clouds is broken."""
    found = TinySource()
    found.rows[0] = Entry("train/broken/0", "train", {"kind": "ball"})
    return found


def outcome(folder: Path, state: Unfinished | None = None, **changes: Any) -> dict[str, Any]:
    """Everything that comes of both fits, weights too."""
    done: list[dict[str, Any]] = []

    def finished(result: dict[str, Any]) -> None:
        (folder / "result.json").write_text(json.dumps(result))
        done.append(result)

    before = json.loads(file.read_text()) if (file := folder / "result.json").is_file() else None
    outcomes = OutcomeStore(folder / "outcomes.npz")
    if before is not None:
        outcomes.read()
    arguments = (lambda *_: None, finished, folder / "weights", None, before, state)
    result = finetune(source(), [folder.parent / "run"], everything(), CPU, *arguments, outcomes=outcomes, **changes)
    found = {"result": json.dumps(result)}
    return found | {str(f.relative_to(folder)): load_file(f) for f in sorted(folder.glob("weights/*/*.safetensors"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with a run, and what comes of fits that nothing interrupts."""
    folder = tmp_path_factory.mktemp("resume")
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        few(patch, 20)
        write_run(folder / "run")
        (folder / "whole").mkdir()
        return folder, outcome(folder / "whole")


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys() and found["result"] == expected["result"]
    for file in found.keys() - {"result"}:
        assert all(torch.equal(tensor, expected[file][name]) for name, tensor in found[file].items()), file


@pytest.fixture(autouse=True)
def few_labels_are_less_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch, 20)


class KilledError(Exception):
    """Stands for the end of the process."""


def test_killed_at_any_time_it_comes_to_the_same(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected = whole
    assert '"path": "train/broken/0"' in expected["result"] and len(expected) == 5
    monkeypatch.setattr(unfinished, "SECONDS", 0.0)
    monkeypatch.setattr(unfinished, "_SHARE", float("inf"))
    here = folder / "killed"
    here.mkdir()
    state = Unfinished(here / "unfinished", {"config": {"epochs": 3}})
    steps: list[int] = []
    advance, evaluate = fitting._Course.advance, fitting.evaluate
    left = [3, 7, 5, 100]  # steps until the next kill, the third of which is in the look after them

    def killed(self: Any, shown: Any) -> bool:
        if left[0] == 0:
            left.pop(0)
            raise KilledError
        left[0] -= 1
        steps.append(self.step)
        return advance(self, shown)

    def killed_in_looking(*arguments: Any, **others: Any) -> Any:
        if len(left) == 2 and steps[-1] == 9:
            left.pop(0)
            raise KilledError
        return evaluate(*arguments, **others)

    monkeypatch.setattr(fitting._Course, "advance", killed)
    monkeypatch.setattr(fitting, "evaluate", killed_in_looking)
    for _ in range(3):
        with pytest.raises(KilledError):
            outcome(here, state)
        assert (here / "unfinished").is_dir() or left[0] == 7
    same(outcome(here, state), expected)
    # Killed after 3 steps: from the start; after 7 more: from the epoch's end at 5; in the look after 10: from there.
    assert steps == [*range(3), *range(7), *range(5, 10), *range(10, 15), *range(15)]
    assert not (here / "unfinished").exists()


def test_told_to_stop_it_saves_at_once(whole: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, expected = whole
    here = folder / "stopped"
    here.mkdir()
    state = Unfinished(here / "unfinished", {})
    steps: list[int] = []
    advance = fitting._Course.advance

    def counted(self: Any, shown: Any) -> bool:
        steps.append(self.step)
        return advance(self, shown)

    monkeypatch.setattr(fitting._Course, "advance", counted)
    with pytest.raises(Interrupted, match=r"stopped after 1 of 3 epochs of full, 100 % of the labels, 1 of 1"):
        outcome(here, state, stopped=lambda: len(steps) == 15 + 7)
    assert [path.name for path in (here / "unfinished").glob("step_*")] == ["step_00000007"]
    same(outcome(here, state), expected)


def test_stopped_in_the_test_it_goes_on_from_what_was_last_written(
    whole: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected = whole
    here = folder / "tested"
    here.mkdir()
    monkeypatch.setattr(unfinished, "SECONDS", 0.0)
    monkeypatch.setattr(unfinished, "_SHARE", float("inf"))
    state = Unfinished(here / "unfinished", {})
    steps: list[int] = []
    tests: list[int] = []
    advance, evaluate = fitting._Course.advance, grid.evaluate

    def counted(self: Any, shown: Any) -> bool:
        steps.append(self.step)
        return advance(self, shown)

    def noted(*arguments: Any) -> Any:
        tests.append(1)
        return evaluate(*arguments)

    monkeypatch.setattr(fitting._Course, "advance", counted)
    monkeypatch.setattr(grid, "evaluate", noted)
    with pytest.raises(Interrupted, match="stopped in an evaluation"):
        outcome(here, state, stopped=lambda: len(tests) == 2)
    assert [path.name for path in (here / "unfinished").glob("step_*")] == ["step_00000015"]
    same(outcome(here, state), expected)
    assert steps == [*range(15), *range(15)] and len(tests) == 3  # no step is made twice


def test_what_another_fine_tuning_has_left_is_refused(tmp_path: Path) -> None:
    Unfinished(tmp_path / "unfinished", {"config": {"epochs": 3}}).save("a", 1, {}, {})
    Unfinished(tmp_path / "unfinished", {"config": {"epochs": 3}}).check()
    with pytest.raises(OutputError, match=r"another fine-tuning that is not finished .*epochs: 3 before, 4 now"):
        Unfinished(tmp_path / "unfinished", {"config": {"epochs": 4}}).check()
    Unfinished(tmp_path / "nothing", {}).check()
    assert not (tmp_path / "nothing").exists()


def test_it_is_written_seldom_enough_to_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(unfinished.time, "monotonic", lambda: now[0])
    state = Unfinished(tmp_path / "unfinished", {})
    assert state.load("a") is None
    for later, due in ((29.0, False), (31.0, True)):
        now[0] = 100 + later
        assert state.due() == due
    ticks = iter([200.0, 210.0])  # it takes ten seconds to write
    monkeypatch.setattr(unfinished.time, "monotonic", lambda: next(ticks, now[0]))
    state.save("a", 1, {}, {})
    for later, due in ((199.0, False), (201.0, True)):
        now[0] = 210 + later
        assert state.due() == due
    loaded = state.load("a")
    assert loaded is not None and loaded.step == 1
    assert state.load("b") is None and not (tmp_path / "unfinished").exists()  # of a fit that is done


KILL = """
import os, signal, sys
from pathlib import Path
import pytest
from st_ssl.transfer.fitting import fit as fitting
from st_ssl.transfer.fitting import fit_checkpoint as unfinished
from tests.transfer.fitting import test_fit_resume as here
from tests.transfer import clouds
clouds.register(pytest.MonkeyPatch())
here.few(pytest.MonkeyPatch(), 20)
unfinished.SECONDS, unfinished._SHARE = 0.0, float("inf")
advance = fitting._Course.advance
def killed(self, shown):
    if self.step == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    return advance(self, shown)
fitting._Course.advance = killed
here.outcome(Path(sys.argv[1]), unfinished.Unfinished(Path(sys.argv[1]) / "unfinished", {}))
"""


def test_kill_9(whole: tuple[Path, dict[str, Any]]) -> None:
    folder, expected = whole
    here = folder / "kill"
    here.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", KILL, str(here)], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [path.name for path in (here / "unfinished").glob("step_*")] == ["step_00000010"]
    same(outcome(here, Unfinished(here / "unfinished", {})), expected)
