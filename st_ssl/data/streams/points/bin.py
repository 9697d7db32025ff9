"""Raw float32 numbers, as KITTI and nuScenes store sweeps of a LiDAR."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from st_ssl.core.errors import SampleError
from st_ssl.data.streams.limits import check_points
from st_ssl.data.streams.points.base import RawCloud, ReadOptions, check_file
from st_ssl.data.streams.points.columns import is_intensity

CANDIDATES = (4, 5, 6, 3, 7, 8, 9, 10)
"""Numbers a point that are tried, the more usual ones first."""
_ALIKE = 0.08  # two readings are as good as each other within this difference of their scores
_LARGEST, _SMALLEST = 1e9, 1e-12  # no measurement is larger, or nearer to 0 and not 0


def read_bin(path: str, options: ReadOptions) -> RawCloud:
    """x, y, z and what follows: an intensity (and with five columns the ring, which is left out) or a colour.

    The file does not say how many columns it has. ``options.bin_columns`` does; without it, nuScenes's names
    (``.pcd.bin``) mean five, and of all others ``guess_columns`` tells. ``SampleError`` where its size is no whole
    number of points, or its numbers are no places.
    """
    check_file(path)
    size = os.path.getsize(path)
    check_points(path, size // (4 * (options.bin_columns or max(CANDIDATES))), options.max_points)
    try:
        numbers = np.fromfile(path, dtype="<f4")
    except OSError as error:
        raise SampleError(path, f"file cannot be read: {error.strerror}") from error
    columns = options.bin_columns or guess_columns([(path, size, numbers)])
    if isinstance(columns, str):
        raise SampleError(path, columns)
    if size % (4 * columns):
        raise SampleError(
            path, f"has {size} bytes: no whole number of points of {columns} float32 numbers (data.bin_columns)"
        )
    check_points(path, size // (4 * columns), options.max_points)
    _check_places(path, numbers)
    return RawCloud(np.empty((0, 3)), table=numbers.reshape(-1, columns), kind="bin")


def _check_places(path: str, numbers: np.ndarray) -> None:
    """``SampleError`` where the numbers are no measurements: bits, ids or text read as floats are huge or next to 0."""
    size = np.abs(numbers)
    right = np.count_nonzero((size <= _LARGEST) & ((size >= _SMALLEST) | (size == 0)))
    if right < 0.95 * len(numbers):
        share = f"{len(numbers) - right} of {len(numbers)} numbers are not finite, above {_LARGEST:g} or next to 0"
        raise SampleError(path, f"not a cloud of float32 numbers: {share}")


def guess_columns(files: Sequence[tuple[str, int, np.ndarray]]) -> int | str:
    """How many numbers a point has in ``files``, each a path, a size in bytes and its numbers (or the first of them);
    or, where several readings are as good, what they are.

    Sizes of nine in ten files must be whole numbers of points. Among what is left the numbers decide: read rightly, a
    column holds one kind of quantity and varies little beside a mixture of all. Where that does not tell, four is taken
    (KITTI), or five for names of nuScenes (``.pcd.bin``), if sizes allow; but three where the fourth would have
    fractions below 0.
    """
    named = 2 * sum(path.lower().endswith(".pcd.bin") for path, *_ in files) > len(files)
    usual = 5 if named else 4
    fits = [count for count in CANDIDATES if 10 * sum(s % (4 * count) == 0 for _, s, _ in files) >= 9 * len(files)]
    if not fits:
        return usual
    if named and usual in fits:
        return usual
    pooled = [numbers for *_, numbers in files]
    scores = {count: _score(pooled, count) for count in fits}
    best = min(scores.values())
    good = [count for count in fits if scores[count] <= best + _ALIKE]
    # twice the columns of a right reading are as good: the smallest of such multiples is meant
    good = [count for count in good if not any(count % other == 0 for other in good if other < count)]
    if usual in good and 3 in good and not is_intensity(_column(pooled, usual, 3)):
        return 3
    if usual in good or len(good) == 1:
        return usual if usual in good else good[0]
    ways = " or ".join(map(str, good))
    return f"has {ways} float32 numbers a point, and nothing tells which: data.bin_columns={good[0]} says so"


def _column(files: Sequence[np.ndarray], count: int, at: int) -> np.ndarray:
    return np.concatenate([numbers[: len(numbers) // count * count].reshape(-1, count)[:, at] for numbers in files])


def _score(files: Sequence[np.ndarray], count: int) -> float:
    """How much the columns vary, the mean of the logarithms: smaller is the better reading."""
    whole_rows = [numbers[: len(numbers) // count * count] for numbers in files if len(numbers) >= count]
    rows = [part.reshape(-1, count) for part in whole_rows]
    rows = [np.nan_to_num(part.astype(np.float64), posinf=0, neginf=0).clip(-1e6, 1e6) for part in rows]
    if not rows:
        return 0.0
    table = np.concatenate(rows)
    whole = np.abs(table - np.median(table)).mean()
    spread = np.abs(table - np.median(table, axis=0)).mean(axis=0)
    return float(np.log(np.maximum(spread, 1e-3 * whole) + 1e-30).mean())
