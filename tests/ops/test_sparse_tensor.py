from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import avg_pool3d, max_pool3d

from st_ssl.ops.sparse import SparseConv3d, SparsePool3d, SparseTensor, global_pool, sparse_tensor
from st_ssl.ops.sparse.tensor import coords_of_keys, keys_of_coords
from tests.ops.sparse import SHAPE, at, dense, random_tensor, with_gradient


def test_keys_are_ordered_as_coordinates_are_and_lead_back() -> None:
    x = random_tensor()
    keys = keys_of_coords(x.coords, SHAPE)
    rows = sorted(range(len(x)), key=lambda i: x.coords[i].tolist())
    assert keys.argsort().tolist() == rows
    assert torch.equal(coords_of_keys(keys, SHAPE), x.coords)


@pytest.mark.parametrize(
    ("coords", "told"),
    [
        ([[0, 1, 2, 3], [0, 1, 2, 3]], "two voxels have the same coordinates"),
        ([[0, 1, 2, 3], [0, 7, 2, 3]], r"voxel \[0, 7, 2, 3\] .* lies outside of \[2, 7, 6, 9\]"),
        ([[0, 1, 2, 3], [2, 1, 2, 3]], r"voxel \[2, 1, 2, 3\]"),
        ([[0, 1, 2, -1], [0, 1, 2, 3]], r"voxel \[0, 1, 2, -1\]"),
        ([[0, 1, 2, 3]], r"features \(2, 4\) need coords \[2, 4\], not \[1, 4\]"),
    ],
)
def test_coordinates_that_cannot_be(coords: list[list[int]], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        sparse_tensor(torch.zeros(2, 4), torch.tensor(coords), SHAPE, 2)


def test_a_grid_without_cells() -> None:
    with pytest.raises(ValueError, match="expected sizes above 0"):
        sparse_tensor(torch.zeros(0, 4), torch.zeros(0, 4), (0, 1, 1), 2)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kernel": 2}, "expected odd sizes"),
        ({"stride": 2}, "neither stride nor padding"),
        ({"kind": "inverse", "kernel": 2}, "needs the key"),
        ({"kind": "transposed", "dilation": 2}, "not dilated"),
        ({"kind": "strided", "kernel": 1, "padding": 1}, "not padded"),
    ],
)
def test_layers_that_cannot_be(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        SparseConv3d(4, 4, **settings)


def test_a_key_stands_for_one_map() -> None:
    x = random_tensor()
    first = SparseConv3d(4, 4, key="a", backend="torch")
    first(x)
    found = x.maps["torch", "a"]
    SparseConv3d(4, 8, key="a", backend="torch")(first(x))
    assert x.maps["torch", "a"] is found
    for other in ({"kernel": 5}, {"dilation": 2}, {"kind": "strided"}, {"kind": "inverse"}):
        with pytest.raises(ValueError, match="key 'a' stands for another map"):
            SparseConv3d(4, 4, key="a", backend="torch", **other)(x)
    with pytest.raises(ValueError, match="no map of key 'b' to invert"):
        SparseConv3d(4, 4, kind="inverse", key="b", backend="torch")(x)


def test_a_grid_that_is_too_small() -> None:
    with pytest.raises(ValueError, match="too small for kernel"):
        SparseConv3d(4, 4, 9, "strided", backend="torch")(random_tensor())


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
@pytest.mark.parametrize("mode", ["max", "mean"])
def test_pooling(mode: Any, kernel: int, stride: int, padding: int) -> None:
    x = with_gradient(random_tensor())
    out = SparsePool3d(mode, kernel, stride, padding)(x)
    if mode == "max":
        empty = dense(x, torch.ones_like(x.features)) == 0
        expected = max_pool3d(dense(x).masked_fill(empty, -torch.inf), kernel, stride, padding)
    else:  # of the voxels that there are, not of cells
        number = avg_pool3d(dense(x, torch.ones_like(x.features)), kernel, stride, padding)
        expected = avg_pool3d(dense(x), kernel, stride, padding) / number
    assert torch.equal(out.coords.long(), expected[:, 0].isfinite().nonzero())
    wanted = at(expected, out)
    torch.testing.assert_close(out.features, wanted)
    weights = torch.randn(wanted.shape)
    ours = torch.autograd.grad((out.features * weights).sum(), x.features)[0]
    known = torch.where(expected.isfinite(), expected, 0)
    theirs = torch.autograd.grad((at(known, out) * weights).sum(), x.features)[0]
    torch.testing.assert_close(ours, theirs.nan_to_num(0) if mode == "mean" else theirs, equal_nan=False)


@pytest.mark.parametrize("mode", ["max", "mean"])
def test_global_pooling(mode: Any) -> None:
    x = random_tensor()
    pooled = global_pool(x, mode)
    for entry in range(3):
        rows = x.features[x.coords[:, 0] == entry]
        expected = torch.zeros(4) if len(rows) == 0 else rows.amax(0) if mode == "max" else rows.mean(0)
        torch.testing.assert_close(pooled[entry], expected)


def test_replace_keeps_the_maps() -> None:
    x = random_tensor()
    y = x.replace(torch.zeros(len(x), 1))
    assert isinstance(y, SparseTensor) and y.maps is x.maps and y.coords is x.coords
