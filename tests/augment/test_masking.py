from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from st_ssl.augment.masking import Grid, MaskConfig, TokenMask, check_mask, draw_mask
from st_ssl.core.errors import ConfigError
from st_ssl.core.random import keyed_rng

KINDS: list[Any] = ["tube", "frame", "random"]
GRID: Grid = (8, 14, 14)


def hidden(config: MaskConfig, grid: Grid, seed: int = 0) -> np.ndarray:
    """The mask as booleans [T', H' × W']."""
    flags = np.zeros(grid[0] * grid[1] * grid[2], dtype=bool)
    flags[draw_mask(config, grid, keyed_rng(seed)).masked] = True
    return flags.reshape(grid[0], -1)


@given(
    st.sampled_from(KINDS),
    st.floats(0.01, 0.99),
    st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    st.integers(0, 1000),
)
def test_masks_are_sorted_and_split_all_tokens(kind: Any, ratio: float, grid: Grid, seed: int) -> None:
    config = MaskConfig(kind=kind, ratio=ratio)
    try:
        check_mask(config, grid)
    except ConfigError:
        assume(False)
    keep, masked = draw_mask(config, grid, keyed_rng(seed))
    assert keep.dtype == masked.dtype == np.int64
    assert len(keep) > 0
    assert len(masked) > 0
    assert (np.diff(keep) > 0).all()
    assert (np.diff(masked) > 0).all()
    assert sorted([*keep, *masked]) == list(range(grid[0] * grid[1] * grid[2]))
    assert len(draw_mask(config, grid, keyed_rng(seed, "other")).keep) == len(keep)  # or they would not stack


@pytest.mark.parametrize(("kind", "visible"), [("tube", 8 * (196 - 176)), ("random", 1568 - 1411), ("frame", 196)])
def test_counts_of_the_papers(kind: Any, visible: int) -> None:
    assert len(draw_mask(MaskConfig(kind=kind, ratio=0.9), GRID, keyed_rng(0)).keep) == visible


def test_a_tube_hides_the_same_places_at_all_times() -> None:
    flags = hidden(MaskConfig(kind="tube", ratio=0.9), GRID)
    assert (flags == flags[0]).all()
    assert flags[0].sum() == 176


def test_a_frame_is_hidden_as_a_whole() -> None:
    flags = hidden(MaskConfig(kind="frame", ratio=0.75), GRID)
    assert set(flags.sum(axis=1)) == {0, 196}
    assert flags.all(axis=1).sum() == 6


def test_a_random_mask_has_neither_structure() -> None:
    flags = hidden(MaskConfig(kind="random", ratio=0.5), GRID)
    assert not (flags == flags[0]).all()
    assert len(set(flags.sum(axis=1))) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_token_is_hidden_at_the_ratio(kind: Any) -> None:
    grid = (4, 2, 2)
    share = np.mean([hidden(MaskConfig(kind=kind, ratio=0.75), grid, seed) for seed in range(1000)], axis=0)
    assert np.abs(share - 0.75).max() < 0.07  # 5 standard errors


@pytest.mark.parametrize(
    ("kind", "ratio", "grid", "said"),
    [
        ("tube", 0.9, (8, 2, 2), r"mask\.ratio=0\.9: a tube mask over 4 units of a \(8, 2, 2\) .* hide all"),
        ("frame", 0.1, (4, 7, 7), r"mask\.ratio=0\.1: a frame mask over 4 units .* hide none"),
        ("random", 0.99, (2, 3, 3), "a random mask over 18 units .* hide all"),
    ],
)
def test_grids_that_are_too_small_are_named(kind: Any, ratio: float, grid: Grid, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_mask(MaskConfig(kind=kind, ratio=ratio), grid)
    check_mask(MaskConfig(kind=kind, ratio=0.5), grid)
    with pytest.raises(ConfigError, match=said):
        TokenMask(MaskConfig(kind=kind, ratio=ratio), grid)


def test_the_plan_of_a_mask_draws_it_for_each_sample() -> None:
    config = MaskConfig(kind="tube", ratio=0.9)
    drawn = TokenMask(config, GRID).draw(keyed_rng(3), keyed_rng("batch"), None)
    for found, expected in zip(drawn, draw_mask(config, GRID, keyed_rng(3)), strict=True):
        np.testing.assert_array_equal(found, expected)
