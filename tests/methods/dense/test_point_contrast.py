from __future__ import annotations

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.types import Features, PointBatch, PointCloud
from st_ssl.data.streams.base import Recording, StillCloud
from st_ssl.data.views import stack
from st_ssl.encoders.base import Encoder
from st_ssl.methods.base import METHODS
from st_ssl.methods.dense.point_contrast import PointContrast, PointContrastConfig
from st_ssl.objectives.contrastive import point_info_nce
from st_ssl.parts.point_matching import match
from st_ssl.training.optim import OptimConfig, peak_lr
from st_ssl.training.schedule import ScheduleConfig, lr_at
from tests.ddp import run_ranks
from tests.methods.steps import recipe

SMALL: dict[str, Any] = {
    "input": {"num_points": None, "unit_sphere": False, "voxel_size": 0.1},
    "encoder": {"name": "sparse_unet", "variant": "tiny", "stem": 4},
    "method": {"num_pairs": 32, "output_dim": 8},
}


class PerPoint(Encoder):
    """Each point on its own, by what it has besides its place."""

    modality = "points"
    per_point = True
    embed_dim = 8

    def __init__(self) -> None:
        super().__init__(Config(), PointInputConfig(num_points=None, unit_sphere=False, attributes=("color",)))
        self.net = nn.Linear(3, 8)

    def forward(self, clip: PointBatch, keep: Tensor | None = None) -> Features:
        points = self.net(clip.attributes["color"])
        return Features(points.new_zeros(len(clip), 8), points=points)


def build(**settings: Any) -> Any:
    torch.manual_seed(0)
    return PointContrast(PointContrastConfig(**settings), PerPoint())


def scene(seed: int, num_points: int = 400) -> PointCloud:
    rng = np.random.default_rng(seed)
    xyz = rng.uniform(0, 4, (num_points, 3)).astype(np.float32)
    return PointCloud(xyz, {"color": rng.random((num_points, 3), dtype=np.float32)})


def prepared(method: Any, scenes: list[PointCloud]) -> Any:
    found = [Recording.of(StillCloud(partial(deepcopy, cloud)), "points") for cloud in scenes]
    return method.views.prepare(stack([method.views.cut(one, (0, 0, i)) for i, one in enumerate(found)]))


def test_matched_rows_are_the_same_point_of_the_same_scene() -> None:
    method, scenes = build(num_pairs=64), [scene(0), scene(1), scene(2)]
    first, second = prepared(method, scenes)
    assert not torch.equal(first.points.xyz, second.points.xyz)
    pairs, valid = match(first, second, 64)
    assert pairs.shape == (3, 64, 2)
    assert valid.all()  # each view has six tenths of a scene at least, so both share 80 of 400 points
    for row, cloud in enumerate(scenes):
        assert len(pairs[row].unique(dim=0)) == 64
        for view, own in zip((first, second), pairs[row].T, strict=True):
            assert view.points.source is not None
            assert ((own >= view.points.offsets[row]) & (own < view.points.offsets[row + 1])).all()
            colours = torch.from_numpy(cloud.attributes["color"])[view.points.source[own]]
            torch.testing.assert_close(view.points.attributes["color"][own], colours)
        assert first.points.source is not None
        assert second.points.source is not None
        assert torch.equal(first.points.source[pairs[row, :, 0]], second.points.source[pairs[row, :, 1]])


def test_the_loss_is_that_of_the_matched_features() -> None:
    method, scenes = build(num_pairs=16, temperature=0.2), [scene(0), scene(1)]
    views = prepared(method, scenes)
    losses = method(views)
    pairs, valid = match(views[0], views[1], method.config.num_pairs)
    first, second = (
        method.head(method.encoder.net(view.points.attributes["color"][pairs[..., i].flatten()]))
        for i, view in enumerate(views)
    )
    expected, accuracy = point_info_nce(first, second, valid.flatten(), 0.2)
    torch.testing.assert_close(losses["loss"], expected)
    torch.testing.assert_close(losses["match_accuracy"], accuracy)
    assert losses["matched"] == 1


def test_scenes_with_fewer_matches_than_asked_for_bring_those_they_have() -> None:
    method = build(num_pairs=100)
    views = prepared(method, [scene(0), scene(1, 30), scene(2, 1)])
    pairs, valid = match(views[0], views[1], method.config.num_pairs)
    assert valid[0].all()
    assert 0 < valid[1].sum() < 30
    assert valid[2].sum() == 1
    assert (pairs[~valid] == 0).all()
    losses = method(views)
    losses["loss"].backward()
    assert losses["loss"].isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


def test_it_learns_to_match() -> None:
    method, scenes = build(num_pairs=64, temperature=0.4), [scene(0), scene(1)]
    optimizer, seen = torch.optim.Adam(method.parameters(), lr=1e-2), []
    for _ in range(60):
        losses = method(prepared(method, scenes))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        seen.append(losses["loss"].item())
    assert np.mean(seen[-5:]) < np.mean(seen[:5]) - 0.5


def test_encoders_without_a_feature_a_point_are_refused() -> None:
    encoder = PerPoint()
    encoder.per_point = False  # type: ignore[misc]
    with pytest.raises(ConfigError, match="such as sparse_unet"):
        PointContrast(PointContrastConfig(), encoder)


def test_the_defaults_and_the_recipe_are_those_of_the_authors() -> None:
    told = recipe("dense/point_contrast")
    config: Any = METHODS.config("point_contrast").model_validate(told["method"])
    defaults = PointContrastConfig()
    assert (defaults.temperature, defaults.output_dim, defaults.negatives) == (0.4, 32, "all")
    assert config.augment == defaults.augment
    augment = config.augment
    assert (augment.rotation, augment.max_angle, augment.tilt) == ("axis", 180, 0)
    assert (augment.flip, augment.scale, augment.jitter) == ((0, 0, 0), (1, 1), 0)
    assert (config.negatives, config.blank_colour, config.temperature) == ("process", True, 0.4)
    assert told["input"]["attributes"] == ["color"]  # three channels, for the colours of later
    batch, optim = told["engine"]["batch_size"], OptimConfig.model_validate(told["optim"])
    assert batch == 32
    assert config.num_pairs * batch / 8 == 4096  # of a process, of eight
    assert (optim.name, peak_lr(optim, batch), optim.momentum, optim.weight_decay) == ("sgd", 0.05, 0.8, 1e-4)
    schedule = ScheduleConfig.model_validate(told["schedule"])
    rates = [lr_at(step, 60_000, 37, schedule, 0.05) for step in (0, 249, 250, 59_999)]
    assert rates == pytest.approx([0.05, 0.05, 0.0495, 0.05 * 0.99**239])
    assert told["engine"].get("precision", "fp32") == "fp32"


def test_colours_become_ones_with_noise() -> None:
    method, count = build(blank_colour=True), 60
    views = prepared(method, [scene(i, 60) for i in range(count)])
    still = 0
    for view in views:
        for row in range(count):
            begin, end = view.points.offsets[row : row + 2].tolist()
            noise = view.points.attributes["color"][begin:end] - 1
            spread = noise.std().item()
            assert noise.eq(0).all() or 0.005 < spread < 0.015
            still += spread == 0
    assert 0 < still < 18  # 5 % of 120 views
    first, second = (view.points.attributes["color"][:30] for view in views)
    assert not torch.equal(first, second)
    plain = prepared(build(), [scene(i, 60) for i in range(count)])
    assert all(torch.equal(a.points.xyz, b.points.xyz) for a, b in zip(plain, views, strict=True))


def test_views_turn_about_any_axis_and_keep_their_shape() -> None:
    method = build(augment={"crop": "none"})
    clouds = [scene(i, 40) for i in range(20)]
    upright = []
    for view in prepared(method, clouds):
        for row, cloud in enumerate(clouds):
            linear = view.params["affine"][row, :3, :3].double()
            torch.testing.assert_close(linear @ linear.T, torch.eye(3).double(), atol=1e-6, rtol=0)
            assert torch.linalg.det(linear) > 0.99  # not mirrored
            upright.append(linear[2, 2].item())
            own = view.points.xyz[view.points.offsets[row] : view.points.offsets[row + 1]]
            torch.testing.assert_close(torch.pdist(own), torch.pdist(torch.from_numpy(cloud.xyz)), atol=1e-4, rtol=1e-4)
    assert min(upright) < -0.5 and max(upright) > 0.5


def on_one_rank(rank: int, world_size: int, negatives: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(8, 4, generator=generator, dtype=torch.float64) for _ in range(2)]
    valid = torch.tensor([1, 1, 0, 1, 1, 0, 0, 1]).bool()
    own = slice(rank * 8 // world_size, (rank + 1) * 8 // world_size)
    first, second = (x[own].clone().requires_grad_() for x in given)
    loss, accuracy = point_info_nce(first, second, valid[own], 0.4, negatives)  # type: ignore[arg-type]
    loss.backward()
    assert first.grad is not None
    assert second.grad is not None
    return {"loss": loss.detach(), "accuracy": accuracy, "first": first.grad, "second": second.grad}


@pytest.mark.ddp
def test_negatives_of_the_own_process_are_those_of_a_process_alone(tmp_path: Path) -> None:
    ranks = run_ranks(on_one_rank, 2, tmp_path, "process")
    for number, found in enumerate(ranks):
        generator = torch.Generator().manual_seed(0)
        given = [torch.randn(8, 4, generator=generator, dtype=torch.float64) for _ in range(2)]
        valid = torch.tensor([1, 1, 0, 1, 1, 0, 0, 1]).bool()[4 * number : 4 * number + 4]
        first, second = (x[4 * number : 4 * number + 4].clone().requires_grad_() for x in given)
        loss, accuracy = point_info_nce(first, second, valid, 0.4)
        loss.backward()
        expected = {"loss": loss.detach(), "accuracy": accuracy, "first": first.grad, "second": second.grad}
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value)
    assert abs(on_one_rank(0, 1, "all")["loss"] - torch.stack([r["loss"] for r in ranks]).mean()) > 1e-2
