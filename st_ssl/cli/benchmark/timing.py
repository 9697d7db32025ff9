"""Runs that alternate, so that what else the machine does hits all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

Contestants = Mapping[str, Callable[[], object]]


def alternate(contestants: Contestants, runs: int) -> dict[str, list[float]]:
    """Seconds of each of ``runs`` rounds in which all run in turn, after a round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for counted in range(-1, runs):
        for name, function in contestants.items():
            start = time.perf_counter()
            function()
            if counted >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> float:
    """How many times as long ``slow`` took: the median over the rounds."""
    return median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


def matmul_rate(size: int = 1024, runs: int = 7) -> float:
    """Floating point operations a second of float32 matrix multiplication: what the machine can do at most."""
    import torch

    a = torch.randn(size, size)
    seconds = alternate({"matmul": lambda: a @ a}, runs)["matmul"]
    return 2 * size**3 / median(seconds)
