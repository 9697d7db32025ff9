"""Every cloud of a source read once: what is in it, and what is broken and why."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import NonNegativeInt, TypeAdapter

from st_ssl.core.errors import SampleError, sample_fault
from st_ssl.core.types import Entry, PointCloud
from st_ssl.data.packs import file_index as records
from st_ssl.data.packs.file_index import Record, take_down
from st_ssl.data.streams.points import ReadOptions, is_scene, read_counted, split_item


@dataclass(frozen=True)
class CloudTable:
    """What is in a cloud: how many points, and how many of the file were left out since they are nowhere; the ends of
    its bounding box in the unit of the file; names of attributes with their number of columns, and of labels with the
    number of classes (-1 left out); ``ids``: the lowest and the highest class of each (tables of older versions have
    none)."""

    num_points: NonNegativeInt
    num_lost: NonNegativeInt
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    attributes: dict[str, int]
    labels: dict[str, int]
    ids: dict[str, tuple[int, int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> CloudTable:
        """The inverse of ``to_json``; raises one of ``NOT_PLAIN`` for anything else."""
        return _TABLE.validate_python(data)

    @property
    def extent(self) -> float:
        """The longest side of the bounding box."""
        return max(high - low for low, high in zip(self.low, self.high, strict=True))


_TABLE = TypeAdapter(CloudTable)


def describe_cloud(cloud: PointCloud, num_lost: int) -> CloudTable:
    """What is in ``cloud``, of which ``num_lost`` points were left out."""
    ends = cloud.xyz.astype(np.float64)
    if cloud.pose is not None:
        ends = ends @ cloud.pose[:3, :3].T + cloud.pose[:3, 3]
    attributes = {name: values.shape[1] for name, values in cloud.attributes.items()}
    classes = {name: np.unique(values[values >= 0]) for name, values in cloud.labels.items()}
    labels = {name: len(found) for name, found in classes.items()}
    ids = {name: (int(found[0]), int(found[-1])) for name, found in classes.items() if len(found)}
    low, high = (tuple(end.tolist()) for end in (ends.min(axis=0), ends.max(axis=0)))
    return CloudTable(len(cloud), num_lost, low, high, attributes, labels, ids)


def survey(
    entries: Sequence[Entry],
    file: Path,
    options: ReadOptions | None = None,
    num_workers: int = 0,
    progress: bool = True,
) -> dict[str, Record[CloudTable]]:
    """Read every cloud and write what is found to ``file``, a line for each: records by absolute path.

    Taken up where it was stopped: clouds that are in the file and have not changed are not read again. One that ends
    the process that reads it is broken. ``MissingDependencyError`` where the package for a format is not installed.
    """
    options = options or ReadOptions()
    paths = list(dict.fromkeys(os.path.abspath(entry.path) for entry in entries))
    how = (partial(_look, options), _fits, CloudTable.from_json, "the reader crashed on it")
    return take_down(paths, file, f"read {options}", *how, num_workers, progress)


def _look(options: ReadOptions, path: str) -> Record[CloudTable]:
    state = state_of(path)
    try:
        with sample_fault(path):
            cloud, lost = read_counted(path, options)
    except SampleError as error:
        return Record(*state, None, error.reason)
    return Record(*state, describe_cloud(cloud, lost), digest=_digest(cloud))


def _digest(cloud: PointCloud) -> str:
    """The same for clouds of the same points, by some of them."""
    some = np.ascontiguousarray(cloud.xyz[:: max(1, len(cloud) // 512)])
    return f"{len(cloud)}-{hashlib.blake2b(some.data, digest_size=12).hexdigest()}"


def _fits(record: Record[CloudTable], path: str) -> bool:
    return (record.size, record.mtime_ns) == state_of(path) != (0, 0)


def state_of(path: str) -> tuple[int, int]:
    """Size in bytes and time of change: of the file that a cloud is in, or of all files of a scene together."""
    file, _ = split_item(path)
    if is_scene(file):
        return records.state_of([os.path.join(folder, name) for folder, _, names in os.walk(file) for name in names])
    return records.state_of([file])


def describe(tables: Iterable[CloudTable]) -> str:
    """What is in some clouds, in a few lines."""
    tables = list(tables)
    if not tables:
        return "no cloud can be read"
    points, extents = [table.num_points for table in tables], [table.extent for table in tables]
    lines = [
        f"{sum(points)} points, {min(points)} to {max(points)} a cloud (median {np.median(points):g})",
        f"extent {min(extents):.4g} to {max(extents):.4g} (median {np.median(extents):.4g})",
    ]
    attributes = Counter(name for table in tables for name in table.attributes)
    lines.append(f"attributes: {_shares(attributes, len(tables)) or 'none'}")
    labels = Counter(name for table in tables for name, classes in table.labels.items() if classes)
    empty = Counter(name for table in tables for name, classes in table.labels.items() if not classes)
    told = [_shares(labels, len(tables)), *(f"{name} of -1 alone in {count}" for name, count in empty.items())]
    lines.append(f"labels of points: {', '.join(filter(None, told)) or 'none'}")
    return "\n".join(lines)


def _shares(counts: Counter[str], total: int) -> str:
    """In how many of ``total`` clouds each is, the commonest first."""
    return ", ".join(f"{name} in {'all' if n == total else n}" for name, n in counts.most_common())
