from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from st_ssl.objectives.contrastive import info_nce, point_info_nce
from tests.ddp import run_ranks


def embeddings(rows: int = 6, dim: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, rows, dim, dtype=torch.float64, generator=generator)
    return first.requires_grad_(), second.requires_grad_()


def slow_info_nce(first: Tensor, second: Tensor, temperature: float, alike: list[int] | None = None) -> Tensor:
    """Equation by equation: each of 2B rows against all others, its other view being the positive, but for those of its
    own class."""
    rows = [row / row.square().sum().sqrt() for row in [*first, *second]]
    half, terms = len(rows) // 2, []
    for i, row in enumerate(rows):
        positive = torch.exp(torch.dot(row, rows[(i + half) % (2 * half)]) / temperature)
        everything = torch.zeros((), dtype=row.dtype)
        for k, other in enumerate(rows):
            same = alike is not None and alike[i % half] == alike[k % half] and k != (i + half) % (2 * half)
            if k != i and not same:
                everything = everything + torch.exp(torch.dot(row, other) / temperature)
        terms.append(-torch.log(positive / everything))
    return torch.stack(terms).mean()


def test_samples_of_one_class_are_no_negatives_of_each_other() -> None:
    classes = [0, 1, 0, 2, 2, 2, 1]
    ours, theirs = embeddings(7), embeddings(7)
    loss, expected = info_nce(*ours, 0.5, torch.tensor(classes))[0], slow_info_nce(*theirs, 0.5, classes)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    loss.backward()
    expected.backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-12)
    alone = info_nce(*embeddings(7), 0.5, torch.arange(7))
    assert torch.equal(alone[0], info_nce(*embeddings(7), 0.5)[0])
    assert info_nce(*embeddings(7), 0.5, torch.zeros(7))[1] == 1.0  # nothing but the positive is left


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("rows", [2, 7])
def test_value_and_gradient_of_the_slow_reference(temperature: float, rows: int) -> None:
    ours, theirs = embeddings(rows), embeddings(rows)
    loss, expected = info_nce(*ours, temperature)[0], slow_info_nce(*theirs, temperature)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    loss.backward()
    expected.backward()
    for a, b in zip(ours, theirs, strict=True):
        assert b.grad is not None
        assert b.grad.abs().max() > 1e-3
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-12)


def test_two_samples_by_hand() -> None:
    # Views of a sample are the same unit vector, the two samples are orthogonal: each row has its positive at
    # similarity 1 and two negatives at 0.
    views = torch.eye(2, dtype=torch.float64)
    loss, accuracy = info_nce(views * 3, views * 0.2, temperature=0.5)
    assert loss.item() == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 2)), abs=1e-12)
    assert accuracy.item() == 1.0
    loss, accuracy = info_nce(views, views.flip(0), temperature=0.5)  # now the positive is at 0
    assert loss.item() == pytest.approx(-math.log(1 / (math.exp(2) + 2)), abs=1e-12)
    assert accuracy.item() == 0.0


def test_temperature_sharpens() -> None:
    views = torch.eye(3, dtype=torch.float64)
    losses = [info_nce(views, views, temperature)[0].item() for temperature in (0.05, 0.1, 1.0, 1e6)]
    assert losses == sorted(losses)
    assert losses[-1] == pytest.approx(math.log(5), abs=1e-4)  # 1 positive, 4 negatives, nothing told apart


def test_order_of_samples_and_of_views_does_not_matter() -> None:
    first, second = embeddings()
    loss, accuracy = info_nce(first, second)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    for a, b in [(first[order], second[order]), (second, first), (first * 7, second * 0.01)]:
        torch.testing.assert_close(info_nce(a, b)[0], loss, rtol=1e-12, atol=1e-12)
        assert info_nce(a, b)[1] == accuracy
    assert abs(info_nce(first, second[order])[0].item() - loss.item()) > 1e-3  # but which views belong together does


def test_accuracy_is_the_share_of_rows_that_find_their_other_view() -> None:
    first = torch.eye(4)
    second = torch.eye(4)[[0, 1, 3, 2]]
    assert info_nce(first, second)[1].item() == 0.5


def test_half_precision_is_taken_in_float32() -> None:
    first, second = (x.detach().bfloat16() for x in embeddings())
    loss, _ = info_nce(first, second, 0.02)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, info_nce(first.float(), second.float(), 0.02)[0])


@pytest.mark.parametrize("kind", ["views", "points"])
def test_autocast_does_not_reach_the_logits(kind: str) -> None:
    there = torch.ones(6, dtype=torch.bool)
    inside, outside = ([x.detach().float().requires_grad_() for x in embeddings()] for _ in range(2))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = contrast(kind, inside[0], inside[1], there)
    loss.backward()
    expected, _ = contrast(kind, outside[0], outside[1], there)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    for a, b in zip(inside, outside, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)


def layer() -> torch.nn.Linear:
    torch.manual_seed(3)
    return torch.nn.Linear(5, 4).double()


THERE = torch.tensor([True, True, False, True, False, False])  # two matches for one of two processes, one for the other


def contrast(kind: str, first: Tensor, second: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    if kind == "points":
        return point_info_nce(first, second, there, 0.2)
    return info_nce(first, second, 0.2, there.long() if kind == "classes" else None)


def on_one_rank(rank: int, world_size: int, kind: str) -> dict[str, Tensor]:
    first, second = embeddings(6)
    share = 6 // world_size
    own = [x.detach()[rank * share : (rank + 1) * share].requires_grad_() for x in (first, second)]
    net = layer()
    there = THERE[rank * share : (rank + 1) * share]
    loss, accuracy = contrast(kind, net(own[0]), net(own[1]), there)
    loss.backward()
    assert own[0].grad is not None
    assert own[1].grad is not None
    assert net.weight.grad is not None
    return {
        "first": own[0].grad,
        "second": own[1].grad,
        "weight": net.weight.grad,
        "loss": loss.detach(),
        "accuracy": accuracy,
    }


@pytest.mark.ddp
@pytest.mark.parametrize("kind", ["views", "classes", "points"])
def test_processes_together_give_the_gradients_of_one(tmp_path: Path, kind: str) -> None:
    alone = on_one_rank(0, 1, kind)
    ranks = run_ranks(on_one_rank, 2, tmp_path, kind)
    for view in ("first", "second"):
        together = torch.cat([result[view] for result in ranks]) / 2  # the mean loss of all processes
        torch.testing.assert_close(together, alone[view], rtol=0, atol=1e-12)
    for scalar in ("loss", "accuracy", "weight"):
        torch.testing.assert_close(
            torch.stack([result[scalar] for result in ranks]).mean(0), alone[scalar], rtol=0, atol=1e-12
        )
    assert abs(ranks[0]["loss"] - alone["loss"]) > 1e-3  # each process has rows of its own


def slow_point_info_nce(first: Tensor, second: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """Equation by equation, over the rows that are there."""
    pairs = [(a / a.norm(), b / b.norm()) for a, b, there in zip(first, second, valid, strict=True) if there]
    terms = []
    for i, (query, _) in enumerate(pairs):
        scores = [torch.exp(torch.dot(query, key) / temperature) for _, key in pairs]
        terms.append(-torch.log(scores[i] / torch.stack(scores).sum()))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("valid", [[True] * 6, [True, False, True, True, False, False]])
def test_points_find_their_matches_as_in_the_slow_reference(valid: list[bool]) -> None:
    ours, theirs, there = embeddings(), embeddings(), torch.tensor(valid)
    loss, expected = point_info_nce(*ours, there, 0.3)[0], slow_point_info_nce(*theirs, there, 0.3)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    loss.backward()
    expected.backward()
    for a, b in zip(ours, theirs, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-12)
        assert (a.grad[~there] == 0).all()


def test_no_match_at_all_is_no_loss() -> None:
    first, second = embeddings()
    loss, accuracy = point_info_nce(first, second, torch.zeros(6, dtype=torch.bool))
    loss.backward()
    assert (loss.item(), accuracy.item()) == (0.0, 0.0)
    assert first.grad is not None
    assert (first.grad == 0).all()


def test_share_of_points_that_find_their_match() -> None:
    there = torch.tensor([True, True, True, False])
    assert point_info_nce(torch.eye(4), torch.eye(4)[[0, 2, 1, 3]], there)[1].item() == pytest.approx(1 / 3)
