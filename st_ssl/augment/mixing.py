"""Mixup and cutmix of training clips: each becomes partly another one of its batch, and so do its targets."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import one_hot

from st_ssl.core.config import Config

Probability = Annotated[float, Field(ge=0, le=1)]


class MixConfig(Config):
    """How training clips are mixed: by mixup (Zhang et al. 2018) with a share from Beta(``mixup_alpha``,
    ``mixup_alpha``), or by cutmix (Yun et al. 2019) with one from Beta(``cutmix_alpha``, ``cutmix_alpha``); an alpha of
    0 leaves that one out, and of both cutmix is chosen by ``switch_probability``. ``probability``: of mixing at all.
    ``mode``: one draw for a ``batch``, as VideoMAE (2022) has it, or one for each ``elem`` of it."""

    mixup_alpha: float = Field(default=0.8, ge=0)
    cutmix_alpha: float = Field(default=1.0, ge=0)
    probability: Probability = 1.0
    switch_probability: Probability = 0.5
    mode: Literal["batch", "elem"] = "batch"

    @model_validator(mode="after")
    def _some(self) -> MixConfig:
        if self.mixup_alpha == self.cutmix_alpha == 0:
            raise ValueError("nothing is mixed with mixup_alpha and cutmix_alpha both 0: leave mix out")
        return self


def mix(clips: Tensor, config: MixConfig, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Mix each of the clips, float [B, C, T, H, W], with the one before it in the batch (the first with the last).

    Returns new clips, ``partner`` int64 [B], and ``weight`` float32 [B], the share that is left of a clip's own: in
    mixup of every pixel, in cutmix of the area, whose box is the same in all frames.
    """
    b, _, _, height, width = clips.shape
    partner = torch.arange(-1, b - 1, device=clips.device) % max(1, b)
    draws = [_draw(config, rng) for _ in range(b if config.mode == "elem" else 1)] * (1 if config.mode == "elem" else b)
    other, mixed, weight = clips[partner], clips.clone(), torch.ones(b)
    for number, (kind, share, y, x) in enumerate(draws):
        if kind == "mixup":
            mixed[number].lerp_(other[number], 1 - share)
            weight[number] = share
        elif kind == "cutmix":
            top, bottom = _side(height, share, y)
            left, right = _side(width, share, x)
            mixed[number, :, :, top:bottom, left:right] = other[number, :, :, top:bottom, left:right]
            weight[number] = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, partner, weight.to(clips.device)


def _draw(config: MixConfig, rng: np.random.Generator) -> tuple[str, float, float, float]:
    """What is done (nothing: ""), the share of a clip's own, and the centre of the box, in 0 … 1."""
    gate, switch, y, x = rng.random(4).tolist()
    if gate >= config.probability:
        return "", 1.0, y, x
    cut = config.mixup_alpha == 0 or (config.cutmix_alpha > 0 and switch < config.switch_probability)
    alpha = config.cutmix_alpha if cut else config.mixup_alpha
    return "cutmix" if cut else "mixup", float(rng.beta(alpha, alpha)), y, x


def _side(size: int, share: float, centre: float) -> tuple[int, int]:
    """From where to where a box goes that leaves ``share`` of the frame, as far as it is inside."""
    at, half = int(size * centre), int(0.5 * size * np.sqrt(1 - share))
    return max(0, at - half), min(size, at + half)


def mixed_targets(targets: Tensor, partner: Tensor, weight: Tensor, num_classes: int) -> Tensor:
    """Targets of mixed clips, float [B, K]: classes int64 [B], or float [B, K] of several, each with those of its
    ``partner`` by ``weight``. -1 throughout where either is not labelled, unless none of the partner is in the clip.

    Label smoothing is the loss's affair: it commutes with mixing.
    """
    soft = targets
    if targets.ndim == 1:
        soft = one_hot(targets.clamp_min(0), num_classes).to(weight.dtype)
    known = targets >= 0 if targets.ndim == 1 else (targets >= 0).all(1)
    own = weight.to(soft.dtype)[:, None]
    mixed = own * soft + (1 - own) * soft[partner]
    usable = known & (known[partner] | (weight == 1))
    return mixed.masked_fill(~usable[:, None], -1)
