"""How large one cloud may be: the one place where readers ask before they take memory for what a file announces."""

from __future__ import annotations

import os

from st_ssl.core.errors import SampleError

MAX_POINTS = 1 << 24
"""``data.max_points`` where nobody asks for more: such a cloud of four float32 numbers a point is a file of 256 MiB."""
_FILE = 32  # bytes of a file that is read whole, for each point that is allowed
_FREE, _SHARE = 4, 32  # bytes that any file may become, for each point allowed; how many times larger than it is others
_DIGITS = 18  # any such number is an int64


def check_points(path: str, count: int, most: int, what: str = "points") -> None:
    """``SampleError`` where a cloud has, or says that it has, more points (or a mesh ``what``) than ``most``, which is
    ``data.max_points``."""
    if count > most:
        number = str(count) if count < 10**_DIGITS else f"over 10^{_DIGITS}"
        raise SampleError(path, f"promises {number} {what}, and data.max_points={most} allows no more")


def check_unpacked(path: str, size: int, stored: int, most: int) -> None:
    """``SampleError`` where ``stored`` bytes of a file would become ``size`` in memory, which no real cloud does: 32
    times as many, where that is more than 4 bytes for each point that ``data.max_points`` (``most``) allows."""
    if size > _FREE * most and size > _SHARE * stored:
        raise SampleError(path, f"{stored} bytes in it would become {size}: too many for data.max_points={most}")


def check_whole(path: str, most: int) -> None:
    """``SampleError`` where a file that is read whole has more than 32 bytes for each point that is allowed."""
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    if size > _FILE * most:
        raise SampleError(path, f"has {size} bytes: data.max_points={most} allows {_FILE * most} in one file")


def is_count(text: str) -> bool:
    """Whether ``text`` is a whole number from 0 on that an int64 holds."""
    return text.isdecimal() and len(text) <= _DIGITS
