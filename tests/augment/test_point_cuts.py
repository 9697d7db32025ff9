from __future__ import annotations

import numpy as np
import pytest

from st_ssl.augment.point_cuts import one_per_voxel, voxel_keys
from st_ssl.core.random import keyed_rng


@pytest.mark.parametrize("stretch", [1, 1e12])  # far apart, numbers of voxels are too large to be sorted with places
@pytest.mark.parametrize("count", [1, 2, 700])
def test_of_each_voxel_the_point_that_comes_first_in_a_drawn_order(count: int, stretch: float) -> None:
    xyz = np.random.default_rng(count).integers(-9, 9, (count, 3)) * np.array([1, 1, stretch])
    chosen = one_per_voxel(xyz, 2.0, keyed_rng("cut", count))
    first: dict[tuple[float, ...], int] = {}
    for point in keyed_rng("cut", count).permutation(count).tolist():
        first.setdefault(tuple(np.floor((xyz[point] - xyz.min(0)) / 2).tolist()), point)
    assert chosen.tolist() == sorted(first.values())


@pytest.mark.parametrize("size", [0.3, 1e-15])  # the latter: more cells than 64 bits can number
def test_keys_are_in_the_order_of_cells(size: float) -> None:
    xyz = np.random.default_rng(0).normal(size=(500, 3))
    xyz[250:] = xyz[:250]
    cell = np.floor((xyz - xyz.min(0)) / size).astype(np.int64)
    expected = np.unique(cell, axis=0, return_inverse=True)[1].reshape(-1)
    key, cells = voxel_keys(xyz, size)
    assert np.array_equal(np.unique(key, return_inverse=True)[1], expected)
    assert key.min() >= 0 and key.max() < cells <= 2**63
