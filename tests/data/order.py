"""What holds of every data set, of videos and of clouds."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

from st_ssl.data.base import Batch
from st_ssl.data.loading.loader import build_loader
from st_ssl.data.loading.sample_dataset import SampleDataset, collate
from st_ssl.data.loading.sample_order import Order, StepSampler


def check_workers_and_order(dataset: SampleDataset, tensors: Callable[[Batch], list[Tensor]]) -> None:
    """Twelve samples are the same for any number of workers and in any order, as ``tensors`` of their batches tell."""
    order = Order(3, num_samples=12, batch_size=4)
    runs = [list(build_loader(dataset, StepSampler(order, 0, 6), collate, workers)) for workers in (0, 1, 2)]
    for batches in zip(*runs, strict=True):
        alone, *others = map(tensors, batches)
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(alone, other, strict=True))
        assert batches[0].bad == batches[1].bad == batches[2].bad
    steps = list(range(6))
    random.Random(0).shuffle(steps)
    for step in steps:
        again = collate([dataset[key] for key in reversed(order.step(step))])
        flipped = [tensor.flip(0) for tensor in tensors(again)]
        assert all(torch.equal(a, b) for a, b in zip(flipped, tensors(runs[0][step]), strict=True))
