"""Point2Vec (Zeid et al., GCPR 2023): data2vec for point clouds, without telling the student where what it does not see
is."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import layer_norm, mse_loss, smooth_l1_loss

from st_ssl.augment.point_colour import Probability
from st_ssl.augment.point_masking import PatchMask, PointMaskConfig
from st_ssl.augment.points import PointAugment, PointAugmentConfig, Range
from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.core.types import PointBatch, View
from st_ssl.data.clip_plans import Still
from st_ssl.data.points.views import point_views
from st_ssl.data.views import each
from st_ssl.encoders.base import CloudEncoder
from st_ssl.encoders.point_vit import Patches, PointViT, split_patches
from st_ssl.encoders.transformer import gather_tokens
from st_ssl.methods.base import METHODS, Losses, Method, Moment, Paper
from st_ssl.parts.momentum import MomentumConfig
from st_ssl.parts.point_decoder import PointDecoder, PointDecoderConfig, mask_token
from st_ssl.training.distributed import mean_over_ranks
from st_ssl.training.ema import follow


class Point2VecAugmentConfig(PointAugmentConfig):
    """What Point2Vec does to a cloud: stretch it along each axis and mirror it, bring it to the unit sphere, turn it
    about the vertical. (The authors draw once for a whole batch, we for each cloud.)"""

    scale: Range = (0.8, 1.2)
    anisotropic: bool = True
    scale_first: bool = True
    flip: tuple[Probability, Probability, Probability] = (0.5, 0.5, 0.0)


class Point2VecDecoderConfig(PointDecoderConfig):
    """The decoder as Point2Vec has it."""

    drop_path: float = Field(default=0.25, ge=0, lt=1)
    qkv_bias: bool = True
    attention_dropout: float = Field(default=0.05, ge=0, lt=1)
    init: Literal["xavier", "torch"] = "torch"


class Point2VecConfig(Config):
    """Predict what a slowly moving teacher, which sees all patches, makes of those that the student does not see.

    Targets are the mean of the teacher's last ``target_layers`` blocks. ``smooth_l1`` has its bend at ``beta``;
    ``mse`` ignores it. ``position_leak`` is data2vec carried over as it is: mask tokens with the positions of the
    masked patches go through the student, which so sees the shape of the whole object; the paper's own baseline.
    """

    name: Literal["point2vec"] = "point2vec"
    mask: PointMaskConfig = PointMaskConfig(ratio=0.65)
    target_layers: int = Field(default=6, gt=0)
    loss: Literal["smooth_l1", "mse"] = "smooth_l1"
    beta: float = Field(default=2.0, gt=0)
    momentum: MomentumConfig = MomentumConfig(shape="linear", start=0.9998, end=0.99999, share=0.25)
    position_leak: bool = False
    decoder: Point2VecDecoderConfig = Point2VecDecoderConfig()
    augment: Point2VecAugmentConfig = Point2VecAugmentConfig()


@METHODS.register(Point2VecConfig)
class Point2Vec(Method[Point2VecConfig]):
    """Student and teacher share the tokeniser and the position network, which learn through the student alone; the
    teacher's blocks are a moving average of the student's. The encoder that is exported is the student, as published.
    """

    paper = Paper(
        "Point2Vec for self-supervised representation learning on point clouds",
        "Zeid et al.",
        "GCPR 2023",
        "predict what a momentum teacher makes of masked patches, without telling where they are",
    )
    modality = "points"
    encoder: PointViT

    def __init__(self, config: Point2VecConfig, encoder: CloudEncoder) -> None:
        super().__init__(config, encoder)
        if not isinstance(encoder, PointViT):
            raise ConfigError("method.name=point2vec needs an encoder that can see a part of its patches: point_vit")
        if encoder.vit.class_token:
            raise ConfigError("method.name=point2vec: its teacher sees patches alone: encoder.class_token=false")
        depth = len(encoder.blocks)
        if config.target_layers > depth:
            raise ConfigError(f"method.target_layers={config.target_layers}: the encoder has {depth} blocks")
        cloud = encoder.input
        augment = PointAugment(config.augment, cloud.num_points, cloud.unit_sphere, cloud.voxel_size, cloud.centre)
        mask = PatchMask(config.mask, encoder.vit.num_groups)
        self.views = point_views(cloud, each(Still(), augment, masks=[mask]))
        self.teacher = deepcopy(encoder.blocks).requires_grad_(False)
        dim = encoder.embed_dim
        if config.position_leak:
            self.mask_token = mask_token(dim, 0.02)
            self.regressor = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))
        else:
            self.decoder = PointDecoder(dim, dim, config.decoder)

    def train(self, mode: bool = True) -> Self:
        """As always, but the teacher drops nothing."""
        super().train(mode)
        self.teacher.eval()
        return self

    @torch.no_grad()
    def targets(self, patches: Patches) -> Tensor:
        """Patches with their tokens to what is to be predicted of each, [B, G, D]: the outputs of the teacher's last
        blocks, each brought to mean 0 and deviation 1 over its channels, averaged, and brought there again."""
        assert patches.tokens is not None
        x, positions, layers = patches.tokens, self.encoder.position(patches.centres), []
        for block in self.teacher:
            x = block(x + positions)
            layers.append(layer_norm(x.to(torch.promote_types(x.dtype, torch.float32)), x.shape[-1:]))
        mean = torch.stack(layers[-self.config.target_layers :]).mean(0)
        return layer_norm(mean, mean.shape[-1:])

    def _predict(self, points: PointBatch, patches: Patches, keep: Tensor, masked: Tensor) -> Tensor:
        """What the student and its decoder make of the masked patches, [B, M, D]."""
        assert patches.tokens is not None
        if self.config.position_leak:
            index = masked[..., None].expand(-1, -1, patches.tokens.shape[2])
            tokens = patches.tokens.scatter(1, index, self.mask_token.to(patches.tokens.dtype).expand(index.shape))
            seen = self.encoder(points, patches=replace(patches, tokens=tokens)).as_tokens()
            return self.regressor(gather_tokens(seen, masked))
        seen = self.encoder(points, keep, patches).as_tokens()
        positions = self.encoder.position(patches.centres)
        return self.decoder(seen, gather_tokens(positions, keep), gather_tokens(positions, masked))

    def compared(self, views: list[View]) -> tuple[Tensor, Tensor]:
        """What is predicted of the masked patches of all views of B clouds, and what it should be, [B, M, D] both."""
        predictions, targets = [], []
        for view in views:
            patches = self.encoder.patches(view.points)
            # All of them, as published: the statistics of batch norm are those that the teacher's tokens need too.
            patches = replace(patches, tokens=self.encoder.tokeniser(patches.points))
            keep, masked = split_patches(view.mask, patches, self.config.mask.ratio)
            targets.append(gather_tokens(self.targets(patches), masked))
            predictions.append(self._predict(view.points, patches, keep, masked).to(targets[-1].dtype))
        return torch.cat(predictions, 1), torch.cat(targets, 1)

    def forward(self, views: list[View]) -> Losses:
        """The loss over all masked patches, and how far targets and predictions are spread out: near 0 both have
        collapsed."""
        prediction, target = self.compared(views)
        if self.config.loss == "mse":
            loss = mse_loss(prediction, target)
        else:
            loss = smooth_l1_loss(prediction, target, beta=self.config.beta)
        return Losses(loss, {"target_std": _spread(target), "prediction_std": _spread(prediction)})

    def after_update(self, moment: Moment, kept: Mapping[str, Tensor]) -> None:
        """The teacher takes its step towards the student."""
        momentum = self.config.momentum.at(moment.step, moment.num_steps)
        follow(self.teacher.state_dict(), self.encoder.blocks.state_dict(), momentum)


def _spread(tokens: Tensor) -> Tensor:
    """The deviation of each channel over all tokens [B, M, D] of all processes, on average."""
    rows = tokens.detach().flatten(0, 1)
    mean = mean_over_ranks(rows.mean(0))
    return mean_over_ranks((rows - mean).square().mean(0)).sqrt().mean()
