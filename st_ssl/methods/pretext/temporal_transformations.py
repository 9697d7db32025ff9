"""Video representation learning by recognizing temporal transformations (Jenni et al., ECCV 2020)."""

from __future__ import annotations

import warnings
from typing import Annotated, Literal, Self

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from st_ssl.augment.frame_colour import FrameColour, FrameColourConfig
from st_ssl.augment.video import Strength
from st_ssl.core.config import Config, once
from st_ssl.core.errors import ConfigError
from st_ssl.core.types import View
from st_ssl.data.video.tempo_plans import AT_A_SPEED, TRANSFORMATIONS, TemporalTransformations, Transformation
from st_ssl.data.views import Views, each
from st_ssl.encoders.base import ClipEncoder
from st_ssl.methods.base import METHODS, Losses, Method, Paper


class TemporalAugmentConfig(FrameColourConfig):
    """What is done to a clip: a square crop, and colours drawn anew for each frame, as for the paper's ResNets.

    Our reading: the paper resizes by a factor in 0.5 to 1 before it crops a square of half the side, here ``area`` is
    that range as a share of the frame; it adds up to 32/255 to brightness, here a factor in 1 ± 32/255; its four clips
    of a video are mirrored together, here each by itself.
    """

    area: tuple[float, float] = (0.25, 1.0)
    aspect: tuple[float, float] = (1.0, 1.0)
    jitter: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    brightness: Strength = 32 / 255
    contrast: Strength = 0.0
    saturation: Strength = 0.5
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    blur: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0


class TemporalTransformationsConfig(Config):
    """A network tells how a clip was changed in time, and how fast it plays.

    Each video gives one clip for each of the ``transformations``: see ``TemporalTransformations``. ``speeds`` are
    multiples of ``input.stride``, told of ``original`` and ``forward_backward`` clips alone, with ``speed_weight``
    beside the loss of the transformation. A video needs num_frames × stride × speed frames for a speed: shorter ones
    have fewer speeds, with a warning. The paper has stride 1.
    """

    name: Literal["temporal_transformations"] = "temporal_transformations"
    transformations: Annotated[tuple[Transformation, ...], Field(min_length=1), AfterValidator(once)] = TRANSFORMATIONS
    speeds: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1), AfterValidator(once)] = (1, 2, 4, 8)
    speed_weight: float = Field(default=1.0, ge=0)
    augment: TemporalAugmentConfig = TemporalAugmentConfig()

    @property
    def tells_transformations(self) -> bool:
        """Whether there is more than one transformation to tell apart."""
        return len(self.transformations) > 1

    @property
    def tells_speeds(self) -> bool:
        """Whether there is more than one speed to tell apart, in clips that play at one."""
        playing = any(name in AT_A_SPEED for name in self.transformations)
        return playing and len(self.speeds) > 1 and self.speed_weight > 0

    @model_validator(mode="after")
    def _something_to_tell(self) -> Self:
        if not self.tells_transformations and not self.tells_speeds:
            raise ValueError(
                f"transformations={list(self.transformations)}, speeds={list(self.speeds)} and speed_weight="
                f"{self.speed_weight:g} leave nothing to tell: two transformations are needed, or two speeds of "
                f"{' or '.join(AT_A_SPEED)}"
            )
        if not self.tells_speeds and "speed_weight" in self.model_fields_set and self.speed_weight:
            warnings.warn(f"speed_weight={self.speed_weight:g} is ignored: there are no speeds to tell", stacklevel=3)
        return self


@METHODS.register(TemporalTransformationsConfig)
class TemporalTransformationRecognition(Method[TemporalTransformationsConfig]):
    """Cross entropy of the transformation over all clips, and of the speed over those that play at one."""

    paper = Paper(
        "Video representation learning by recognizing temporal transformations",
        "Jenni et al.",
        "ECCV 2020",
        "tell whether a clip plays as it was, forward and backward, shuffled or with skips, and how fast",
    )

    def __init__(self, config: TemporalTransformationsConfig, encoder: ClipEncoder) -> None:
        super().__init__(config, encoder)
        clip = encoder.input
        if clip.num_frames < 4:
            raise ConfigError(
                f"input.num_frames={clip.num_frames}: method.name=temporal_transformations needs 4 or more"
            )
        plan = TemporalTransformations(clip.num_frames, clip.stride, config.transformations, config.speeds)
        self.views = Views(each(plan, FrameColour(config.augment, clip.size, clip.mean, clip.std)))
        self.head = nn.Linear(
            encoder.embed_dim,
            len(config.transformations) * config.tells_transformations + len(config.speeds) * config.tells_speeds,
        )
        nn.init.normal_(self.head.weight, std=1e-3)
        nn.init.zeros_(self.head.bias)

    def forward(self, views: list[View]) -> Losses:
        """The clips of B videos, all transformations in one batch of the encoder, to the losses."""
        scores = self.head(self.encoder(torch.cat([view.clip for view in views])).pooled)
        losses: list[Tensor] = []
        logs: dict[str, Tensor] = {}
        if self.config.tells_transformations:
            told, scores = scores.tensor_split([len(self.config.transformations)], dim=1)
            truth = torch.cat([view.labels["transformation"] for view in views])
            losses.append(self._tell("transformation", told, truth, logs))
        if self.config.tells_speeds:
            truth = torch.cat([view.labels["speed"] for view in views])
            known = [name in AT_A_SPEED for name in self.config.transformations]
            rows = torch.tensor(known, device=truth.device).repeat_interleave(len(views[0])).nonzero().flatten()
            losses.append(self.config.speed_weight * self._tell("speed", scores[rows], truth[rows], logs))
        return Losses(torch.stack(losses).sum(), logs)

    @staticmethod
    def _tell(name: str, scores: Tensor, truth: Tensor, logs: dict[str, Tensor]) -> Tensor:
        loss = cross_entropy(scores, truth)
        logs[f"{name}_loss"] = loss
        logs[f"{name}_accuracy"] = (scores.detach().argmax(1) == truth).to(scores.dtype).mean()
        return loss
