"""Baselines of clouds, against what others or plain loops make of the same points."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from st_ssl.core.types import PointBatch, View
from st_ssl.ops.shape_distributions import coarse_occupancy, ordered_coordinates, shape_distributions


def view_of(*clouds: np.ndarray) -> View:
    offsets = np.cumsum([0, *map(len, clouds)])
    points = PointBatch(torch.from_numpy(np.concatenate(clouds)).float(), torch.from_numpy(offsets))
    return View(points, torch.zeros(len(clouds), 1, dtype=torch.int64))


@pytest.fixture
def clouds() -> list[np.ndarray]:
    xyz = (np.random.default_rng(0).normal(size=(100, 3)) * [1, 2, 3]).astype(np.float32)
    return [xyz[:60], xyz[60:]]


def test_coarse_occupancy_against_a_histogram(clouds: list[np.ndarray]) -> None:
    rows = coarse_occupancy(view_of(*clouds), cells=4)
    for row, part in zip(rows, clouds, strict=True):
        middle, side = (part.min(0) + part.max(0)) / 2, (part.max(0) - part.min(0)).max()
        edges = [np.linspace(m - side / 2 - 1e-6, m + side / 2 + 1e-6, 5) for m in middle]
        assert np.allclose(row.reshape(4, 4, 4), np.histogramdd(part, edges)[0] / len(part))


def test_coordinates_do_not_depend_on_the_order_of_the_points(clouds: list[np.ndarray]) -> None:
    rng = np.random.default_rng(1)
    rows = ordered_coordinates(view_of(*clouds), count=40)
    assert rows.shape == (2, 120)
    assert np.array_equal(ordered_coordinates(view_of(*(rng.permutation(c) for c in clouds)), count=40), rows)
    assert {tuple(point) for point in rows[1].reshape(40, 3)} == {tuple(point) for point in clouds[1].tolist()}
    assert ordered_coordinates(view_of(clouds[0][:1]), count=5).tolist() == [clouds[0][0].tolist() * 5]


def test_coordinates_follow_the_z_curve() -> None:
    """Of a grid of 4³: octant by octant, and so within each, x first."""
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    halves = np.concatenate([grid // 2, grid % 2], axis=1)
    expected = grid[np.lexsort(halves.T[::-1])]
    shuffled = np.random.default_rng(0).permutation(grid)
    assert np.array_equal(ordered_coordinates(view_of(shuffled), count=64).reshape(64, 3), expected)


def test_shape_distributions_of_three_points_against_a_count() -> None:
    """A right triangle: every measure has few values, and how often each is drawn is known."""
    corner = np.array([[0.0, 0, 0], [3, 0, 0], [0, 4, 0]])
    row = shape_distributions(view_of(corner), bins=32, draws=20000)[0].reshape(5, 32)
    assert np.allclose(row.sum(1), 1)
    arm = np.sqrt(((corner - corner.mean(0)) ** 2).sum(1))
    lengths = [np.sqrt(((p - q) ** 2).sum()) / arm.max() for p, q in combinations(corner, 2)]
    of_arm, _ = np.histogram(np.minimum(arm / arm.max(), 1), 32, (0, 1))
    assert np.allclose(row[0], of_arm / 3, atol=0.02)
    of_length, _ = np.histogram([0.0] * 3 + 2 * lengths, 32, (0, 2))  # one pair of three is a point with itself
    assert np.allclose(row[1], of_length / 9, atol=0.02)
    angles = [np.pi / 2, np.arctan2(3, 4), np.arctan2(4, 3)]
    of_angle, _ = np.histogram(2 * angles + [0.0] * 21, 32, (0, np.pi))  # 6 of 27 triples have three corners
    assert np.allclose(row[2], of_angle / 27, atol=0.02)
    area = np.sqrt(6) / arm.max()
    of_area, _ = np.histogram([area] * 6 + [0.0] * 21, 32, (0, 1.14))
    assert np.allclose(row[3], of_area / 27, atol=0.02)
    assert row[4, 0] == 1  # flat


def test_shape_distributions_know_neither_turn_nor_size_nor_place(clouds: list[np.ndarray]) -> None:
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    rows = shape_distributions(view_of(*clouds))
    moved = shape_distributions(view_of(*(2.5 * c @ turn.T + [3, -1, 2] for c in clouds)))
    assert np.abs(rows - moved).sum() < 0.01 * len(rows) * 5
    assert np.abs(rows[0] - rows[1]).sum() > 0.2


def test_a_ball_fills_the_range_of_volumes() -> None:
    """The mean volume of four points of a ball of radius 1 is 12π/715 (Kingman, 1969)."""
    rng = np.random.default_rng(3)
    ball = rng.normal(size=(20000, 3))
    ball *= (rng.random(20000) ** (1 / 3) / np.sqrt((ball**2).sum(1)))[:, None]
    row = shape_distributions(view_of(ball), bins=200, draws=100000)[0].reshape(5, 200)[4]
    middle = (np.arange(200) + 0.5) * 0.81 / 200
    assert row @ middle**3 == pytest.approx(12 * np.pi / 715, rel=0.03)
