from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from st_ssl.ops import farthest
from st_ssl.ops.farthest import Blocks, farthest_blocks
from st_ssl.ops.sampling import farthest_loop, farthest_points, farthest_points_packed


def slow(points: np.ndarray, count: int, start: int = 0) -> list[int]:
    """The definition: the index of the largest distance to what was taken, the first of equals, none twice."""
    taken: list[int] = []
    squares = np.full(len(points), np.inf)
    for _ in range(count):
        taken.append(int(squares.argmax()) if taken else start)
        squares = np.minimum(squares, ((points - points[taken[-1]]) ** 2).sum(1))
        squares[taken] = -1
    return taken


@settings(max_examples=30)
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


def shapes(kind: str, num_points: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(num_points, 3))
    if kind == "sphere":
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    elif kind == "line":
        points *= [1, 0, 0]
    elif kind == "far from the origin":
        points = points * [50, 40, 0.1] + 1000
    elif kind == "grid":  # duplicates, and many points equally far
        points = rng.integers(0, 12, (num_points, 3)).astype(np.float64)
    elif kind == "two places":
        points = (points > 0) * [1, 0, 0]
    elif kind == "an outlier":
        points[7] = 1e6
    elif kind == "small and far apart":
        points = points * 1e-6 + 1e3 * (np.arange(num_points) % 2)[:, None]
    elif kind == "next to nothing":  # squares below what single precision can hold
        points *= 1e-22
    return points


KINDS = [
    "normal",
    "sphere",
    "line",
    "far from the origin",
    "grid",
    "two places",
    "an outlier",
    "small and far apart",
    "next to nothing",
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_take_the_same_points_as_the_plain_loop(kind: str, dtype: torch.dtype) -> None:
    xyz = torch.from_numpy(shapes(kind, 3001)).to(dtype)
    for count, start in ((900, 0), (40, 3000)):
        distance = torch.full((1, 3001), torch.inf, dtype=dtype)
        plain = farthest_loop(xyz[None], distance, count, torch.tensor([start]))[0]
        assert farthest_blocks(xyz.numpy(), count, start).tolist() == plain.tolist()


@settings(max_examples=30)
@given(st.integers(1, 400), st.floats(0, 1), st.booleans(), st.integers(0, 999))
def test_blocks_of_small_clouds(num_points: int, share: float, coarse: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.integers(-3, 4, (num_points, 3)).astype(np.float64) if coarse else rng.normal(size=(num_points, 3))
    count, start = max(1, round(share * num_points)), int(rng.integers(num_points))
    assert farthest_blocks(points, count, start).tolist() == slow(points, count, start)


def test_blocks_leave_most_points_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    visited = []
    shorten = Blocks._shorten

    def counting(self: Blocks, block: np.ndarray, points: np.ndarray) -> None:
        visited.append(len(block) * self.order.shape[1])
        shorten(self, block, points)

    monkeypatch.setattr(Blocks, "_shorten", counting)
    farthest_points(torch.from_numpy(shapes("sphere", 20000))[None].float(), 1000)
    assert 0 < sum(visited) < 0.1 * 20000 * 1000


def test_thousands_of_duplicates_are_not_compared_with_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    squares = farthest._squares

    def counting(*arguments: Any) -> np.ndarray:
        out = squares(*arguments)
        computed.append(out.size)
        return out

    monkeypatch.setattr(farthest, "_squares", counting)
    places = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    picked = farthest_points(places.repeat(400, 1)[None], 12_000)[0].tolist()
    assert sorted(picked[:50]) == list(range(50))
    assert picked[50:] == list(range(50, 12_000))
    assert sum(computed) < 0.05 * 12_000 * 20_000


def test_every_point_of_a_large_cloud() -> None:
    picked = farthest_points(torch.from_numpy(shapes("grid", 9000))[None].float(), 9000)
    assert sorted(picked[0].tolist()) == list(range(9000))


def test_equals_open3d() -> None:
    o3d = pytest.importorskip("open3d", exc_type=ImportError)
    points = shapes("normal", 10_000)  # sorted into blocks
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    theirs = np.asarray(cloud.farthest_point_down_sample(1000).points)
    ours = points[farthest_points(torch.from_numpy(points)[None], 1000)[0].sort().values]  # theirs are in file order
    np.testing.assert_array_equal(ours, theirs)


def test_duplicates_are_taken_last_and_once_each() -> None:
    points = torch.tensor([[0.0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0], [5, 0, 0]])[None]
    assert farthest_points(points, 5).tolist() == [[0, 4, 2, 1, 3]]


@pytest.mark.parametrize("sizes", [[50, 0, 1, 200], [150, 0, 149, 151]])  # one by one, and all in one loop
def test_packed_equals_one_by_one(sizes: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    counts = [10, 0, 1, 64]
    xyz = torch.rand(sum(sizes), 3, generator=generator)
    offsets = torch.tensor([0, *np.cumsum(sizes)])
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


@pytest.mark.parametrize("num_points", [100, 20000])
def test_a_coordinate_that_is_no_number(num_points: int) -> None:
    xyz = torch.rand(2, num_points, 3)
    xyz[1, 7, 2] = torch.nan
    with pytest.raises(ValueError, match=r"xyz\[1, 7\] is \[.*nan\]: expected finite numbers"):
        farthest_points(xyz, 2)
    with pytest.raises(ValueError, match=r"xyz\[7\] is"):
        farthest_points_packed(xyz[1], torch.tensor([0, num_points]), [num_points // 2])


def test_a_packed_cloud_that_is_too_small() -> None:
    with pytest.raises(ValueError, match="3 farthest points of a cloud of 2"):
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


def test_points_may_have_a_time() -> None:
    points = np.random.default_rng(0).integers(-3, 4, (2, 60, 4)).astype(np.float32)
    expected = [slow(cloud, 30) for cloud in points]
    assert farthest_points(torch.from_numpy(points), 30).tolist() == expected
    packed = farthest_points_packed(torch.from_numpy(points.reshape(-1, 4)), torch.tensor([0, 60, 120]), [30, 30])
    assert packed.tolist() == [*expected[0], *(60 + index for index in expected[1])]
    with pytest.raises(ValueError, match=r"expected \[B, N, 3\]"):
        farthest_points(torch.zeros(1, 5, 5), 2)
