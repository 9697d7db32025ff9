"""Operations on points, beside open3d's and the way they are usually written in PyTorch."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from torch import Tensor

from st_ssl.cli.benchmark.timing import alternate, ratio
from st_ssl.ops.neighbours import gather_points, nearest
from st_ssl.ops.sampling import farthest_points
from st_ssl.report.viewers import require_open3d

GROUPS, NEIGHBOURS, GROUPED_POINTS = 64, 32, 1024  # of Point-MAE


def ops(arguments: argparse.Namespace) -> None:
    """Print the time of sampling a large cloud beside open3d's, and of grouping a batch beside the usual loop."""
    for title, who in contestants(arguments).items():
        _report(title, who, arguments.runs)


def contestants(arguments: argparse.Namespace) -> dict[str, dict[str, Callable[[], object]]]:
    """Who samples and who groups, by what is done."""
    open3d = require_open3d("benchmark ops")
    generator = torch.Generator().manual_seed(0)
    large = torch.randn(arguments.points, 3, generator=generator)
    theirs = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(large.numpy().astype(np.float64)))
    batch = torch.randn(arguments.batch, GROUPED_POINTS, 3, generator=generator)
    return {
        f"farthest points, {arguments.points} to {arguments.samples}": {
            "st_ssl": lambda: farthest_points(large[None], arguments.samples),
            "open3d": lambda: theirs.farthest_point_down_sample(arguments.samples),
        },
        f"{arguments.batch} clouds, farthest points, {GROUPED_POINTS} to {GROUPS}, {NEIGHBOURS} nearest of each": {
            "st_ssl": lambda: _ours(batch),
            "usual loop": lambda: _usual(batch),
        },
    }


def _report(title: str, contestants: dict[str, Callable[[], object]], runs: int) -> None:
    used: dict[str, list[float]] = {name: [] for name in contestants}

    def timed(name: str) -> Callable[[], None]:
        def run() -> None:
            start = time.process_time()
            contestants[name]()
            used[name].append(time.process_time() - start)

        return run

    seconds = alternate({name: timed(name) for name in contestants}, runs)
    counted = {name: values[1:] for name, values in used.items()}  # without the round that does not count
    print(f"{title}, {torch.get_num_threads()} threads, median of {runs}")
    for name, values in seconds.items():
        line = f"{name:10} {median(values) * 1e3:8.1f} ms"
        if name != "st_ssl":
            of_cpu = ratio(counted, name, "st_ssl")
            line += f", {ratio(seconds, name, 'st_ssl'):.2f} times as long ({of_cpu:.2f} in processor time)"
        print(line)


def _ours(xyz: Tensor) -> Tensor:
    centres = gather_points(xyz, farthest_points(xyz, GROUPS))
    return nearest(centres, xyz, NEIGHBOURS)[1]


def _usual(xyz: Tensor) -> Tensor:
    """Farthest points by a masked update and a maximum, neighbours by ``cdist`` and ``topk``."""
    batch, num_points, _ = xyz.shape
    rows = torch.arange(batch)
    picked = torch.zeros(batch, GROUPS, dtype=torch.int64)
    distance = torch.full((batch, num_points), torch.inf)
    last = torch.zeros(batch, dtype=torch.int64)
    for step in range(GROUPS):
        picked[:, step] = last
        squares = ((xyz - xyz[rows, last].unsqueeze(1)) ** 2).sum(-1)
        closer = squares < distance
        distance[closer] = squares[closer]
        last = distance.max(-1).indices
    return torch.cdist(xyz[rows[:, None], picked], xyz).topk(NEIGHBOURS, largest=False).indices
