from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from st_ssl.objectives.contrastive import foreground_info_nce, point_info_nce, region_info_nce
from tests.ddp import run_ranks

VALID = (
    torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0], [1, 1, 1]]).bool(),
    torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0]]).bool(),
)
ANCHORS = torch.tensor([1, 1, 0, 1, 1, 0]).bool()  # the fourth has no positive, the fifth no point that asks


def features(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    return first.requires_grad_(), second.requires_grad_()


def slow_regions(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Point by point, over those that are there."""
    terms = []
    for g in ANCHORS.nonzero().flatten().tolist():
        for i in VALID[0][g].nonzero().flatten().tolist():
            query = first[g, i] / first[g, i].norm()
            positive: list[Tensor] = []
            negative: list[Tensor] = []
            for h in range(len(second)):
                for j in VALID[1][h].nonzero().flatten().tolist():
                    score = torch.exp(query @ (second[h, j] / second[h, j].norm()) / temperature)
                    (positive if h == g else negative).append(score)
            if positive:
                each = [-torch.log(p / (p + torch.stack(negative).sum())) for p in positive]
                terms.append(torch.stack(each).mean())
    assert len(terms) == 5
    return torch.stack(terms).mean()


def test_points_find_their_segments_as_in_the_slow_reference() -> None:
    ours, theirs = features(6, 3, 5), features(6, 3, 5)
    loss, expected = region_info_nce(*ours, VALID, ANCHORS, 0.3)[0], slow_regions(*theirs, 0.3)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    loss.backward()
    expected.backward()
    for a, b, there in zip(ours, theirs, VALID, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-12)
        assert b.grad.abs().max() > 1e-3
        assert (a.grad[~there] == 0).all()


def test_segments_of_one_point_are_those_of_pointcontrast() -> None:
    first, second = features(6, 1, 5)
    everything = torch.ones(6, 1, dtype=torch.bool)
    loss, accuracy = region_info_nce(first, second, (everything, everything), everything.squeeze(1), 0.4)
    expected = point_info_nce(first.squeeze(1), second.squeeze(1), everything.squeeze(1), 0.4)
    torch.testing.assert_close((loss, accuracy.float()), (expected[0], expected[1].float()))


def test_points_of_one_segment_do_not_compete() -> None:
    one, valid = torch.eye(4, dtype=torch.float64).view(2, 2, 4), torch.ones(2, 2, dtype=torch.bool)
    same = one[:, :1].expand(-1, 2, -1)  # all points of a segment alike
    loss, accuracy = region_info_nce(same, same, (valid, valid), torch.tensor([True, True]), 0.5)
    # One positive at a time at 1 / 0.5, and the two of the other segment at 0.
    assert loss.item() == pytest.approx(torch.log1p(2 * torch.exp(torch.tensor(-2.0, dtype=torch.float64))).item())
    assert accuracy.item() == 1


def slow_foreground(
    first: Tensor, second: Tensor, valid: Tensor, background: Tensor, known: Tensor, temperature: float
) -> Tensor:
    terms = []
    for a, b, there in zip(first, second, valid, strict=True):
        if there:
            own = torch.exp(a @ b / a.norm() / b.norm() / temperature)
            scores = [torch.exp(a @ k / a.norm() / k.norm() / temperature) for k in background[known]]
            terms.append(-torch.log(own / (own + torch.stack(scores).sum())))
    return torch.stack(terms).mean()


def test_foreground_against_background_as_in_the_slow_reference() -> None:
    valid, known = torch.tensor([1, 0, 1, 1]).bool(), torch.tensor([1, 1, 0, 1, 1]).bool()
    ours = [*features(4, 6), features(5, 6, seed=1)[0]]
    theirs = [x.detach().clone().requires_grad_() for x in ours]
    loss = foreground_info_nce(ours[0], ours[1], valid, ours[2], known, 0.3)
    expected = slow_foreground(theirs[0], theirs[1], valid, theirs[2], known, 0.3)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    loss.backward()
    expected.backward()
    for a, b in zip(ours, theirs, strict=True):
        assert b.grad is not None
        assert b.grad.abs().max() > 1e-3
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-12)


def test_nothing_there_is_no_loss() -> None:
    first, second = features(4, 3, 5)
    none, all_of_them = torch.zeros(4, 3, dtype=torch.bool), torch.ones(4, 3, dtype=torch.bool)
    cases = [
        region_info_nce(first, second, (none, none), all_of_them.any(1))[0],
        region_info_nce(first, second, (all_of_them, all_of_them), none.any(1))[0],
        foreground_info_nce(first[0], second[0], none[0], first[1], all_of_them[0]),
        foreground_info_nce(first[0], second[0], all_of_them[0], first[1], none[0]),
    ]
    for loss in cases:
        assert loss.item() == 0
        for grad in torch.autograd.grad(loss, [first, second], retain_graph=True, allow_unused=True):
            assert grad is None or (grad == 0).all()


def on_one_rank(rank: int, world_size: int) -> dict[str, Tensor]:
    first, second = features(6, 3, 5)
    share = slice(rank * 6 // world_size, (rank + 1) * 6 // world_size)
    a, b = (x.detach()[share].requires_grad_() for x in (first, second))
    valid = (VALID[0][share], VALID[1][share])
    region, accuracy = region_info_nce(a, b, valid, ANCHORS[share], 0.2)
    segment = foreground_info_nce(a[:, 0], b[:, 0], valid[0][:, 0] & valid[1][:, 0], a[:, 1], valid[0][:, 1], 0.2)
    (region + 0.5 * segment).backward()
    assert a.grad is not None
    assert b.grad is not None
    losses = torch.stack([region.detach(), segment.detach(), accuracy])
    return {"first": a.grad, "second": b.grad, "losses": losses}


@pytest.mark.ddp
def test_processes_together_give_the_gradients_of_one(tmp_path: Path) -> None:
    alone, ranks = on_one_rank(0, 1), run_ranks(on_one_rank, 2, tmp_path)
    for view in ("first", "second"):
        together = torch.cat([result[view] for result in ranks]) / 2  # the mean loss of all processes
        torch.testing.assert_close(together, alone[view], rtol=0, atol=1e-12)
    mean = torch.stack([result["losses"] for result in ranks]).mean(0)
    torch.testing.assert_close(mean, alone["losses"], rtol=0, atol=1e-12)
    assert (ranks[0]["losses"][:2] - alone["losses"][:2]).abs().min() > 1e-3  # each process has segments of its own
