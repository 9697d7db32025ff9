"""What fine-tuning does to training clips besides what pretraining does: RandAugment and random erasing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from st_ssl.augment import erasing, rand_augment
from st_ssl.augment.erasing import EraseConfig
from st_ssl.augment.rand_augment import RandAugmentConfig
from st_ssl.augment.video import KINETICS_MEAN, KINETICS_STD, Triple, VideoAugment, VideoAugmentConfig
from st_ssl.core.types import VideoMeta


class FinetuneAugmentConfig(VideoAugmentConfig):
    """Settings of ``FinetuneAugment``: those of ``VideoAugmentConfig``, and where they are given those of
    ``rand_augment``, on the cropped clip before all else, and of ``erase``, after all else."""

    rand_augment: RandAugmentConfig | None = None
    erase: EraseConfig | None = None

    @model_validator(mode="after")
    def _consistent(self) -> FinetuneAugmentConfig:
        if self.per_frame and (self.rand_augment or self.erase):
            raise ValueError("per_frame is not for rand_augment and erase, which are the same for all frames")
        return self


class FinetuneAugment(VideoAugment):
    """``VideoAugment`` with RandAugment (Cubuk et al. 2020) before it and random erasing (Zhong et al. 2020) after it,
    both with one draw for all frames. Neither shifts the draws of the other, or of what both have in common."""

    config: FinetuneAugmentConfig

    def __init__(
        self, config: FinetuneAugmentConfig, size: int = 112, mean: Triple = KINETICS_MEAN, std: Triple = KINETICS_STD
    ) -> None:
        super().__init__(config, size, mean, std)

    def sample(self, rng: np.random.Generator, meta: VideoMeta, num_frames: int) -> dict[str, np.ndarray]:
        """As ``VideoAugment.sample``, with what ``erasing.draw`` and ``rand_augment.draw`` give."""
        params = super().sample(rng, meta, num_frames)
        c = self.config
        if c.erase is not None or c.rand_augment is not None:
            erased = erasing.draw(c.erase or EraseConfig(), rng, self.size)
            params |= erased if c.erase is not None else {}
        if c.rand_augment is not None:
            params |= rand_augment.draw(c.rand_augment, rng)
        return params

    @torch.no_grad()
    def apply(self, frames: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """As ``VideoAugment.apply``: uint8 [B, T, S, S, 3] to float32 [B, 3, T, S, S], same device."""
        if self.config.rand_augment is not None:
            frames = rand_augment.rand_augment(frames, params, self.mean)
        clips = super().apply(frames, params)
        return clips if self.config.erase is None else erasing.erase_(clips, params, self.config.erase.mode)
