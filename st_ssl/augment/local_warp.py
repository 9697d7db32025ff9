"""Spatial local disturbance of clips (DSM, Wang et al. 2021): parts of the frame are pushed aside, the same in all
frames, so that the layout of the scene changes and the motion does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import grid_sample

from st_ssl.core.config import Config


class LocalWarpConfig(Config):
    """One to ``most`` warps, one after the other. Each pushes what is around its centre by its shift: both are drawn
    for either axis, in shares of the side of the clip (published for 224 pixels: 60 to 139, and 10 to 19)."""

    most: int = Field(default=3, gt=0)
    centre: tuple[float, float] = (60 / 224, 139 / 224)
    shift: tuple[float, float] = (10 / 224, 19 / 224)

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for name, (low, high) in (("centre", self.centre), ("shift", self.shift)):
            if not 0 <= low <= high <= 1:
                raise ValueError(f"{name} needs 0 <= low <= high <= 1, got {(low, high)}")
        if self.shift[0] == 0:
            raise ValueError(f"shift must be above 0, got {self.shift}")
        return self


class LocalWarp:
    """The transform of ``LocalWarpConfig``, for clips that are cropped already; each sample has warps of its own."""

    geometric: ClassVar[tuple[str, ...]] = ("warp",)

    def __init__(self, config: LocalWarpConfig) -> None:
        self.config = config

    def sample(self, rng: np.random.Generator, meta: Any, num_frames: int) -> dict[str, np.ndarray]:
        """``warp`` float32 [1, 4 × most]: x and y of the centre, then of the shift, of each warp in the order in which
        they are applied; all 0 for those that are not."""
        count, draws = rng.integers(1, self.config.most + 1), rng.random((self.config.most, 4))
        low, high = np.repeat(np.array([self.config.centre, self.config.shift]).T, 2, axis=1)
        warps = low + (high - low) * draws
        warps[count:] = 0
        return {"warp": warps.astype(np.float32).reshape(1, -1)}

    def cut(self, items: Any, params: Mapping[str, np.ndarray]) -> Any:
        """The items as they are."""
        return items

    @torch.no_grad()
    def apply(self, content: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """Warp the clips float [B, 3, T, S, S], bilinear; beyond the border is what is at it."""
        warps = params["warp"].to(content.device, content.dtype).view(len(content), -1, 4)
        frames = content.flatten(1, 2)
        return grid_sample(
            frames, sources(warps, content.shape[-1]) * 2 - 1, padding_mode="border", align_corners=False
        ).view_as(content)


def sources(warps: Tensor, size: int) -> Tensor:
    """Where the pixels of warped clips come from: ``warps`` [B, N, 4] to x and y [B, ``size``, ``size``, 2], in shares
    of the side from the outer edges.

    A warp by s around c takes the pixel p from p - s / (6 (|p - c - s| / |s|)⁴ + 2).
    """
    line = (torch.arange(size, device=warps.device, dtype=warps.dtype) + 0.5) / size
    y, x = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack([x, y], -1).expand(len(warps), -1, -1, -1)
    for warp in warps.unbind(1)[::-1]:  # of the last one's sources those of the one before
        centre, shift = warp[:, None, None].split(2, -1)
        length = shift.norm(dim=-1, keepdim=True).clamp_min(1e-6)  # not 0, where there is no warp
        distance = (places - centre - shift).norm(dim=-1, keepdim=True) / length
        places = places - shift / (6 * distance**4 + 2)
    return places
