from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor

from st_ssl.objectives.contrastive import info_nce
from st_ssl.objectives.multi_view import Aggregate, poly_view
from tests.ddp import run_ranks

AGGREGATES = get_args(Aggregate)


def embeddings(rows: int = 5, views: int = 3, dim: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, views, dim, dtype=torch.float64, generator=generator).requires_grad_()


def slow(views: Tensor, temperature: float, aggregate: str, unit_mean: bool = False) -> Tensor:
    """Equation by equation."""
    rows, count, _ = views.shape
    x = [[view / view.square().sum().sqrt() for view in sample] for sample in views]

    def share(i: int, a: int, y: Tensor, q: Tensor) -> Tensor:
        positive = torch.exp(torch.dot(x[i][a], y) / temperature)
        negatives = [torch.exp(torch.dot(n, q) / temperature) for j in range(rows) if j != i for n in x[j]]
        return positive / (positive + torch.stack(negatives).sum())

    terms = []
    for i in range(rows):
        for a in range(count):
            others = [x[i][b] for b in range(count) if b != a]
            shares = [share(i, a, y, x[i][a]) for y in others]
            if aggregate == "geometric":
                terms.append(-torch.stack(shares).log().mean())
            elif aggregate == "arithmetic":
                terms.append(-torch.stack(shares).mean().log())
            else:
                u = torch.stack(others).mean(0)
                u = u / u.square().sum().sqrt() if unit_mean else u
                terms.append(-share(i, a, u, u).log())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("temperature", [0.1, 0.7])
@pytest.mark.parametrize("views", [2, 3, 5])
@pytest.mark.parametrize("unit_mean", [False, True])
def test_value_and_gradient_of_the_slow_reference(
    aggregate: Aggregate, temperature: float, views: int, unit_mean: bool
) -> None:
    ours, theirs = embeddings(views=views), embeddings(views=views)
    loss = poly_view(ours, temperature, aggregate, unit_mean)[0]
    expected = slow(theirs, temperature, aggregate, unit_mean)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("unit_mean", [False, True])
def test_two_views_are_info_nce(aggregate: Aggregate, unit_mean: bool) -> None:
    ours, theirs = embeddings(6, 2), embeddings(6, 2)
    loss, accuracy = poly_view(ours, 0.3, aggregate, unit_mean)
    expected, share = info_nce(theirs[:, 0], theirs[:, 1], 0.3)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    assert accuracy.item() == pytest.approx(share.item())
    loss.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)


def test_arithmetic_is_below_geometric_with_more_views() -> None:
    views = embeddings(views=4)
    arithmetic, geometric = (poly_view(views, 0.3, kind)[0] for kind in ("arithmetic", "geometric"))
    assert arithmetic < geometric - 1e-3


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_order_of_samples_and_of_views_does_not_matter(aggregate: Aggregate) -> None:
    views = embeddings()
    loss = poly_view(views, 0.2, aggregate)[0]
    for same in (views[[3, 1, 0, 4, 2]], views[:, [2, 0, 1]], views * 5):
        torch.testing.assert_close(poly_view(same, 0.2, aggregate)[0], loss, rtol=1e-12, atol=1e-12)


def test_share_of_positives_that_rank_first() -> None:
    views = torch.eye(4)[:, None].repeat(1, 3, 1)
    assert poly_view(views)[1] == 1
    views[0, 2] = views[1, 2]  # of the 24 positives, the 4 of this view, and each of sample 1 ties with it
    assert poly_view(views)[1].item() == pytest.approx((24 - 4 - 6) / 24)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_one_sample_alone_has_no_loss(aggregate: Aggregate) -> None:
    views = embeddings(rows=1)
    loss, _ = poly_view(views, 0.1, aggregate)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert views.grad is not None
    assert views.grad.isfinite().all()


def test_one_view_is_refused() -> None:
    with pytest.raises(ValueError, match="two views or more"):
        poly_view(embeddings(views=1))


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_autocast_does_not_reach_the_logits(aggregate: Aggregate) -> None:
    views = embeddings().detach().float()
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = poly_view(views, 0.2, aggregate)
    torch.testing.assert_close(loss, poly_view(views, 0.2, aggregate)[0], rtol=0, atol=0)
    assert poly_view(views.bfloat16(), 0.2, aggregate)[0].dtype == torch.float32


def on_one_rank(rank: int, world_size: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for aggregate in AGGREGATES:
        share = 6 // world_size
        own = embeddings(6).detach()[rank * share : (rank + 1) * share].requires_grad_()
        loss, accuracy = poly_view(own, 0.2, aggregate)
        loss.backward()
        assert own.grad is not None
        found |= {f"{aggregate} loss": loss.detach()[None], f"{aggregate} share": accuracy[None]}
        found[f"{aggregate} gradient"] = own.grad
    return found


@pytest.mark.ddp
def test_processes_together_give_the_gradients_of_one(tmp_path: Path) -> None:
    alone = on_one_rank(0, 1)
    ranks = run_ranks(on_one_rank, 2, tmp_path)
    for name, value in alone.items():
        parts = [found[name] for found in ranks]
        together = torch.cat(parts) / 2 if "gradient" in name else torch.stack(parts).mean(0)
        torch.testing.assert_close(together, value, rtol=0, atol=1e-12)
