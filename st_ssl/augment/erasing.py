"""Random erasing of clips: one box, the same in all frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from st_ssl.core.config import Config

_TRIES = 10


class EraseConfig(Config):
    """Random erasing (Zhong et al. 2020): with ``probability`` a box of ``area`` (a share of the frame) and ``aspect``
    (width / height, drawn on a logarithmic scale) is erased: ``pixel`` puts normal noise into it, another number for
    each pixel of each frame, ``const`` the mean colour."""

    probability: Annotated[float, Field(ge=0, le=1)] = 0.25
    area: tuple[float, float] = (0.02, 0.3333)
    aspect: tuple[float, float] = (0.3, 3.3333)
    mode: Literal["pixel", "const"] = "pixel"

    @field_validator("area")
    @classmethod
    def _area(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] < 1:
            raise ValueError(f"a share of the frame needs 0 < low <= high < 1, got {value}")
        return value

    @field_validator("aspect")
    @classmethod
    def _aspect(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"a range needs 0 < low <= high, got {value}")
        return value


def draw(config: EraseConfig, rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    """What is erased of one clip of ``size`` × ``size`` pixels: ``erase`` int64 [1, 4] is top, left, height, width (all
    0: nothing), the first of ten tries that fits; ``erase_seed`` int64 [1, 1] is what the noise is drawn from. How many
    numbers are drawn does not depend on the settings."""
    gate, (area, aspect, top, left) = rng.random(), rng.random((4, _TRIES))
    seed = rng.integers(0, 2**63 - 1, (1, 1))
    area = size**2 * (config.area[0] + (config.area[1] - config.area[0]) * area)
    low, high = np.log(config.aspect)
    ratio = np.exp(low + (high - low) * aspect)
    height, width = np.rint(np.sqrt(area / ratio)), np.rint(np.sqrt(area * ratio))
    fits = (height >= 1) & (width >= 1) & (height < size) & (width < size)
    box = np.zeros((1, 4), dtype=np.int64)
    if gate < config.probability and fits.any():
        h, w = height[at := int(fits.argmax())], width[at]
        box[0] = np.floor(top[at] * (size - h + 1)), np.floor(left[at] * (size - w + 1)), h, w
    return {"erase": box, "erase_seed": seed}


def erase_(clips: Tensor, params: Mapping[str, Tensor], mode: Literal["pixel", "const"]) -> Tensor:
    """Erase in place what ``draw`` gave each of the normalised clips, float [B, 3, T, S, S]."""
    boxes, seeds = params["erase"].flatten(1).tolist(), params["erase_seed"].flatten().tolist()
    for clip, (top, left, height, width), seed in zip(clips, boxes, seeds, strict=True):
        part = clip[:, :, top : top + height, left : left + width]
        if mode == "const":
            part.zero_()
        elif part.numel():
            generator = torch.Generator(clips.device).manual_seed(seed)
            part.copy_(torch.randn(part.shape, generator=generator, device=clips.device))
    return clips
