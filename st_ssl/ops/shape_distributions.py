"""What is seen of a cloud without any network: the baselines that an encoder has to beat.

All take a view of B clouds, as they were cut, and give float64 [B, k].
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from st_ssl.core.random import keyed_rng
from st_ssl.core.types import View

_LARGEST = {"D1": 1.0, "D2": 2.0, "A3": np.pi, "D3": 1.14, "D4": 0.81}  # in a ball of radius 1; square and cube roots


def coarse_occupancy(view: View, cells: int = 6) -> np.ndarray:
    """The share of the points in each of ``cells``³ cells of the cube around the middle of the bounding box."""
    rows = []
    for xyz in _clouds(view):
        cell = _cells(xyz, cells) @ np.array([cells * cells, cells, 1])
        rows.append(np.bincount(cell, minlength=cells**3) / len(xyz))
    return np.stack(rows)


def ordered_coordinates(view: View, count: int = 64) -> np.ndarray:
    """x, y and z of ``count`` points of each cloud, evenly spread over them in the order of a Z curve (Morton 1966), so
    that a number means much the same in all clouds: [B, 3 × ``count``]."""
    rows = []
    for xyz in _clouds(view):
        place, key = _cells(xyz, 1 << 10), np.zeros(len(xyz), dtype=np.int64)
        for bit in range(9, -1, -1):
            key = key << 3 | (place >> bit & 1) @ np.array([4, 2, 1])
        order = np.argsort(key, kind="stable")
        rows.append(xyz[order[np.linspace(0, len(xyz) - 1, count).round().astype(np.int64)]].ravel())
    return np.stack(rows).astype(np.float64)


def shape_distributions(view: View, bins: int = 32, draws: int = 4096) -> np.ndarray:
    """Histograms by hand (Osada et al., 2002), the same for every turn of the cloud: [B, 5 × ``bins``].

    Of ``draws`` random points, pairs, triples and fours: the distance from the centroid (D1), between two (D2), the
    angle at one of three (A3), the square root of the area of three (D3), the cube root of the volume of four (D4);
    lengths in the largest distance from the centroid.
    """
    rows = []
    for xyz in _clouds(view):
        centred = xyz.astype(np.float64) - xyz.mean(0, dtype=np.float64)
        centred /= max(float(np.sqrt((centred**2).sum(1)).max()), 1e-12)
        a, b, c, d = centred[keyed_rng("shape distributions", len(xyz)).integers(len(xyz), size=(4, draws))]
        measures = _measures(a, b, c, d)
        counts = [np.histogram(measures[name].clip(0, most), bins, (0, most))[0] for name, most in _LARGEST.items()]
        rows.append(np.concatenate(counts) / draws)
    return np.stack(rows)


def _measures(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> dict[str, np.ndarray]:
    """The five measures of Osada et al. of points [n, 3] each: [n] each."""
    across = np.cross(b - a, c - a)
    sine = np.sqrt((across**2).sum(1))
    volume = np.abs((across * (d - a)).sum(1)) / 6
    return {
        "D1": np.sqrt((a**2).sum(1)),
        "D2": np.sqrt(((a - b) ** 2).sum(1)),
        "A3": np.arctan2(sine, ((b - a) * (c - a)).sum(1)),
        "D3": np.sqrt(sine / 2),
        "D4": np.cbrt(volume),
    }


def _clouds(view: View) -> list[np.ndarray]:
    """The points of each cloud, float32 [N, 3]."""
    xyz = view.points.xyz.numpy()
    return [xyz[start:stop] for start, stop in pairwise(view.points.offsets.tolist())]


def _cells(xyz: np.ndarray, cells: int) -> np.ndarray:
    """In which of ``cells``³ cells of the cube around the middle of the bounding box each point is, int64 [N, 3]."""
    low, high = xyz.min(axis=0), xyz.max(axis=0)
    place = (xyz - (low + high) / 2) / max(float((high - low).max()), 1e-12) + 0.5
    return (place * cells).astype(np.int64).clip(0, cells - 1)
