from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.augment.surface_queries import surface_queries
from st_ssl.core.errors import ConfigError
from st_ssl.core.types import PointBatch
from tests.methods.clouds import POINT_VIT
from tests.methods.steps import build, raw_views

SMALL: dict[str, Any] = {
    "encoder": {
        "name": "second",
        "range": [-1.6, -1.6, -1.6, 1.6, 1.6, 1.6],
        "voxel": [0.1, 0.1, 0.1],
        "widths": [8, 12],
        "out": 16,
    },
    "input": {"unit_sphere": False, "centre": False},
    "method": {"queries": 60, "cell": None, "radius": 0.4, "width": 24},
}
UNET: dict[str, Any] = {"name": "sparse_unet", "variant": "tiny", "stem": 4}


def test_queries_lie_on_the_rays_of_points() -> None:
    xyz = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 5
    points = PointBatch(xyz, torch.tensor([0, 20, 50]))
    found = surface_queries(points, 300, 0.1, torch.tensor([3, 4]))
    assert found.xyz.shape == (600, 3)
    kind = (torch.arange(300) // 100).repeat(2)
    assert found.occupied.equal(kind == 0)
    own = found.point >= 0
    assert own.equal(kind < 2)
    at, place = xyz[found.point[own]], found.xyz[own]
    cosine = torch.nn.functional.cosine_similarity(at, place)
    assert (cosine > 0.999).all()
    further = place.norm(dim=1) - at.norm(dim=1)
    behind = found.occupied[own]
    assert ((further[behind] >= -1e-5) & (further[behind] <= 0.1001)).all()
    assert ((further[~behind] <= 1e-5) & (further[~behind] >= -0.1001)).all()
    assert (found.point[own] < 20).equal(found.cloud[own] == 0)
    # Anywhere before a point: shares of the way are even.
    before = found.xyz[kind == 2].norm(dim=1)
    assert before.max() <= xyz.norm(dim=1).max()
    assert np.percentile(before.numpy(), 10) < 2
    again = surface_queries(points.part(1, 2), 300, 0.1, torch.tensor([4]))
    torch.testing.assert_close(again.xyz, found.xyz[300:])


@pytest.mark.parametrize("encoder", [None, UNET], ids=["second", "sparse_unet"])
def test_the_loss_is_a_mean_over_all_pairs_within_the_radius(encoder: dict[str, Any] | None) -> None:
    method = build("also", encoder, most=96).eval()
    (view,) = method.views.prepare(raw_views(method, 2))
    seed = view.params["seed"][:, 0]
    queries = surface_queries(view.points, 60, 0.1, seed)
    if encoder is None:
        volume = method.encoder.volume(view.points)
        bev, centres = volume.bev(), volume.centres()[0]
        places = torch.cat([centres[..., :2], torch.zeros_like(centres[..., :1])], 2)
        supports = [(method.latent(bev[c].permute(1, 2, 0)).flatten(0, 1), places.flatten(0, 1), 2) for c in range(2)]
    else:
        features = method.encoder(view.points).points
        bounds = view.points.offsets.tolist()
        rows = [slice(*bounds[c : c + 2]) for c in range(2)]
        supports = [(method.latent(features[own]), view.points.xyz[own], 3) for own in rows]
    losses = []
    for cloud, (latent, places, axes) in enumerate(supports):
        own = []
        for number in range(60 * cloud, 60 * cloud + 60):
            for feature, place in zip(latent, places, strict=True):
                beside = queries.xyz[number] - place
                if beside[:axes].norm() <= 0.4:
                    logit = method.head(torch.cat([feature, beside]))[0]
                    chance = torch.sigmoid(logit)
                    own.append(-torch.log(chance if queries.occupied[number] else 1 - chance))
        losses.append(torch.stack(own).mean())
    torch.testing.assert_close(method([view]).loss, torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


def test_only_so_many_points_are_shown() -> None:
    method = build("also", inputs=30)
    (view,) = method.views.prepare(raw_views(method, 3))
    seed = view.params["seed"][:, 0]
    shown = method._shown(view.points, seed)
    assert shown.offsets.tolist() == [0, 30, 60, 90]
    alone = method._shown(view.points.part(1, 2), seed[1:2])
    assert torch.equal(alone.xyz, shown.xyz[30:60])


def test_accuracy_with_the_sensor_where_it_is_and_elsewhere() -> None:
    method = build("also").eval()
    (view,) = method.views.prepare(raw_views(method, 2))
    assert method.query_accuracy(view) == pytest.approx(100 * float(method([view]).logs["accuracy"]), abs=3)
    assert method.query_accuracy(view, 2.0) != method.query_accuracy(view)


def test_encoders_of_whole_clouds() -> None:
    with pytest.raises(ConfigError, match="needs an encoder with features of points"):
        build("also", POINT_VIT)
