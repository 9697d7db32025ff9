"""Drives: sweeps of a LiDAR with their times, poses, boxes and labels, as a stream of clouds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from st_ssl.core.boxes import Boxes
from st_ssl.core.errors import SampleError, sample_fault
from st_ssl.core.types import PointCloud
from st_ssl.data.streams.base import WindowsMeta
from st_ssl.data.streams.points import ReadOptions, read_raw
from st_ssl.data.streams.points.base import MIN_POINTS, clean
from st_ssl.data.streams.points.understand import understand


@dataclass(frozen=True)
class NamedBoxes:
    """The boxes of a sweep with the ``names`` that a log has for their classes; ``values`` (float64, since a log may
    count from far away) and ``facts`` as in ``Boxes``."""

    values: np.ndarray
    names: tuple[str, ...]
    facts: dict[str, np.ndarray] = field(default_factory=dict)

    def numbered(self, classes: Mapping[str, int], kinds: Mapping[str, int]) -> Boxes:
        """The same boxes with the numbers of their names in ``classes`` (-1 for those that are not there) and, as the
        fact ``kind`` int64 [N], in ``kinds``."""
        numbers, kind = ([of.get(name, -1) for name in self.names] for of in (classes, kinds))
        facts = {**self.facts, "kind": np.array(kind, dtype=np.int64)}
        return Boxes(self.values, np.array(numbers, dtype=np.int64), facts)


@dataclass(frozen=True)
class Camera:
    """A camera beside the sensor: ``matrix`` float64 [3, 4] takes points of a sweep to (u d, v d, d), pixels u to the
    right and v down times the depth d in metres; the image is ``width`` by ``height`` pixels."""

    matrix: np.ndarray
    width: int
    height: int

    def sees(self, xyz: np.ndarray) -> np.ndarray:
        """Which of the points [N, 3] are in front of the camera and inside its image, bool [N]."""
        u, v, depth = (xyz @ self.matrix[:, :3].T + self.matrix[:, 3]).T
        return (depth > 0) & (u >= 0) & (u < self.width * depth) & (v >= 0) & (v < self.height * depth)


BoxReader = Callable[[], NamedBoxes]
"""The boxes of one sweep, without an index: what opens the file, or has them already. Raises ``SampleError``."""
LabelReader = Callable[[int], dict[str, np.ndarray]]
"""The labels int64 [N] of the N points of one sweep's file, by name. Raises ``SampleError``."""


@dataclass(frozen=True, eq=False)
class Drive:
    """What is known of a drive of T sweeps before one of them is read.

    ``path`` is what people know it by; ``files`` are its sweeps in the order of their ``times`` float64 [T] (seconds);
    ``poses`` float64 [T, 4, 4] take them to the world (NaN where nobody knows). By the index of the sweep that has
    them: ``boxes``, ``labels``, ``cameras``, and the ``tokens`` that a benchmark knows it by. ``keys`` int64 [K]: the
    sweeps that the log calls key frames. ``axes`` [4, 4] turns the points of the files to x ahead, y to the left, z up
    (None: they are so); boxes and poses are for turned points. ``sensor`` [4, 4] takes turned points to the axes of the
    vehicle (None: unknown).
    """

    path: str
    split: str
    files: tuple[str, ...]
    times: np.ndarray
    poses: np.ndarray
    boxes: Mapping[int, BoxReader] = field(default_factory=dict)
    labels: Mapping[int, LabelReader] = field(default_factory=dict)
    cameras: Mapping[int, Callable[[], Camera]] = field(default_factory=dict)
    tokens: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    axes: np.ndarray | None = None
    sensor: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def posed(self) -> np.ndarray:
        """Whether the pose of each sweep is known, bool [T]."""
        return np.isfinite(self.poses).all((1, 2))


def unposed(count: int) -> np.ndarray:
    """The poses of ``count`` sweeps of which nobody knows any, float64 [count, 4, 4]."""
    return np.full((count, 4, 4), np.nan)


def rigid(rows: np.ndarray) -> np.ndarray:
    """Matrices float64 [..., 4, 4] from their upper three rows, [..., 12] or [..., 3, 4]."""
    rows = np.asarray(rows, dtype=np.float64)
    rows = rows.reshape(*(rows.shape[:-1] if rows.shape[-1] == 12 else rows.shape[:-2]), 3, 4)
    last = np.broadcast_to(np.array([0.0, 0.0, 0.0, 1.0]), (*rows.shape[:-2], 1, 4))
    return np.concatenate([rows, last], axis=-2)


@dataclass(frozen=True)
class SweepOptions:
    """How sweeps are read: their files by ``options``; ``merged`` of them to one cloud; without returns from within
    ``near`` metres in x and y, the log's own car; with ``in_view`` only what the camera sees. Boxes have the numbers
    that ``classes`` and ``kinds`` have for their names: see ``NamedBoxes``."""

    options: ReadOptions = field(default_factory=ReadOptions)
    merged: int = 1
    near: float = 0.0
    in_view: bool = False
    classes: Mapping[str, int] = field(default_factory=dict)
    kinds: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Dropped:
    """How many of the ``points`` of a file are left out: ``origin`` returns at (0, 0, 0), which are no returns;
    ``nowhere`` not finite; ``near`` the sensor."""

    points: int
    origin: int
    nowhere: int
    near: int


def read_sweep(
    path: str,
    options: ReadOptions,
    near: float = 0.0,
    labels: LabelReader | None = None,
    axes: np.ndarray | None = None,
) -> tuple[PointCloud, Dropped]:
    """The sweep at ``path`` as a cloud, and what was left out of it; ``labels`` are for all points of its file. Raises
    ``SampleError``."""
    with sample_fault(path), np.errstate(all="ignore"):  # what is too large for a number is nowhere
        cloud = understand(path, read_raw(path, options), options)
        cloud.labels |= labels(len(cloud)) if labels is not None else {}
        total = len(cloud)
        returned = (cloud.xyz != 0).any(axis=1)
        if total and not returned.any():
            raise SampleError(path, f"all of its {total} returns are at the origin, where the sensor is")
        away = (np.abs(cloud.xyz[:, :2]) >= near).any(axis=1) if near else np.ones(total, dtype=bool)
        away |= np.isnan(cloud.xyz[:, :2]).any(axis=1)  # counted as what it is
        keep = returned & away
        if not keep.all():
            cloud = cloud.take(keep)
        if axes is not None:
            cloud = replace(cloud, xyz=(cloud.xyz @ axes[:3, :3].T.astype(cloud.xyz.dtype)))
        cloud, lost = clean(path, cloud)
    origin = total - int(returned.sum())
    return cloud, Dropped(total, origin, lost, total - int(keep.sum()) - origin)


@dataclass(frozen=True)
class DriveMeta(WindowsMeta):
    """What is known of a stream of sweeps before one is read: a view of all that there is shows one of them.
    ``poses`` float64 [T, 4, 4], NaN where unknown."""

    poses: np.ndarray

    @property
    def posed(self) -> np.ndarray:
        """Whether the pose of each sweep is known, bool [T]."""
        return np.isfinite(self.poses).all((1, 2))


class DriveSweeps:
    """The sweeps of a drive from ``start`` on, ``num_frames`` of them (None: all). Each is a cloud with ``time`` and,
    where it is known, ``pose``; with ``boxes`` where it was looked at.

    Where several are merged, those before it are brought to where they were seen from the sweep itself, and the
    attribute ``time`` [N, 1] is how many seconds before the sweep a point was measured. A drive begins with fewer.
    """

    def __init__(self, drive: Drive, how: SweepOptions, start: int = 0, num_frames: int | None = None) -> None:
        stop = len(drive) if num_frames is None else start + num_frames
        if not 0 <= start < stop <= len(drive):
            raise SampleError(drive.path, f"has {len(drive)} sweeps, not {start} to {stop - 1}")
        self._drive, self._how, self._start, self._stop = drive, how, start, stop
        self._counts: dict[int, int] = {}
        self.meta = DriveMeta(stop - start, drive.poses[start:stop])

    @property
    def num_points(self) -> int:
        """How many points the clouds have that were read so far."""
        return sum(self._counts.values())

    def times(self) -> np.ndarray:
        """When each sweep was taken, float64 [T] seconds."""
        return self._drive.times[self._start : self._stop]

    def read(self, at: Sequence[int]) -> Iterator[tuple[int, PointCloud]]:
        """The clouds ``at`` indices from ``start`` on. Raises ``SampleError``, with the file of the sweep."""
        singles: dict[int, PointCloud] = {}
        for index in at:
            own = index + self._start
            first = max(0, own - self._how.merged + 1)
            singles = {number: cloud for number, cloud in singles.items() if number >= first}
            for number in range(first, own + 1):
                if number not in singles:
                    singles[number] = self._single(number)
            cloud = singles[own]
            if self._how.merged > 1:
                cloud = self._merged([singles[number] for number in range(own, first - 1, -1)], own)
            self._counts[index] = len(cloud)
            yield index, cloud

    def _single(self, number: int) -> PointCloud:
        """The cloud of one file, with its labels, time, pose and boxes."""
        drive, how = self._drive, self._how
        cloud, _ = read_sweep(drive.files[number], how.options, how.near, drive.labels.get(number), drive.axes)
        if how.in_view:
            if number not in drive.cameras:
                raise SampleError(drive.files[number], "has no calibrated camera, and data.in_view=true needs one")
            cloud = replace(cloud.take(drive.cameras[number]().sees(cloud.xyz)), source=None)
            if len(cloud) < MIN_POINTS:
                raise SampleError(drive.files[number], f"{len(cloud)} of its points are in view (data.in_view)")
        pose = drive.poses[number] if drive.posed[number] else None
        boxes = drive.boxes[number]().numbered(how.classes, how.kinds) if number in drive.boxes else None
        if cloud.pose is not None:  # coordinates were too large for float32, and the cloud has been moved
            pose = cloud.pose if pose is None else pose @ cloud.pose
            boxes = None if boxes is None else boxes.moved(np.linalg.inv(cloud.pose))
        if boxes is not None:
            boxes.values = boxes.values.astype(np.float32)
        return replace(cloud, pose=pose, time=float(drive.times[number]), boxes=boxes)

    def _merged(self, clouds: Sequence[PointCloud], own: int) -> PointCloud:
        """``clouds``, the sweep ``own`` first and those before it, as one."""
        for before, cloud in enumerate(clouds):
            if cloud.pose is None and len(clouds) > 1:
                told = f"has no pose, and data.sweeps={self._how.merged} needs one"
                raise SampleError(self._drive.files[own - before], told)
        first = clouds[0]
        back = None if first.pose is None else np.linalg.inv(first.pose)
        places, lags = [first.xyz], [np.zeros((len(first), 1), dtype=np.float32)]
        for before, cloud in enumerate(clouds[1:], 1):
            assert back is not None and cloud.pose is not None
            motion = back @ cloud.pose
            places.append((cloud.xyz @ motion[:3, :3].T + motion[:3, 3]).astype(np.float32))
            lag = self._drive.times[own] - self._drive.times[own - before]
            lags.append(np.full((len(cloud), 1), lag, dtype=np.float32))
        shared = [name for name in first.attributes if all(name in cloud.attributes for cloud in clouds)]
        attributes = {name: np.concatenate([cloud.attributes[name] for cloud in clouds]) for name in shared}
        labels = {
            name: np.concatenate([cloud.labels.get(name, np.full(len(cloud), -1)) for cloud in clouds])
            for name in first.labels
        }
        time = {"time": np.concatenate(lags)}
        return replace(first, xyz=np.concatenate(places), attributes=attributes | time, labels=labels)

    def close(self) -> None:
        """Nothing is open."""
