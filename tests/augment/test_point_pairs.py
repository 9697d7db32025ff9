"""Correspondences between two views, and clouds that are merged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from st_ssl.augment.point_pairs import correspondences
from st_ssl.augment.points import PointAugment, PointAugmentConfig
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import PointBatch
from st_ssl.data.views import packed
from tests.augment.points import WILD, make_cloud, source_of, stack


def test_two_views_of_a_cloud_meet_in_the_same_points() -> None:
    cloud = make_cloud(600)
    augment = PointAugment(PointAugmentConfig(**WILD, crop="sphere", dropout=(0.1, 0.3)), num_points=None)
    params = [[augment.sample(keyed_rng(b, v)) for b in range(2)] for v in range(2)]
    cuts = [[augment.choose(cloud, p) for p in row] for row in params]
    views = [augment.apply(packed(c), stack(p)) for c, p in zip(cuts, params, strict=True)]
    pairs = correspondences(views[0], views[1])
    assert pairs.dtype == torch.int64 and (pairs[:, 0].diff() > 0).all()
    back = []
    for view_params, view_cuts, batch in zip(params, cuts, views, strict=True):
        parts = []
        for b, (p, part) in enumerate(zip(view_params, view_cuts, strict=True)):
            assert part.pose is not None
            undo = part.pose @ np.linalg.inv(p["affine"].astype(np.float64))
            xyz = batch.xyz[batch.offsets[b] : batch.offsets[b + 1]].double().numpy()
            parts.append(xyz @ undo[:3, :3].T + undo[:3, 3])
        back.append(np.concatenate(parts))
    assert np.abs(back[0][pairs[:, 0]] - back[1][pairs[:, 1]]).max() < 1e-4
    expected = sum(len(np.intersect1d(source_of(cuts[0][b]), source_of(cuts[1][b]))) for b in range(2))
    assert len(pairs) == expected > 100
    cloud_of = [torch.bucketize(pairs[:, v].contiguous(), views[v].offsets[1:], right=True) for v in range(2)]
    assert torch.equal(*cloud_of)


def test_repeated_points_are_paired_with_the_first() -> None:
    def batch(sources: list[int]) -> PointBatch:
        return PointBatch(torch.zeros(len(sources), 3), torch.tensor([0, len(sources)]), source=torch.tensor(sources))

    assert correspondences(batch([5, 3, 5]), batch([7, 5, 5, 3])).tolist() == [[0, 1], [1, 3], [2, 1]]
    assert correspondences(batch([1]), batch([2])).shape == (0, 2)
    assert correspondences(batch([]), batch([2])).shape == (0, 2)


def test_the_nearest_within_a_radius() -> None:
    rng = keyed_rng("radius")
    a, b = (PointBatch(torch.from_numpy(rng.random((n, 3))).float(), torch.tensor([0, n // 3, n])) for n in (90, 120))
    pairs = correspondences(a, b, radius=0.1)
    distance = torch.cdist(a.xyz, b.xyz)
    distance[:30, 40:] = distance[30:, :40] = torch.inf
    near, place = distance.min(1)
    expected = [[i, int(place[i])] for i in range(90) if near[i] <= 0.1]
    assert pairs.tolist() == expected and 10 < len(expected) < 90
    twins = PointBatch(torch.zeros(3, 3), torch.tensor([0, 3]))
    assert correspondences(twins, twins, radius=0.1).tolist() == [[0, 0], [1, 0], [2, 0]]


def test_batches_that_do_not_match_are_told() -> None:
    one = PointBatch(torch.zeros(2, 3), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match=r"need PointBatch\.source"):
        correspondences(one, one)
    with pytest.raises(ValueError, match="1 clouds with 2"):
        correspondences(one, PointBatch(torch.zeros(2, 3), torch.tensor([0, 1, 2])))
