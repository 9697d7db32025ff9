from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from st_ssl.ops.sampling import farthest_points, farthest_points_packed


def slow(points: np.ndarray, count: int, start: int = 0) -> list[int]:
    """The definition: the index of the largest distance to what was taken, the first of equals, none twice."""
    taken: list[int] = [start] if count else []
    while len(taken) < count:
        squares = ((points[:, None] - points[None, taken]) ** 2).sum(2).min(1)
        squares[taken] = -1
        taken.append(int(squares.argmax()))
    return taken


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(0, 40), st.integers(0, 999))
def test_equals_the_definition(batch: int, num_points: int, count: int, seed: int) -> None:
    count = min(count, num_points)
    rng = np.random.default_rng(seed)
    # A coarse grid has many points equally far, and duplicates; its distances are exact.
    points = rng.integers(-3, 4, (batch, num_points, 3)).astype(np.float32)
    start = rng.integers(0, num_points, batch)
    picked = farthest_points(torch.from_numpy(points), count, torch.from_numpy(start))
    expected = [slow(cloud, count, int(first)) for cloud, first in zip(points, start, strict=True)]
    assert picked.dtype == torch.int64
    assert picked.tolist() == expected


def test_equals_open3d() -> None:
    o3d = pytest.importorskip("open3d")
    points = np.random.default_rng(0).normal(size=(3000, 3))
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    theirs = np.asarray(cloud.farthest_point_down_sample(300).points)
    ours = points[farthest_points(torch.from_numpy(points)[None], 300)[0].sort().values]  # theirs are in file order
    np.testing.assert_array_equal(ours, theirs)


def test_duplicates_are_taken_last_and_once_each() -> None:
    points = torch.tensor([[0.0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0], [5, 0, 0]])[None]
    assert farthest_points(points, 5).tolist() == [[0, 4, 2, 1, 3]]


def test_packed_equals_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes, counts = [50, 0, 1, 200], [10, 0, 1, 64]
    xyz = torch.rand(sum(sizes), 3, generator=generator)
    offsets = torch.tensor([0, 50, 50, 51, 251])
    picked = farthest_points_packed(xyz, offsets, counts)
    parts = []
    for first, size, count in zip(offsets.tolist(), sizes, counts, strict=False):
        parts += [first + index for index in slow(xyz[first : first + size].numpy(), count)]
    assert picked.tolist() == parts
    assert farthest_points_packed(xyz, offsets, torch.tensor(counts)).tolist() == parts


def test_no_clouds() -> None:
    assert farthest_points(torch.empty(0, 5, 3), 2).shape == (0, 2)
    assert farthest_points_packed(torch.empty(0, 3), torch.tensor([0]), []).shape == (0,)


@pytest.mark.parametrize(
    ("shape", "count", "start", "message"),
    [
        ((2, 5, 3), 6, None, "6 farthest points of clouds of 5: expected 0 to 5"),
        ((2, 5, 3), 2, [0, 5], r"starts \[0, 5\]: expected 2 numbers within 0 … 4"),
        ((2, 5, 3), 2, [0], "expected 2 numbers"),
        ((5, 3), 2, None, r"the shape \[5, 3\]; expected \[B, N, 3\]"),
    ],
)
def test_what_cannot_be(shape: tuple[int, ...], count: int, start: list[int] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        farthest_points(torch.zeros(shape), count, None if start is None else torch.tensor(start))


def test_a_packed_cloud_that_is_too_small() -> None:
    with pytest.raises(ValueError, match="3 farthest points of clouds of 2"):
        farthest_points_packed(torch.zeros(6, 3), torch.tensor([0, 4, 6]), [3, 3])
    with pytest.raises(ValueError, match=r"offsets \[0, 4, 7\]: expected to rise from 0 to the number of points, 6"):
        farthest_points_packed(torch.zeros(6, 3), torch.tensor([0, 4, 7]), [1, 1])
    with pytest.raises(ValueError, match="1 counts for 2 clouds"):
        farthest_points_packed(torch.zeros(6, 3), torch.tensor([0, 4, 6]), [1])


def test_half_precision_is_computed_in_single() -> None:
    xyz = torch.rand(1, 500, 3, generator=torch.Generator().manual_seed(0)).half()
    assert farthest_points(xyz, 50).equal(farthest_points(xyz.float(), 50))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_takes_the_same_points() -> None:
    xyz = torch.randint(-50, 50, (4, 3000, 3), generator=torch.Generator().manual_seed(0)).float()
    start = torch.tensor([0, 7, 1, 2999])
    assert farthest_points(xyz.cuda(), 256, start.cuda()).cpu().equal(farthest_points(xyz, 256, start))
