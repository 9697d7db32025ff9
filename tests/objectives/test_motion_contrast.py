from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from st_ssl.objectives.motion_contrast import double_triplet, queue_contrast
from tests.ddp import run_ranks


def rows(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, 5, generator=generator, dtype=torch.float64), dim=1)


def four() -> list[Tensor]:
    return [rows(4, seed).requires_grad_() for seed in range(3)]


def dot(x: Tensor, y: Tensor) -> Tensor:
    return sum((x[d] * y[d] for d in range(5)), torch.zeros((), dtype=torch.float64))


def test_queue_contrast_and_its_gradients_by_hand() -> None:
    query, key, negative = four()
    queue = rows(7, 9)
    terms, found = [], 0.0
    for i in range(4):
        scores = [dot(query[i], other) / 0.2 for other in (key[i], negative[i], *queue)]
        terms.append(-(scores[0] - torch.stack([score.exp() for score in scores]).sum().log()))
        found += float(scores[0] == max(scores))
    expected = sum(terms, torch.zeros((), dtype=torch.float64)) / 4
    loss, accuracy = queue_contrast(query, key, negative, queue, 0.2)
    torch.testing.assert_close(loss, expected)
    assert accuracy == found / 4
    for got, truth in zip(
        torch.autograd.grad(loss, [query, negative]), torch.autograd.grad(expected, [query, negative]), strict=True
    ):
        torch.testing.assert_close(got, truth)
        assert got.abs().sum() > 0


def slow_triplet(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    def distance(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([(x[d] - y[d] + 1e-6) ** 2 for d in range(5)]).sum().sqrt()

    total, count = torch.zeros((), dtype=torch.float64), len(anchor)
    for i in range(count):
        for other in (i, count - 1 - i):
            gap = margin + distance(anchor[i], positive[i]) - distance(anchor[i], negative[other])
            total = total + (gap if gap > 0 else 0)
    return total / count


@pytest.mark.parametrize("margin", [0.1, 0.5, 3.0])
def test_double_triplet_and_its_gradients_by_hand(margin: float) -> None:
    parts = four()
    anchor, positive, negative = parts
    loss = double_triplet(anchor, positive, negative, margin)
    expected = slow_triplet(anchor, positive, negative, margin)
    torch.testing.assert_close(loss, expected)
    for got, truth in zip(torch.autograd.grad(loss, parts), torch.autograd.grad(expected, parts), strict=True):
        torch.testing.assert_close(got, truth)


def test_known_limits() -> None:
    x, y = torch.eye(5, dtype=torch.float64)[:2], torch.eye(5, dtype=torch.float64)[2:4]
    assert double_triplet(x, x, y, 0.5) < 1e-6  # sqrt(2) from all negatives
    torch.testing.assert_close(double_triplet(x, y, y, 0.5), torch.tensor(1.0, dtype=torch.float64))
    loss, _ = queue_contrast(x, y, y, torch.zeros(6, 5, dtype=torch.float64))  # all products are 0
    assert loss.item() == pytest.approx(math.log(8))


def in_parts(rank: int, world_size: int) -> list[Tensor]:
    share = slice(rank * 4 // world_size, (rank + 1) * 4 // world_size)
    parts = [part.detach()[share].requires_grad_() for part in four()]
    anchor, positive, negative = parts
    loss = double_triplet(anchor, positive, negative)
    loss.backward()
    return [loss.detach(), *(part.grad for part in parts if part.grad is not None)]


@pytest.mark.ddp
def test_two_processes_are_one(tmp_path: Path) -> None:
    whole, halves = in_parts(0, 1), run_ranks(in_parts, 2, tmp_path)
    torch.testing.assert_close((halves[0][0] + halves[1][0]) / 2, whole[0])
    for number in (1, 2, 3):
        torch.testing.assert_close(torch.cat([half[number] for half in halves]) / 2, whole[number])
