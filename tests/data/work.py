"""Work for other processes, in a file that imports nothing heavy."""

from __future__ import annotations

import os
import time
from pathlib import Path


def square(number: int) -> int:
    return number * number


def crawl(folder: Path) -> None:
    (folder / f"{os.getpid()}").touch()
    try:
        time.sleep(60)
    finally:
        (folder / f"{os.getpid()}").unlink()


def hang(folder: Path) -> None:
    (folder / f"{os.getpid()}").touch()
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            continue
