"""Readers of clouds: one file for each family of formats, chosen by how the name of the file ends."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from st_ssl.core.errors import SampleError, nearest
from st_ssl.core.types import PointCloud
from st_ssl.data.streams.points.arrays import read_npy, read_npz
from st_ssl.data.streams.points.base import CloudReader, ReadOptions, clean
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

__all__ = ["READERS", "ReadOptions", "is_cloud", "is_scene", "read_cloud", "read_counted", "split_item"]

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
_ONLY_LISTED = (".pkl",)  # beside clouds these are anything


def is_cloud(name: str) -> bool:
    """Whether a file name ends like that of a cloud."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix in READERS and suffix not in _ONLY_LISTED


def read_cloud(path: str | Path, options: ReadOptions | None = None) -> PointCloud:
    """The cloud at ``path``: a file, one of a file of many (``train0.h5#17``), or a folder that is a scene.

    Points that are nowhere (NaN, infinity) are left out. Raises ``SampleError`` with a short reason when this cloud
    cannot be used, and ``MissingDependencyError`` when the package for its format is not installed.
    """
    return read_counted(path, options)[0]


def read_counted(path: str | Path, options: ReadOptions | None = None) -> tuple[PointCloud, int]:
    """As ``read_cloud``, with the number of points left out."""
    path = str(path)
    file, _ = split_item(path)
    suffix = os.path.splitext(file)[1].lower()
    if is_scene(path):
        reader: CloudReader = read_scene
    elif is_scannet(path):
        reader = read_scannet
    elif suffix in READERS:
        reader = READERS[suffix]
    elif os.path.isdir(path):
        raise SampleError(path, "a folder that is no scene: expected coord.npy or Annotations in it")
    else:
        raise SampleError(path, f"no reader for {suffix or 'no extension'!r}{nearest(suffix, READERS)}")
    try:
        with np.errstate(all="ignore"):  # what is too large for a number is nowhere
            return clean(path, reader(path, options or ReadOptions()))
    except MemoryError as error:
        raise SampleError(path, "does not fit into memory") from error
