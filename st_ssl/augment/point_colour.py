"""Colour augmentation of clouds: ``color`` float32 [P, 3], RGB in 0 … 1, of B clouds one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from st_ssl.augment import colour
from st_ssl.augment.point_noise import point_normal
from st_ssl.core.config import Config

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Strength = Annotated[float, Field(ge=0.0)]

_DRAWS = 14


class PointColourConfig(Config):
    """Settings of the colours, all off by default; a probability is that of a cloud to be changed.

    In the order in which they are done: ``jitter`` changes brightness, contrast, saturation (factors in 1 ± each) and
    hue (a turn within ± ``hue`` of the circle), as for videos; ``auto_contrast`` stretches each channel towards 0 … 1,
    by a drawn share of the way; ``translation`` adds one colour, each channel within ± ``translation_range``; ``noise``
    adds to each point its own, normal with ``noise_sigma`` (these three: SparseConvNet, 2018; Pointcept's names are
    ChromaticAutoContrast, ChromaticTranslation, ChromaticJitter); ``grayscale``; ``drop`` makes all colours 0.
    """

    jitter: Probability = 0.0
    brightness: Strength = 0.4
    contrast: Strength = 0.4
    saturation: Strength = 0.2
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    auto_contrast: Probability = 0.0
    translation: Probability = 0.0
    translation_range: Strength = 0.05
    noise: Probability = 0.0
    noise_sigma: Strength = 0.05
    grayscale: Probability = 0.0
    drop: Probability = 0.0


def sample_colour(config: PointColourConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Parameters of one cloud, float32 [k] by name; each has its neutral value where it was not chosen."""
    draws = rng.random(_DRAWS)
    gates = (config.jitter, config.auto_contrast, config.translation, config.noise, config.grayscale, config.drop)
    jitter, stretch, shift, noise, gray, drop = (draws[:6] < gates).tolist()
    amounts = draws[6:]

    def factor(strength: float, amount: float) -> float:
        low = max(0.0, 1.0 - strength)
        return low + (1.0 + strength - low) * amount if jitter else 1.0

    values: dict[str, object] = {
        "brightness": factor(config.brightness, amounts[0]),
        "contrast": factor(config.contrast, amounts[1]),
        "saturation": factor(config.saturation, amounts[2]),
        "hue": config.hue * (2 * amounts[3] - 1) if jitter else 0.0,
        "auto_contrast": amounts[4] if stretch else 0.0,
        "translation": config.translation_range * (2 * amounts[5:8] - 1) * shift,
        "noise": config.noise_sigma * noise,
        "grayscale": gray,
        "drop": drop,
    }
    return {name: np.atleast_1d(np.asarray(value, dtype=np.float32)) for name, value in values.items()}


def apply_colour(
    color: Tensor, offsets: Tensor, cloud: Tensor, place: Tensor, seed: Tensor, params: Mapping[str, Tensor]
) -> Tensor:
    """``color`` [P, 3] changed as ``params`` say, each [B, k] and best on the CPU, where what no cloud needs is seen at
    no cost; ``offsets`` int64 [B + 1], ``cloud``, ``place`` and ``seed`` as in ``point_normal``."""
    color = color.clone()
    pixels = color.view(-1, 3, 1, 1, 1)  # each point a clip of one pixel, with the strength of its cloud

    def chosen(name: str, neutral: float = 0.0) -> Tensor | None:
        value = params[name]
        return value.to(color.device, color.dtype)[cloud] if bool((value != neutral).any()) else None

    if (strength := chosen("brightness", 1.0)) is not None:
        colour.brightness_(pixels, strength)
    if (strength := chosen("contrast", 1.0)) is not None:
        grey = torch.segment_reduce(colour.luma(pixels).view(-1, 1), "mean", offsets=offsets, unsafe=True)
        color.copy_((color * strength + grey[cloud] * (1 - strength)).clamp_(0.0, 1.0))
    if (strength := chosen("saturation", 1.0)) is not None:
        colour.saturation_(pixels, strength)
    if (shift := chosen("hue")) is not None:
        turned = colour.hue_(pixels.clone(), shift).view(-1, 3)
        color.copy_(torch.where(shift != 0, turned, color))  # a cloud is the same to the bit beside any other
    if (share := chosen("auto_contrast")) is not None:
        low, high = (torch.segment_reduce(color, kind, offsets=offsets, unsafe=True) for kind in ("min", "max"))
        room = torch.where(high > low, high - low, 1.0)
        color += share * ((color - low[cloud]) / room[cloud] - color)
    if (shift := chosen("translation")) is not None:
        color.add_(shift).clamp_(0.0, 1.0)
    if (sigma := chosen("noise")) is not None:
        changed = (color + sigma * point_normal(seed, cloud, place)).clamp_(0.0, 1.0)
        color = torch.where(sigma != 0, changed, color)
    if (gate := chosen("grayscale")) is not None:
        color = torch.where(gate != 0, colour.luma(color.view(-1, 3, 1, 1, 1)).view(-1, 1), color)
    if (gate := chosen("drop")) is not None:
        color = torch.where(gate != 0, 0.0, color)
    return color
