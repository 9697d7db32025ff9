"""Optimisers: which parameters decay, and LARS against a plain loop."""

from __future__ import annotations

import warnings

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from st_ssl.core.errors import UserError
from st_ssl.core.random import keyed_rng
from st_ssl.training.optim import LARS, OptimConfig, build_optimizer, is_excluded, layer_scale, peak_lr


def draw(*key: int | str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(keyed_rng(*key).normal(size=shape))


def test_peak_lr() -> None:
    assert peak_lr(OptimConfig(lr=1.5e-4), 1024) == pytest.approx(6e-4)
    assert peak_lr(OptimConfig(lr=0.3, lr_batch=None), 1024) == 0.3


@pytest.mark.parametrize(
    ("name", "ndim", "excluded"),
    [
        ("blocks.0.attn.qkv.weight", 2, False),
        ("blocks.0.attn.qkv.bias", 1, True),
        ("norm.weight", 1, True),
        ("temperature", 0, True),
        ("pos_embed", 3, True),
        ("decoder_pos_embed", 3, True),
        ("pos_embed_spatial", 3, True),
        ("pos_encoding.spatial_pos", 2, True),
        ("embeddings.position_embeddings.weight", 2, True),
        ("pos_embed.0.weight", 2, False),
        ("cls_token", 3, True),
        ("mask_token", 3, True),
        ("register_tokens", 3, True),
        ("token_mixer.weight", 2, False),
        ("time_embed", 3, True),
        ("relative_position_bias_table", 2, True),
        ("patch_embed.proj.weight", 5, False),
        ("composer.weight", 2, False),
    ],
)
def test_exclusion_by_name_and_dimension(name: str, ndim: int, excluded: bool) -> None:
    assert is_excluded(name, torch.zeros([2] * ndim)) is excluded


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(4, 3)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.norm = nn.LayerNorm(3)
        self.cls_token = nn.Parameter(torch.ones(1, 1, 3))


def test_adamw_groups_and_decay() -> None:
    model = Tiny()
    opt = build_optimizer(model.named_parameters(), OptimConfig(lr=1.0, weight_decay=0.1), lr=0.5)
    assert isinstance(opt, torch.optim.AdamW)
    decayed, spared = opt.param_groups
    assert decayed["param_names"] == ["proj.weight"]
    assert spared["param_names"] == ["cls_token", "proj.bias", "norm.weight", "norm.bias"]
    assert (decayed["weight_decay"], spared["weight_decay"], decayed["lr"]) == (0.1, 0.0, 0.5)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    opt.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (0.95 if name == "proj.weight" else 1.0))
    whole = build_optimizer(model.named_parameters(), OptimConfig(lr=1.0, exclude_norm_and_bias=False), lr=0.5)
    assert len(whole.param_groups) == 1
    with pytest.raises(UserError, match="no parameter"):
        build_optimizer(model.frozen.named_parameters(), OptimConfig(lr=1.0), lr=0.5)


def test_adamw_does_not_depend_on_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            p = nn.Parameter(draw("w", shape=(300, 301)).float())
            opt = build_optimizer([("w", p)], OptimConfig(lr=0.1), 0.1)
            for step in range(3):
                p.grad = draw("g", step, shape=(300, 301)).float()
                opt.step()
            results.append(p.detach())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize(
    "values",
    [
        {"lr": 0},
        {"betas": (0.9, 1.0)},
        {"momentum": 1.0},
        {"name": "sgd", "nesterov": True, "momentum": 0},
        {"typo": 1},
    ],
)
def test_bad_config(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        OptimConfig.model_validate({"lr": 0.1} | values)


def test_ignored_setting_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="momentum=0.5 is ignored: adamw"):
        OptimConfig(lr=0.1, momentum=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OptimConfig.model_validate(OptimConfig(lr=0.1).model_dump())


SHAPES = {"a.weight": (5, 4), "b.weight": (2, 3, 3), "a.bias": (5,), "zero.weight": (2, 2), "still.weight": (3, 2)}


def gradient(name: str, step: int, shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64) if name == "still.weight" else draw("g", name, step, shape=shape)


def start(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64) if name == "zero.weight" else draw("w", name, shape=shape)


def lars_by_hand(name: str, rates: list[float], momentum: float, decay: float) -> list[float]:
    """The textbook loop over single numbers."""
    shape = SHAPES[name]
    weights: list[float] = start(name, shape).flatten().tolist()
    velocity = [0.0] * len(weights)
    plain = len(shape) <= 1
    for step, rate in enumerate(rates):
        grads: list[float] = gradient(name, step, shape).flatten().tolist()
        if not plain:
            grads = [g + decay * w for g, w in zip(grads, weights, strict=True)]
            weight_norm, grad_norm = sum(w * w for w in weights) ** 0.5, sum(g * g for g in grads) ** 0.5
            if weight_norm > 0 and grad_norm > 0:
                rate = rate * 0.001 * weight_norm / grad_norm
        velocity = [momentum * v + rate * g for v, g in zip(velocity, grads, strict=True)]
        weights = [w - v for w, v in zip(weights, velocity, strict=True)]
    return weights


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lars_equals_the_loop_by_hand(decay: float) -> None:
    parameters = {name: nn.Parameter(start(name, shape)) for name, shape in SHAPES.items()}
    frozen_out = nn.Parameter(torch.ones(2, 2))  # never gets a gradient
    config = OptimConfig(name="lars", lr=4.8, momentum=0.8, weight_decay=decay)
    opt = build_optimizer([*parameters.items(), ("unused.weight", frozen_out)], config, 4.8)
    assert isinstance(opt, LARS)
    assert [group["adapt"] for group in opt.param_groups] == [True, False]
    rates = [0.5, 4.8, 2.0, 1.0, 0.1]
    for step, rate in enumerate(rates):
        for group in opt.param_groups:
            group["lr"] = rate
        for name, p in parameters.items():
            p.grad = gradient(name, step, SHAPES[name])
        opt.step()
    for name, p in parameters.items():
        expected = torch.tensor(lars_by_hand(name, rates, 0.8, decay), dtype=torch.float64).view(SHAPES[name])
        torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(frozen_out, torch.ones(2, 2))
    assert frozen_out not in opt.state


def test_lars_leaves_gradients_alone_and_calls_the_closure() -> None:
    p = nn.Parameter(torch.ones(2, 2))
    opt = LARS([p], lr=0.1, weight_decay=0.1)

    def closure() -> float:
        loss = p.square().sum()
        loss.backward()
        return loss.item()

    assert opt.step(closure) == 4.0
    assert p.grad is not None
    assert p.grad.unique().tolist() == [2.0]


def test_layers_learn_more_slowly_the_lower_they_are() -> None:
    names = ["embed.weight", "blocks.0.fc.weight", "blocks.0.fc.bias", "blocks.1.fc.weight", "norm.weight"]
    scale = layer_scale(names, 0.5)
    assert [scale(name) for name in names] == [0.125, 0.25, 0.25, 0.5, 1.0]
    assert scale("head.weight") == 1.0  # not one of the network: above it
    assert {layer_scale(["stem.weight", "fc.weight"], 0.5)(name) for name in ("stem.weight", "fc.weight")} == {1.0}


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_groups_keep_the_scale_of_their_rate(name: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    scale = {"0.weight": 0.5, "0.bias": 0.5}
    config = OptimConfig(name=name, lr=0.1)  # type: ignore[arg-type]
    optimizer = build_optimizer(model.named_parameters(), config, 0.1, lambda n: scale.get(n, 1.0))
    found = {n: (g["lr"], g["lr_scale"]) for g in optimizer.param_groups for n in g["param_names"]}
    assert found == {
        "0.weight": (0.05, 0.5),
        "0.bias": (0.05, 0.5),
        "1.weight": (0.1, 1.0),
        "1.bias": (0.1, 1.0),
    }
