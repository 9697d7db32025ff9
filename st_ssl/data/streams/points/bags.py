"""Sweeps in ROS bags: ``run.bag#/velodyne_points@1600000000000000000`` is the message of a topic that was recorded at
so many nanoseconds. Bags of ROS 1 are files, those of ROS 2 folders with ``metadata.yaml``."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from st_ssl.core.errors import MissingDependencyError, SampleError
from st_ssl.data.streams.limits import check_points
from st_ssl.data.streams.points.base import RawCloud, ReadOptions
from st_ssl.data.streams.points.columns import from_fields

CLOUD_TYPE = "sensor_msgs/msg/PointCloud2"
_ITEM = re.compile(r"(.+)#(/[^#]*)@(\d{1,19})", re.DOTALL)
# The numbers of sensor_msgs/PointField: INT8, UINT8, INT16, UINT16, INT32, UINT32, FLOAT32, FLOAT64.
_KINDS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_PACKED = ("rgb", "rgba")  # a colour in the bits of one number


def item_of(bag: Path, topic: str, time: int) -> str:
    """The path of the sweep of ``topic`` that was recorded at ``time`` (nanoseconds)."""
    return f"{bag}#{topic}@{time}"


def is_bag_item(path: str) -> bool:
    """Whether ``path`` is that of a sweep in a bag."""
    return _ITEM.fullmatch(path) is not None


def open_bag(bag: Path) -> Any:
    """The opened reader of a bag (``rosbags.highlevel.AnyReader``). Raises ``SampleError`` where it is none,
    ``MissingDependencyError`` without rosbags."""
    try:
        from rosbags.highlevel import AnyReader, AnyReaderError
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise MissingDependencyError("rosbags", "bags", f"reading {bag}") from error
    try:
        reader = AnyReader([bag], default_typestore=get_typestore(Stores.LATEST))
        reader.open()
    except (AnyReaderError, OSError, ValueError, KeyError) as error:
        raise SampleError(str(bag), f"not a ROS bag that can be read: {error}") from error
    return reader


@lru_cache(maxsize=4)
def _kept(bag: Path, process: int) -> Any:
    """A bag stays open; each ``process`` opens its own, since a file that is shared has one position."""
    return open_bag(bag)


def read_bag(path: str, options: ReadOptions) -> RawCloud:
    """The fields of one number each, by their names. Raises ``SampleError``."""
    found = _ITEM.fullmatch(path)
    assert found is not None, path
    bag, topic, time = Path(found[1]), found[2], int(found[3])
    reader = _kept(bag, os.getpid())
    connections = [connection for connection in reader.connections if connection.topic == topic]
    message = next(iter(reader.messages(connections, time, time + 1)), None) if connections else None
    if message is None:
        raise SampleError(path, "the bag has no such message")
    cloud = reader.deserialize(message[2], message[0].msgtype)
    return from_fields(path, _fields(path, cloud, options))


def _fields(path: str, cloud: Any, options: ReadOptions) -> dict[str, np.ndarray]:
    """The columns of a PointCloud2, each [N]."""
    count, step = int(cloud.width) * int(cloud.height), int(cloud.point_step)
    check_points(path, count, options.max_points)
    order = ">" if cloud.is_bigendian else "<"
    single = [field for field in cloud.fields if field.count == 1 and field.name.lower() not in _PACKED]
    try:
        kind = np.dtype(
            {
                "names": [field.name for field in single],
                "formats": [order + _KINDS[field.datatype] for field in single],
                "offsets": [int(field.offset) for field in single],
                "itemsize": step,
            }
        )
        rows = np.frombuffer(cloud.data, dtype=np.uint8).reshape(int(cloud.height), int(cloud.row_step))
        table = np.ascontiguousarray(rows[:, : step * int(cloud.width)]).reshape(-1).view(kind)
    except (KeyError, ValueError) as error:
        raise SampleError(path, f"its fields contradict its size: {error}") from error
    return {field.name: table[field.name].astype(table[field.name].dtype.newbyteorder("=")) for field in single}
