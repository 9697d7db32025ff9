"""A run that is stopped anywhere, in any way, and started again is the run that was never stopped."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from st_ssl.core.errors import ConfigError
from st_ssl.core.types import Entry
from st_ssl.data.base import samples_digest
from st_ssl.engine.console import MetricsFile
from st_ssl.engine.run_config import load_runs
from st_ssl.engine.runtime import Preempted, Runtime, start_runtime
from st_ssl.engine.trainer import Trainer
from st_ssl.methods.base import METHODS
from st_ssl.training.checkpoint import load_checkpoint
from tests.runs import CPU, call, fork, load, metrics, start, tiny, train, weights, write_config
from tests.waiting import PATIENCE, until, write_held

ENDLESS = 100_000  # epochs, of which none sees the last
EMA: dict[str, Any] = {"engine": {"ema": 0.9, "clip_grad": 1.0}}


def assert_same_run(first: Path, second: Path) -> None:
    assert metrics(first) == metrics(second)
    expected, found = weights(first), weights(second)
    assert expected.keys() == found.keys()
    different = [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]
    assert not different
    for file in ("encoder.safetensors", "encoder.json"):
        assert (first / file).read_bytes() == (second / file).read_bytes()


@pytest.fixture
def root(request: pytest.FixtureRequest, method: str) -> Path:
    """What ``method`` is trained on."""
    return Path(request.getfixturevalue("clouds" if METHODS.registered(method).modality == "points" else "videos"))


@pytest.mark.parametrize("method", ["cvrl", "point2vec"])
def test_stopped_twice_and_resumed_by_other_workers_is_the_same_to_the_last_bit(
    root: Path, tmp_path: Path, method: str
) -> None:
    """Every method is stopped once by tests/methods/test_conformance.py."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tiny(root, whole, method, **EMA))
    train(tiny(root, parts, method, **EMA), stop_at=2)
    train(tiny(root, parts, method, **EMA, data={"num_workers": 2}), stop_at=7)
    train(tiny(root, parts, method, **EMA))
    assert [row["step"] for row in metrics(whole)] == list(range(1, 13))
    assert_same_run(whole, parts)
    assert any(name.startswith("ema/") for name in weights(whole))


def test_the_exported_encoder_is_the_moving_average(videos: Path, tmp_path: Path) -> None:
    trainer = train(tiny(videos, tmp_path / "run", **EMA))
    assert trainer.ema is not None
    slow, found = trainer.ema.state_dict(), weights(tmp_path / "run")
    name = "stem.0.weight"
    assert torch.equal(found[f"encoder/{name}"], slow[f"encoder.{name}"])
    assert not torch.equal(found[f"encoder/{name}"], trainer.method.state_dict()[f"encoder.{name}"])


def test_the_seed_decides_the_run(videos: Path, tmp_path: Path) -> None:
    short: dict[str, Any] = {"engine": {"epochs": 1}}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tiny(videos, tmp_path / name, seed=seed, **short))
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert metrics(tmp_path / "a")[0]["loss"] != metrics(tmp_path / "c")[0]["loss"]


def test_rows_past_the_checkpoint_and_half_a_row_are_cut_off(videos: Path, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(tiny(videos, whole))
    train(tiny(videos, run), stop_at=5)
    with (run / "metrics.jsonl").open("a") as out:  # two steps that were logged but not saved, and the kill
        out.write('{"step": 6, "loss": 1.0}\n{"step": 7, "loss": 1.0}\n{"step": 8, "lo')
    (run / "checkpoints" / ".tmp-step_00000008").mkdir()
    (run / "checkpoints" / ".tmp-step_00000008" / "model.safetensors").write_bytes(b"half")
    train(tiny(videos, run))
    assert_same_run(whole, run)
    assert not list((run / "checkpoints").glob(".*"))


def test_a_damaged_checkpoint_costs_steps_and_nothing_else(videos: Path, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    often: dict[str, Any] = {"engine": {"checkpoint_every": 2}}
    train(tiny(videos, whole, **often))
    train(tiny(videos, run, **often), stop_at=7)
    (run / "checkpoints" / "step_00000007" / "model.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="step_00000007"):
        train(tiny(videos, run, **often))
    assert_same_run(whole, run)


def test_metrics_keep_every_digit_and_only_whole_rows(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    first = MetricsFile(file, 0)
    first.write({"step": 1, "loss": 0.1 + 0.2})
    first.close()
    file.write_text(file.read_text() + '{"step": 2, "loss": 3.')
    second = MetricsFile(file, 2)
    second.write({"step": 2, "loss": 3.25})
    second.close()
    assert [json.loads(line)["loss"] for line in file.read_text().splitlines()] == [0.1 + 0.2, 3.25]


# -------------------------------------------------------------------- settings


def test_other_settings_are_refused_by_name_and_free_ones_may_change(videos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny(videos, run), stop_at=2)
    with pytest.raises(ConfigError) as caught:
        train(tiny(videos, run, optim={"lr": 0.5}, engine={"batch_size": 6}, data={"num_workers": 1}))
    message = str(caught.value)
    assert "optim.lr: 0.001 before, 0.5 now" in message
    assert "engine.batch_size: 4 before, 6 now" in message
    assert "num_workers" not in message
    free: dict[str, Any] = {"log_every": 5, "checkpoint_every": 4, "keep_last": 1}
    train(tiny(videos, run, engine=free, data={"num_workers": 1, "max_bad_share": 0.5}, report={"samples": 3}))
    assert [row["step"] for row in metrics(run)] == [1, 2, 5, 10, 12]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_00000012"]


def test_other_parts_of_the_same_videos_are_other_samples() -> None:
    whole = [Entry("/here/a.mp4"), Entry("/here/b.mp4")]
    before = hashlib.sha256(b"a.mp4\nb.mp4").hexdigest()  # as in the checkpoints that there are
    assert samples_digest(whole) == samples_digest([replace(e, path=e.path.replace("here", "there")) for e in whole])
    assert samples_digest(whole) == before
    parts = [replace(whole[0], start=start, num_frames=count) for start, count in ((0, 5), (5, None), (5, 9), (6, 9))]
    assert len({before, *(samples_digest([part, whole[1]]) for part in parts)}) == 5


def test_settings_may_change_while_nothing_is_saved_yet(videos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    write_config(run / "config.yaml", tiny(videos, run, optim={"lr": 0.5}))
    (run / "bad_samples.jsonl").write_text('{"path": "of/another/folder.mp4", "reason": "empty"}\n')
    train(tiny(videos, run, engine={"epochs": 1}))
    assert len(metrics(run)) == 3
    assert not (run / "bad_samples.jsonl").exists()


def test_an_output_dir_that_cannot_be_written_is_named(videos: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(ConfigError, match=r"output_dir=.*run: cannot be written to: File exists"):
        train(tiny(videos, tmp_path / "run"))


def test_the_encoder_is_written_before_the_checkpoint_that_ends_the_run(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from st_ssl.engine import trainer

    run = tmp_path / "run"
    save = trainer.Checkpointer.save

    def killed(self: Any, step: int, *rest: Any) -> Path:
        if step == 12:
            raise KeyboardInterrupt
        return save(self, step, *rest)

    monkeypatch.setattr(trainer.Checkpointer, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(videos, run))
    (run / "encoder.safetensors").write_bytes(b"half")
    monkeypatch.undo()
    train(tiny(videos, run))
    train(tiny(videos, tmp_path / "whole"))
    assert_same_run(run, tmp_path / "whole")


# -------------------------------------------------------------------- processes


def row_count(run: Path) -> int:
    """How many whole rows ``metrics.jsonl`` has."""
    file = run / "metrics.jsonl"
    return file.read_text().count("\n") if file.is_file() else 0


def has_rows(run: Path, count: int) -> bool:
    return row_count(run) >= count


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("method", "count", "changes"),
    [
        ("videomae", 10, {"engine": {"epochs": 20, "checkpoint_every": 1}}),
        ("point2vec", 2, {"engine": {"epochs": 1, "checkpoint_every": 1}, "data": {"epoch_size": 240}}),
    ],
)
def test_killed_at_random_moments(root: Path, tmp_path: Path, method: str, count: int, changes: dict[str, Any]) -> None:
    data, run = tiny(root, tmp_path / "run", method, **changes), tmp_path / "run"
    config = write_config(tmp_path / "config.yaml", data)
    rng, kills, step = random.Random(0), [], 0
    for attempt in range(count):
        steps = rng.randint(1, 4)
        held = write_held(tmp_path / "held.py", "pretrain", "st_ssl.engine.console:MetricsFile.write", steps + 2)
        logged = row_count(run)  # of a step that was not saved as well: it is there before this process has begun
        process = fork(held, tmp_path, config, f"data.num_workers={attempt % 2 * 2}")
        until(partial(has_rows, run, max(step + steps, logged + 1)), process)
        time.sleep(rng.uniform(0, 0.06))  # anywhere in a step: data, update, log, save
        code = process.kill()
        saved = [path for path in (run / "checkpoints").glob("step_*") if (path / "manifest.json").is_file()]
        step = max((load_checkpoint(path).step for path in saved), default=0)
        kills.append((code, step))
    assert all(code == -signal.SIGKILL for code, _ in kills)
    assert sum(0 < step < 60 for _, step in kills) == count
    train(data)
    assert [row["step"] for row in metrics(run)] == list(range(1, 61))
    assert call("pretrain", config, f"output_dir={tmp_path / 'whole'}")[0] == 0
    assert_same_run(tmp_path / "whole", run)


def stop_midway(process: subprocess.Popen[str], run: Path, number: int, to_all: bool = False) -> str:
    """Signal the process, or all of its group as a scheduler does, after two steps; what it said to stderr."""
    until(partial(has_rows, run, 2), process)
    if to_all:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    return process.communicate(timeout=PATIENCE)[1]


def assert_saved(run: Path, code: int, err: str) -> None:
    assert code == 75, err
    step = metrics(run)[-1]["step"]
    assert f"stopped at step {step} of {3 * ENDLESS}, saved in {run}; the same command goes on from there" in err
    assert "Traceback" not in err
    assert load_checkpoint(max((run / "checkpoints").glob("step_*"))).step == step >= 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_saves(videos: Path, tmp_path: Path, number: signal.Signals) -> None:
    run = tmp_path / "run"
    data = tiny(videos, run, engine={"epochs": ENDLESS}, data={"num_workers": 1 if number == signal.SIGTERM else 0})
    process = start("pretrain", write_config(tmp_path / "config.yaml", data))
    err = stop_midway(process, run, number)
    assert_saved(run, process.returncode, err)
    train(data, stop_at=metrics(run)[-1]["step"] + 2)  # and goes on
    steps = [row["step"] for row in metrics(run)]
    assert steps == list(range(1, len(steps) + 1))


def test_a_signal_to_the_whole_group_leaves_the_workers_alone(videos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    data = tiny(videos, run, engine={"epochs": ENDLESS}, data={"num_workers": 1})
    process = start("pretrain", write_config(tmp_path / "config.yaml", data))
    err = stop_midway(process, run, signal.SIGTERM, to_all=True)
    assert_saved(run, process.returncode, err)


def test_outside_training_a_signal_ends_the_process_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)  # a shell's background jobs ignore it
    with start_runtime("cpu") as runtime:
        with pytest.raises(Preempted):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with runtime.deferred_stop():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)  # the same Ctrl-C, passed on by torchrun
            assert runtime.stop_requested
            runtime._asked -= 2
            with pytest.raises(KeyboardInterrupt):  # a second one, by an impatient hand
                os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Preempted)])
def test_what_torchrun_passes_on_late_does_not_end_a_run_that_saves_or_has_saved(
    number: signal.Signals, error: type[BaseException]
) -> None:
    runtime = Runtime(CPU, by_torchrun=True)

    def ends(seconds_later: float) -> bool:
        runtime._asked -= seconds_later
        try:
            runtime._stop(number, None)
        except error:
            return True
        return False

    with runtime.deferred_stop():
        assert not ends(0) and runtime.stop_requested
    assert not ends(5)  # before it has told that it saved
    assert ends(1) is (number == signal.SIGINT)  # a second Ctrl-C, by an impatient hand
    assert ends(10)


def test_the_saved_config_gives_the_same_run_and_a_finished_one_is_left_alone(videos: Path, tmp_path: Path) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    train(tiny(videos, run, engine={"epochs": 1}))
    Trainer(load_runs(run / "config.yaml", [f"output_dir={again}", "probe=null"])[0].config, Runtime(CPU)).fit()
    assert_same_run(run, again)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    code, _, err = call("pretrain", run / "config.yaml")
    assert (code, err) == (0, "")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_probe_null_switches_the_probe_off(videos: Path, tmp_path: Path) -> None:
    data = tiny(videos, tmp_path / "run") | {"probe": {"seeds": 2}}
    file = write_config(tmp_path / "config.yaml", data)
    assert load_runs(file)[0].config.probe is not None
    assert load_runs(file, ["probe=null"])[0].config.probe is None
    assert load(data).probe is not None
