"""The histogram of a window, against numpy's."""

from __future__ import annotations

import numpy as np
import torch

from st_ssl.core.types import PointBatch, View
from st_ssl.ops.space_time_histogram import space_time_histogram


def test_against_histograms() -> None:
    rng = np.random.default_rng(0)
    xyz, time, velocity = rng.normal(size=(130, 3)), rng.uniform(-1, 1, (130, 1)), rng.uniform(-1, 1, (130, 1))
    attributes = {"time": torch.from_numpy(time), "velocity": torch.from_numpy(velocity)}
    points = PointBatch(torch.from_numpy(xyz), torch.tensor([0, 50, 130]), attributes)
    rows = space_time_histogram(View(points, torch.zeros(2, 1)), cells=3, steps=2, speeds=5)
    assert rows.shape == (2, 2 * (27 + 5))
    for row, part in zip(rows, (slice(0, 50), slice(50, 130)), strict=True):
        box = [np.linspace(low, high, 4) for low, high in zip(xyz[part].min(0), xyz[part].max(0), strict=True)]
        wanted = np.histogramdd(np.hstack([time[part], xyz[part]]), [np.linspace(-1, 1, 3), *box])[0]
        np.testing.assert_allclose(row[:54].reshape(2, 3, 3, 3), wanted / len(xyz[part]))
        fast = np.histogram2d(time[part, 0], velocity[part, 0], [np.linspace(-1, 1, 3), np.linspace(-1, 1, 6)])[0]
        np.testing.assert_allclose(row[54:].reshape(2, 5), fast / len(xyz[part]))
    del points.attributes["velocity"]
    still = space_time_histogram(View(points, torch.zeros(2, 1)), cells=3, steps=2, speeds=5)
    np.testing.assert_array_equal(still[:, :54], rows[:, :54])
    assert not still[:, 54:].any()
