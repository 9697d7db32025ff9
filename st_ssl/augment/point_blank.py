"""Clouds without colours for a network that takes colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from st_ssl.augment.point_noise import point_normal
from st_ssl.augment.points import spread
from st_ssl.core.types import PointBatch, PointCloud


@dataclass(frozen=True)
class BlankColour:
    """The transform that sets all three channels of ``color`` to 1 (PointContrast, Xie et al. 2020).

    In the share ``probability`` of the views it adds normal noise of the deviation ``sigma`` to each number. A network
    that is pretrained so can take colours later.
    """

    sigma: float = 0.01
    probability: float = 0.95

    def sample(self, rng: np.random.Generator, meta: Any = None, num_frames: int = 1) -> dict[str, np.ndarray]:
        """``blank_seed`` int64 [1] of the noise, and its deviation ``blank_noise`` float32 [1], 0 for none."""
        seed = rng.integers(1 << 63, size=1)
        noise = self.sigma * (rng.random(1) < self.probability)
        return {"blank_seed": seed, "blank_noise": noise.astype(np.float32)}

    def cut(self, items: Sequence[PointCloud], params: Mapping[str, np.ndarray]) -> list[PointCloud]:
        return list(items)

    @torch.no_grad()
    def apply(self, content: PointBatch, params: Mapping[str, Tensor]) -> PointBatch:
        """``content`` with such colours; without colours as it is."""
        if "color" not in content.attributes:
            return content
        color = content.attributes["color"]
        seed, noise = (
            spread(params[name], len(content)).to(color.device).flatten() for name in ("blank_seed", "blank_noise")
        )
        cloud = torch.arange(len(content), device=color.device).repeat_interleave(
            content.offsets.diff(), output_size=len(color)
        )
        place = torch.arange(len(color), device=color.device) - content.offsets[cloud]
        blank = 1 + noise[cloud, None] * point_normal(seed, cloud, place)
        return replace(content, attributes={**content.attributes, "color": blank.to(color.dtype)})
