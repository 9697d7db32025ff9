"""Colour that changes from frame to frame, over a crop that does not."""

from __future__ import annotations

import numpy as np

from st_ssl.augment.video import KINETICS_MEAN, KINETICS_STD, Triple, VideoAugment, VideoAugmentConfig
from st_ssl.core.types import VideoMeta


class FrameColourConfig(VideoAugmentConfig):
    """``VideoAugmentConfig`` and one setting: ``colour_per_frame`` draws colour and blur anew for each frame, while
    crop and flip stay those of the clip (``per_frame`` draws all of them anew)."""

    colour_per_frame: bool = True


class FrameColour(VideoAugment):
    """``VideoAugment`` whose colours tell nothing of the order of frames: a brightness that is the same throughout
    could be tracked from one frame to the next (Jenni et al., ECCV 2020)."""

    def __init__(
        self, config: FrameColourConfig, size: int = 112, mean: Triple = KINETICS_MEAN, std: Triple = KINETICS_STD
    ) -> None:
        drawn = config.model_copy(update={"per_frame": True}) if config.colour_per_frame else config
        super().__init__(drawn, size, mean, std)
        self.one_crop = config.colour_per_frame and not config.per_frame

    def sample(self, rng: np.random.Generator, meta: VideoMeta, num_frames: int) -> dict[str, np.ndarray]:
        """As ``VideoAugment.sample``; ``box`` and ``flip`` are [1, k], colour and blur [T, 1]."""
        params = super().sample(rng, meta, num_frames)
        return {
            name: value[:1] if self.one_crop and name in self.geometric else value for name, value in params.items()
        }
