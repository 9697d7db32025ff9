"""Made frames and weights for the comparison with OpenPCDet: drawn from streams of numbers that never change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from st_ssl.ops.volumes import Range

FRAMES, BATCH, MOST = 200, 2, 14
CLASSES = ("Car", "Pedestrian", "Cyclist")
SIZES = ((4.2, 1.8, 1.6), (0.7, 0.7, 1.75), (1.8, 0.65, 1.7))
RANGE: Range = (0, -31.5, -3, 31, 31.5, 1)
VOXEL, STRIDE = (31 / 256, 63 / 512, 0.1), 8
"""Anchors are then 1 m apart, which both compute without an error: elsewhere rounding decides which of two anchors that
overlap a box alike is the better."""
MAP = (64, 32)
"""Cells along y and x."""
GROUPS = {"one": (CLASSES,), "two": (("Car",), ("Pedestrian", "Cyclist"))}
"""``two`` has velocities too. (OpenPCDet renumbers classes in place: other groups would make a car a pedestrian.)"""


def made_boxes(frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes float32 [N, 9] and classes int64 [N] of a frame, some at the border of the range, some on one another;
    every tenth frame is empty."""
    draws = np.random.RandomState(1000 + frame)
    number = 0 if frame % 10 == 7 else draws.randint(1, MOST + 1)
    classes = draws.randint(0, 3, number)
    low, high = np.array(RANGE[:3]), np.array(RANGE[3:])
    place = low + draws.uniform(-0.02, 1.02, (number, 3)) * (high - low)
    if number > 3:
        place[1] = place[0] + draws.normal(0, 0.3, 3)
    size = np.array(SIZES)[classes] * draws.uniform(0.7, 1.4, (number, 3))
    yaw = draws.uniform(-2 * np.pi, 2 * np.pi, (number, 1))
    values = np.concatenate([place, size, yaw, draws.normal(0, 5, (number, 2))], 1)
    return values.astype(np.float32), classes.astype(np.int64)


def made_map(channels: int, seed: int, mean: float = 0.0, spread: float = 1.0) -> np.ndarray:
    """Predictions float32 [B, channels, H, W] of a batch."""
    values = np.random.RandomState(seed).standard_normal((BATCH, channels, *MAP))
    return (mean + spread * values).astype(np.float32)


def made_weights(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> dict[str, np.ndarray]:
    """Weights by name, drawn in the order of the names."""
    draws = np.random.RandomState(5)
    made: dict[str, Any] = {}
    for name, shape in sorted(shapes):
        values = draws.standard_normal(shape)
        if name.endswith("num_batches_tracked"):
            made[name] = np.zeros(shape, np.int64)
        elif name.endswith("running_var"):
            made[name] = (0.5 + np.abs(values)).astype(np.float32)
        else:
            fan = np.prod(shape[1:]) if len(shape) > 1 else 4
            made[name] = (values / np.sqrt(fan)).astype(np.float32)
    return made


def seen_as(values: np.ndarray) -> np.ndarray:
    """What is kept of a large array: three sums weighted at random, that of its squares, and how many are not 0."""
    flat = np.asarray(values, np.float64).ravel()
    weights = np.random.RandomState(9).standard_normal((3, flat.size))
    return np.array([*(weights @ flat), (flat**2).sum(), np.count_nonzero(flat)])


def made_voxels() -> tuple[np.ndarray, np.ndarray]:
    """Coordinates int32 [M, 4] (cloud, z, y, x) within 40 × 96 × 64 cells, sorted, and features float32 [M, 4]."""
    draws = np.random.RandomState(4)
    occupied = np.unique(draws.randint(0, BATCH * 40 * 96 * 64, 3000))
    coordinates = np.stack(np.unravel_index(occupied, (BATCH, 40, 96, 64)), 1).astype(np.int32)
    return coordinates, draws.standard_normal((len(coordinates), 4)).astype(np.float32)
