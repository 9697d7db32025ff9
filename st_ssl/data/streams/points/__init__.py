"""Readers of clouds: one file for each family of formats, chosen by how the name of the file ends."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from st_ssl.core.errors import SampleError, nearest, sample_fault
from st_ssl.core.types import PointCloud
from st_ssl.data.streams import limits
from st_ssl.data.streams.points.arrays import read_npy, read_npz
from st_ssl.data.streams.points.bags import is_bag_item, read_bag
from st_ssl.data.streams.points.base import CloudReader, RawCloud, ReadOptions, clean
from st_ssl.data.streams.points.bin import read_bin
from st_ssl.data.streams.points.hdf5 import read_hdf5, split_item
from st_ssl.data.streams.points.las import read_las
from st_ssl.data.streams.points.meshes import read_obj, read_off, read_stl
from st_ssl.data.streams.points.pcd import read_pcd
from st_ssl.data.streams.points.pickled import read_few_shot
from st_ssl.data.streams.points.ply import read_ply
from st_ssl.data.streams.points.scannet import is_scannet, read_scannet
from st_ssl.data.streams.points.scenes import is_scene, read_scene
from st_ssl.data.streams.points.text import read_text
from st_ssl.data.streams.points.understand import understand

__all__ = ["READERS", "ReadOptions", "is_cloud", "is_scene", "read_cloud", "read_counted", "read_raw", "split_item"]

READERS: dict[str, CloudReader] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".bin": read_bin,
    ".ply": read_ply,
    ".pcd": read_pcd,
    ".xyz": read_text,
    ".txt": read_text,
    ".pts": read_text,
    ".asc": read_text,
    ".csv": read_text,
    ".off": read_off,
    ".obj": read_obj,
    ".stl": read_stl,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".las": read_las,
    ".laz": read_las,
    ".pkl": read_few_shot,
}
_IN_PIECES = (read_bag, read_npy, read_npz, read_hdf5, read_las)  # the others take all of a file into memory
_ONLY_LISTED = (".pkl",)  # beside clouds these are anything


def is_cloud(name: str) -> bool:
    """Whether a file name ends like that of a cloud."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix in READERS and suffix not in _ONLY_LISTED


def read_cloud(path: str | Path, options: ReadOptions | None = None) -> PointCloud:
    """The cloud at ``path``: a file, one of a file of many (``train0.h5#17``), or a folder that is a scene.

    Points that are nowhere (NaN, infinity) are left out. Raises ``SampleError`` with a short reason when this cloud
    cannot be used, whatever is wrong with it, and ``MissingDependencyError`` when the package for its format is not
    installed.
    """
    return read_counted(path, options)[0]


def read_counted(path: str | Path, options: ReadOptions | None = None) -> tuple[PointCloud, int]:
    """As ``read_cloud``, with the number of points left out."""
    path, options = str(path), options or ReadOptions()
    with sample_fault(path), np.errstate(all="ignore"):  # what is too large for a number is nowhere
        return clean(path, understand(path, read_raw(path, options), options))


def read_raw(path: str, options: ReadOptions) -> RawCloud:
    """The numbers of the cloud at ``path`` as they are in its file."""
    reader = _reader(path)
    if reader not in _IN_PIECES:
        limits.check_whole(split_item(path)[0], options.max_points)
    return reader(path, options)


def _reader(path: str) -> CloudReader:
    suffix = os.path.splitext(split_item(path)[0])[1].lower()
    if is_bag_item(path):
        return read_bag
    if is_scene(path):
        return read_scene
    if is_scannet(path):
        return read_scannet
    if suffix in READERS:
        return READERS[suffix]
    if os.path.isdir(path):
        raise SampleError(path, "a folder that is no scene: expected coord.npy or Annotations in it")
    raise SampleError(path, f"no reader for {suffix or 'no extension'!r}{nearest(suffix, READERS)}")
