from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from st_ssl.ops.voxels import VoxelHash, mean_by_voxel, voxelise


@settings(max_examples=40)
@given(st.lists(st.integers(0, 40), max_size=4), st.sampled_from([0.1, 0.5, 3.0]), st.integers(0, 999))
def test_voxels_are_those_of_numpy(sizes: list[int], size: float, seed: int) -> None:
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    xyz = np.random.default_rng(seed).normal(size=(offsets[-1], 3)).astype(np.float32)
    cloud = np.repeat(np.arange(len(sizes)), sizes)
    cells = np.column_stack([cloud, np.floor(xyz.astype(np.float64) / size)]).astype(np.int64)
    if len(cells) == 0:
        cells = cells.reshape(0, 4)
    rows, inverse, numbers = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    coords, point_to_voxel, counts = voxelise(torch.from_numpy(xyz), torch.from_numpy(offsets), size)
    assert coords.dtype == torch.int32
    np.testing.assert_array_equal(coords.numpy(), rows)
    np.testing.assert_array_equal(point_to_voxel.numpy(), inverse.ravel())
    np.testing.assert_array_equal(counts.numpy(), numbers)


def test_voxels_are_those_of_open3d() -> None:
    o3d = pytest.importorskip("open3d", exc_type=ImportError)
    xyz = np.random.default_rng(0).random((2000, 3))
    xyz = np.vstack([xyz, np.zeros((1, 3))])  # its grid begins half a voxel below the lowest point
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(xyz))
    theirs = np.asarray(cloud.voxel_down_sample(0.1).points)
    _, point_to_voxel, counts = voxelise(torch.from_numpy(xyz + 0.05), torch.tensor([0, len(xyz)]), 0.1)
    ours = mean_by_voxel(torch.from_numpy(xyz), point_to_voxel, counts).numpy()
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_below_zero_is_a_voxel_of_its_own() -> None:
    xyz = torch.tensor([[-0.1, 0.1, -1.0], [0.1, 0.1, -1.1], [-0.2, 0.9, -0.9]])
    coords, point_to_voxel, counts = voxelise(xyz, torch.tensor([0, 3]), (1.0, 1.0, 1.0))
    assert coords.tolist() == [[0, -1, 0, -1], [0, 0, 0, -2]]
    assert point_to_voxel.tolist() == [0, 1, 0]
    assert counts.tolist() == [2, 1]


def test_a_point_just_below_a_border_is_below_it() -> None:
    """0.7 in single precision is less than 7 voxels of 0.1, though single precision divides it to 7."""
    assert voxelise(torch.tensor([[0.7, 0.7, 0.7]]), torch.tensor([0, 1]), 0.1)[0].tolist() == [[0, 6, 6, 6]]


def test_sizes_of_three_axes() -> None:
    xyz = torch.tensor([[3.5, 3.5, 3.5]])
    assert voxelise(xyz, torch.tensor([0, 1]), (1.0, 2.0, 7.0))[0].tolist() == [[0, 3, 1, 0]]


@pytest.mark.parametrize(
    ("xyz", "offsets", "size", "message"),
    [
        ([[0.0, 0, 0]], [0, 1], 0.0, "voxels of size 0.0: expected numbers above 0"),
        ([[0.0, 0, 0]], [0, 1], (1.0, -1.0, 1.0), "expected numbers above 0"),
        ([[0.0, 0, 1e9]], [0, 1], 1e-3, r"voxels of size 0.001: too small for points at 1e\+09"),
        ([[0.0, 0, 0], [1e6, 1e6, 1e6]], [0, 2], 1e-2, "does not fit into 64 bits"),
        ([[0.0, 0, torch.inf]], [0, 1], 1.0, r"xyz\[0\] is \[0.0, 0.0, inf\]: expected finite numbers"),
        ([[0.0, 0, 0]], [0, 2], 1.0, r"offsets \[0, 2\]"),
    ],
)
def test_what_cannot_be(xyz: list[list[float]], offsets: list[int], size: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        voxelise(torch.tensor(xyz), torch.tensor(offsets), size)


def test_mean_by_voxel_is_differentiable() -> None:
    values = torch.rand(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    voxel, counts = torch.tensor([0, 1, 0, 0, 2]), torch.tensor([3, 1, 1])
    means = mean_by_voxel(values, voxel, counts)
    torch.testing.assert_close(means, torch.stack([values[[0, 2, 3]].mean(0), values[1], values[4]]))
    assert torch.autograd.gradcheck(lambda v: mean_by_voxel(v, voxel, counts), (values,))


@settings(max_examples=40)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 999))
def test_a_voxel_is_found_where_it_is(num_voxels: int, num_queries: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    coords = rng.permutation(np.unique(rng.integers(-3, 3, (num_voxels, 4)), axis=0))
    query = rng.integers(-5, 5, (num_queries, 4))
    rows = {tuple(row): number for number, row in enumerate(coords.tolist())}
    found = VoxelHash(torch.from_numpy(coords).int()).find(torch.from_numpy(query).int())
    assert found.tolist() == [rows.get(tuple(row), -1) for row in query.tolist()]


def test_neighbours_of_voxels() -> None:
    coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 1]])
    steps = torch.tensor([[0, 0, 0, -1], [0, 0, 0, 0], [0, 0, 0, 1]])
    assert VoxelHash(coords).find(coords[:, None] + steps).tolist() == [[-1, 0, 1], [0, 1, -1], [-1, 2, -1]]


def test_a_voxel_that_comes_twice() -> None:
    with pytest.raises(ValueError, match=r"voxel \[0, 1, 2, 3\] comes twice"):
        VoxelHash(torch.tensor([[0, 1, 2, 3], [0, 0, 0, 0], [0, 1, 2, 3]]))
