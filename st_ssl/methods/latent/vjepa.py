"""V-JEPA (Bardes et al., TMLR 2024): predict the features of large masked blocks, not their pixels."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import layer_norm

from st_ssl.augment.block_masking import BlockMask, BlockMaskConfig
from st_ssl.augment.video import Probability, VideoAugment, VideoAugmentConfig, undo_normalise
from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.core.types import View
from st_ssl.data.clip_plans import RandomClips
from st_ssl.data.views import Views, each
from st_ssl.encoders.base import ClipEncoder, Encoder
from st_ssl.encoders.transformer import gather_tokens
from st_ssl.encoders.video_vit import VideoViT, tubelets, untubelets
from st_ssl.methods.base import METHODS, Losses, Method, Moment, Paper
from st_ssl.parts.latent_predictor import LatentPredictor, PredictorConfig
from st_ssl.parts.momentum import MomentumConfig
from st_ssl.training.ema import follow


class VJEPAAugmentConfig(VideoAugmentConfig):
    """What V-JEPA does to a clip: a crop of one place for all frames, and a flip."""

    aspect: tuple[float, float] = (0.75, 1.35)
    jitter: Probability = 0.0
    grayscale: Probability = 0.0
    blur: Probability = 0.0


class VJEPAMomentumConfig(MomentumConfig):
    """The published momentum: on the way from 0.998 to 1 over 1.25 times the run, so that it ends at 0.9996."""

    shape: Literal["cosine", "linear"] = "linear"
    start: float = Field(default=0.998, ge=0, le=1)
    end: float = Field(default=0.9996, ge=0, le=1)


class VJEPAConfig(Config):
    """Predict what a slowly moving teacher, which sees the whole clip, makes of the hidden blocks.

    The encoder runs once for each of the ``masks``: by default eight small blocks (short range) and two large ones
    (long range). The loss is the mean of |prediction - target| ** ``exponent`` / ``exponent``.
    """

    name: Literal["vjepa"] = "vjepa"
    masks: tuple[BlockMaskConfig, ...] = Field(
        default=(BlockMaskConfig(blocks=8, scale=0.15), BlockMaskConfig(blocks=2, scale=0.7)), min_length=1
    )
    exponent: float = Field(default=1.0, ge=1)
    momentum: VJEPAMomentumConfig = VJEPAMomentumConfig()
    predictor: PredictorConfig = PredictorConfig()
    augment: VJEPAAugmentConfig = VJEPAAugmentConfig()


@METHODS.register(VJEPAConfig)
class VJEPA(Method[VJEPAConfig]):
    """The student sees the visible tokens of a mask, and the predictor makes of them what the teacher makes of the
    hidden ones. The teacher is exported, as it is what the paper evaluates."""

    paper = Paper(
        "Revisiting feature prediction for learning visual representations from video",
        "Bardes et al.",
        "TMLR 2024",
        "predict the features that a momentum teacher gives to large masked blocks",
    )
    encoder: VideoViT
    teacher: VideoViT

    def __init__(self, config: VJEPAConfig, encoder: ClipEncoder) -> None:
        super().__init__(config, encoder)
        if not isinstance(encoder, VideoViT):
            raise ConfigError("method.name=vjepa needs an encoder that can see a part of its tokens: video_vit")
        clip = encoder.input
        augment = VideoAugment(config.augment, clip.size, clip.mean, clip.std)
        masks = [BlockMask(mask, encoder.grid) for mask in config.masks]
        self.views = Views(each(RandomClips(clip.num_frames, clip.stride), augment, masks=masks))
        self.teacher = deepcopy(encoder).requires_grad_(False)
        self.predictor = LatentPredictor(encoder.embed_dim, encoder.grid, len(masks), config.predictor)

    def train(self, mode: bool = True) -> Self:
        """As always, but the teacher drops nothing."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def targets(self, clip: Tensor) -> Tensor:
        """Clips [B, 3, T, H, W] to the teacher's tokens [B, L, D], each brought to mean 0 and deviation 1 over its
        channels."""
        tokens = self.teacher(clip).as_tokens()
        return layer_norm(tokens.to(torch.promote_types(tokens.dtype, torch.float32)), tokens.shape[-1:])

    def compared(self, view: View) -> list[tuple[Tensor, Tensor]]:
        """For each mask what is predicted of its hidden tokens, and what it should be, [B, M, D] both."""
        targets, pairs = self.targets(view.clip), []
        for number, (keep, masked) in enumerate(view.masks):
            tokens = self.encoder(view.clip, keep).as_tokens()
            prediction = self.predictor(tokens, keep, masked, number)
            pairs.append((prediction.to(targets.dtype), gather_tokens(targets, masked)))
        return pairs

    def forward(self, views: list[View]) -> Losses:
        """The mean loss of all masks, and the deviation of each channel over all hidden tokens, on average, of targets
        and predictions: near 0 both have collapsed."""
        (view,) = views
        pairs, power = self.compared(view), self.config.exponent
        errors = [((made - target).abs() ** power).mean() / power for made, target in pairs]
        with torch.no_grad():
            made, target = (torch.cat([pair[i].flatten(0, 1) for pair in pairs]).std(0).mean() for i in (0, 1))
        return Losses(torch.stack(errors).mean(), {"target_std": target, "prediction_std": made})

    def after_update(self, moment: Moment, kept: Mapping[str, Tensor]) -> None:
        """The teacher takes its step towards the student."""
        momentum = self.config.momentum.at(moment.step, moment.num_steps)
        follow(self.teacher.state_dict(), self.encoder.state_dict(), momentum)

    def exports(self) -> dict[str, Encoder]:
        return {"encoder": self.teacher}

    def pictures(self, views: list[View]) -> dict[str, Tensor]:
        """The clip, and what the encoder sees of it with each mask."""
        (view,), vit = views, self.encoder.vit
        clip = undo_normalise(view.clip, self.encoder.input.mean, self.encoder.input.std)
        patches = tubelets(clip, vit.tubelet, vit.patch)
        pictures = {"input": clip}
        for number, mask in enumerate(view.masks):
            index = mask.keep[..., None].expand(-1, -1, patches.shape[-1])
            seen = torch.full_like(patches, 0.5).scatter(1, index, patches.gather(1, index))
            pictures[f"visible {number + 1}"] = untubelets(seen, self.encoder.grid, vit.tubelet, vit.patch)
        return pictures
