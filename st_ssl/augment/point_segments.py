"""Over-segmentation of a scene without labels: the surfaces that dominate it are background, what is left falls into
objects, and both are cut into segments. In the worker, once for all views of a cloud. N points, M voxels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from pydantic import Field

from st_ssl.augment.point_cuts import voxel_keys
from st_ssl.core.config import Config
from st_ssl.core.types import PointCloud

REGION, FOREGROUND = "region", "foreground"
"""The labels that ``segmented`` adds."""


class SegmentsConfig(Config):
    """How a scene is cut; lengths in the unit of its points, metres.

    Points are merged in voxels of ``voxel_size``, so that what is near a scanner does not count more. A voxel is smooth
    where the surface variation (Pauly et al. 2002) of its ``neighbours`` is below ``variation``; smooth neighbours
    within ``reach`` whose normals differ by less than ``angle`` degrees are of one surface. A surface with
    ``background_share`` of all voxels is background, with what lies in its plane beside it. All other neighbours within
    ``reach`` are of one object. Surfaces and objects are cut into segments around points that are ``size`` apart, and
    those of fewer than ``min_points`` points are none.
    """

    voxel_size: float = Field(default=0.05, gt=0)
    neighbours: int = Field(default=10, ge=3)
    variation: float = Field(default=0.02, gt=0)
    angle: float = Field(default=15.0, gt=0, le=90)
    reach: float = Field(default=0.25, gt=0)
    background_share: float = Field(default=0.05, gt=0, le=1)
    size: float = Field(default=1.0, gt=0)
    min_points: int = Field(default=8, gt=0)


def segmented(cloud: PointCloud, config: SegmentsConfig) -> PointCloud:
    """``cloud`` with the labels ``region``, the segment of each point from 0 on (-1: none), and ``foreground``, 1 or 0
    (0 where there is no segment)."""
    region, foreground = oversegment(cloud.xyz, config)
    return replace(cloud, labels={**cloud.labels, REGION: region, FOREGROUND: foreground.astype(np.int64)})


def oversegment(xyz: np.ndarray, config: SegmentsConfig) -> tuple[np.ndarray, np.ndarray]:
    """The segment of each point of ``xyz`` [N, 3], int64 [N] from 0 on (-1: none), and whether it is foreground, bool
    [N]. The points of a segment are all foreground or all background."""
    place, voxel = _voxels(xyz.astype(np.float64), config.voxel_size)
    if len(place) <= 3:  # no surface to speak of
        return np.full(len(xyz), -1), np.zeros(len(xyz), dtype=bool)
    graph = _Graph.of(place, config.neighbours, config.reach)
    part, background = _surfaces(graph, config)
    objects = graph.components(~background[graph.a] & ~background[graph.b])
    part = np.where(background, part, objects + len(place))
    region = _pieces(place, part, config.size)[voxel]
    _, region, counts = np.unique(region, return_inverse=True, return_counts=True)
    kept = counts >= config.min_points
    number = np.where(kept, np.cumsum(kept) - 1, -1)
    region = number[region.reshape(-1)]
    return region, ~background[voxel] & (region >= 0)


@dataclass(frozen=True)
class _Graph:
    """Voxels at ``place`` [M, 3] with the unit ``normal`` and the ``variation`` of the surface there; edges from ``a``
    to ``b``, int64, to the nearest within reach."""

    place: np.ndarray
    normal: np.ndarray
    variation: np.ndarray
    a: np.ndarray
    b: np.ndarray

    @classmethod
    def of(cls, place: np.ndarray, neighbours: int, reach: float) -> _Graph:
        from scipy.spatial import cKDTree

        k = min(neighbours, len(place) - 1)
        distance, near = cKDTree(place).query(place, k=k + 1)
        around = place[near] - place[near].mean(1, keepdims=True)
        spread, axes = np.linalg.eigh(around.transpose(0, 2, 1) @ around)
        variation = spread[:, 0] / np.maximum(spread.sum(1), 1e-12)
        close = (distance[:, 1:] <= reach).reshape(-1)
        a, b = np.repeat(np.arange(len(place)), k)[close], near[:, 1:].reshape(-1)[close]
        return cls(place, axes[:, :, 0], variation, a, b)

    def components(self, edges: np.ndarray) -> np.ndarray:
        """The connected component of each voxel over the chosen ``edges`` (bool), int64 [M]."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        size = len(self.place)
        chosen = coo_matrix((np.ones(int(edges.sum())), (self.a[edges], self.b[edges])), shape=(size, size))
        found: np.ndarray = connected_components(chosen, directed=False)[1]
        return found.astype(np.int64)


def _voxels(xyz: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray]:
    """The means of the points of each voxel [M, 3], and the voxel of each point int64 [N]."""
    voxel = np.unique(voxel_keys(xyz, size)[0], return_inverse=True)[1]
    counts = np.bincount(voxel)
    return np.stack([np.bincount(voxel, xyz[:, i]) for i in range(3)], axis=1) / counts[:, None], voxel


def _surfaces(graph: _Graph, config: SegmentsConfig) -> tuple[np.ndarray, np.ndarray]:
    """The smooth surface that each voxel is of, int64 [M], and whether that one is background, bool [M]."""
    a, b, smooth = graph.a, graph.b, graph.variation < config.variation
    alike = np.abs((graph.normal[a] * graph.normal[b]).sum(1)) > math.cos(math.radians(config.angle))
    surface = graph.components(smooth[a] & smooth[b] & alike)
    background = np.bincount(surface)[surface] >= config.background_share * len(surface)
    # The rim of a wall is not smooth: what lies in the plane of a neighbour in it is of it, and so is the next.
    height = np.abs(((graph.place[a] - graph.place[b]) * graph.normal[b]).sum(1))
    for _ in range(2):
        joins = np.flatnonzero(background[b] & ~background[a] & (height < config.voxel_size))
        surface[a[joins]], background[a[joins]] = surface[b[joins]], True
    return surface, background


def _pieces(place: np.ndarray, part: np.ndarray, size: float) -> np.ndarray:
    """Each part cut up around seeds: those of a part are more than ``size`` apart, every voxel is within ``size`` of
    one, and goes to the nearest. Names of the pieces, int64 [M]."""
    net = _Net(place, part, size)
    while net.open.any():
        for colour in range(8):
            net.sow(colour)
    return net.pieces()


_STEPS = 4096  # to a cell: places are whole numbers, so that the last bit of a mean breaks no tie
_AROUND = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(27, 3)


class _Net:
    """Seeds found cell by cell of a grid whose side is ``size``. Cells have eight colours, as on a chessboard: two of
    one colour are a cell apart, so that their seeds are found at the same time. A cell has room for a few seeds, and
    its voxels are compared with those of the 27 cells around: the cost is linear in M.

    Voxels are kept in the order of their cells. ``open`` bool [M]: those that no seed is near yet; ``compared``: how
    often a voxel was compared with a seed.
    """

    def __init__(self, place: np.ndarray, part: np.ndarray, size: float) -> None:
        steps = np.rint((place - place.min(0)) * (_STEPS / size)).astype(np.int64)
        at = np.stack([_ranks(axis) for axis in (steps // _STEPS).T], 1)
        part, extent = np.unique(part, return_inverse=True)[1].reshape(-1), at.max(0) + 3

        def key(part: np.ndarray, at: np.ndarray) -> np.ndarray:
            x, y, z = (at[..., axis] + 1 for axis in range(3))
            found: np.ndarray = ((part * extent[0] + x) * extent[1] + y) * extent[2] + z
            return found

        own = key(part, at)
        self.order = np.argsort(own, kind="stable")
        cells, first, self.cell, self.count = np.unique(
            own[self.order], return_index=True, return_inverse=True, return_counts=True
        )
        self.first, at, part = first, at[self.order[first]], part[self.order[first]]
        around = key(part[:, None], at[:, None] + _AROUND)
        found = np.minimum(np.searchsorted(cells, around), len(cells) - 1)
        self.around = np.where(cells[found] == around, found, len(cells)).T
        self.colour = at % 2 @ [4, 2, 1]
        self.steps = steps[self.order]
        self.off = ((self.steps % _STEPS - _STEPS // 2) ** 2).sum(1)
        self.seed, self.open = np.full(len(place), -1), np.ones(len(place), dtype=bool)
        self.squared, self.limit = np.full(len(place), np.iinfo(np.int64).max), _STEPS**2
        self.compared = 0

    def sow(self, colour: int) -> None:
        """In each cell of ``colour`` with open voxels the one that is nearest to the middle of the cell is a seed."""
        asked = np.flatnonzero(self.open & (self.colour == colour)[self.cell])
        asked = asked[np.lexsort((self.off[asked], self.cell[asked]))]
        cells, at = np.unique(self.cell[asked], return_index=True)
        seeds = np.full(len(self.first) + 1, -1)  # the last for cells that are empty
        seeds[cells] = asked[at]
        for around in self.around if len(cells) else ():
            near = seeds[around]
            cells = np.flatnonzero(near >= 0)
            count = self.count[cells]
            rows = np.arange(count.sum()) + np.repeat(self.first[cells] - np.cumsum(count) + count, count)
            seed = np.repeat(near[cells], count)
            squared = ((self.steps[rows] - self.steps[seed]) ** 2).sum(1)
            closer = squared < self.squared[rows]
            self.seed[rows[closer]], self.squared[rows[closer]] = seed[closer], squared[closer]
            self.compared += len(rows)
        self.open = self.squared > self.limit

    def pieces(self) -> np.ndarray:
        """The seed of each voxel, both in the order in which they were given: int64 [M]."""
        found = np.empty_like(self.seed)
        found[self.order] = self.order[self.seed]
        return found


def _ranks(cell: np.ndarray) -> np.ndarray:
    """Numbers that are neighbours where ``cell`` [M] are, and otherwise two apart: a stray point makes no wide grid."""
    values, rank = np.unique(cell, return_inverse=True)
    found: np.ndarray = np.cumsum(np.minimum(np.diff(values, prepend=values[0]), 2))[rank.reshape(-1)]
    return found
