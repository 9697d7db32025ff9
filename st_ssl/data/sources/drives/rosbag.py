"""ROS bags, of ROS 1 and 2: messages of PointCloud2 are sweeps, transforms and odometry their poses."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from st_ssl.core.errors import DataError, nearest
from st_ssl.data.sources.base import Place, in_folder
from st_ssl.data.sources.drives.base import Layout, rotation_of
from st_ssl.data.sources.splits import folder_split
from st_ssl.data.streams.points.bags import CLOUD_TYPE, item_of, open_bag
from st_ssl.data.streams.points.drives import Drive, unposed

_MOVING = ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage", "nav_msgs/msg/Odometry")
_LATE = 0.2  # seconds between a sweep and the nearest transform, from which on its pose is not known


def _read(place: Place, rate: float) -> list[Drive]:
    """The root is a bag or holds some, perhaps in folders ``train``, ``val`` and ``test``. ``place.series`` is the
    topic of sweeps, where a bag has several. All of a bag is read once, for its times."""
    found = [_drive(place, bag, split) for bag, split in _bags(place.root)]
    if not found:
        raise DataError(f"{place.root}: no ROS bags: expected *.bag, or folders with metadata.yaml")
    return found


def _bags(root: Path) -> list[tuple[Path, str]]:
    """Bags, with their splits."""
    if _is_bag(root):
        return [(root, "train")]
    found = []
    for item in in_folder(root) if root.is_dir() else ():
        path = Path(item.path)
        if _is_bag(path):
            found.append((path, "train"))
        elif path.is_dir() and (split := folder_split(path.name)):
            found += [(Path(inner.path), split) for inner in in_folder(path) if _is_bag(Path(inner.path))]
    return found


def _is_bag(path: Path) -> bool:
    return (path / "metadata.yaml").is_file() or (path.suffix == ".bag" and path.is_file())


@dataclass
class Track:
    """How a frame of coordinates moved in its ``parent``: ``times`` in seconds, ``places`` and ``turns`` (w, x, y, z);
    ``fixed`` where it never does."""

    parent: str
    fixed: bool
    times: list[float] = field(default_factory=list)
    places: list[tuple[float, ...]] = field(default_factory=list)
    turns: list[tuple[float, ...]] = field(default_factory=list)

    def at(self, times: np.ndarray) -> np.ndarray:
        """The matrices float64 [T, 4, 4] from the frame to its parent at ``times``, between those that are known; NaN
        where the next is too far."""
        known, order = np.unique(np.array(self.times), return_index=True)
        places, turns = np.array(self.places)[order], np.array(self.turns)[order]
        after = np.searchsorted(known, times).clip(0, len(known) - 1)
        before = np.maximum(after - (known[after] > times), 0)
        span = known[after] - known[before]
        share = ((times - known[before]) / np.where(span > 0, span, 1)).clip(0, 1)[:, None]
        same = np.sign((turns[before] * turns[after]).sum(1, keepdims=True))  # a turn has two quaternions
        matrices = np.tile(np.eye(4), (len(times), 1, 1))
        matrices[:, :3, :3] = rotation_of(
            (1 - share) * turns[before] + share * np.where(same < 0, -1, 1) * turns[after]
        )
        matrices[:, :3, 3] = (1 - share) * places[before] + share * places[after]
        if not self.fixed:
            gap = np.minimum(np.abs(times - known[before]), np.abs(times - known[after]))
            matrices[gap > _LATE] = np.nan
        return matrices


def _drive(place: Place, bag: Path, split: str) -> Drive:
    reader = open_bag(bag)
    with reader.stack:
        topic = _topic(bag, [one.topic for one in reader.connections if one.msgtype == CLOUD_TYPE], place.series)
        wanted = [one for one in reader.connections if one.topic == topic or one.msgtype in _MOVING]
        files, times, tracks, frame = [], [], dict[str, Track](), ""
        for connection, received, raw in reader.messages(wanted):
            if connection.topic == topic:
                files.append(item_of(bag, topic, received))
                times.append(_stamp(raw, reader.is2))
                frame = frame or reader.deserialize(raw, connection.msgtype).header.frame_id
            else:
                _follow(tracks, reader.deserialize(raw, connection.msgtype), "static" in connection.topic)
    if not files:
        raise DataError(f"{bag}: no message of {topic}")
    order = np.argsort(times, kind="stable")
    stamps = np.array(times)[order]
    poses, end = _poses(tracks, frame.lstrip("/"), stamps)
    if not np.isfinite(poses).any():
        place.tell(f"{bag}: no poses: {frame or 'a frame without a name'} is in {end}, which nothing moves")
    return Drive(str(bag), split, tuple(files[at] for at in order), stamps - stamps[0], poses)


def _topic(bag: Path, topics: Sequence[str], asked: str | None) -> str:
    """The topic of sweeps."""
    names = sorted(set(topics))
    if asked is not None and asked not in names:
        raise DataError(f"{bag}: no clouds in {asked!r}{nearest(asked, names)} (there are: {', '.join(names)})")
    if asked is None and len(names) != 1:
        there = f"several topics: data.topic is one of {', '.join(names)}" if names else f"no topic of {CLOUD_TYPE}"
        raise DataError(f"{bag}: {there}")
    return asked or names[0]


def _stamp(raw: bytes, is2: bool) -> float:
    """When a message with a header was taken, in seconds: the bytes are those of ROS 1, or of CDR in ROS 2."""
    if is2:
        seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    else:
        _, seconds, nanoseconds = struct.unpack_from("<III", raw)
    return float(seconds + nanoseconds / 1e9)


def _follow(tracks: dict[str, Track], message: Any, fixed: bool) -> None:
    """Add the transforms of a message. Odometry says where a frame is of which no transform does."""
    if hasattr(message, "transforms"):
        for one in message.transforms:
            move = one.transform
            _add(tracks, one.child_frame_id, one.header, move.translation, move.rotation, fixed)
    else:
        pose = message.pose.pose
        _add(tracks, message.child_frame_id, message.header, pose.position, pose.orientation, False)


def _add(tracks: dict[str, Track], child: str, header: Any, place: Any, turn: Any, fixed: bool) -> None:
    parent, stamp = header.frame_id.lstrip("/"), header.stamp
    track = tracks.setdefault(child.lstrip("/"), Track(parent, fixed))
    if track.parent == parent:
        track.times.append(stamp.sec + stamp.nanosec / 1e9)
        track.places.append((place.x, place.y, place.z))
        track.turns.append((turn.w, turn.x, turn.y, turn.z))


def _poses(tracks: dict[str, Track], frame: str, times: np.ndarray) -> tuple[np.ndarray, str]:
    """Poses float64 [T, 4, 4] of ``frame`` in the frame that is in no other one, and the name of that; NaN where
    nothing moves it there."""
    poses, moved, seen = np.tile(np.eye(4), (len(times), 1, 1)), False, {frame}
    while frame in tracks:
        track = tracks[frame]
        poses, moved, frame = track.at(times) @ poses, moved or not track.fixed, track.parent
        if frame in seen:
            break  # a circle
        seen.add(frame)
    return (poses if moved else unposed(len(times))), frame


LAYOUT = Layout("rosbag", _read, lambda place: _bags(place.root))
