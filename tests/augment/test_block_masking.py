from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from st_ssl.augment.block_masking import BlockMask, BlockMaskConfig
from st_ssl.augment.masking import Grid
from st_ssl.core.errors import ConfigError
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import Mask

GRID: Grid = (8, 14, 14)
SHORT, LONG = BlockMaskConfig(), BlockMaskConfig(blocks=2, scale=0.7)


def draw(config: BlockMaskConfig, sample: int, batch: int = 0, grid: Grid = GRID) -> Mask:
    return BlockMask(config, grid).draw(keyed_rng("sample", batch, sample), keyed_rng("batch", batch), None)


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        BlockMaskConfig,
        blocks=st.integers(1, 6),
        scale=st.floats(0.1, 0.6),
        references=st.integers(1, 8),
        truncate=st.sampled_from(["first", "random"]),
    ),
    st.tuples(st.integers(1, 4), st.integers(4, 9), st.integers(4, 9)),
    st.integers(0, 1000),
)
def test_masks_of_a_batch_are_sorted_apart_and_equally_long(config: BlockMaskConfig, grid: Grid, batch: int) -> None:
    masks = [draw(config, sample, batch, grid) for sample in range(4)]
    assert len({(len(keep), len(masked)) for keep, masked in masks}) == 1
    for keep, masked in masks:
        assert keep.dtype == masked.dtype == np.int64
        assert len(keep) > 0
        assert len(masked) > 0
        assert (np.diff(keep) > 0).all()
        assert (np.diff(masked) > 0).all()
        assert not set(keep) & set(masked)
        assert min(keep[0], masked[0]) >= 0
        assert max(keep[-1], masked[-1]) < np.prod(grid)


@pytest.mark.parametrize("config", [SHORT, LONG])
def test_counts_are_those_of_the_batch_and_places_those_of_the_sample(config: BlockMaskConfig) -> None:
    counts = [len(draw(config, 0, batch).keep) for batch in range(20)]
    assert len(set(counts)) > 2
    # Whoever else is in the batch: the count is known from its generator alone, and a draw is the same each time.
    assert counts == [len(draw(config, 7, batch).keep) for batch in range(20)]
    first, again, other = draw(config, 0), draw(config, 0), draw(config, 1)
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert not np.array_equal(first.masked, other.masked)


def whole(config: BlockMaskConfig, sample: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Visible and hidden of each place at the first time, bool [H', W'], which no truncation of the first has met."""
    flags = np.zeros((2, *GRID), dtype=bool)
    for flag, index in zip(flags, draw(config, sample, batch), strict=True):
        flag.reshape(-1)[index] = True
    return flags[0, 0], flags[1, 0]


def test_hidden_places_are_blocks_of_one_size_that_last() -> None:
    config = BlockMaskConfig(blocks=1, scale=0.3)
    sizes = set()
    for batch in range(30):
        found = set()
        for sample in range(3):
            keep, masked = draw(config, sample, batch)
            assert len(keep) + len(masked) == 1568  # a single block always has its full size: nothing is cut off
            time, row, column = np.unravel_index(masked, GRID)
            height, width = np.ptp(row) + 1, np.ptp(column) + 1
            assert len(masked) == 8 * height * width
            assert (np.bincount(time) == height * width).all()
            found.add((int(height), int(width)))
        assert len(found) == 1
        sizes |= found
    # int(196 * 0.3) = 58 tokens, heights of 0.75 to 1.5 times the width
    assert sizes <= {(7, 9), (7, 8), (8, 8), (8, 7), (9, 7), (9, 6), (8, 6)}
    assert len(sizes) >= 4


def test_shares_are_those_of_the_paper() -> None:
    """A slow draw of the published masks as a reference: 24 clips, cut to the shortest."""

    def slow(blocks: int, scale: float, seed: int) -> tuple[int, int]:
        rng = np.random.default_rng(seed)
        aspect, area = rng.uniform(0.75, 1.5), int(196 * scale)
        height, width = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        height, width = min(height, 14), min(width, 14)
        hidden: list[int] = []
        while len(hidden) < 24:
            field = np.zeros((14, 14), dtype=bool)
            for _ in range(blocks):
                top, left = rng.integers(0, 15 - height), rng.integers(0, 15 - width)
                field[top : top + height, left : left + width] = True
            if not field.all():
                hidden.append(int(field.sum()))
        return 196 - max(hidden), min(hidden)

    for config in (SHORT, LONG):
        expected = np.array([slow(config.blocks, config.scale, seed) for seed in range(300)]) / 196
        masks = [draw(config, 0, batch) for batch in range(300)]
        found = np.array([[len(mask.keep), len(mask.masked)] for mask in masks]) / 1568
        error = 5 * np.sqrt(expected.var(0) / 300 + found.var(0) / 300)
        assert (np.abs(found.mean(0) - expected.mean(0)) < error).all()
        assert found.sum(1).max() <= 1


@pytest.mark.parametrize("truncate", ["first", "random"])
def test_which_tokens_are_cut_off(truncate: Any) -> None:
    config = BlockMaskConfig(truncate=truncate)
    seen = np.zeros(8)
    for batch in range(20):
        keep, masked = draw(config, 0, batch)
        seen += np.bincount(keep // 196, minlength=8) + np.bincount(masked // 196, minlength=8)
    assert seen.sum() < 0.95 * 20 * 1568
    if truncate == "first":
        assert seen[0] == 20 * 196
        assert (np.diff(seen) <= 0).all()
        visible, hidden = whole(config, 0, 0)
        assert (visible ^ hidden).all()
    else:
        assert seen.max() < 1.1 * seen.min()


def test_draws_that_are_too_full_or_too_empty_are_drawn_again() -> None:
    plan, drawn = BlockMask(SHORT, GRID), []
    union = plan._union

    class Counted(BlockMask):
        def _union(self, rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
            drawn.append(1)
            return union(rng, size)

    counted = Counted(SHORT, GRID)
    drawn.clear()
    for batch in range(400):
        counted.draw(keyed_rng("sample", batch), keyed_rng("batch", batch), None)
    again = len(drawn) / 400 - 25  # beside 24 references and one draw that fits
    assert 0.01 < again < 0.12


@pytest.mark.parametrize(
    ("config", "grid", "said"),
    [
        (BlockMaskConfig(scale=0.9), (2, 2, 2), r"a block of scale=0\.9 may cover all of a \(2, 2, 2\) token grid"),
        (BlockMaskConfig(scale=0.95), GRID, r"scale=0\.95 may cover all"),
        (BlockMaskConfig(scale=0.1), (2, 3, 3), r"scale=0\.1 may cover nothing"),
        (BlockMaskConfig(blocks=500, scale=0.5), (2, 8, 8), r"blocks=500 of scale=0\.5 hide all"),
    ],
)
def test_grids_that_are_too_small_are_refused(config: BlockMaskConfig, grid: Grid, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"method\.masks: .*{said}"):
        BlockMask(config, grid)


def test_an_aspect_must_be_a_range() -> None:
    with pytest.raises(ValidationError, match="aspect needs 0 < low <= high"):
        BlockMaskConfig(aspect=(1.5, 0.75))
