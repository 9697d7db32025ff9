from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.core.config import merge
from st_ssl.core.errors import ConfigError
from st_ssl.core.types import View
from st_ssl.data.loading.sample_dataset import collate
from st_ssl.data.synthetic.drives import SyntheticDriveConfig, write_dataset
from st_ssl.encoders.base import ENCODERS, random_encoder
from st_ssl.methods.base import METHODS
from st_ssl.methods.rendered.trend import UNIT, Growing
from st_ssl.ops.rays import leave_box, ray_weights
from tests.methods.clouds import POINT_VIT
from tests.methods.mechanism import forecasts
from tests.methods.steps import NoiseDrive, build, raw_views
from tests.runs import tiny, train
from tests.transfer.streets import INPUT, source

RECORDED = "drives"
SMALL: dict[str, Any] = {
    "encoder": {
        "name": "second",
        "range": [-16, -16, -16, 16, 16, 16],
        "voxel": [1.0, 1.0, 1.0],
        "widths": [8, 12],
        "out": 16,
    },
    "input": {"num_points": None, "unit_sphere": False, "centre": False},
    "method": {
        **{"shares": [0.6, 0.4], "stages": [], "hidden": 0.2, "ground": None, "rays": 40, "near": 0.5},
        **{"coarse": 8, "fine": 8, "width": 8, "hidden_width": 16},
    },
}
STREET = {"name": "second", "range": [-19.2, -19.2, -3, 19.2, 19.2, 3.4]}


def seen(method: Any, batch: int = 3) -> View:
    (view,) = method.views.prepare(raw_views(method, batch))
    return view


def test_rays_start_where_the_sensor_will_be() -> None:
    method = build("trend")
    view = seen(method)
    rays = method.rays(view, 1)
    pose = view.labels["pose"]
    for cloud in range(3):
        own = rays.cloud == cloud
        assert int(own.sum()) == 40
        ahead = (torch.linalg.inv(pose[cloud, 0]) @ pose[cloud, 1])[:3, 3].float()
        torch.testing.assert_close(rays.origin[own], ahead.expand(40, -1))
    # The world stands still: what the later sweep meets lies on the present one.
    ends = rays.origin + rays.range[:, None] * rays.direction
    for cloud in range(3):
        first, last = view.points.offsets[2 * cloud : 2 * cloud + 2].tolist()
        distance = torch.cdist(ends[rays.cloud == cloud], view.points.xyz[first:last])
        assert float(distance.amin(1).max()) < 1e-2


def test_the_loss_is_that_of_the_formula() -> None:
    method = build("trend", fine=0, coarse=6).eval()
    view = seen(method, 2)
    volumes = method._volumes(view)
    steps = view.labels["step"][:, 0].float()
    total = torch.tensor(0.0)
    for which, (volume, step) in enumerate(zip(volumes, (0 * steps, steps), strict=True)):
        rays = method.rays(view, which)
        errors: list[list[torch.Tensor]] = [[], []]
        for origin, direction, far, cloud in zip(*rays[:4], strict=True):
            limit = leave_box(origin[None], direction[None], volume.range)
            places = 0.5 + (limit - 0.5) * (torch.arange(6) + 0.5) / 6
            xyz = origin + places[:, None] * direction
            distance, _, _ = method.field(volume, xyz, cloud.expand(6), step)
            weights = ray_weights(distance[None], torch.exp(10 * method.sharpness))[0]
            middle = (places[1:] + places[:-1]) / 2
            there, _, _ = method.field(volume, (origin + far * direction)[None], cloud[None], step)
            errors[cloud].append(((weights * middle).sum() - far).abs() / UNIT + there.abs()[0])
        total = total + torch.stack([torch.stack(own).mean() for own in errors]).mean()
    loss = method([view]).loss
    torch.testing.assert_close(loss, total, rtol=1e-4, atol=1e-5)
    parameters = [each for each in method.parameters() if each.requires_grad]
    grads = [torch.autograd.grad(one, parameters, allow_unused=True, retain_graph=True) for one in (loss, total)]
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_later_volumes_are_those_of_their_step() -> None:
    method = build("trend").eval()
    view = seen(method, 12)
    assert set(view.labels["step"].flatten().tolist()) == {1, 2}
    _, later = method._volumes(view)
    for row in range(12):
        alone = View(
            view.points.part(2 * row, 2 * row + 2),
            view.at[row : row + 1],
            {name: value[row : row + 1] for name, value in view.labels.items()},
            {name: value[row : row + 1] for name, value in view.params.items()},
        )
        torch.testing.assert_close(method._volumes(alone)[1].values[0], later.values[row], rtol=1e-4, atol=1e-5)


def test_the_horizon_grows_with_the_epochs() -> None:
    plan = Growing((0.4, 0.3, 0.3), 1, (2, 5))
    drive = NoiseDrive(0)
    found = {}
    for epoch in (0, 2, 5):
        draws = [plan.draw(np.random.default_rng(seed), drive, epoch)[0] for seed in range(60)]
        assert {draw.labels["path"].shape for draw in draws} == {(4, 4, 4)}
        found[epoch] = {int(draw.labels["step"][0]) for draw in draws}
    assert found == {0: {1}, 2: {1, 2}, 5: {1, 2, 3}}


def test_errors_on_what_moves_are_told_apart(tmp_path: Path) -> None:
    planted = SyntheticDriveConfig(num_train=1, num_val=0, num_test=0, sweeps=6, key_every=1, beams=16, columns=200)
    data = source(write_dataset(tmp_path / "streets", planted))
    encoder = {**STREET, "voxel": [0.8, 0.8, 0.8], "widths": [4, 6], "out": 8}
    config = METHODS.config("trend").model_validate({**SMALL["method"], "ground": -1.4, "near": 1.0})
    network = random_encoder(ENCODERS.config("second").model_validate(encoder), INPUT, 0)
    method: Any = METHODS.build(config, network).eval()
    dataset = data.dataset(data.recordings(), method.views)
    (view,) = method.views.prepare(collate([dataset[0, 0]]).views)
    found = method.future_errors(view)
    assert {"rendered", "copy"} <= set(found)
    assert 0 < found["copy"] < 3  # metres: most of a street stands still
    assert found["rendered"] > found["copy"]  # nothing was learned


def test_encoders_without_a_volume() -> None:
    with pytest.raises(ConfigError, match="needs an encoder of a range of space: second or pillars"):
        build("trend", POINT_VIT)
    with pytest.raises(ValueError, match="expected 1 rising epochs"):
        build("trend", stages=[3, 4])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_moves_is_forecast(tmp_path: Path) -> None:
    """configs/quickstart/driving.yaml in a minute: fewer rays into coarser voxels."""
    planted = SyntheticDriveConfig(
        num_train=24, num_val=0, num_test=8, sweeps=8, key_every=1, beams=24, columns=400, seed=1
    )
    root = str(write_dataset(tmp_path / "streets", planted, num_workers=0))
    changes = {
        "data": {"epoch_size": 96},
        "input": {"attributes": ["intensity"]},
        "encoder": {**STREET, "voxel": [0.4, 0.4, 0.4], "widths": [8, 16], "out": 16},
        "method": {"ground": -1.4, "rays": 512, "near": 1.0, "width": 16, "hidden_width": 32, "hidden": 0.5},
        "optim": {"lr": 4e-3, "lr_batch": None},
        "engine": {"epochs": 8, "batch_size": 2, "clip_grad": 10.0},
    }
    train(merge(tiny(Path(root), tmp_path / "run", "trend"), changes))
    found = forecasts(tmp_path / "run", source=source(Path(root)))
    assert found["moving rendered"] < found["moving copy"]
    assert found["moving rendered"] < found["moving still"]
