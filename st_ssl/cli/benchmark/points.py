"""Sparse convolution on a scanned room and on a sweep beside spconv's, and sampling of points beside open3d's."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from st_ssl.cli.benchmark.timing import compare
from st_ssl.core.errors import MissingDependencyError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import PointBatch
from st_ssl.data.streams.points.base import ReadOptions
from st_ssl.data.streams.points.bin import read_bin
from st_ssl.data.synthetic.drives.scan import SyntheticDriveConfig, scan_sweep
from st_ssl.encoders.second import Second, SecondConfig
from st_ssl.encoders.sparse_unet import VOXEL_SIZE, SparseUNet, SparseUNetConfig
from st_ssl.ops.neighbours import gather_points, nearest
from st_ssl.ops.sampling import farthest_points
from st_ssl.ops.sparse import Backend, SparseConv3d, SparseTensor
from st_ssl.ops.voxels import voxelise
from st_ssl.report.viewers import require_open3d

CHANNELS = 32
PATCHES, NEIGHBOURS, POINTS = 64, 32, 1024  # of Point-MAE


def sparse(arguments: argparse.Namespace) -> None:
    """Print the time of one convolution, neighbour search included, and of a training step of the whole network."""
    backends = _backends(arguments)
    points = scanned_room(arguments.voxels)
    coords, _, _ = voxelise(points.xyz, points.offsets, VOXEL_SIZE)
    coords[:, 1:] -= coords[:, 1:].amin(0)
    x, y, z = (coords[:, 1:].amax(0) + 1).tolist()
    room = SparseTensor(torch.randn(len(coords), CHANNELS), coords, (x, y, z), 1)
    print(f"a room of {len(room):,} voxels of 2 cm ({x} × {y} × {z}), {torch.get_num_threads()} threads")
    title = f"submanifold 3³, {CHANNELS} to {CHANNELS}, neighbour search, forward, backward"
    convolutions: dict[str, Callable[[], object]] = {name: _convolution(name, room) for name in backends}
    compare(title, convolutions, arguments.runs)
    steps: dict[str, Callable[[], object]] = {name: _step(name, points, arguments) for name in backends}
    compare(f"a training step of sparse_unet, {arguments.variant}", steps, arguments.runs)


def sweep(arguments: argparse.Namespace) -> None:
    """Print the time of SECOND's backbone on the voxels of a sweep: neighbour search, forward and backward."""
    backends = _backends(arguments)
    points = _sweep(arguments.file)
    networks = {name: _backbone(name, arguments.residual) for name in backends}
    voxels = networks["torch"].voxelise(points)
    x, y, z = SecondConfig().voxel
    where = f"{len(voxels):,} voxels of {x:g} × {y:g} × {z:g} m"
    title = f"SECOND's backbone, {where}, forward and backward, {torch.get_num_threads()} threads"

    def step(network: Second) -> None:
        network.zero_grad()
        network.stages(voxels)[-1].features.square().mean().backward()

    compare(title, {name: partial(step, network) for name, network in networks.items()}, arguments.runs)


def _sweep(file: str | None) -> PointBatch:
    """The sweep in a file of x, y, z and intensity, or a planted one of 64 beams."""
    if file is None:
        cloud = scan_sweep(SyntheticDriveConfig(beams=64, columns=1800), "train", 0, 0).cloud
        values = torch.from_numpy(np.concatenate([cloud.xyz, cloud.attributes["intensity"]], 1))
    else:
        table = read_bin(file, ReadOptions(bin_columns=4)).table
        assert table is not None
        values = torch.from_numpy(table.astype(np.float32))
    return PointBatch(values[:, :3], torch.tensor([0, len(values)]), {"intensity": values[:, 3:]})


def _backends(arguments: argparse.Namespace) -> list[Backend]:
    if arguments.peer and find_spec("spconv") is None:
        raise MissingDependencyError("spconv", "points", "--peer spconv")
    return ["torch", *arguments.peer]


def _backbone(backend: Backend, residual: bool) -> Second:
    torch.manual_seed(0)
    widths = (16, 32, 64, 128) if residual else (16, 32, 64, 64)
    config = SecondConfig(widths=widths, residual=residual, backend=backend)
    return Second(config, PointInputConfig(num_points=None, unit_sphere=False, attributes=("intensity",)))


def sampling(arguments: argparse.Namespace) -> None:
    """Print the time of sampling a large cloud beside open3d's, and of cutting a batch into patches beside the usual
    loop."""
    open3d = require_open3d("benchmark sampling")
    generator = torch.Generator().manual_seed(0)
    large = torch.randn(arguments.points, 3, generator=generator)
    theirs = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(large.numpy().astype(np.float64)))
    batch = torch.randn(arguments.batch, POINTS, 3, generator=generator)
    title = f"farthest points, {arguments.points} to {arguments.samples}, {torch.get_num_threads()} threads"
    samplers: dict[str, Callable[[], object]] = {
        "st_ssl": lambda: farthest_points(large[None], arguments.samples),
        "open3d": lambda: theirs.farthest_point_down_sample(arguments.samples),
    }
    compare(title, samplers, arguments.runs)
    title = f"{arguments.batch} clouds, farthest points, {POINTS} to {PATCHES}, {NEIGHBOURS} nearest of each"
    compare(title, {"st_ssl": lambda: _patches(batch), "usual loop": lambda: _usual_patches(batch)}, arguments.runs)


def _patches(xyz: Tensor) -> Tensor:
    centres = gather_points(xyz, farthest_points(xyz, PATCHES))
    return nearest(centres, xyz, NEIGHBOURS)[1]


def _usual_patches(xyz: Tensor) -> Tensor:
    """Farthest points by a masked update and a maximum, neighbours by ``cdist`` and ``topk``."""
    batch, num_points, _ = xyz.shape
    rows = torch.arange(batch)
    picked = torch.zeros(batch, PATCHES, dtype=torch.int64)
    distance = torch.full((batch, num_points), torch.inf)
    last = torch.zeros(batch, dtype=torch.int64)
    for step in range(PATCHES):
        picked[:, step] = last
        squares = ((xyz - xyz[rows, last].unsqueeze(1)) ** 2).sum(-1)
        closer = squares < distance
        distance[closer] = squares[closer]
        last = distance.max(-1).indices
    return torch.cdist(xyz[rows[:, None], picked], xyz).topk(NEIGHBOURS, largest=False).indices


def _convolution(backend: Backend, room: SparseTensor) -> Callable[[], object]:
    torch.manual_seed(0)
    layer = SparseConv3d(CHANNELS, CHANNELS, 3, backend=backend)
    weights = torch.randn_like(room.features)

    def run() -> None:
        layer.zero_grad()
        x = SparseTensor(room.features.detach().requires_grad_(), room.coords, room.shape, 1)
        layer(x).features.backward(weights)

    return run


def _step(backend: Backend, points: PointBatch, arguments: argparse.Namespace) -> Callable[[], Tensor]:
    torch.manual_seed(0)
    config = SparseUNetConfig(variant=arguments.variant, backend=backend)
    network = SparseUNet(config, PointInputConfig(voxel_size=VOXEL_SIZE, attributes=("color",)))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def run() -> Tensor:
        optimizer.zero_grad()
        features = network(points).points
        assert features is not None
        loss = features.square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return run


def scanned_room(num_voxels: int, seed: int = 0) -> PointBatch:
    """Coloured points on the walls, the floor and the furniture of a room, turned about the vertical axis, as five
    stands of a scanner see it: fewer the further away, and 3 mm off the surface. About ``num_voxels`` of 2 cm."""
    rng = keyed_rng(seed)
    side = 3.75 * (num_voxels / 150_000) ** 0.5
    height = min(2.5, side)
    lengths = np.array([side * 1.1, side * 0.9, height])
    faces = [np.array([[0, 0, 0], np.diag(lengths)[i], np.diag(lengths)[j]]) for i, j in ((0, 1), (0, 2), (1, 2))]
    faces.append(faces[2] + np.array([[lengths[0], 0, 0], [0, 0, 0], [0, 0, 0]]))
    for _ in range(8):
        corner = rng.uniform(0, [side * 0.8, side * 0.7, 0.01])
        angle, (long, deep, tall) = rng.uniform(0, np.pi), rng.uniform(0.1, 0.26, 3) * min(side, 3.75)
        along = long * np.array([np.cos(angle), np.sin(angle), 0])
        across = deep * np.array([-np.sin(angle), np.cos(angle), 0])
        up = np.array([0, 0, tall])
        faces += [np.array(f) for f in ((corner + up, along, across), (corner, along, up), (corner, across, up))]
    parts = []
    for start, u, v in faces:
        number = int(12_000 * np.linalg.norm(u) * np.linalg.norm(v))
        parts.append(start + rng.random((number, 1)) * u + rng.random((number, 1)) * v)
    xyz = np.concatenate(parts)
    unseen = np.ones(len(xyz))
    for _ in range(5):
        stand = rng.uniform(0.2, 0.6, 3) * lengths
        unseen *= 1 - 0.9 * np.minimum(0.6 / np.square(xyz - stand).sum(1), 1)
    xyz = xyz[rng.random(len(xyz)) > unseen]
    turn = np.array([[np.cos(0.4), np.sin(0.4), 0], [-np.sin(0.4), np.cos(0.4), 0], [0, 0, 1]])
    xyz = xyz @ turn + rng.normal(scale=0.003, size=xyz.shape)
    colour = torch.from_numpy(rng.random(xyz.shape, dtype=np.float32))
    return PointBatch(torch.from_numpy(xyz).float(), torch.tensor([0, len(xyz)]), {"color": colour})
