"""VideoMAE (Tong et al., NeurIPS 2022) and ST-MAE (Feichtenhofer et al., NeurIPS 2022): masked autoencoders."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from st_ssl.augment.masking import MaskConfig, TokenMask
from st_ssl.augment.video import Probability, VideoAugment, VideoAugmentConfig, undo_normalise
from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.core.exhibits import ClipExhibit, Exhibit
from st_ssl.core.types import View
from st_ssl.data.clip_plans import RandomClips
from st_ssl.data.views import Views, each
from st_ssl.encoders.base import ClipEncoder
from st_ssl.encoders.video_vit import VideoViT, tubelets, untubelets
from st_ssl.methods.base import METHODS, Losses, Method, Paper
from st_ssl.objectives.reconstruction import Normalisation, masked_mse, normalised_pixels
from st_ssl.parts.masked_decoder import DecoderConfig, MaskedDecoder


class VideoMAEAugmentConfig(VideoAugmentConfig):
    """What VideoMAE does to a clip: a crop at one of 13 places and several scales, and nothing else."""

    crop: Literal["random_resized", "multi_scale", "centre"] = "multi_scale"
    positions: Literal[5, 13] = 13
    flip: Probability = 0.0
    jitter: Probability = 0.0
    grayscale: Probability = 0.0
    blur: Probability = 0.0


class VideoMAEConfig(Config):
    """Hide most tubelets of a clip and reconstruct their pixels from the rest.

    VideoMAE takes ``tube`` masks, ST-MAE ``random`` ones and ``repeats`` clips of each decoded video.
    ``target_frames``: how many frames of a clip are predicted, at even distances from the first to the last, rounded
    down; each tubelet predicts its share of them. VideoMAE predicts all (null), ST-MAE one a tubelet: 8 of 16.
    """

    name: Literal["videomae"] = "videomae"
    mask: MaskConfig = MaskConfig()
    repeats: int = Field(default=1, gt=0)
    target: Normalisation = "channel"
    target_frames: int | None = Field(default=None, gt=0)
    decoder: DecoderConfig = DecoderConfig()
    augment: VideoMAEAugmentConfig = VideoMAEAugmentConfig()


@METHODS.register(VideoMAEConfig)
class VideoMAE(Method[VideoMAEConfig]):
    """Asymmetric masked autoencoder: the encoder sees the visible tubelets alone, a light decoder predicts the rest."""

    paper = Paper(
        "VideoMAE: masked autoencoders are data-efficient learners for self-supervised video pre-training",
        "Tong et al.",
        "NeurIPS 2022",
        "reconstruct the pixels of masked tubelets (ST-MAE, Feichtenhofer et al. 2022, with random masks)",
    )
    encoder: VideoViT

    def __init__(self, config: VideoMAEConfig, encoder: ClipEncoder) -> None:
        super().__init__(config, encoder)
        if not isinstance(encoder, VideoViT):
            raise ConfigError("method.name=videomae needs an encoder that can see a part of its tokens: video_vit")
        clip, self.vit = encoder.input, encoder.vit
        self.target: Normalisation = config.target
        plan = RandomClips(clip.num_frames, clip.stride, config.repeats)
        augment = VideoAugment(config.augment, clip.size, clip.mean, clip.std)
        self.views = Views(each(plan, augment, masks=[TokenMask(config.mask, encoder.grid)]))
        frames, times = config.target_frames or clip.num_frames, encoder.grid[0]
        if frames > clip.num_frames or frames % times:
            raise ConfigError(
                f"method.target_frames={frames}: each of the {times} tubelets in time predicts equally many frames: "
                f"expected a multiple of {times}, at most {clip.num_frames}"
            )
        self.target_frames = [i * (clip.num_frames - 1) // max(1, frames - 1) for i in range(frames)]
        self.target_tubelet = frames // times
        pixels = 3 * self.target_tubelet * self.vit.patch**2
        self.decoder = MaskedDecoder(encoder.embed_dim, encoder.grid, pixels, config.decoder)

    def _predict(self, view: View) -> tuple[Tensor, Tensor]:
        """One view [B, 3, T, H, W] to predicted and true pixels of the masked tubelets, [B, M, P] both."""
        tokens = self.encoder(view.clip, view.mask.keep).as_tokens()
        pixels = tubelets(self._target(view), self.target_tubelet, self.vit.patch, view.mask.masked)
        return self.decoder(tokens, *view.mask), pixels

    def forward(self, views: list[View]) -> Losses:
        """The mean squared error over all masked tubelets of all views of [B] videos."""
        errors = []
        for view in views:
            prediction, pixels = self._predict(view)
            errors.append(masked_mse(prediction, normalised_pixels(pixels, 3, self.target)))
        return Losses(torch.stack(errors).mean(0).mean())

    def exhibits(self, views: list[View]) -> list[Exhibit]:
        """The first view's clip, what of it the encoder sees, and the reconstruction in the place of what it does not.
        Only frames that are predicted are shown.

        With a normalised target the network predicts structure alone: each patch's mean colour and contrast are then
        taken from the truth, so these look better than the network is.
        """
        view = views[0]
        prediction, pixels = self._predict(view)
        clip = self._target(view)
        patches = tubelets(clip, self.target_tubelet, self.vit.patch)
        index = view.mask.masked[..., None].expand(-1, -1, patches.shape[-1])
        restored = self._denormalise(prediction.to(pixels.dtype), pixels).clamp(0, 1)
        return [
            ClipExhibit("input", clip),
            ClipExhibit("visible", self._to_clip(patches.scatter(1, index, torch.full_like(restored, 0.5)))),
            ClipExhibit("reconstruction", self._to_clip(patches.scatter(1, index, restored))),
        ]

    def _target(self, view: View) -> Tensor:
        """The frames that are predicted, RGB in 0 … 1."""
        clip = view.clip if self.config.target_frames is None else view.clip[:, :, self.target_frames]
        return undo_normalise(clip, self.encoder.input.mean, self.encoder.input.std)

    def _denormalise(self, prediction: Tensor, pixels: Tensor) -> Tensor:
        # The network predicts patches of mean 0 and deviation 1: colour and contrast are taken from the truth.
        if self.target == "none":
            return prediction
        groups = 3 if self.target == "channel" else 1
        truth = pixels.unflatten(-1, (groups, -1))
        x = prediction.unflatten(-1, (groups, -1))
        return (x * truth.std(-1, keepdim=True) + truth.mean(-1, keepdim=True)).flatten(-2)

    def _to_clip(self, patches: Tensor) -> Tensor:
        return untubelets(patches, self.encoder.grid, self.target_tubelet, self.vit.patch)
