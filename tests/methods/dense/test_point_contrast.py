from __future__ import annotations

from copy import deepcopy
from functools import partial
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
from st_ssl.methods.dense.point_contrast import PointContrast, PointContrastConfig
from st_ssl.objectives.contrastive import point_info_nce
from st_ssl.parts.point_matching import match

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
