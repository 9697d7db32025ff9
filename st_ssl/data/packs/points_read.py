"""Packs of clouds: see ``read_pack.py``. A cloud is a safetensors file that holds it to the last bit."""

from __future__ import annotations

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from st_ssl.core.errors import SampleError
from st_ssl.core.types import PointCloud
from st_ssl.data.packs.points_index import CloudTable
from st_ssl.data.packs.read_pack import Pack

_ATTRIBUTE, _LABEL = "attributes.", "labels."


def encode(cloud: PointCloud) -> bytes:
    """``xyz``, ``attributes.<name>``, ``labels.<name>``, ``pose`` and ``time`` as they are, in the smallest type that
    holds them: bytes for attributes that are n / 255 (colours of most files), few bits for labels."""
    arrays = {"xyz": cloud.xyz}
    arrays |= {_ATTRIBUTE + name: _as_bytes(values) for name, values in cloud.attributes.items()}
    arrays |= {_LABEL + name: _as_small(values) for name, values in cloud.labels.items()}
    if cloud.pose is not None:
        arrays["pose"] = cloud.pose
    if cloud.time is not None:
        arrays["time"] = np.array([cloud.time], dtype=np.float64)
    return save({name: np.ascontiguousarray(values) for name, values in arrays.items()})


def decode(path: str, data: bytes) -> PointCloud:
    """The inverse of ``encode``; ``SampleError`` where ``data`` is no cloud."""
    try:
        arrays = load(data)
    except (SafetensorError, ValueError) as error:
        raise SampleError(path, f"not a safetensors file: {error}") from error
    attributes, labels = {}, {}
    for name in sorted(arrays):
        values = arrays[name]
        if name.startswith(_ATTRIBUTE):
            attributes[name.removeprefix(_ATTRIBUTE)] = _of_bytes(values) if values.dtype == np.uint8 else values
        elif name.startswith(_LABEL):
            labels[name.removeprefix(_LABEL)] = values.astype(np.int64)
    time = float(arrays["time"][0]) if "time" in arrays else None
    return PointCloud(arrays["xyz"], attributes, labels, arrays.get("pose"), time)


def _as_bytes(values: np.ndarray) -> np.ndarray:
    if not len(values) or values.min() < 0 or values.max() > 1:
        return values
    small = np.rint(values * 255).astype(np.uint8)
    same = np.array_equal(_of_bytes(small).view(np.int32), np.ascontiguousarray(values).view(np.int32))
    return small if same else values


def _of_bytes(values: np.ndarray) -> np.ndarray:
    return (values / 255.0).astype(np.float32)


def _as_small(values: np.ndarray) -> np.ndarray:
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    kinds = (kind for kind in (np.int8, np.int16, np.int32) if np.iinfo(kind).min <= low <= high <= np.iinfo(kind).max)
    return values.astype(next(kinds, np.int64))


class CloudPack(Pack[PointCloud]):
    """A pack of clouds to read from."""

    items, suffix, crashed = "clouds", ".safetensors", "the reader crashed on it"
    table = CloudTable

    def made(self, path: str, data: bytes, table: CloudTable) -> PointCloud:
        cloud = decode(path, data)
        if len(cloud) != table.num_points:
            raise SampleError(path, f"has {len(cloud)} points, and {table.num_points} by the list of its shard")
        return cloud

    def decode(self, sample: PointCloud) -> None:
        """A cloud is whole once it is open."""
