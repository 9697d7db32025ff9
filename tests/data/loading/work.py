"""Work for other processes, in a file that imports nothing heavy."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.waiting import LONG


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def one_over(number: int) -> float:
    return 1 / number


def hang(folder: Path) -> None:
    (folder / f"{os.getpid()}").touch()
    while True:
        try:
            time.sleep(LONG)
        except KeyboardInterrupt:
            continue


def die_of_five(number: int) -> int:
    if number == 5:
        os._exit(3)
    return number


def die_at_first(file: Path) -> str:
    if not file.exists():
        file.touch()
        os._exit(3)
    return "lived"
