"""Point-MAE (Pang et al., ECCV 2022): a masked autoencoder of point patches."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from st_ssl.augment.point_masking import PatchMask, PointMaskConfig
from st_ssl.augment.points import PointAugment, PointAugmentConfig, Range, Strength
from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.core.exhibits import CloudExhibit, Exhibit
from st_ssl.core.types import PointBatch, View
from st_ssl.data.clip_plans import Still
from st_ssl.data.points.views import point_views
from st_ssl.data.views import each
from st_ssl.encoders.base import CloudEncoder
from st_ssl.encoders.point_vit import Patches, PointViT, position_mlp, split_patches
from st_ssl.encoders.transformer import initialise
from st_ssl.methods.base import METHODS, Losses, Method, Paper
from st_ssl.ops.chamfer import chamfer
from st_ssl.parts.point_decoder import PointDecoder, PointDecoderConfig

GREY, ORANGE = (0.6, 0.6, 0.6), (0.9, 0.45, 0.1)


class PointMAEAugmentConfig(PointAugmentConfig):
    """What Point-MAE does to a cloud: stretch and shift it along each axis."""

    rotation: Literal["none", "y", "z", "so3"] = "none"
    scale: Range = (2 / 3, 3 / 2)
    anisotropic: bool = True
    translation: Strength = 0.2


class PointMAEConfig(Config):
    """Hide most patches of a cloud and predict their points, relative to their centres, from the rest. Where the
    encoder cuts patches in space and time, it predicts when the points are, too.

    ``chamfer``: ``l2`` is the mean squared distance to the nearest point, both ways (the paper's); ``l1`` half the sum
    of the mean distances.
    """

    name: Literal["point_mae"] = "point_mae"
    mask: PointMaskConfig = PointMaskConfig(ratio=0.6)
    chamfer: Literal["l1", "l2"] = "l2"
    decoder: PointDecoderConfig = PointDecoderConfig()
    augment: PointMAEAugmentConfig = PointMAEAugmentConfig()


@METHODS.register(PointMAEConfig)
class PointMAE(Method[PointMAEConfig]):
    """Asymmetric masked autoencoder: the encoder sees the visible patches alone; where the masked ones are is told to
    a light decoder, which predicts what they look like.

    The published code tokenises the masked patches too and throws their tokens away, which shows to the encoder in the
    statistics of batch norm alone; here they are not tokenised.
    """

    paper = Paper(
        "Masked autoencoders for point cloud self-supervised learning",
        "Pang et al.",
        "ECCV 2022",
        "reconstruct masked patches of points",
    )
    modality = "points"
    encoder: PointViT

    def __init__(self, config: PointMAEConfig, encoder: CloudEncoder) -> None:
        super().__init__(config, encoder)
        if not isinstance(encoder, PointViT):
            raise ConfigError("method.name=point_mae needs an encoder that can see a part of its patches: point_vit")
        dim, size = encoder.embed_dim, encoder.vit.group_size
        cloud = encoder.input
        augment = PointAugment(config.augment, cloud.num_points, cloud.unit_sphere, cloud.voxel_size, cloud.centre)
        mask = PatchMask(config.mask, encoder.vit.num_groups)
        self.views = point_views(cloud, each(Still(), augment, masks=[mask]))
        self.order = 2 if config.chamfer == "l2" else 1
        self.axes = encoder.vit.axes
        self.position = position_mlp(dim, self.axes)
        initialise(self.position)
        self.decoder = PointDecoder(dim, self.axes * size, config.decoder)

    def _predict(self, view: View) -> tuple[Tensor, Patches, Patches]:
        """Predicted points [B, M, K, 3], or 4 with time, of the masked patches, relative to their centres; the
        masked patches, and the visible ones."""
        patches = self.encoder.patches(view.points)
        visible, masked = (patches.take(index) for index in split_patches(view.mask, patches, self.config.mask.ratio))
        tokens = self.encoder(view.points, patches=visible).as_tokens()
        prediction = self.decoder(tokens, self.position(visible.centres), self.position(masked.centres))
        return prediction.unflatten(2, (-1, self.axes)), masked, visible

    def forward(self, views: list[View]) -> Losses:
        """The mean Chamfer distance of all masked patches of [B] clouds."""
        errors = []
        for view in views:
            prediction, masked, _ = self._predict(view)
            distance = chamfer(prediction.flatten(0, 1), masked.points[..., : self.axes].flatten(0, 1), self.order)
            errors.append(distance.view(prediction.shape[:2]).mean(1))
        return Losses(torch.stack(errors).mean(0).mean())

    def exhibits(self, views: list[View]) -> list[Exhibit]:
        """The first view's clouds, the patches of them that the encoder sees (grey), and these with what is predicted
        in the place of the masked ones (orange)."""
        view = views[0]
        prediction, masked, visible = self._predict(view)
        seen = (visible.points[..., :3] + visible.centres[..., :3].unsqueeze(2)).flatten(1, 2)
        guessed = (prediction[..., :3].to(seen.dtype) + masked.centres[..., :3].unsqueeze(2)).flatten(1, 2)
        return [
            CloudExhibit("input", PointBatch(view.points.xyz, view.points.offsets)),
            CloudExhibit("visible", _coloured((seen, GREY))),
            CloudExhibit("reconstruction", _coloured((seen, GREY), (guessed, ORANGE))),
        ]


def _coloured(*parts: tuple[Tensor, tuple[float, float, float]]) -> PointBatch:
    """Clouds of one size, out of parts [B, N, 3] each of a colour."""
    xyz = torch.cat([part for part, _ in parts], 1)
    colour = torch.cat([part.new_tensor(rgb).expand_as(part) for part, rgb in parts], 1)
    offsets = torch.arange(len(xyz) + 1, device=xyz.device) * xyz.shape[1]
    return PointBatch(xyz.flatten(0, 1), offsets, {"color": colour.flatten(0, 1)})
