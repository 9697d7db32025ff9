"""Work for other processes, in a file that imports nothing heavy."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path


def square(number: int) -> int:
    return number * number


def crawl(folder: Path) -> None:
    (folder / f"{os.getpid()}").touch()
    try:
        time.sleep(1_000)
    finally:
        (folder / f"{os.getpid()}").unlink()


def hang(folder: Path) -> None:
    (folder / f"{os.getpid()}").touch()
    while True:
        try:
            time.sleep(1_000)
        except KeyboardInterrupt:
            continue


def tidy_slowly(folder: Path) -> None:
    (folder / f"{os.getpid()}").touch()
    try:
        time.sleep(1_000)
    finally:
        try:
            raise KeyError
        except KeyError:  # while another error is handled as well
            time.sleep(0.8)
        (folder / f"{os.getpid()}").unlink()


def swallow(folder: Path) -> None:
    """As C code does that Python code was called from: the first exception is lost."""
    (folder / f"{os.getpid()}").touch()
    try:
        with suppress(KeyboardInterrupt):
            time.sleep(1_000)
        time.sleep(1_000)
    finally:
        (folder / f"{os.getpid()}").unlink()


def die_of_five(number: int) -> int:
    if number == 5:
        os._exit(3)
    return number
