"""Overlaps of 10,000 pairs of boxes, as shapely has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from st_ssl.ops.boxes import box_corners, iou_3d, iou_bev

shapely = pytest.importorskip("shapely")


def drawn(number: int, rng: np.random.Generator) -> np.ndarray:
    places = [rng.uniform(-50, 50, (number, 2)), rng.uniform(-2, 2, (number, 1))]
    return np.hstack(
        [*places, rng.uniform(0.5, 12, (number, 2)), rng.uniform(0.5, 4, (number, 1)), _angles(number, rng)]
    )


def _angles(number: int, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-7, 7, (number, 1))


def expected(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU [R] of each pair, seen from above and in space."""
    flat = [shapely.polygons(box_corners(torch.from_numpy(x))[:, :4, :2].numpy()) for x in (a, b)]
    area = shapely.area(shapely.intersection(*flat))
    ends = [[x[:, 2] + sign * x[:, 5] / 2 for x in (a, b)] for sign in (1, -1)]
    height = (np.minimum(*ends[0]) - np.maximum(*ends[1])).clip(0)
    volume = area * height
    areas, volumes = ([x[:, 3:last].prod(1) for x in (a, b)] for last in (5, 6))
    return area / (sum(areas) - area), volume / (sum(volumes) - volume)


def uniform(rng: np.random.Generator, solid: bool) -> tuple[np.ndarray, np.ndarray]:
    """4,600 pairs whose IoU is anywhere in 0 … 1 alike."""
    a, how = drawn(150_000, rng), rng.uniform(0, 1, (150_000, 1)) ** 2
    b = a + how * np.hstack([rng.normal(size=(len(a), width)) * by for width, by in ((2, 4), (1, 0.5), (3, 1), (1, 2))])
    b[:, 3:6] = abs(b[:, 3:6]) + 0.05
    found = expected(a, b)[solid]
    step = np.ceil(found * 20)
    rows = np.concatenate([np.flatnonzero(step == number)[:230] for number in range(1, 21)])
    assert len(rows) == 4600
    return a[rows], b[rows]


def special(rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs that touch, that are one in the other, and that are equal."""
    a = drawn(200, rng)
    beside, inner, turned, half_turn = (a.copy() for _ in range(4))
    beside[:, :2] += a[:, 3:4] * np.hstack([np.cos(a[:, 6:]), np.sin(a[:, 6:])])
    inner[:, 3:6] *= rng.uniform(0.1, 1, (200, 1))
    turned[:, 3:5], turned[:, 6:] = 0.3, _angles(200, rng)
    half_turn[:, 6] += np.pi * rng.integers(-2, 3, 200)
    return [(a, other) for other in (beside, inner, turned, half_turn, a)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ten_thousand_pairs(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    pairs = [uniform(rng, False), uniform(rng, True), *special(rng)]
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    assert len(a) == 10_200
    flat, solid = expected(a, b)
    assert np.histogram(flat, 10, (0, 1))[0].min() > 500
    for measure, truth in ((iou_bev, flat), (iou_3d, solid)):
        blocks = [measure(*(torch.from_numpy(x[i : i + 50]).to(dtype) for x in (a, b))) for i in range(0, len(a), 50)]
        found = np.concatenate([block.diagonal().numpy() for block in blocks])
        np.testing.assert_allclose(found, truth, atol=2e-5 if dtype == torch.float32 else 1e-9)
