"""A training step of Point-MAE or Point2Vec, and the machine's matrix products."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch

from st_ssl.cli.benchmark.step import operations, trainer
from st_ssl.cli.benchmark.timing import alternate, ratio
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import PointCloud
from st_ssl.data.streams.base import Recording, StillCloud
from st_ssl.data.views import stack
from st_ssl.encoders.point_vit import PointViT, PointViTConfig
from st_ssl.methods.base import METHODS

SIZE, PRODUCTS = 1024, 20


class Work(NamedTuple):
    """A training step and matrix products, and the floating point operations of the step."""

    contestants: dict[str, Callable[[], object]]
    operations: float

    def share(self, seconds: dict[str, list[float]]) -> float:
        """The rate of the step in that of the products meanwhile."""
        return ratio(seconds, "matmul", "step") * self.operations / (2 * SIZE**3 * PRODUCTS)


def points(arguments: argparse.Namespace) -> None:
    """Print the time of a whole step (patches, forward, backward, AdamW) on clouds of noise."""
    work = prepare(arguments)
    seconds = alternate(work.contestants, arguments.runs)
    config = PointViTConfig(variant=arguments.variant)
    shape = f"{config.num_groups} patches of {config.group_size} out of {arguments.points} points"
    how = f"{arguments.precision}, {torch.get_num_threads()} threads"
    print(f"{arguments.method} {arguments.variant}, {shape}, batch {arguments.batch}, {how}")
    taken = median(seconds["step"])
    print(f"{taken * 1e3:.1f} ms a step, {arguments.batch / taken:.1f} clouds/s")
    if arguments.device == "cpu":
        rate = f"{work.operations / taken / 1e9:.0f} GFLOP/s"
        print(f"{rate}: {work.share(seconds):.0%} of what matrix multiplication alone does in fp32 meanwhile")


def prepare(arguments: argparse.Namespace) -> Work:
    """The step of ``arguments.method`` on clouds of noise."""
    config = PointViTConfig(variant=arguments.variant)
    encoder = PointViT(config, PointInputConfig(num_points=arguments.points))
    decoder = {"depth": 4, "heads": config.shape[2]}
    described = {"name": arguments.method, "decoder": decoder}
    method = METHODS.build(METHODS.config(arguments.method).model_validate(described), encoder).to(arguments.device)
    views: Any = method.views
    clouds = [PointCloud(keyed_rng(i).normal(size=(arguments.points, 3)).astype("f4")) for i in range(arguments.batch)]
    streams = [StillCloud(partial(deepcopy, cloud)) for cloud in clouds]
    raw = stack([views.cut(Recording.of(one), (0, i)) for i, one in enumerate(streams)])
    (view,) = views.prepare([part.map(lambda t: t.to(arguments.device)) for part in raw])
    count = operations(method, view)
    step = trainer(method, lambda: method([view])["loss"], arguments)
    matrix = torch.randn(SIZE, SIZE, device=arguments.device)
    return Work({"step": step, "matmul": lambda: [matrix @ matrix for _ in range(PRODUCTS)]}, count)
