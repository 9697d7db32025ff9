"""Two processes with half the batch each are one process with the whole of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from st_ssl.core.config import merge
from st_ssl.engine import trainer as trainer_module
from st_ssl.engine.building import Built, build
from st_ssl.engine.run_config import RunConfig
from st_ssl.engine.runtime import Runtime
from st_ssl.engine.trainer import Trainer
from st_ssl.training.checkpoint import load_checkpoint
from st_ssl.training.distributed import average_gradients
from tests.ddp import run_ranks
from tests.methods.test_conformance import InDouble
from tests.runs import CPU, ROOT, SHALLOW, load, metrics, tiny, train, write_config
from tests.waiting import PATIENCE, let_go, until, write_held

pytestmark = pytest.mark.ddp


def test_torch_warns_of_nothing_where_gradients_are_averaged_and_buffers_left_alone(tmp_path: Path) -> None:
    dist.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = average_gradients(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
        assert not model.broadcast_buffers and model.find_unused_parameters
    finally:
        dist.destroy_process_group()


def build_double(config: RunConfig) -> Built:
    built = build(config)
    built.method.double()
    return built


def one_update(rank: int, world_size: int, data: dict[str, Any]) -> dict[str, Tensor]:
    """One real update in float64: its losses, gradients, and the weights and statistics after it."""
    data = data | {"output_dir": f"{data['output_dir']}-{rank}"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "build", build_double)
        trainer = Trainer(load(data), Runtime(CPU, rank, world_size))
    trainer.method.views = InDouble(trainer.method.views)  # type: ignore[assignment]
    trainer._quarantine = trainer._open_quarantine(None)
    batch, _ = next(trainer._batches(0, 1))
    assert len(batch.indices) * world_size == trainer.batch_size
    row, _ = trainer._update(batch)
    gradients = {f"gradient of {n}": p.grad for n, p in trainer.method.named_parameters() if p.grad is not None}
    losses = {key: torch.tensor(value, dtype=torch.float64) for key, value in row.items()}
    return losses | gradients | trainer.method.state_dict()


def test_an_update_with_batch_norm_of_two_processes_is_that_of_one(videos: Path, tmp_path: Path) -> None:
    """Every method is compared without batch norm by tests/methods/test_conformance.py."""
    data = tiny(videos, tmp_path / "run", engine={"batch_size": 8})
    expected = one_update(0, 1, data)
    assert any("running_var" in name for name in expected)
    for found in run_ranks(one_update, 2, tmp_path, data):
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            difference = float((found[name] - tensor).abs().max())
            assert difference < 1e-9 * (1 + float(tensor.abs().max())), f"{name}: {difference}"


def torchrun(out: Path, script: Path, *arguments: object) -> subprocess.Popen[bytes]:
    """``torchrun --nproc-per-node 2`` with a script and its ``arguments``; what they say is in ``out``."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with out.open("w") as said:
        return subprocess.Popen(
            [*command, str(script), *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def stop_midway(tmp_path: Path, config: Path, run: Path, number: signal.Signals, to_all: bool) -> tuple[int, str]:
    """Signal torchrun, or all processes of its terminal, after a few steps; its exit code, and what they said."""
    held = write_held(tmp_path / "held.py", "pretrain", "st_ssl.engine.console:MetricsFile.write", 4)
    out = tmp_path / "stopped.txt"
    process = torchrun(out, held, config)
    until(lambda: (run / "metrics.jsonl").is_file() and len(metrics(run)) >= 4, process)
    if to_all:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
        until(lambda: out.read_text().count(f"closing signal {number.name}") == 2, process)  # it has passed it on
    let_go(held)
    return process.wait(PATIENCE), out.read_text()


# Wide enough to stay contiguous: torch's batch norm of channels-last clips on a CPU is a tenth as exact (1e-5).
WIDE = {"width": 33}


def test_torchrun_writes_one_set_of_files_stops_on_sigterm_and_resumes(videos: Path, tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join([*(str(path) for path in sorted(videos.iterdir())), "missing.mp4"]))
    run, single = tmp_path / "run", tmp_path / "single"
    config = write_config(
        tmp_path / "config.yaml", merge(tiny(listing, run, encoder=WIDE, engine={"epochs": 10}), SHALLOW)
    )
    code, out = stop_midway(tmp_path, config, run, signal.SIGTERM, to_all=False)
    assert code != 0
    assert "of 30, saved in" in out, out
    step = load_checkpoint(max((run / "checkpoints").glob("step_*"))).step
    assert 4 <= step < 30
    assert metrics(run)[-1]["step"] == step

    process = torchrun(tmp_path / "resumed.txt", ROOT / "tools" / "pretrain.py", config, "data.num_workers=1")
    code = process.wait(PATIENCE)
    out = (tmp_path / "resumed.txt").read_text()
    assert code == 0, out
    assert f"going on from step {step} of 30" in out
    assert [row["step"] for row in metrics(run)] == list(range(1, 31))
    bad = [json.loads(line) for line in (run / "bad_samples.jsonl").read_text().splitlines()]
    assert [row["path"].rsplit("/")[-1] for row in bad] == ["missing.mp4"]

    train(merge(tiny(listing, single, encoder=WIDE, engine={"epochs": 10}), SHALLOW), stop_at=1)
    assert metrics(run)[0]["loss"] == pytest.approx(metrics(single)[0]["loss"], abs=1e-5)
    assert sorted(path.name for path in run.iterdir()) == sorted(
        [*(path.name for path in single.iterdir() if path.name != "bad_samples.jsonl"), "bad_samples.jsonl"]
    )


def test_ctrl_c_reaches_every_process_twice_and_still_saves(videos: Path, tmp_path: Path) -> None:
    """The terminal signals torchrun and its processes, and torchrun passes on what it gets."""
    run = tmp_path / "run"
    config = write_config(tmp_path / "config.yaml", tiny(videos, run, engine={"epochs": 100}))
    code, out = stop_midway(tmp_path, config, run, signal.SIGINT, to_all=True)
    assert code != 0
    assert "of 300, saved in" in out, out
    assert load_checkpoint(max((run / "checkpoints").glob("step_*"))).step == metrics(run)[-1]["step"]


def all_or_part(rank: int, world_size: int, data: dict[str, Any], stop_at: int | None) -> None:
    train(data, stop_at, Runtime(CPU, rank, world_size))


def test_three_processes_resume_to_the_last_bit(videos: Path, tmp_path: Path) -> None:
    """Two processes add the same two numbers in either order; from three on the order of summation shows."""
    losses = {}
    cases: dict[str, list[int | None]] = {"whole": [None], "parts": [3, None]}
    for name, stops in cases.items():
        data = tiny(videos, tmp_path / name / "run", engine={"batch_size": 6, "epochs": 4})
        for stop_at in stops:
            folder = tmp_path / name / str(stop_at)
            folder.mkdir(parents=True)
            run_ranks(all_or_part, 3, folder, data, stop_at)
        losses[name] = [(row["step"], row["loss"], row["grad_norm"]) for row in metrics(tmp_path / name / "run")]
    assert len(losses["whole"]) == 8
    assert losses["parts"] == losses["whole"]
