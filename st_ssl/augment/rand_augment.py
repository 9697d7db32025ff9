"""RandAugment of clips: which operations, and how strong, is drawn once for a clip; all of its frames get the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from st_ssl.core.config import Config

LEVELS = 10.0  # the largest magnitude


class RandAugmentConfig(Config):
    """RandAugment (Cubuk et al. 2020) as VideoMAE (2022) fine-tunes with it (``rand-m7-n4-mstd0.5-inc1`` in the words
    of timm): ``num_ops`` operations, each any of ``OPERATIONS`` and left out unless by ``probability``, of a strength
    that is drawn for each from a normal distribution about ``magnitude`` (in 0 … 10) with the deviation ``std``.

    ``increasing``: a larger magnitude changes more in every operation; else, as in the paper's code, a larger one
    changes less in posterize and solarize, and goes from faint to strong in colour, contrast, brightness, sharpness.
    """

    magnitude: Annotated[float, Field(ge=0, le=LEVELS)] = 7.0
    num_ops: int = Field(default=4, gt=0)
    std: float = Field(default=0.5, ge=0)
    increasing: bool = True
    probability: Annotated[float, Field(ge=0, le=1)] = 0.5


def _factor(share: float, sign: float, increasing: bool) -> float:
    return max(0.1, 1 + sign * 0.9 * share) if increasing else 0.1 + 1.8 * share


def _bits(share: float, sign: float, increasing: bool) -> float:
    """At least 1: with none left the clip would be black."""
    lost = int(4 * share)
    return max(1, 4 - lost if increasing else lost)


def _threshold(share: float, sign: float, increasing: bool) -> float:
    return 256 - int(256 * share) if increasing else int(256 * share)


def _signed(most: float) -> Callable[[float, float, bool], float]:
    return lambda share, sign, increasing: sign * most * share


_AMOUNTS: dict[str, Callable[[float, float, bool], float]] = {
    "autocontrast": _signed(0),
    "equalize": _signed(0),
    "invert": _signed(0),
    "rotate": _signed(30),
    "posterize": _bits,
    "solarize": _threshold,
    "solarize_add": lambda share, sign, increasing: int(110 * share),
    "colour": _factor,
    "contrast": _factor,
    "brightness": _factor,
    "sharpness": _factor,
    "shear_x": _signed(0.3),
    "shear_y": _signed(0.3),
    "translate_x": _signed(0.45),
    "translate_y": _signed(0.45),
}

OPERATIONS = tuple(_AMOUNTS)
"""By number, as ``draw`` gives them."""


def draw(config: RandAugmentConfig, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The operations of one clip, in their order: ``ops`` int64 [1, n], -1 for none, and ``op_amounts`` float32 [1, n]:
    degrees, bits kept, a threshold or an addition in grey levels, a factor, a slope, or a share of the side."""
    n = config.num_ops
    which, applied, signs = rng.random((3, n))
    levels = np.clip(rng.normal(config.magnitude, config.std, n), 0, LEVELS)
    ops = np.where(applied < config.probability, (which * len(OPERATIONS)).astype(np.int64), -1)
    amounts = [
        _AMOUNTS[OPERATIONS[op]](level / LEVELS, 1.0 if sign < 0.5 else -1.0, config.increasing) if op >= 0 else 0.0
        for op, level, sign in zip(ops.tolist(), levels.tolist(), signs.tolist(), strict=True)
    ]
    return {"ops": ops[None], "op_amounts": np.array([amounts], dtype=np.float32)}


def rand_augment(frames: Tensor, params: Mapping[str, Tensor], fill: tuple[float, float, float]) -> Tensor:
    """A batch of clips uint8 [B, T, H, W, 3] to the same, each after the operations that ``draw`` gave it ([B, 1, n]).

    ``fill``: the colour, in 0 … 1, of what turning, shearing and moving lay open. Autocontrast, equalize and contrast
    look at each frame by itself, as image operations applied to videos do.
    """
    ops, amounts = (params[name].flatten(1).tolist() for name in ("ops", "op_amounts"))
    if all(op < 0 for row in ops for op in row):
        return frames
    colour = [round(255 * value) for value in fill]
    out = frames.clone()
    for clip, row, own in zip(out, ops, amounts, strict=True):
        images = clip.permute(0, 3, 1, 2)
        for op, amount in zip(row, own, strict=True):
            if op >= 0:
                images = operate(images, OPERATIONS[op], amount, colour)
        clip.copy_(images.permute(0, 2, 3, 1))
    return out


def operate(images: Tensor, operation: str, amount: float, fill: list[int]) -> Tensor:
    """One operation on uint8 [..., 3, H, W], bilinear where pixels move; shears keep the upper left corner."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    def moved(angle: float = 0, move: tuple[float, float] = (0, 0), shear: tuple[float, float] = (0, 0)) -> Tensor:
        degrees = [math.degrees(math.atan(slope)) for slope in shear]
        corner = [0.0, 0.0] if any(shear) else None
        bilinear = InterpolationMode.BILINEAR
        return F.affine(images, angle, list(move), 1.0, degrees, interpolation=bilinear, fill=fill, center=corner)

    height, width = images.shape[-2:]
    known: dict[str, Callable[[], Tensor]] = {
        "autocontrast": lambda: F.autocontrast(images),
        "equalize": lambda: F.equalize(images),
        "invert": lambda: F.invert(images),
        "rotate": lambda: moved(angle=amount),
        "posterize": lambda: F.posterize(images, int(amount)),
        "solarize": lambda: F.solarize(images, amount),
        "solarize_add": lambda: solarize_add(images, int(amount)),
        "colour": lambda: F.adjust_saturation(images, amount),
        "contrast": lambda: F.adjust_contrast(images, amount),
        "brightness": lambda: F.adjust_brightness(images, amount),
        "sharpness": lambda: F.adjust_sharpness(images, amount),
        "shear_x": lambda: moved(shear=(amount, 0)),
        "shear_y": lambda: moved(shear=(0, amount)),
        "translate_x": lambda: moved(move=(amount * width, 0)),
        "translate_y": lambda: moved(move=(0, amount * height)),
    }
    return known[operation]()


def solarize_add(images: Tensor, amount: int) -> Tensor:
    """``amount`` grey levels more for what is darker than half, uint8 to uint8."""
    brighter = (images.to(torch.int16) + amount).clamp_(max=255).to(torch.uint8)
    return torch.where(images < 128, brighter, images)
