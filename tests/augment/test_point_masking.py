from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from st_ssl.augment.point_masking import (
    PatchMask,
    PointMaskConfig,
    block_point_mask,
    check_point_mask,
    random_point_mask,
    voxel_block_masks,
)
from st_ssl.core.errors import ConfigError
from st_ssl.core.random import keyed_rng


@given(groups=st.integers(2, 200), ratio=st.floats(0.05, 0.95), seed=st.integers(0, 99))
def test_a_random_mask_parts_the_patches(groups: int, ratio: float, seed: int) -> None:
    keep, masked = random_point_mask(groups, ratio, keyed_rng(seed))
    assert len(masked) == round(groups * ratio)
    assert sorted([*keep, *masked]) == list(range(groups))
    assert (np.diff(keep) > 0).all() and (np.diff(masked) > 0).all()
    again = random_point_mask(groups, ratio, keyed_rng(seed))
    assert np.array_equal(keep, again.keep)


def test_random_masks_hide_every_patch_equally_often() -> None:
    hidden = np.zeros(20)
    for seed in range(2000):
        hidden[random_point_mask(20, 0.6, keyed_rng(seed)).masked] += 1
    assert np.abs(hidden / 2000 - 0.6).max() < 5 * (0.24 / 2000) ** 0.5


@pytest.mark.parametrize("ratio", [0.1, 0.6, 0.9])
def test_a_block_is_what_is_nearest_to_its_seed(ratio: float) -> None:
    centres = torch.from_numpy(keyed_rng("centres").normal(size=(5, 64, 3)).astype(np.float32))
    draw = torch.tensor([0.0, 0.3, 0.5, 0.75, 0.9999])
    keep, masked = block_point_mask(centres, draw, ratio)
    assert keep.dtype == masked.dtype == torch.int64
    for b in range(5):
        _, near = cKDTree(centres[b]).query(centres[b, int(draw[b] * 64)], k=round(64 * ratio))
        assert masked[b].tolist() == sorted(near.tolist())
        assert sorted([*keep[b].tolist(), *masked[b].tolist()]) == list(range(64))
        assert (keep[b].diff() > 0).all()


def test_patches_in_one_place_are_no_trouble() -> None:
    keep, masked = block_point_mask(torch.zeros(1, 8, 3), torch.tensor([0.99]), 0.5)
    assert masked.tolist() == [[0, 1, 2, 3]] and keep.tolist() == [[4, 5, 6, 7]]


def test_masks_that_would_hide_all_or_none_are_told() -> None:
    check_point_mask(PointMaskConfig(ratio=0.6), 64)
    with pytest.raises(ConfigError, match="would hide none"):
        check_point_mask(PointMaskConfig(ratio=0.1), 4)
    with pytest.raises(ConfigError, match="would hide all"):
        check_point_mask(PointMaskConfig(ratio=0.9), 4)
    with pytest.raises(ConfigError, match="would hide none"):
        PatchMask(PointMaskConfig(ratio=0.1), 4)


def test_the_plan_of_a_mask_draws_all_of_it_or_the_middle_of_a_block() -> None:
    every = PatchMask(PointMaskConfig(ratio=0.6), 20).draw(keyed_rng(3), keyed_rng("batch"), None)
    for found, expected in zip(every, random_point_mask(20, 0.6, keyed_rng(3)), strict=True):
        np.testing.assert_array_equal(found, expected)
    block = PatchMask(PointMaskConfig(kind="block", ratio=0.6), 20)
    drawn = [block.draw(keyed_rng(seed), keyed_rng("batch"), None) for seed in range(300)]
    assert {mask.keep for mask in drawn} == {None} and {mask.masked.shape for mask in drawn} == {(1,)}
    assert {int(mask.masked[0]) for mask in drawn} == set(range(20))


def _voxels(seed: int, clouds: int = 3, count: int = 400, spread: int = 20) -> torch.Tensor:
    rng = keyed_rng("voxels", seed)
    rows = np.concatenate([rng.integers(0, clouds, (count, 1)), rng.integers(-spread, spread, (count, 3))], axis=1)
    return torch.from_numpy(np.unique(rows, axis=0)[rng.permutation(len(np.unique(rows, axis=0)))]).int()


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), ratio=st.floats(0.1, 0.9))
def test_blocks_are_hidden_whole_and_at_every_scale(seed: int, ratio: float) -> None:
    fine = _voxels(seed)
    scale = torch.tensor([1, 2, 2, 2])
    coarse = torch.unique(torch.div(fine, scale, rounding_mode="floor"), dim=0).int()
    seeds = torch.tensor([seed, seed + 1, seed + 2])
    masks = voxel_block_masks([fine, coarse], [1, 2], 8, ratio, seeds)
    hidden_blocks, seen_blocks = set(), set()
    for coords, stride, (keep, masked) in zip((fine, coarse), (1, 2), masks, strict=True):
        assert sorted([*keep.tolist(), *masked.tolist()]) == list(range(len(coords)))
        assert (keep.diff() > 0).all() and (masked.diff() > 0).all()
        blocks = np.concatenate([coords[:, :1].numpy(), np.floor(coords[:, 1:].numpy() * stride / 8)], axis=1)
        hidden_blocks |= {tuple(row) for row in blocks[masked]}
        seen_blocks |= {tuple(row) for row in blocks[keep]}
    assert not hidden_blocks & seen_blocks
    for cloud in range(3):
        hidden, seen = ({b for b in blocks if b[0] == cloud} for blocks in (hidden_blocks, seen_blocks))
        assert abs(len(hidden) - ratio * (len(hidden) + len(seen))) <= 1


def test_a_mask_is_that_of_its_cloud_whatever_else_is_in_the_batch() -> None:
    voxels = _voxels(1)
    seeds = torch.tensor([5, 6, 7])
    together = voxel_block_masks([voxels], [1], 4, 0.5, seeds)[0].masked
    for cloud in range(3):
        rows = (voxels[:, 0] == cloud).nonzero().flatten()
        alone = voxels[rows] * torch.tensor([0, 1, 1, 1], dtype=torch.int32)
        masked = rows[voxel_block_masks([alone], [1], 4, 0.5, seeds[cloud : cloud + 1])[0].masked]
        assert torch.equal(masked, together[voxels[together, 0] == cloud])
    other = voxel_block_masks([voxels], [1], 4, 0.5, seeds + 1)[0].masked
    assert not torch.equal(other, together)


def test_edges() -> None:
    one = torch.tensor([[0, 1, 2, 3]])
    assert voxel_block_masks([one], [1], 4, 0.9, torch.tensor([0]))[0].masked.tolist() == []  # something must be seen
    empty = voxel_block_masks([one[:0]], [1], 4, 0.5, torch.tensor([0]))[0]
    assert len(empty.keep) == len(empty.masked) == 0
    with pytest.raises(ValueError, match="3 does not divide 4"):
        voxel_block_masks([one, one], [1, 3], 4, 0.5, torch.tensor([0]))
    with pytest.raises(ValueError, match="expected less than"):
        voxel_block_masks([one * 10**6], [1], 1, 0.5, torch.tensor([0]))
