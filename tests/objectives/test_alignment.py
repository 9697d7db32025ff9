from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from st_ssl.objectives.alignment import alignment, uniformity
from tests.ddp import run_ranks


def features(rows: int = 6, dim: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, dim, dtype=torch.float64, generator=generator).requires_grad_()


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.5])
def test_alignment_of_the_slow_reference(alpha: float) -> None:
    ours, theirs, second = features(), features(), features(seed=1).detach()
    loss = alignment(ours, second, alpha)
    terms = [(x - y).square().sum().sqrt() ** alpha for x, y in zip(theirs, second, strict=True)]
    expected = torch.stack(terms).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("t", [0.5, 2.0, 3.0])
@pytest.mark.parametrize("unit", [False, True])
def test_uniformity_of_the_slow_reference(t: float, unit: bool) -> None:
    ours, theirs = features(), features()
    loss = uniformity(normalize(ours) if unit else ours, t)
    x = [row / row.square().sum().sqrt() if unit else row for row in theirs]
    pairs = [(x[i] - x[j]).square().sum() for i in range(6) for j in range(i)]
    expected = torch.log(torch.stack([torch.exp(-t * squared) for squared in pairs]).mean())
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-12)


def test_known_values() -> None:
    x = normalize(features(4000, 64).detach())
    assert uniformity(x).item() == pytest.approx(-2 * 2 + 2 * 4 / 64, abs=0.02)  # of the sphere in 64 dimensions
    assert alignment(x, x.roll(1, 0)).item() == pytest.approx(2, abs=0.02)
    assert alignment(x, -x).item() == pytest.approx(4)
    one = x[:1].repeat(5, 1)
    assert uniformity(one).item() == pytest.approx(0, abs=1e-6)
    opposite = torch.tensor([[1.0, 0], [-1, 0]])
    assert uniformity(opposite, 3).item() == pytest.approx(-12)


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_rows_that_agree_have_a_gradient(alpha: float) -> None:
    x = features().detach()[:1].repeat(4, 1).requires_grad_()
    (alignment(x, x.detach(), alpha) + uniformity(x)).backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.zeros_like(x))


def test_a_batch_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="batch of two or more, not 1"):
        uniformity(features(1))


def test_half_precision_is_taken_in_float32() -> None:
    x, y = features().detach().bfloat16(), features(seed=1).detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = alignment(x, y), uniformity(x)
    expected = alignment(x.float(), y.float()), uniformity(x.float())
    assert [value.dtype for value in found] == [torch.float32] * 2
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def on_one_rank(rank: int, world_size: int) -> dict[str, Tensor]:
    share = 6 // world_size
    first, second = (features(6, seed=s).detach()[rank * share : (rank + 1) * share] for s in (0, 1))
    first.requires_grad_()
    near, spread = alignment(first, second, 1.5), uniformity(first)
    (near + spread).backward()
    assert first.grad is not None
    return {"alignment": near.detach(), "uniformity": spread.detach(), "gradient": first.grad}


@pytest.mark.ddp
def test_processes_together_give_the_gradients_of_one(tmp_path: Path) -> None:
    alone = on_one_rank(0, 1)
    ranks = run_ranks(on_one_rank, 2, tmp_path)
    gradients = torch.cat([found["gradient"] for found in ranks]) / 2
    torch.testing.assert_close(gradients, alone["gradient"], rtol=0, atol=1e-12)
    for found in ranks:  # not the mean of what each would find alone
        torch.testing.assert_close(found["uniformity"], alone["uniformity"], rtol=0, atol=1e-12)
    together = torch.stack([found["alignment"] for found in ranks]).mean()
    torch.testing.assert_close(together, alone["alignment"], rtol=0, atol=1e-12)
