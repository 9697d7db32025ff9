from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from st_ssl.ops import neighbours
from st_ssl.ops.interpolation import interpolate
from st_ssl.ops.neighbours import gather_points, nearest, nearest_packed


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def assert_nearest(found: tuple[torch.Tensor, torch.Tensor], query: torch.Tensor, points: torch.Tensor, k: int) -> None:
    """By scipy's tree: the distances in order, each that of the index beside it, no index twice."""
    squares, index = found
    expected = cKDTree(points.numpy()).query(query.numpy(), k=[*range(1, k + 1)])[0] ** 2
    np.testing.assert_allclose(squares.numpy(), expected, rtol=1e-5, atol=1e-9)
    direct = (points[index] - query[:, None]).square().sum(2)
    torch.testing.assert_close(direct, squares)
    assert all(len(set(row)) == k for row in index.tolist())


@settings(max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(1, 20),
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from([1, 3]),
    st.booleans(),
)
def test_nearest(batch: int, num_queries: int, num_points: int, k: int, width: int, coarse: bool) -> None:
    k = min(k, num_points)
    query, points = rand(batch, num_queries, width), rand(batch, num_points, width, seed=1)
    if coarse:  # duplicates and points equally far
        query, points = (query * 3).round(), (points * 3).round()
    squares, index = nearest(query, points, k)
    for cloud in range(batch):
        assert_nearest((squares[cloud], index[cloud]), query[cloud], points[cloud], k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 7])
def test_nearest_in_large_clouds(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, k: int) -> None:
    query = rand(2, 300, 3, dtype=dtype)
    points = rand(2, neighbours.MIN_PAIRS_FOR_TREE // 300 + 1, 3, seed=1, dtype=dtype)
    with monkeypatch.context() as patched:
        patched.setattr(neighbours, "nearest_by_comparing", None)
        by_tree = nearest(query, points, k)
    by_comparing = neighbours.nearest_by_comparing(query, points, k)
    assert by_tree[1].equal(by_comparing[1])
    torch.testing.assert_close(by_tree[0], by_comparing[0])
    assert_nearest((by_tree[0][1], by_tree[1][1]), query[1], points[1], k)


def test_nearest_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    query, points = rand(5, 37, 3), rand(5, 61, 3, seed=1)
    whole = nearest(query, points, 4)
    for chunk in (1, 61 * 10, 61 * 37 * 2):
        monkeypatch.setitem(neighbours.CHUNK, "cpu", chunk)
        parts = nearest(query, points, 4)
        assert parts[0].equal(whole[0]) and parts[1].equal(whole[1])


def test_nearest_in_feature_space() -> None:
    """Far from the origin, where what a matrix product gives as the distance is off, the distances are still right."""
    query, points = rand(2, 10, 64) + 30, rand(2, 50, 64, seed=1) + 30
    squares, index = nearest(query, points, 5)
    every = (query[:, :, None].double() - points[:, None].double()).square().sum(3)
    torch.testing.assert_close(squares.double(), every.gather(2, index), rtol=1e-4, atol=0)
    assert (every.gather(2, index).amax(2) <= every.topk(5, largest=False).values.amax(2) * 1.001).all()


def test_nearest_is_found_in_single_precision_within_a_region_of_half() -> None:
    features = rand(1, 200, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = nearest(features, features, 20)
    assert found[1].equal(nearest(features, features, 20)[1])


def test_nearest_packed_equals_one_by_one() -> None:
    query, points = rand(9, 3), rand(40, 3, seed=1)
    query_offsets, offsets = torch.tensor([0, 4, 4, 9]), torch.tensor([0, 10, 12, 40])
    squares, index = nearest_packed(query, query_offsets, points, offsets, 3)
    assert_nearest((squares[:4], index[:4]), query[:4], points[:10], 3)
    assert_nearest((squares[4:], index[4:] - 12), query[4:], points[12:], 3)
    with pytest.raises(ValueError, match="3 nearest of 2 points"):
        nearest_packed(query, torch.tensor([0, 4, 5, 9]), points, offsets, 3)
    with pytest.raises(ValueError, match="3 clouds of queries, 1 of points"):
        nearest_packed(query, query_offsets, points, torch.tensor([0, 40]), 3)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("num_points", [8, 5000])
def test_what_is_nowhere_is_no_error_in_clouds_of_any_size(num_points: int, k: int) -> None:
    """A network that diverged: the loss tells it."""
    query, points = rand(1, 100, 3), rand(1, num_points, 3, seed=1)
    query[0, 7, 1] = torch.nan
    squares, index = nearest(query, points, k)
    assert squares[0, 7].isnan().all()
    assert ((index >= 0) & (index < num_points)).all()
    others = [*range(7), *range(8, 100)]
    alone = nearest(query[:, others], points, k)
    torch.testing.assert_close(squares[:, others], alone[0])
    assert torch.equal(index[:, others], alone[1])
    points[0, :] = torch.inf
    assert not nearest(query, points, k)[0].isfinite().any()


def test_nothing_asked() -> None:
    squares, index = nearest(torch.empty(2, 0, 3), rand(2, 5, 3), 2)
    assert squares.shape == index.shape == (2, 0, 2)
    assert nearest_packed(torch.empty(0, 3), torch.tensor([0, 0]), rand(5, 3), torch.tensor([0, 5]), 9)[1].shape == (
        0,
        9,
    )


@pytest.mark.parametrize(
    ("query", "points", "k", "message"),
    [
        ((1, 2, 3), (1, 5, 3), 6, "6 nearest of 5 points: expected 1 to 5"),
        ((1, 2, 3), (1, 5, 3), 0, "0 nearest of 5 points"),
        ((1, 2, 3), (2, 5, 3), 1, "1 clouds of queries, 2 of points"),
        ((1, 2, 3), (1, 5, 4), 1, r"points has the shape \[1, 5, 4\]; expected \[B, N, 3\]"),
    ],
)
def test_what_cannot_be(query: tuple[int, ...], points: tuple[int, ...], k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest(torch.zeros(query), torch.zeros(points), k)


def test_gather_points() -> None:
    values, index = (
        rand(2, 6, 4, dtype=torch.float64).requires_grad_(),
        torch.tensor([[[0, 0], [5, 1]], [[3, 3], [3, 2]]]),
    )
    assert gather_points(values, index).equal(torch.stack([values[0][index[0]], values[1][index[1]]]))
    assert gather_points(values, index[:, 0, 0]).shape == (2, 4)
    assert torch.autograd.gradcheck(lambda v: gather_points(v, index), (values,))


def test_interpolation() -> None:
    query, points = rand(2, 7, 3, dtype=torch.float64), rand(2, 20, 3, seed=1, dtype=torch.float64)
    values = rand(2, 20, 5, seed=2, dtype=torch.float64).requires_grad_()
    for cloud in range(2):
        distance, index = cKDTree(points[cloud].numpy()).query(query[cloud].numpy(), k=3)
        weight = torch.from_numpy(1 / distance**2)
        expected = (values[cloud][index] * (weight / weight.sum(1, keepdim=True))[..., None]).sum(1)
        torch.testing.assert_close(interpolate(query, points, values)[cloud], expected)
    assert torch.autograd.gradcheck(lambda v: interpolate(query, points, v), (values,))


def test_interpolation_at_the_points_and_from_fewer_than_three() -> None:
    points, values = rand(1, 20, 3), rand(1, 20, 5, seed=2)
    torch.testing.assert_close(interpolate(points, points, values), values, atol=1e-5, rtol=0)
    assert interpolate(rand(1, 4, 3), points[:, :1], values[:, :1]).equal(values[:, :1].expand(-1, 4, -1))
    with pytest.raises(ValueError, match="expected one row for each point"):
        interpolate(points, points, values[:, 1:])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_finds_the_same() -> None:
    query, points = rand(2, 300, 3), rand(2, 5000, 3, seed=1)
    squares, index = nearest(query.cuda(), points.cuda(), 8)
    assert index.cpu().equal(nearest(query, points, 8)[1])
    torch.testing.assert_close(squares.cpu(), nearest(query, points, 8)[0])
