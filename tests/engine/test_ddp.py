"""Two processes with half the batch each are one process with the whole of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from st_ssl.core.errors import ConfigError
from st_ssl.core.types import PointView
from st_ssl.data.points.views import PointViews
from st_ssl.data.video.views import VideoViews
from st_ssl.encoders.base import ENCODERS
from st_ssl.encoders.transformer import Attention, DropPath
from st_ssl.engine import trainer as trainer_module
from st_ssl.engine.runtime import Runtime
from st_ssl.engine.trainer import Trainer
from st_ssl.methods.base import METHODS, Method
from st_ssl.parts.projector import projector
from st_ssl.training.checkpoint import load_checkpoint
from st_ssl.training.distributed import average_gradients, gather_objects
from tests.ddp import run_ranks
from tests.engine.test_step import VIT, prepare_double
from tests.methods.steps import TINY_ENCODERS, build, noise_cloud
from tests.methods.test_methods import SMALL
from tests.runs import CPU, ROOT, load, metrics, tiny, train, write_config
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


def build_double(config: Any, plain: Any = trainer_module.build_method) -> Method:
    """As ``build_method``, in float64; without batch norm in the projector where the encoder has none either, and with
    nothing that is drawn as it runs: every process draws its own."""
    method: Method = plain(config)
    if config.encoder.name == "video_vit" and config.method.name == "cvrl":
        torch.manual_seed(0)
        method.projector = projector(method.encoder.embed_dim, 16, 8, 2, norm=False)
    for module in method.modules():
        if isinstance(module, DropPath):
            module.p = 0.0
        if isinstance(module, Attention):
            module.dropout = 0.0
    return method.double()


def prepare_double_points(self: PointViews, views: list[Any], plain: Any = PointViews.prepare) -> list[PointView]:
    """As ``PointViews.prepare``, in float64."""
    prepared = plain(self, views)
    for view in prepared:
        view.points = view.points.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    return prepared


def one_update(rank: int, world_size: int, cases: dict[str, dict[str, Any]]) -> dict[str, dict[str, Tensor]]:
    """One real update of each case in float64: its losses, gradients, and the weights and statistics after it."""
    results = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module, "build_method", build_double)
        patch.setattr(VideoViews, "prepare", prepare_double)
        patch.setattr(PointViews, "prepare", prepare_double_points)
        for name, data in cases.items():
            trainer = Trainer(
                load(data | {"output_dir": f"{data['output_dir']}-{rank}"}), Runtime(CPU, rank, world_size)
            )
            trainer._quarantine = trainer._open_quarantine(None)
            batch, _ = next(trainer._batches(0, 1))
            assert len(batch.indices) * world_size == trainer.batch_size
            if data["input"].get("num_points", 0) is None:  # processes have different numbers of points and of voxels
                sizes = gather_objects(len(batch.views[0].points.xyz))
                assert len(set(sizes)) == world_size, sizes
            row, _ = trainer._update(batch)
            gradients = {f"gradient of {n}": p.grad for n, p in trainer.method.named_parameters() if p.requires_grad}
            losses = {key: torch.tensor(value, dtype=torch.float64) for key, value in row.items()}
            results[name] = losses | gradients | trainer.method.state_dict()
    return results


def point_methods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every method of clouds with every tiny encoder that suits it: ``method by encoder`` and their configuration."""
    for name in METHODS.names():
        for row in TINY_ENCODERS:
            if METHODS.registered(name).modality == ENCODERS.registered(row["name"]).modality == "points":
                try:
                    method = build(name, row, **SMALL.get(name, {}))
                except ConfigError:
                    continue
                parts = {"encoder": method.encoder.config, "method": method.config}
                yield f"{name} by {row['name']}", {key: part.model_dump(mode="json") for key, part in parts.items()}


POINT_METHODS = dict(point_methods())


def cases(videos: Path, clouds: Path, folder: Path, accumulate: int) -> dict[str, dict[str, Any]]:
    """Configurations by name; those that have no batch norm, whose statistics are of a part, with accumulation."""
    batch: dict[str, Any] = {"engine": {"batch_size": 8}}
    parts: dict[str, Any] = {"engine": {"batch_size": 8, "accumulate": accumulate}}
    found = {
        "cvrl": tiny(videos, folder / "cvrl", **batch),
        "cached": tiny(videos, folder / "cached", **parts) | {"encoder": VIT},
        "videomae": tiny(videos, folder / "mae", "videomae", **batch) | {"encoder": VIT},
        "accumulated": tiny(videos, folder / "parts", "videomae", **parts) | {"encoder": VIT},
    }
    for name, own in POINT_METHODS.items():
        # DGCNN is trained on clouds of one size; the others get clouds of many.
        number = 48 if own["encoder"]["name"] == "dgcnn" else None
        input = {"num_points": number, "voxel_size": 0.1, "attributes": ["color"]}
        found[name] = tiny(clouds, folder / name.replace(" ", "-"), "point_mae", **batch) | {"input": input} | own
    return found


Updates = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def updates(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Updates, list[Updates]]:
    """The update of each case in one process, and in each of two."""
    folder = tmp_path_factory.mktemp("updates")
    clouds = folder / "clouds"
    clouds.mkdir()
    for number in range(12):
        cloud = noise_cloud(number, 96 + 8 * number)
        np.savez(clouds / f"{number:02d}.npz", xyz=cloud.xyz, color=cloud.attributes["color"])
    one = one_update(0, 1, cases(videos, clouds, folder, 1))
    return one, run_ranks(one_update, 2, folder, cases(videos, clouds, folder, 2))


@pytest.mark.parametrize("case", ["cvrl", "cached", "videomae", "accumulated", *POINT_METHODS])
def test_gradients_of_two_processes_are_those_of_one(updates: tuple[Updates, list[Updates]], case: str) -> None:
    expected = updates[0][case]
    for found in updates[1]:
        assert found[case].keys() == expected.keys()
        for name, tensor in expected.items():
            difference = float((found[case][name] - tensor).abs().max())
            assert difference < 1e-9 * (1 + float(tensor.abs().max())), f"{case}: {name}: {difference}"
    assert case != "cvrl" or any("running_var" in name for name in expected)
    assert max(float(t.abs().max()) for n, t in expected.items() if n.startswith("gradient")) > 1e-3


def test_every_method_of_clouds_is_compared() -> None:
    assert {name.split(" by ")[0] for name in POINT_METHODS} == {
        name for name in METHODS.names() if METHODS.registered(name).modality == "points"
    }


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
    config = write_config(tmp_path / "config.yaml", tiny(listing, run, encoder=WIDE, engine={"epochs": 30}))
    code, out = stop_midway(tmp_path, config, run, signal.SIGTERM, to_all=False)
    assert code != 0
    assert "of 90, saved in" in out, out
    step = load_checkpoint(max((run / "checkpoints").glob("step_*"))).step
    assert 4 <= step < 90
    assert metrics(run)[-1]["step"] == step

    process = torchrun(tmp_path / "resumed.txt", ROOT / "tools" / "pretrain.py", config, "data.num_workers=1")
    code = process.wait(PATIENCE)
    out = (tmp_path / "resumed.txt").read_text()
    assert code == 0, out
    assert f"going on from step {step} of 90" in out
    assert [row["step"] for row in metrics(run)] == list(range(1, 91))
    bad = [json.loads(line) for line in (run / "bad_samples.jsonl").read_text().splitlines()]
    assert [row["path"].rsplit("/")[-1] for row in bad] == ["missing.mp4"]

    train(tiny(listing, single, encoder=WIDE, engine={"epochs": 30}), stop_at=1)
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
