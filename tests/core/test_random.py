from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from st_ssl.core.random import Key, keyed_rng, keyed_seed

KEYS = st.lists(st.integers() | st.text(max_size=4), max_size=3).map(tuple)


def test_draws_are_pinned() -> None:
    # A change of these numbers changes every run that was ever started and breaks every resume across the change.
    assert keyed_seed(0) == 7012007150965464861
    assert keyed_seed(7, "step", 12) == 5308758947593429309
    np.testing.assert_array_equal(keyed_rng(7, "order", 0).permutation(8), [4, 6, 7, 3, 1, 2, 0, 5])
    np.testing.assert_allclose(
        keyed_rng(7, 0, 3, "augment", 1).random(3),
        [0.3467185194010458, 0.26346426997689143, 0.22055151983884358],
        rtol=0,
        atol=1e-15,
    )


def test_each_generator_starts_afresh() -> None:
    first = keyed_rng(1, "a")
    first.random(100)
    np.testing.assert_array_equal(keyed_rng(1, "a").random(5), keyed_rng(1, "a").random(5))
    assert first.random() != keyed_rng(1, "a").random()


@given(KEYS)
def test_seeds_fit_torch(key: tuple[Key, ...]) -> None:
    assert 0 <= keyed_seed(*key) < 2**63


@given(KEYS, KEYS)
def test_other_keys_draw_otherwise(a: tuple[Key, ...], b: tuple[Key, ...]) -> None:
    assert (keyed_seed(*a) == keyed_seed(*b)) == (a == b)
    same = np.array_equal(keyed_rng(*a).integers(0, 2**62, 2), keyed_rng(*b).integers(0, 2**62, 2))
    assert same == (a == b)


@pytest.mark.parametrize(("a", "b"), [((1, 23), (12, 3)), ((1,), ("1",)), (("a", "b"), ("ab",)), ((1, 2), (2, 1))])
def test_keys_that_read_alike_are_different(a: tuple[Key, ...], b: tuple[Key, ...]) -> None:
    assert keyed_seed(*a) != keyed_seed(*b)


def test_neighbouring_keys_are_independent() -> None:
    draws = np.stack([keyed_rng(0, 0, sample, "augment", 0).random(64) for sample in range(400)])
    assert abs(draws.mean() - 0.5) < 0.01  # 5.5 standard errors of 25,600 uniform draws
    assert abs(draws.std() - 12**-0.5) < 0.01
    correlation = np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]
    assert abs(correlation) < 0.03  # 4.8 standard errors
    across = np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]
    assert abs(across) < 0.25
