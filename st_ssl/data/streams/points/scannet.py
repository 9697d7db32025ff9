"""Scenes of ScanNet (Dai et al., 2017) as they come: places and colours in one file, labels in the one beside it."""

from __future__ import annotations

import os

import numpy as np

from st_ssl.core.errors import SampleError
from st_ssl.data.streams.points.base import RawCloud, ReadOptions
from st_ssl.data.streams.points.ply import read_vertices

SCENE, LABELS = "_vh_clean_2.ply", "_vh_clean_2.labels.ply"
CLASSES = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture"),
    *("counter", "desk", "curtain", "refrigerator", "shower curtain", "toilet", "sink", "bathtub", "otherfurniture"),
)
"""The classes of the benchmark, in its order, which is that of ``segment20`` of Pointcept."""
_NYU40 = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39)
_MOST = 40


def is_scannet(path: str) -> bool:
    """Whether a file is a scene of ScanNet, by its name."""
    return path.endswith(SCENE)


def read_scannet(path: str, options: ReadOptions) -> RawCloud:
    """The vertices of ``sceneXXXX_XX_vh_clean_2.ply`` with their colours; where ``…_vh_clean_2.labels.ply`` is beside
    it, ``segment`` is the class of the benchmark (0 to 19: see ``CLASSES``) of the NYU40 id of each vertex, and -1 for
    all other ids. ``SampleError`` where it has another number of vertices, or no ids."""
    cloud = read_vertices(path, options)
    file = path.removesuffix(SCENE) + LABELS
    cloud.labels.clear()
    if not os.path.isfile(file):
        return cloud
    labels = read_vertices(file, options).labels.get("segment")
    name = os.path.basename(file)
    if labels is None:
        raise SampleError(path, f"{name} has no property `label` of its vertices")
    if len(labels) != len(cloud):
        raise SampleError(path, f"{name} has {len(labels)} vertices, and the scene {len(cloud)}: expected the same")
    ids = np.clip(labels.astype(np.int64), -1, _MOST + 1)
    table = np.full(_MOST + 3, -1, dtype=np.int64)  # the last two are for what is beyond either end
    table[list(_NYU40)] = np.arange(len(_NYU40))
    cloud.labels["segment"] = table[ids]
    return cloud
