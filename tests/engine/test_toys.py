"""The contract carries what the hard methods need: several streams and encoders, sweeps with poses, an adversary,
mining before an epoch, frozen teachers, weights to start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.data.base import DATA
from st_ssl.encoders.base import load_encoder
from st_ssl.engine.building import build
from st_ssl.engine.runtime import Runtime
from st_ssl.engine.trainer import Trainer
from st_ssl.methods.base import METHODS
from tests.ddp import run_ranks
from tests.engine import toys
from tests.runs import CPU, load, metrics, tiny, train

R3D: dict[str, Any] = {"name": "r3d", "depth": 10, "width": 4}
SMALL: dict[str, Any] = {"num_frames": 4, "stride": 2, "size": 16}
TOYS: list[tuple[Any, Any, Any]] = [
    (DATA, toys.TwoStreams, toys.TwoStreamsConfig),
    (DATA, toys.Drives, toys.DrivesConfig),
    (METHODS, toys.CoTraining, toys.CoTrainingConfig),
    (METHODS, toys.Forecast, toys.ForecastConfig),
    (METHODS, toys.Adversary, toys.AdversaryConfig),
    (METHODS, toys.Mining, toys.MiningConfig),
    (METHODS, toys.Distil, toys.DistilConfig),
]


@pytest.fixture(autouse=True)
def toys_are_registered() -> Iterator[None]:
    with toys.registered(*TOYS):
        yield


def config(output: Path, method: str, data: str = "two_streams", **more: Any) -> dict[str, Any]:
    """A run of six steps of a toy."""
    return {
        "output_dir": str(output),
        "input": SMALL,
        "encoder": R3D,
        "data": {"name": data},
        "method": {"name": method},
        "optim": {"lr": 0.01},
        "engine": {"epochs": 2, "batch_size": 4, "log_every": 1, "device": "cpu"},
        "probe": None,
        "report": {"enabled": False},
        **more,
    }


def assert_resumes(data: dict[str, Any], tmp_path: Path, stop_at: int = 2) -> Trainer:
    """A run that is stopped and goes on is the one that was never stopped; the latter."""
    whole, parts = data | {"output_dir": str(tmp_path / "whole")}, data | {"output_dir": str(tmp_path / "parts")}
    trainer = train(whole)
    train(parts, stop_at=stop_at)
    train(parts)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")
    expected, found = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    return trainer


def tensors(run: Path) -> dict[str, Tensor]:
    """Every tensor of the newest checkpoint of a run."""
    from safetensors.torch import load_file

    newest = max((run / "checkpoints").glob("step_*"))
    return {
        f"{file.stem}/{name}": value for file in newest.glob("*.safetensors") for name, value in load_file(file).items()
    }


# -------------------------------------------------------------------- two streams, two encoders, an earlier run


def test_two_streams_and_two_exported_encoders_started_from_an_earlier_run(videos: Path, tmp_path: Path) -> None:
    first = train(tiny(videos, tmp_path / "first", engine={"epochs": 1}))
    further = {"flow": {"encoder": R3D, "input": SMALL, "weights": str(tmp_path / "first")}}
    data = config(tmp_path / "run", "co_training", weights=str(tmp_path / "first"), encoders=further)
    built: Any = build(load(data)).method
    for encoder in (built.encoder, built.flow):
        state = first.method.encoder.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    trainer = assert_resumes(data, tmp_path)
    for name, exported in trainer.method.exports().items():
        loaded = load_encoder(tmp_path / "whole" / name).state_dict()
        assert all(torch.equal(value, loaded[key]) for key, value in exported.state_dict().items())
    assert not (tmp_path / "whole" / "encoder.safetensors").exists()
    assert {"rgb/feature_spread", "flow/feature_spread"} <= metrics(tmp_path / "whole")[-1].keys()


def test_the_second_stream_is_seen_at_the_same_moments_and_through_the_same_crop(tmp_path: Path) -> None:
    further = {"flow": {"encoder": R3D, "input": SMALL}}
    trainer = Trainer(load(config(tmp_path / "run", "co_training", encoders=further)), Runtime(CPU))
    batch, _ = next(trainer._batches(0, 1))
    rgb, flow = batch.views
    assert ((2 * flow.at - rgb.at).abs() <= 1).all()  # the nearest at half the rate
    for name in ("box", "flip"):
        assert torch.equal(rgb.params[name], flow.params[name])
    assert not torch.equal(rgb.params["brightness"], flow.params["brightness"])


def test_encoders_that_the_method_does_not_take_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"co_training takes the further encoders \['flow'\], not \[\]"):
        build(load(config(tmp_path / "run", "co_training")))
    with pytest.raises(ConfigError, match=r"adversary takes one encoder, not \['flow'\]"):
        build(load(config(tmp_path / "run", "adversary", encoders={"flow": {"encoder": R3D}})))


# -------------------------------------------------------------------- sweeps


def test_sweeps_arrive_with_poses_that_still_lead_to_the_world(tmp_path: Path) -> None:
    points = {"num_points": None, "unit_sphere": False, "voxel_size": 0.5}
    net = {"name": "sparse_unet", "variant": "tiny", "stem": 4}
    data = config(tmp_path / "run", "forecast", "toy_drives") | {"input": points, "encoder": net}
    trainer = Trainer(load(data), Runtime(CPU))
    batch, _ = next(trainer._batches(0, 1))
    (view,) = trainer.method.views.prepare(batch.views)
    assert len(view) == 4 and len(view.points) == 12
    assert view.labels["pose"].shape == (4, 3, 4, 4)
    assert (view.labels["start"][:, 0] == view.at[:, 0]).all()
    for row, index in enumerate(batch.indices.tolist()):
        drive = toys.Drive(index)
        for sweep in range(3):
            cloud = view.points.part(3 * row + sweep, 3 * row + sweep + 1)
            pose = view.labels["pose"][row, sweep]
            world = cloud.xyz.double() @ pose[:3, :3].T + pose[:3, 3]
            np.testing.assert_allclose(world.numpy(), drive.world[cloud.source.numpy()], atol=1e-4)  # type: ignore[union-attr]
    half = view.part(1, 3)
    assert len(half.points) == 6 and torch.equal(half.points.xyz[:80], view.points.part(3, 4).xyz)
    assert_resumes(data, tmp_path)


# -------------------------------------------------------------------- an adversary


def test_an_adversary_learns_beside_the_generator_and_neither_through_the_other(tmp_path: Path) -> None:
    trainer = assert_resumes(config(tmp_path / "run", "adversary"), tmp_path)
    method: Any = trainer.method
    batch, _ = next(trainer._batches(0, 1))
    views = method.views.prepare(batch.views)
    critic = list(method.critic.parameters())
    rest = [p for n, p in method.named_parameters() if not n.startswith("critic.")]
    losses = method(views)
    assert all(
        g is None for g in torch.autograd.grad(losses["generator"], critic, allow_unused=True, retain_graph=True)
    )
    assert all(g is None for g in torch.autograd.grad(losses["critic"], rest, allow_unused=True, retain_graph=True))
    assert any(float(g.abs().max()) > 0 for g in torch.autograd.grad(losses["critic"], critic, retain_graph=True))


# -------------------------------------------------------------------- mining


def mined(rank: int, world_size: int, data: dict[str, Any]) -> dict[str, Tensor]:
    trainer = train(data | {"output_dir": f"{data['output_dir']}-{rank}"}, runtime=Runtime(CPU, rank, world_size))
    return {name: value.clone() for name, value in trainer.method.named_buffers() if name in ("nearest", "bank")}


@pytest.mark.ddp
def test_what_is_mined_is_in_the_checkpoint_and_the_same_for_all(tmp_path: Path) -> None:
    data = config(tmp_path / "run", "mining")
    method: Any = assert_resumes(data, tmp_path).method
    assert not (method.nearest == torch.arange(12)).any()  # nobody is nearest to itself
    assert (method.bank.abs().sum(1) > 0).all()
    assert_resumes(data, tmp_path / "later", stop_at=4)  # within the second epoch
    one, other = run_ranks(mined_in_toys, 2, tmp_path, data)
    for name, value in one.items():
        assert torch.equal(other[name], value), name


def mined_in_toys(rank: int, world_size: int, data: dict[str, Any]) -> dict[str, Tensor]:
    with toys.registered(*TOYS):
        return mined(rank, world_size, data)


# -------------------------------------------------------------------- frozen teachers


def test_a_frozen_teacher_from_a_file_is_in_no_checkpoint_and_stays_what_it_is(videos: Path, tmp_path: Path) -> None:
    train(tiny(videos, tmp_path / "first", engine={"epochs": 1}))
    teacher = {"encoder": R3D, "input": SMALL, "weights": str(tmp_path / "first"), "frozen": True}
    data = config(tmp_path / "run", "distil", encoders={"teacher": teacher})
    data["engine"] = data["engine"] | {"ema": 0.9}
    trainer = assert_resumes(data, tmp_path)
    method: Any = trainer.method
    before = load_encoder(tmp_path / "first").state_dict()
    assert all(torch.equal(value, before[name]) for name, value in method.teacher.state_dict().items())
    method.train()
    assert not method.teacher.training and method.encoder.training
    assert not any("teacher." in name for name in tensors(tmp_path / "whole"))
    assert any("encoder." in name for name in tensors(tmp_path / "whole"))
    stopped = data | {"output_dir": str(tmp_path / "stopped")}
    train(stopped, stop_at=2)
    train(tiny(videos, tmp_path / "first", engine={"epochs": 1}, seed=5, output_dir=str(tmp_path / "other")))
    (tmp_path / "other" / "encoder.safetensors").rename(tmp_path / "first" / "encoder.safetensors")
    with pytest.raises(DataError, match="a frozen encoder of the run is from another file now"):
        train(stopped)


def test_a_seeded_teacher_is_saved(tmp_path: Path) -> None:
    teacher = {"encoder": R3D, "input": SMALL, "frozen": True}
    assert_resumes(config(tmp_path / "run", "distil", encoders={"teacher": teacher}), tmp_path)
    assert any("teacher." in name for name in tensors(tmp_path / "whole"))


# -------------------------------------------------------------------- weights to start from


def test_parts_of_a_method_are_taken_from_a_checkpoint(videos: Path, tmp_path: Path) -> None:
    first = train(tiny(videos, tmp_path / "first", engine={"epochs": 1}))
    start = {"run": str(tmp_path / "first"), "parts": ["projector"]}
    method = build(load(tiny(videos, tmp_path / "second", weights=start))).method
    for name, value in first.method.projector.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(method.projector.state_dict()[name], value)  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"no part 'projektor'; did you mean 'projector'"):
        build(load(tiny(videos, tmp_path / "third", weights=start | {"parts": ["projektor"]})))


def test_more_epochs_of_a_finished_run_are_a_new_run_from_its_weights(videos: Path, tmp_path: Path) -> None:
    train(tiny(videos, tmp_path / "run", engine={"epochs": 1}))
    with pytest.raises(ConfigError, match=r"engine\.epochs: 1 before, 2 now(.|\n)*output_dir=NEW weights=.*run"):
        train(tiny(videos, tmp_path / "run", engine={"epochs": 2}))


def test_what_was_taken_is_told(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny(videos, tmp_path / "first", engine={"epochs": 1}))
    train(tiny(videos, tmp_path / "second", engine={"epochs": 1}, weights=str(tmp_path / "first")))
    count = len(load_encoder(tmp_path / "first").state_dict())
    assert f"{count} tensors taken from" in " ".join(capsys.readouterr().err.split())
