"""Work for other processes, in a file that imports nothing heavy."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from tests.waiting import LONG


def square(number: int) -> int:
    return number * number


def crawl(folder: Path) -> None:
    (folder / f"{os.getpid()}").touch()
    try:
        time.sleep(LONG)
    finally:
        (folder / f"{os.getpid()}").unlink()


def hang(folder: Path) -> None:
    (folder / f"{os.getpid()}").touch()
    while True:
        try:
            time.sleep(LONG)
        except KeyboardInterrupt:
            continue


def tidy_slowly(folder: Path) -> None:
    (folder / f"{os.getpid()}").touch()
    try:
        time.sleep(LONG)
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
            time.sleep(LONG)
        time.sleep(LONG)
    finally:
        (folder / f"{os.getpid()}").unlink()


def die_of_five(number: int) -> int:
    if number == 5:
        os._exit(3)
    return number
