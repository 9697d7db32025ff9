"""Runs that alternate, so that what else the machine does hits all contestants alike."""

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


def ratio(seconds: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """How many times as long ``slow`` took: the median over the rounds."""
    return median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


def compare(title: str, contestants: Contestants, runs: int) -> dict[str, list[float]]:
    """Time the contestants, print a line on each, and return the seconds of each run. Ours is the first. Processor time
    says more where others use the machine too."""
    processor: dict[str, list[float]] = {name: [] for name in contestants}

    def timed(name: str) -> Callable[[], None]:
        def run() -> None:
            start = time.process_time()
            contestants[name]()
            processor[name].append(time.process_time() - start)

        return run

    seconds = alternate({name: timed(name) for name in contestants}, runs)
    used = {name: values[1:] for name, values in processor.items()}  # the first round does not count
    ours = next(iter(contestants))
    print(title)
    for name in contestants:
        times = f"{ratio(seconds, name, ours):.2f} times as long ({ratio(used, name, ours):.2f} in processor time)"
        told = "" if name == ours else f": {times}"
        print(f"  {name:16} {median(seconds[name]) * 1e3:9.1f} ms{told}", flush=True)
    return seconds
