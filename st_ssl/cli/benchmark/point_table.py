"""All that is fast about points, ours beside each peer, in one table."""

from __future__ import annotations

import argparse
from statistics import median

import torch

from st_ssl.cli.benchmark import ops, points, sparse
from st_ssl.cli.benchmark.timing import Contestants, alternate, ratio
from st_ssl.core.errors import ConfigError

SPARSE = {"variant": "spunet", "voxels": 150_000, "peer": ["spconv"]}
OPS = {"points": 100_000, "samples": 4096, "batch": 32}
FEW_RUNS = 3  # of what takes tens of seconds


def point_table(arguments: argparse.Namespace) -> None:
    """Print the lines as Markdown; the contestants of each take turns. The last is that of ``points`` as given."""
    if arguments.device != "cpu":
        raise ConfigError(f"--table --device {arguments.device}: the table's peers are measured on CPUs")
    print(f"{torch.get_num_threads()} threads, medians of {arguments.runs} rounds, of the U-Net {_few(arguments)}\n")
    print("| | st_ssl | peer | |\n|---|---|---|---|")
    room, convolutions, steps = sparse.contestants(argparse.Namespace(**SPARSE))
    where = f"a room of {len(room):,} voxels"
    _line(f"submanifold convolution and neighbour search, {where}", convolutions, arguments.runs)
    _line(f"a training step of sparse_unet, {SPARSE['variant']}, {where}", steps, _few(arguments))
    for title, contestants in ops.contestants(argparse.Namespace(**OPS)).items():
        _line(title, contestants, arguments.runs)
    work = points.prepare(arguments)
    seconds = alternate(work.contestants, arguments.runs)
    title = f"a training step of {arguments.method} {arguments.variant}, {arguments.batch} × {arguments.points} points"
    of_all = f"{work.share(seconds):.0%} of its rate"
    print(f"| {title} | {median(seconds['step']) * 1e3:.0f} ms | matrix products in fp32 | {of_all} |")


def _few(arguments: argparse.Namespace) -> int:
    return min(FEW_RUNS, arguments.runs)


def _line(title: str, contestants: Contestants, runs: int) -> None:
    """Ours is the first of ``contestants``."""
    seconds = alternate(contestants, runs)
    ours, peer = contestants
    times = ratio(seconds, peer, ours)
    cells = [f"{median(seconds[name]) * 1e3:.0f} ms" for name in (ours, peer)]
    print(f"| {title} | {cells[0]} | {peer}: {cells[1]} | **{times:.2f} ×** |", flush=True)
