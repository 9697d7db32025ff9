from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from st_ssl.objectives.covariance_contrast import covariance_contrast, second_moment, unit
from tests.ddp import run_ranks


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second, past = (torch.randn(6, 5, dtype=torch.float64, generator=generator) for _ in range(3))
    return first.requires_grad_(), second.requires_grad_(), second_moment(unit(past))


def slow(first: Tensor, second: Tensor, past: Tensor, beta: float, batch_gradient: bool) -> tuple[Tensor, Tensor]:
    """Equation by equation, with the covariance written as squared cosines to the rows of the batch."""
    rows = [row / row.square().sum().sqrt() for row in first]
    targets = [(row / row.square().sum().sqrt()).detach() for row in second]
    distance = torch.stack([1 - row @ target for row, target in zip(rows, targets, strict=True)]).mean()
    others = rows if batch_gradient else [row.detach() for row in rows]
    contrast = [
        beta * (row @ past @ row) + (1 - beta) * torch.stack([(row @ other).square() for other in others]).mean()
        for row in rows
    ]
    return distance, torch.stack(contrast).mean()


@pytest.mark.parametrize("batch_gradient", [True, False])
@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_value_and_gradient_of_the_slow_reference(beta: float, batch_gradient: bool) -> None:
    (first, second, past), (other, _, _) = drawn(), drawn()
    ours = covariance_contrast(first, second, past, beta, batch_gradient)
    theirs = slow(other, second, past, beta, batch_gradient)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    (ours[0] + 8 * ours[1]).backward()
    (theirs[0] + 8 * theirs[1]).backward()
    torch.testing.assert_close(first.grad, other.grad, rtol=1e-10, atol=1e-12)
    assert second.grad is None


def test_by_hand() -> None:
    basis = torch.eye(4, dtype=torch.float64)
    none = torch.zeros(4, 4, dtype=torch.float64)
    distance, contrast = covariance_contrast(3 * basis, basis, none, 0.0)
    assert (distance.item(), contrast.item()) == (0.0, 0.25)  # all directions alike: 1 / D
    same = basis[:1].expand(4, -1)
    distance, contrast = covariance_contrast(same, -same, none, 0.9)
    assert (distance.item(), contrast.item()) == (2.0, pytest.approx(0.1))
    _, contrast = covariance_contrast(same, same, second_moment(-same), 0.9)
    assert contrast.item() == pytest.approx(1.0)  # the opposite direction counts as the same


def test_half_precision_is_taken_in_float32_also_under_autocast() -> None:
    first, second, past = (x.detach().bfloat16() for x in drawn())
    expected = covariance_contrast(first.float(), second.float(), past.float(), 0.9)
    with torch.autocast("cpu", torch.bfloat16):
        found = covariance_contrast(first, second, past.float(), 0.9)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def on_one_rank(rank: int, world_size: int) -> dict[str, Tensor]:
    first, second, past = drawn()
    share = 6 // world_size
    rows = slice(rank * share, (rank + 1) * share)
    own = first.detach()[rows].requires_grad_()
    distance, contrast = covariance_contrast(own, second.detach()[rows], past, 0.5)
    (distance + 8 * contrast).backward()
    assert own.grad is not None
    return {"gradient": own.grad / world_size, "distance": distance.detach(), "contrast": contrast.detach()}


@pytest.mark.ddp
def test_processes_together_give_the_gradients_of_one(tmp_path: Path) -> None:
    alone, ranks = on_one_rank(0, 1), run_ranks(on_one_rank, 2, tmp_path)
    together = torch.cat([result["gradient"] for result in ranks])
    torch.testing.assert_close(together, alone["gradient"], rtol=0, atol=1e-12)
    for term in ("distance", "contrast"):
        mean = torch.stack([result[term] for result in ranks]).mean(0)
        torch.testing.assert_close(mean, alone[term], rtol=0, atol=1e-12)
