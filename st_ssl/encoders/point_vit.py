"""The point-patch transformer: patches of neighbouring points as tokens of a plain ViT (Point-BERT, Yu et al. 2022;
Point-MAE, Pang et al. 2022) that can be fed a part of its patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from st_ssl.augment.point_masking import block_point_mask
from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.inputs import ATTRIBUTE_WIDTHS, CloudNeeds, PointInputConfig
from st_ssl.core.types import Features, Mask, PointBatch
from st_ssl.encoders.base import ENCODERS, CloudEncoder
from st_ssl.encoders.transformer import Block, gather_tokens, initialise
from st_ssl.ops.neighbours import gather_points, nearest, nearest_packed
from st_ssl.ops.sampling import farthest_points, farthest_points_packed

SIZES: dict[str, tuple[int, int, int]] = {  # embedding, blocks, heads
    "Ti": (192, 6, 3),
    "S": (384, 12, 6),
    "B": (768, 12, 12),
}


def point_channels(input: PointInputConfig) -> int:
    """How many numbers are known of a point."""
    return 3 + sum(ATTRIBUTE_WIDTHS[name] for name in input.attributes)


class PointViTConfig(Config):
    """A transformer over ``num_groups`` patches of ``group_size`` points. ``variant`` sets ``dim``, ``depth`` and
    ``heads`` where they are not given: S is the published network of Point-MAE, and with ``qkv_bias`` that of
    Point2Vec, which trains with ``attention_dropout`` 0.05 and ``drop_path`` 0.25. ``tokeniser``: the widths of the
    network that makes a token of a patch; with ``token_dim`` that token is so wide, and a linear layer brings it to
    ``dim`` (Point-BERT: 256). ``class_token``: one more token, which takes part in all blocks and is in no feature
    (Point-BERT; Point-MAE once it is fine-tuned). ``init``: linear layers begin with a deviation of 0.02 and without
    bias as in ``point_mae``, or as ``torch`` makes them, which is how Point2Vec leaves them. ``position_init``: the
    weights that take the coordinates begin as the others do (``published``), by Point-MAE's deviation of 0.02 too small
    to tell positions in a short training, or as ``xavier``. ``norm_eps`` is that of all papers' layer norms.

    ``time_scale``: above 0 patches are cut in space and time, and positions are of both: the attribute ``time`` times
    this is a fourth coordinate, so that half a window counts as this much of space.
    """

    name: Literal["point_vit"] = "point_vit"
    variant: Literal["Ti", "S", "B"] = "S"
    dim: int | None = Field(default=None, gt=0)
    depth: int | None = Field(default=None, gt=0)
    heads: int | None = Field(default=None, gt=0)
    num_groups: int = Field(default=64, gt=0)
    group_size: int = Field(default=32, gt=0)
    tokeniser: tuple[PositiveInt, PositiveInt, PositiveInt] = (128, 256, 512)
    token_dim: int | None = Field(default=None, gt=0)
    class_token: bool = False
    init: Literal["point_mae", "torch"] = "point_mae"
    position_init: Literal["published", "xavier"] = "published"
    mlp_ratio: float = Field(default=4.0, gt=0)
    qkv_bias: bool = False
    drop_path: float = Field(default=0.1, ge=0, lt=1)
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    norm_eps: float = Field(default=1e-5, gt=0)
    time_scale: float = Field(default=0.0, ge=0)

    @property
    def axes(self) -> int:
        """Coordinates of a point: three of space, and time where patches are cut in both."""
        return 4 if self.time_scale else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """(embedding, blocks, heads)."""
        dim, depth, heads = SIZES[self.variant]
        return self.dim or dim, self.depth or depth, self.heads or heads

    @model_validator(mode="after")
    def _heads_divide(self) -> PointViTConfig:
        dim, _, heads = self.shape
        if dim % heads:
            raise ValueError(f"dim {dim} must be divisible by heads {heads}")
        return self


@dataclass
class Patches:
    """The patches of a batch: ``points`` [B, G, K, C], the first A channels relative to the ``centres`` [B, G, A], the
    others the attributes; A is 3, or 4 with time; ``tokens`` [B, G, D] what the tokeniser makes of them, where it is
    known already."""

    points: Tensor
    centres: Tensor
    tokens: Tensor | None = None

    def take(self, index: Tensor) -> Patches:
        """The patches ``index`` int64 [B, M] of each cloud."""
        picked = gather_points(self.points.flatten(2), index).unflatten(2, self.points.shape[2:])
        tokens = None if self.tokens is None else gather_tokens(self.tokens, index)
        return Patches(picked, gather_points(self.centres, index), tokens)


class MiniPointNet(nn.Module):
    """Patches [B, G, K, C] to tokens [B, G, D], whatever the order of a patch's points (PointNet, Qi et al. 2017).

    The published network is four 1 × 1 convolutions. Here they are linear layers over the last axis, and the one that
    takes each point beside the maximum over its patch is taken apart, so that the maximum is multiplied once a patch.
    Batch norm is over all points of all patches.
    """

    def __init__(
        self, channels: int, dim: int, hidden: tuple[int, int, int] = (128, 256, 512), token_dim: int | None = None
    ) -> None:
        super().__init__()
        first, middle, last = hidden
        self.middle = middle
        self.linear1 = nn.Linear(channels, first)
        self.norm1 = nn.BatchNorm2d(first)
        self.linear2 = nn.Linear(first, middle)
        self.linear3 = nn.Linear(2 * middle, last)  # [maximum, point], as in the published weights
        self.norm2 = nn.BatchNorm2d(last)
        self.linear4 = nn.Linear(last, token_dim or dim)
        self.reduce = nn.Linear(token_dim, dim) if token_dim else nn.Identity()

    def forward(self, patches: Tensor) -> Tensor:
        local = self.linear2(_norm_relu(self.norm1, self.linear1(patches)))
        whole = local.max(2).values
        of_whole, of_local = self.linear3.weight.split(self.middle, dim=1)
        wide = nn.functional.linear(local, of_local)
        wide = wide + nn.functional.linear(whole, of_whole, self.linear3.bias).unsqueeze(2)
        return self.reduce(self.linear4(_norm_relu(self.norm2, wide)).max(2).values)


def _norm_relu(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Batch norm over all but the last axis of [B, G, K, C], and ReLU: channels last is how it lies in memory."""
    return norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).relu_()


def position_mlp(dim: int, axes: int = 3) -> nn.Sequential:
    """Centres [B, G, ``axes``] to position embeddings [B, G, D], as in Point-BERT (2022)."""
    return nn.Sequential(nn.Linear(axes, 128), nn.GELU(), nn.Linear(128, dim))


@ENCODERS.register(PointViTConfig)
class PointViT(CloudEncoder):
    """Clouds to tokens [B, G, D] at ``centres`` [B, G, 3] and, as ``pooled``, their mean [B, D]. With ``keep`` int64
    [B, K'] only those patches are tokenised and attended to: [B, K', D].

    Patches are the ``group_size`` points nearest to each of ``num_groups`` farthest points, the first point of a cloud
    being the first of these, so that their order is that of farthest point sampling. Positions are added to the input
    of every block, as published. The published figure of 22.1 M parameters is that of the classifier built on this:
    with 273,960 in its head for 40 classes and 768 in a class token.
    """

    modality = "points"

    def __init__(self, config: PointViTConfig, input: PointInputConfig) -> None:
        super().__init__(config, input)
        if input.num_points is not None and input.num_points < max(config.num_groups, config.group_size):
            raise ConfigError(
                f"input.num_points {input.num_points} must be at least encoder.num_groups {config.num_groups} and "
                f"encoder.group_size {config.group_size}"
            )
        if config.time_scale and "time" not in input.attributes:
            raise ConfigError("encoder.time_scale needs input.attributes with time, of windows (data.window)")
        dim, depth, heads = config.shape
        self.vit, self.attributes = config, input.attributes
        self.embed_dim = dim
        self.tokeniser = MiniPointNet(point_channels(input), dim, config.tokeniser, config.token_dim)
        self.position = position_mlp(dim, config.axes)
        rates = [config.drop_path * i / max(1, depth - 1) for i in range(depth)]
        self.blocks = nn.ModuleList(
            Block(dim, heads, config.mlp_ratio, rate, config.qkv_bias, config.attention_dropout, config.norm_eps)
            for rate in rates
        )
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        if config.class_token:
            self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
            self.class_position = nn.Parameter(torch.randn(1, 1, dim))
        for module in self.modules() if config.init == "point_mae" else ():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if config.position_init == "xavier":
            initialise(self.position)

    @classmethod
    def needs(cls, config: Any, input: Any) -> CloudNeeds:
        least = max(config.num_groups, config.group_size)
        return CloudNeeds(points=least, where="encoder.num_groups and encoder.group_size")

    def patches(self, points: PointBatch, start: Tensor | None = None) -> Patches:
        """Cut clouds into patches; ``start`` int64 [B] is the first centre, by default the first point of each.

        Raises ``DataError`` where a cloud has fewer points than patches, or than a patch.
        """
        counts = points.offsets.diff()
        needed = max(self.vit.num_groups, self.vit.group_size)
        if len(counts) and int(counts.min()) < needed:
            raise DataError(
                f"a cloud of {int(counts.min())} points cannot be cut into encoder.num_groups={self.vit.num_groups} "
                f"patches of encoder.group_size={self.vit.group_size}: it needs {needed}"
            )
        axes, place, others = self.vit.axes, points.xyz, self.attributes
        if axes == 4:
            place = torch.cat([place, self.vit.time_scale * points.attributes["time"]], 1)
            others = tuple(name for name in others if name != "time")
        values = torch.cat([place, *(points.attributes[name] for name in others)], 1)
        if len(counts) == 0 or bool((counts == counts[0]).all()):
            xyz = place.view(*points.dense().shape[:2], axes)
            centres = gather_points(xyz, farthest_points(xyz, self.vit.num_groups, start))
            index = nearest(centres, xyz, self.vit.group_size)[1]
            cut = gather_points(values.view(len(xyz), -1, values.shape[1]), index)
        else:
            assert start is None
            centres, index = self._unequal(place, points.offsets)
            cut = values[index]
        cut = torch.cat([cut[..., :axes] - centres.unsqueeze(2), cut[..., axes:]], 3)
        return Patches(cut, centres)

    def _unequal(self, place: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Of clouds of several sizes: centres [B, G, A], and the points of each patch [B, G, K] among all points."""
        batch, groups = len(offsets) - 1, self.vit.num_groups
        picked = place[farthest_points_packed(place, offsets, [groups] * batch)]
        bounds = torch.arange(batch + 1, device=picked.device) * groups
        index = nearest_packed(picked, bounds, place, offsets, self.vit.group_size)[1]
        return picked.view(batch, groups, -1), index.view(batch, groups, -1)

    def forward(self, clip: PointBatch, keep: Tensor | None = None, patches: Patches | None = None) -> Features:
        """A batch of clouds, and the patches to see int64 [B, K'] if not all, to features. ``patches`` are those of
        ``clip`` where they were cut before; the tokeniser is spared where they have their tokens."""
        patches = self.patches(clip) if patches is None else patches
        patches = patches if keep is None else patches.take(keep)  # hidden patches cost nothing
        x = self.tokeniser(patches.points) if patches.tokens is None else patches.tokens
        positions = self.position(patches.centres)
        if self.vit.class_token:
            both = ((self.class_token, x), (self.class_position, positions))
            x, positions = (torch.cat([one.expand(len(rest), -1, -1), rest], 1) for one, rest in both)
        x = self.norm(through(self.blocks, x, positions))[:, int(self.vit.class_token) :]
        return Features(pooled=x.mean(1), tokens=x, centres=patches.centres[..., :3])


def split_patches(mask: Mask, patches: Patches, ratio: float) -> tuple[Tensor, Tensor]:
    """``keep`` int64 [B, K'] and ``masked`` int64 [B, M] of a view. Of blocks ``mask`` tells the patch [B, 1] that each
    is around; the others, the share ``ratio`` of all, are found here, where the centres are."""
    if mask.keep is not None:
        return mask.keep, mask.masked
    draw = (mask.masked[:, 0] + 0.5) / patches.centres.shape[1]
    return block_point_mask(patches.centres, draw, ratio)


def through(blocks: nn.ModuleList, x: Tensor, positions: Tensor) -> Tensor:
    """Tokens [B, L, D] through blocks that are told the positions [B, L, D] anew each time."""
    for block in blocks:
        x = block(x + positions)
    return x
