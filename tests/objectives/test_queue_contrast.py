from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from st_ssl.objectives.queue_contrast import queue_info_nce
from tests.ddp import run_ranks


def drawn(rows: int = 6, past: int = 7, dim: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, rows, dim, dtype=torch.float64, generator=generator)
    queue = normalize(torch.randn(past, dim, dtype=torch.float64, generator=generator), dim=1)
    return queries.requires_grad_(), keys.requires_grad_(), queue


def slow(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float, in_batch: bool) -> Tensor:
    """Equation by equation: one query after the other."""
    keys = torch.stack([key / key.square().sum().sqrt() for key in keys]).detach()
    terms = []
    for i, query in enumerate(queries):
        query = query / query.square().sum().sqrt()
        positive = torch.exp(torch.dot(query, keys[i]) / temperature)
        negatives = [*queue, *([key for k, key in enumerate(keys) if k != i] if in_batch else [])]
        everything = positive
        for negative in negatives:
            everything = everything + torch.exp(torch.dot(query, negative) / temperature)
        terms.append(-torch.log(positive / everything))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("in_batch", [False, True])
@pytest.mark.parametrize("temperature", [0.07, 0.2, 2.0])
@pytest.mark.parametrize("past", [0, 7])
def test_value_and_gradient_of_the_slow_reference(temperature: float, past: int, in_batch: bool) -> None:
    (queries, keys, queue), (others, _, _) = drawn(past=past), drawn()
    loss, _ = queue_info_nce(queries, keys, queue, temperature, in_batch)
    expected = slow(others, keys, queue, temperature, in_batch)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    if not past and not in_batch:
        assert loss.item() == 0  # nothing to tell the key from
        return
    loss.backward()
    expected.backward()
    torch.testing.assert_close(queries.grad, others.grad, rtol=1e-10, atol=1e-12)
    assert keys.grad is None


def test_by_hand() -> None:
    basis = torch.eye(3, dtype=torch.float64)
    loss, accuracy = queue_info_nce(5 * basis[:1], 0.1 * basis[:1], basis[1:], 0.5)
    assert loss.item() == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 2)), abs=1e-12)
    assert accuracy == 1
    loss, accuracy = queue_info_nce(basis[:2], basis[[0, 2]], basis[1:2], 0.5)  # the second is the one in the queue
    first, second = math.exp(2) / (math.exp(2) + 1), 1 / (math.exp(2) + 1)
    assert loss.item() == pytest.approx(-(math.log(first) + math.log(second)) / 2, abs=1e-12)
    assert accuracy == 0.5


def test_half_precision_is_taken_in_float32_also_under_autocast() -> None:
    queries, keys, queue = (x.detach().bfloat16() for x in drawn())
    expected, _ = queue_info_nce(queries.float(), keys.float(), queue.float(), 0.07)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = queue_info_nce(queries, keys, queue, 0.07)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)


def on_one_rank(rank: int, world_size: int) -> dict[str, Tensor]:
    queries, keys, queue = drawn()
    share = 6 // world_size
    rows = slice(rank * share, (rank + 1) * share)
    own = queries.detach()[rows].requires_grad_()
    loss, accuracy = queue_info_nce(own, keys.detach()[rows], queue, 0.2, in_batch=True)
    loss.backward()
    assert own.grad is not None
    return {"gradient": own.grad / world_size, "loss": loss.detach(), "accuracy": accuracy}


@pytest.mark.ddp
def test_processes_together_give_the_gradients_of_one(tmp_path: Path) -> None:
    alone, ranks = on_one_rank(0, 1), run_ranks(on_one_rank, 2, tmp_path)
    together = torch.cat([result["gradient"] for result in ranks])
    torch.testing.assert_close(together, alone["gradient"], rtol=0, atol=1e-12)
    for scalar in ("loss", "accuracy"):
        mean = torch.stack([result[scalar] for result in ranks]).mean(0)
        torch.testing.assert_close(mean, alone[scalar], rtol=0, atol=1e-7)
