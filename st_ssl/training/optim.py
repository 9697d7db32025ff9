"""Optimisers of pretraining and fine-tuning: AdamW, SGD and LARS, with weight decay where it belongs."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.training.schedule import half_cosine

# Anchored at the end: ``pos_embed.0.weight`` is a layer of a network that computes positions, and does decay.
_EMBEDDING = re.compile(
    r"(^|[._])(pos(ition(al)?)?_?emb(ed(ding)?s?)?(_\w+)?|rel(ative)?_pos\w*|(time|temporal|spatial)_(emb|pos)\w*|tokens?)"
    r"(\.weight)?$"
)
_LAYER = re.compile(r"(?:^|\.)(?:blocks|layers|stages|levels)\.(\d+)\.")
_UNUSED = {"adamw": ("momentum", "nesterov"), "sgd": ("betas", "eps"), "lars": ("betas", "eps", "nesterov")}


class OptimConfig(Config):
    """Which optimiser, and how it steps. ``lr`` is for a global batch of ``lr_batch`` samples, see ``peak_lr``.

    ``betas`` and ``eps`` belong to AdamW; ``momentum`` to SGD and LARS; ``nesterov`` to SGD: set elsewhere they are
    ignored with a warning. The default ``weight_decay`` suits AdamW: SGD and LARS are usually run with 1e-4 and 1e-6.
    ``weight_decay_end``: where half a cosine takes it by the end of the run (DINO, 2021; V-JEPA, 2024).
    ``exclude_norm_and_bias`` spares biases, norms, position embeddings and tokens the weight
    decay and, for LARS, the trust ratio.
    """

    name: Literal["adamw", "sgd", "lars"] = "adamw"
    lr: float = Field(gt=0)
    lr_batch: int | None = Field(default=256, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    weight_decay_end: float | None = Field(default=None, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    eps: float = Field(default=1e-8, gt=0)
    exclude_norm_and_bias: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), not {self.betas}")
        if self.name == "sgd" and self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        for field in _UNUSED[self.name]:
            if getattr(self, field) != OptimConfig.model_fields[field].default:
                warnings.warn(f"{field}={getattr(self, field)} is ignored: {self.name} does not use it", stacklevel=2)
        return self


def peak_lr(config: OptimConfig, global_batch: int) -> float:
    """The learning rate after warm-up: ``lr × global_batch / lr_batch`` (Goyal et al., 2017), or ``lr`` as it is."""
    return config.lr if config.lr_batch is None else config.lr * global_batch / config.lr_batch


def decay_at(step: int, num_steps: int, config: OptimConfig) -> float:
    """The weight decay of update ``step`` (from 0) of ``num_steps``."""
    if config.weight_decay_end is None:
        return config.weight_decay
    return half_cosine(step, num_steps, config.weight_decay, config.weight_decay_end)


@dataclass(frozen=True)
class Rule:
    """What holds for the parameters whose names match ``pattern`` (a regular expression that is searched for):
    ``lr_scale`` times the rate of the others, which with ``constant`` does not fall over the run, and ``weight_decay``,
    where given, in place of theirs."""

    pattern: str
    lr_scale: float = 1.0
    constant: bool = False
    weight_decay: float | None = None


_PLAIN = Rule("")


def is_excluded(name: str, parameter: Tensor) -> bool:
    """Whether weight decay spares it by custom: at most one dimension (bias, norm), a position embedding, a token."""
    return parameter.ndim <= 1 or _EMBEDDING.search(name) is not None


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    config: OptimConfig,
    lr: float,
    scale: Callable[[str], float] = lambda name: 1.0,
    rules: Sequence[Rule] = (),
) -> torch.optim.Optimizer:
    """The optimiser over all trainable parameters, at the learning rate ``lr`` (usually ``peak_lr``).

    Parameter groups, decayed and excluded, each with the names of its parameters under ``"param_names"``: one of either
    for each value that ``scale`` gives their names, by which their learning rate is multiplied (``"lr_scale"``), and
    for the first of ``rules`` that matches. Whoever sets ``"lr"`` later multiplies with the scale, leaves it alone
    where it is ``"constant"``, and sets the weight decay where the group ``"decays"``.
    AdamW and SGD take torch's fused kernels (on the CPU too: about 3 times faster than the plain loop, and the same to
    the bit for any number of threads). Raises ConfigError where nothing is trainable.
    """
    sorted_out: dict[tuple[bool, float, int], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            number = next((at for at, rule in enumerate(rules) if re.search(rule.pattern, name)), len(rules))
            rule = rules[number] if number < len(rules) else _PLAIN
            excluded = config.exclude_norm_and_bias and is_excluded(name, parameter)
            sorted_out.setdefault((excluded, scale(name) * rule.lr_scale, number), []).append((name, parameter))
    if not sorted_out:
        raise ConfigError("no parameter to optimise: all are frozen, or there are none")
    groups: list[dict[str, Any]] = []
    for excluded, factor, number in sorted(sorted_out):
        rule = rules[number] if number < len(rules) else _PLAIN
        own = config.weight_decay if rule.weight_decay is None else rule.weight_decay
        groups.append(
            {
                "params": sorted_out[excluded, factor, number],
                "weight_decay": 0.0 if excluded else own,
                "lr": lr * factor,
                "lr_scale": factor,
                "constant": rule.constant,
                "decays": not excluded and rule.weight_decay is None,
            }
        )
    if config.name == "lars":
        for group, (excluded, _, _) in zip(groups, sorted(sorted_out), strict=True):
            group["adapt"] = not excluded
        return LARS(groups, lr=lr, momentum=config.momentum)
    everything = [parameter for group in groups for _, parameter in group["params"]]
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in everything)
    kernel = {"fused": True} if fused else {}
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, nesterov=config.nesterov, **kernel)
    return torch.optim.AdamW(groups, lr=lr, betas=config.betas, eps=config.eps, **kernel)


def layer_numbers(names: Iterable[str]) -> tuple[dict[str, int], int]:
    """The layer of each parameter of a network whose parameters have ``names``, and the number of the topmost.

    A layer is a numbered member of a list called blocks, layers, stages or levels; they count from 1. What stands
    before the first one in ``names`` is layer 0, and what follows is above them, the topmost. Without any such list
    all is layer 0.
    """
    names = list(names)
    numbers = [int(found[1]) + 1 if (found := _LAYER.search(name)) else None for name in names]
    top = max((number for number in numbers if number is not None), default=-1) + 1
    first = next((at for at, number in enumerate(numbers) if number is not None), 0)
    return {
        name: number if number is not None else 0 if at < first else top
        for at, (name, number) in enumerate(zip(names, numbers, strict=True))
    }, top


def layer_scale(names: Iterable[str], decay: float) -> Callable[[str], float]:
    """Layer-wise decay of the learning rate (BEiT, Bao et al. 2022) for a network whose parameters have ``names``: the
    factor ``decay`` ** (layers above, see ``layer_numbers``) for each name, 1 for others."""
    layer, top = layer_numbers(names)
    return lambda name: decay ** (top - layer.get(name, top))


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al., 2017) in the form of SimCLR (Chen et al., 2020).

    With g = gradient + weight_decay · w, each parameter tensor w moves by its momentum buffer
    v ← momentum · v + lr · trust_coefficient · ‖w‖ / ‖g‖ · g. The ratio is 1 where either norm is zero, and for groups
    with ``adapt=False`` ratio and coefficient are left out. The learning rate is inside the buffer, so that past
    gradients keep the rate of their own step.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        adapt: bool = True,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"trust_coefficient": trust_coefficient, "adapt": adapt})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update; ``closure``, where given, recomputes the loss with gradients and its value is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if weights := [p for p in group["params"] if p.grad is not None]:
                self._update(weights, group)
        return loss

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        grads = [p.grad for p in weights if p.grad is not None]
        if group["weight_decay"]:
            grads = list(torch._foreach_add(grads, weights, alpha=group["weight_decay"]))
        if group["adapt"]:
            norms = zip(torch._foreach_norm(weights), torch._foreach_norm(grads), strict=True)
            ratios = [torch.where((w > 0) & (g > 0), group["trust_coefficient"] * w / g, 1.0) for w, g in norms]
            grads = list(torch._foreach_mul(grads, ratios))
        buffers = []
        for p in weights:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            buffers.append(self.state[p]["momentum_buffer"])
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, grads, alpha=group["lr"])
        torch._foreach_sub_(weights, buffers)


def check_precision(model: nn.Module, precision: str, device: torch.device, key: str) -> None:
    """Raise ``ConfigError``, which names ``key``, for what torch computes wrongly in training: on CPUs, oneDNN leaves
    parts of the bf16 weight gradient of small 3D convolutions uninitialised (seen in torch 2.15; finite garbage as
    often as not)."""
    if device.type == "cpu" and precision != "fp32" and any(isinstance(m, nn.Conv3d) for m in model.modules()):
        raise ConfigError(
            f"{key}={precision}: on a CPU torch gives wrong gradients for 3D convolutions in this precision; use fp32, "
            "or an encoder without them, such as video_vit"
        )
