"""Farthest point sampling of one large cloud on a CPU: the plain algorithm's result, without visiting every point.

Two things are left out, and neither can change what is taken. A point only shortens distances in blocks whose box is
nearer to it than the largest distance within. And as long as some distance is above a threshold, no point below it is
taken: so the few points above it are sampled among themselves, and the rest is told of all that was taken at once.
"""

from __future__ import annotations

import numpy as np

BLOCK = 128  # points; fewer make tighter boxes and more of them
SHARE = 0.95  # of the largest squared distance: the threshold of a round
PICKS_AT_ONCE, PAIRS_AT_ONCE = 128, 512  # what is worked on at once stays in the cache
MATRIX = 512  # up to so many candidates, all their distances are computed at once
# Of the test by spheres, relative to the result and to what it is the difference of: above what rounding does to it.
SLACK, CANCELLATION = 1e-5, 1e-14


def farthest_blocks(xyz: np.ndarray, count: int, start: int) -> np.ndarray:
    """Indices int64 [count] of ``xyz`` [N, 3] (float32 or float64), equal to those of ``farthest_loop``."""
    blocks = Blocks(xyz)
    picked = np.empty(count, dtype=np.int64)
    picked[0], done, told = start, 1, 0
    while done < count:
        blocks.update(picked[told:done])
        told = done
        index, distance, threshold = blocks.candidates()
        picks = _among(xyz[index], distance, threshold, count - done)
        assert picks, "a distance above the threshold is missing"
        picked[done : done + len(picks)] = index[picks]
        done += len(picks)
    return picked


def _among(xyz: np.ndarray, distance: np.ndarray, threshold: float, count: int) -> list[int]:
    """Plain sampling of the candidates [C, 3] alone, until none is above the threshold or ``count`` are taken."""
    if not distance.any():  # duplicates of what was taken, and there may be many
        return list(range(min(count, len(distance))))
    rows = np.ascontiguousarray(xyz.T)
    whole = _squares(rows[:, :, None], rows[:, None]) if len(xyz) <= MATRIX else None
    difference, square = np.empty_like(rows), np.empty_like(distance)
    picks: list[int] = []
    largest = int(distance.argmax())
    while distance[largest] > threshold:
        picks.append(largest)
        if len(picks) == count:
            break
        if whole is None:
            new = _squares(rows, rows[:, largest : largest + 1], difference, square)
        else:
            new = whole[largest]
        np.minimum(distance, new, out=distance)
        distance[largest] = -1
        largest = int(distance.argmax())
    return picks


def _squares(
    a: np.ndarray, b: np.ndarray, difference: np.ndarray | None = None, out: np.ndarray | None = None
) -> np.ndarray:
    """Squared distances of two sets of rows [3, ...] that broadcast, added up in the order of ``farthest_loop``."""
    difference = np.subtract(a, b, out=difference)
    np.multiply(difference, difference, out=difference)
    x, y, z = difference
    out = np.add(x, y, out=out)
    return np.add(out, z, out=out)


class Blocks:
    """A cloud in K blocks of S points, and the squared distance of each point to the nearest that was taken.

    ``rows`` [3, K, S]; ``order`` int64 [K, S] the indices in the cloud; ``distance`` [K, S], -1 where taken; ``top``
    [K] the largest of each block. The last point fills up the last places, as if taken.
    """

    def __init__(self, xyz: np.ndarray) -> None:
        self.xyz = xyz
        self.order = split(xyz)
        self.rows = np.stack([xyz[:, axis].take(self.order) for axis in range(3)])
        places = self.order.ravel()
        self.place = np.empty(len(xyz), dtype=np.int64)
        self.place[places] = np.arange(len(places))
        self.distance = np.full(self.order.shape, np.inf, dtype=xyz.dtype)
        extra = np.flatnonzero(places == len(xyz) - 1)
        self.distance.ravel()[extra[extra != self.place[-1]]] = -1
        self.top = self.distance.max(1)
        self.low, self.high = self.rows.min(2), self.rows.max(2)
        # The squared distance of centre c and point p is the product of (|c|², 1, -2c) and (1, |p|², p).
        self.middle = xyz.mean(0, dtype=np.float64)
        centres = (self.low.astype(np.float64) + self.high) / 2 - self.middle[:, None]
        self.radius = np.sqrt((((self.high.astype(np.float64) - self.low) / 2) ** 2).sum(0))
        self.slack = CANCELLATION * ((np.sqrt((centres**2).sum(0)) + self.radius) ** 2).max() + np.finfo(xyz.dtype).tiny
        self.spheres = np.column_stack([(centres**2).sum(0), np.ones(len(self.top)), -2 * centres.T])

    def update(self, picked: np.ndarray) -> None:
        """Shorten the distances of all points to what was taken since."""
        self.distance.ravel()[self.place[picked]] = -1
        for first in range(0, len(picked), PICKS_AT_ONCE):
            points = self.xyz[picked[first : first + PICKS_AT_ONCE]]
            block, pick = self._near(points)
            for begin in range(0, len(block), PAIRS_AT_ONCE):
                part = slice(begin, begin + PAIRS_AT_ONCE)
                self._shorten(block[part], points[pick[part]])

    def _near(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of a block and one of ``points`` [m, 3] that may shorten a distance in it, block by block."""
        moved = points - self.middle
        products = self.spheres @ np.vstack([np.ones(len(points)), (moved**2).sum(1), moved.T])
        reach = (np.sqrt(np.maximum(self.top, 0)) + self.radius) ** 2 * (1 + SLACK) + self.slack
        block, pick = np.divmod(np.flatnonzero(products <= reach[:, None]), len(points))
        # Rounding never makes the gap to a box larger than the distance to a point in it: the terms are the same.
        gap = np.zeros(len(block), dtype=self.top.dtype)
        for axis in range(3):
            place = points[pick, axis]
            aside = np.maximum(self.low[axis, block] - place, place - self.high[axis, block])
            np.maximum(aside, 0, out=aside)
            gap += aside * aside
        near = gap < self.top[block]
        return block[near], pick[near]

    def _shorten(self, block: np.ndarray, points: np.ndarray) -> None:
        """``block`` int64 [m], rising; ``points`` [m, 3] the point that comes to each."""
        square = np.zeros((len(block), self.order.shape[1]), dtype=points.dtype)
        for axis in range(3):
            difference = self.rows[axis].take(block, 0)
            difference -= points[:, axis, None]
            difference *= difference
            square += difference
        first = np.flatnonzero(np.diff(block, prepend=-1))
        if len(first) < len(block):  # several points come to a block; minimum.reduceat takes three times as long
            number = np.diff(first, append=len(block))
            best = square.take(first, 0)
            for turn in range(1, int(number.max())):
                more = np.flatnonzero(number > turn)
                best[more] = np.minimum(best.take(more, 0), square.take(first[more] + turn, 0))
            square, block = best, block[first]
        np.minimum(square, self.distance.take(block, 0), out=square)
        self.distance[block] = square
        self.top[block] = square.max(1)

    def candidates(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Indices of the points above the threshold of this round, rising, their distances, and the threshold."""
        largest = self.top.max()
        threshold = self.top.dtype.type(largest * SHARE)  # not of the precision that NumPy 1 would give it
        if threshold >= largest:  # 0, or next to nothing: all that is not taken is a candidate
            threshold = -0.5
        hot = np.flatnonzero(self.top > threshold)
        distance = self.distance[hot]
        row, column = np.nonzero(distance > threshold)
        index = self.order[hot[row], column]
        order = index.argsort()
        return index[order], distance[row, column][order], float(threshold)


def split(xyz: np.ndarray) -> np.ndarray:
    """Blocks of equal size of ``xyz`` [N, 3]: indices int64 [K, S], filled up with N - 1.

    Slabs across the longest axis with as many points each, columns within these, blocks within those.
    """
    low = xyz.min(0)
    extent = xyz.max(0) - low
    extent = np.maximum(extent, max(extent.max() * 1e-6, np.finfo(xyz.dtype).tiny))
    axes = np.argsort(-extent)
    parts = _parts(extent[axes].astype(np.float64) / extent.max(), len(xyz) / BLOCK)
    size = -(-len(xyz) // int(np.prod(parts)))
    order = np.minimum(np.arange(size * int(np.prod(parts))), len(xyz) - 1)
    groups = 1
    for axis, number in zip(axes, parts, strict=True):
        # 16 bits are sorted by radix: the group in the upper part, the place along the axis in what is left.
        steps = (1 << 16) // groups
        place = ((xyz[:, axis] - low[axis]) / extent[axis] * (steps - 1)).astype(np.uint16)
        group = np.arange(len(order)) // (len(order) // groups)
        order = order[np.argsort((group * steps).astype(np.uint16) + place[order], kind="stable")]
        groups *= number
    return order.reshape(groups, size)


def _parts(extent: np.ndarray, number: float) -> list[int]:
    """How many parts along each axis make about ``number`` cubes, the longest axis first."""
    parts = []
    for axis in range(3):
        side = (extent[axis:].prod() / number) ** (1 / (3 - axis))
        parts.append(int(np.clip(round(extent[axis] / side), 1, 64)))
        number = max(number / parts[-1], 1)
    return parts
