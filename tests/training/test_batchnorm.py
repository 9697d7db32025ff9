"""Batch normalisation over processes: two of half a batch must equal one of the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from st_ssl.core.random import keyed_rng
from st_ssl.training.batchnorm import DistributedBatchNorm, convert_batchnorm
from tests.ddp import run_ranks

# kind of layer, its options, shape of the whole batch, how many samples go to rank 0
CASES: list[tuple[type[Any], dict[str, Any], tuple[int, ...], int]] = [
    (nn.BatchNorm1d, {}, (8, 5), 4),
    (nn.BatchNorm1d, {"momentum": None}, (7, 5, 6), 2),
    (nn.BatchNorm2d, {"affine": False}, (5, 4, 3, 2), 1),
    (nn.BatchNorm3d, {"momentum": 0.3, "eps": 1e-3}, (6, 3, 2, 4, 3), 6),  # nothing for rank 1
    (nn.BatchNorm3d, {"track_running_stats": False}, (6, 3, 2, 4, 3), 3),
    (nn.BatchNorm1d, {}, (2, 5), 1),  # one value per channel on each rank
]


def draw(*key: int | str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(keyed_rng(*key).normal(size=shape) * 3 + 1e4)  # far from 0: raw squares would cancel


def layer(case: int) -> nn.Module:
    kind, options, shape, _ = CASES[case]
    norm = kind(shape[1], **options, dtype=torch.float64)
    for name, p in norm.named_parameters():
        p.data.copy_(draw("p", name, shape=(shape[1],)) - 1e4)
    return norm


def two_steps(norm: nn.Module, case: int, part: slice) -> dict[str, Tensor]:
    """Output and gradients of the second of two training steps, and the statistics after both."""
    shape = CASES[case][2]
    out: dict[str, Tensor] = {}
    for step in range(2):
        norm.zero_grad()
        x = draw("x", step, shape=shape)[part].requires_grad_()
        y = norm(x)
        weights = draw("dy", step, shape=shape)[part] - 1e4
        (weights * y * y.sigmoid()).sum().backward()
        assert x.grad is not None
        out = {"output": y.detach(), "input_grad": x.grad}
    out |= {f"grad.{name}": p.grad for name, p in norm.named_parameters() if p.grad is not None}
    out |= {f"state.{name}": value for name, value in norm.state_dict().items()}
    norm.eval()
    return out | {"eval": norm(draw("x", 3, shape=shape)).detach()}


def on_rank(rank: int, world_size: int) -> list[dict[str, Tensor]]:
    results = []
    for case, (_, _, _, split) in enumerate(CASES):
        norm = convert_batchnorm(layer(case), "cpu")
        assert isinstance(norm, DistributedBatchNorm)
        results.append(two_steps(norm, case, slice(None, split) if rank == 0 else slice(split, None)))
    half = DistributedBatchNorm(3)(torch.randn(4, 3, dtype=torch.bfloat16, generator=torch.manual_seed(rank)))
    results.append({"half": half.detach()})
    try:
        DistributedBatchNorm(3)(torch.zeros(1 - rank, 3))
    except ValueError as error:
        results.append({"refused": torch.tensor("more than 1 value" in str(error))})
    return results


@pytest.mark.ddp
def test_two_halves_equal_the_whole(tmp_path: Path) -> None:
    first, second = run_ranks(on_rank, 2, tmp_path)
    for case in range(len(CASES)):
        whole = two_steps(layer(case), case, slice(None))
        for key, expected in whole.items():
            a, b = first[case][key], second[case][key]
            if key in ("output", "input_grad"):
                found = torch.cat([a, b])
            elif key.startswith("grad."):
                found = a + b
            else:
                assert torch.equal(a, b), (case, key)
                found = a
            assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10), (case, key, found, expected)
        assert first[case].keys() == whole.keys()
    assert first[-2]["half"].dtype == torch.bfloat16
    both = torch.cat([first[-2]["half"], second[-2]["half"]]).float()
    torch.testing.assert_close(both.mean(0), torch.zeros(3), atol=1e-2, rtol=0)
    torch.testing.assert_close(both.std(0, correction=0), torch.ones(3), atol=2e-2, rtol=0)
    assert first[-1]["refused"]
    assert second[-1]["refused"]


def test_one_process_is_plain_batchnorm() -> None:
    for case in range(len(CASES)):
        ours = two_steps(convert_batchnorm(layer(case), "cpu"), case, slice(None))
        for key, expected in two_steps(layer(case), case, slice(None)).items():
            assert torch.equal(ours[key], expected), (case, key)


def test_convert_shares_parameters_and_keeps_the_rest() -> None:
    norm = nn.BatchNorm2d(4)
    inner = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4, affine=False).eval())
    model = nn.Sequential(nn.Conv2d(3, 4, 1), norm, inner, norm)
    before = dict(model.state_dict(keep_vars=True))
    assert convert_batchnorm(model, "cpu") is model
    assert isinstance(model[1], DistributedBatchNorm)
    assert isinstance(inner[1], DistributedBatchNorm)
    assert model[1] is model[3]
    assert model[1].training
    assert not inner[1].training
    after = dict(model.state_dict(keep_vars=True))
    assert list(after) == list(before)
    assert all(after[key] is before[key] for key in before)
    convert_batchnorm(model, "cuda")
    assert isinstance(model[1], nn.SyncBatchNorm)
    assert model[1].weight is before["1.weight"]


def failing(rank: int, world_size: int) -> None:
    if rank == 1:
        raise RuntimeError("the reason is here")
    dist.barrier()


@pytest.mark.ddp
def test_run_ranks_surfaces_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(mp.ProcessRaisedException, match="the reason is here"):
        run_ranks(failing, 2, tmp_path)
