"""Torchvision's video networks, as they are published and without their heads."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.core.types import Features
from st_ssl.encoders.base import ENCODERS, ClipEncoder, InputConfig
from st_ssl.encoders.conv3d import arranged

HEADS = ("fc", "classifier", "head")


class TorchvisionConfig(Config):
    """A network of ``torchvision.models.video``, randomly initialised, with its key names but for the head.

    ``drop_path`` is the rate of stochastic depth in the last block, where there is such a thing (MViT and Swin); None
    leaves the published one.
    """

    name: Literal["torchvision"] = "torchvision"
    model: Literal[
        "r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v1_b", "mvit_v2_s", "swin3d_t", "swin3d_s", "swin3d_b"
    ] = "mvit_v2_s"
    drop_path: float | None = Field(default=None, ge=0, lt=1)

    @model_validator(mode="after")
    def _warn_of_ignored(self) -> TorchvisionConfig:
        if self.drop_path is not None and not self.model.startswith(("mvit", "swin")):
            warnings.warn(f"drop_path={self.drop_path} is ignored: {self.model} has no stochastic depth", stacklevel=3)
        return self


@ENCODERS.register(TorchvisionConfig)
class Torchvision(ClipEncoder):
    """Clips [B, 3, T, H, W] to a map [B, D, T', H', W'] and what the network's head would be given [B, D]: the mean,
    or MViT's class token. MViT is built for the clips of ``input`` and takes no others.

    Raises ``ConfigError`` where ``input`` does not suit the network.
    """

    def __init__(self, config: TorchvisionConfig, input: InputConfig) -> None:
        from torchvision.models import video  # seconds to import

        super().__init__(config, input)
        self.model = config.model
        _check(config.model, input)
        network = getattr(video, config.model)(weights=None)
        if config.model.startswith("mvit"):
            _fit_positions(network.pos_encoding, input)
        if config.drop_path is not None:
            _set_drop_path(network, config.drop_path)
        for name, part in network.named_children():
            if name in HEADS:
                self.embed_dim = next(part.parameters()).shape[1]
            else:
                self.add_module(name, part)

    def forward(self, clip: Tensor, keep: Tensor | None = None) -> Features:
        """Clips [B, 3, T, H, W] to a map [B, D, T', H', W'] and what torchvision's head is given, [B, D]: the mean of
        the map, or MViT's class token. ``keep`` must be None."""
        assert keep is None, "these networks see whole clips"
        network: Any = self
        if self.model.startswith("mvit"):
            return _mvit(network, clip)
        if self.model.startswith("swin"):
            patches = network.pos_drop(network.patch_embed(clip))
            x = network.norm(network.features(patches)).movedim(-1, 1)
        else:
            x = arranged(clip, self.embed_dim)
            parts = ("features",) if self.model == "s3d" else ("stem", "layer1", "layer2", "layer3", "layer4")
            for part in parts:
                x = getattr(network, part)(x)
        return Features(pooled=x.mean((2, 3, 4)), map=x)


def _mvit(network: Any, clip: Tensor) -> Features:
    x = network.pos_encoding(network.conv_proj(clip).flatten(2).transpose(1, 2))
    size = (network.pos_encoding.temporal_size, *network.pos_encoding.spatial_size)
    for block in network.blocks:
        x, size = block(x, size)
    x = network.norm(x)
    return Features(pooled=x[:, 0], map=x[:, 1:].transpose(1, 2).unflatten(2, size))


def _fit_positions(positions: Any, input: InputConfig) -> None:
    """For another clip than 16 frames of 224 pixels, which torchvision's builders insist on. Version 2 has relative
    positions, which it interpolates by itself; those of version 1 are learned for every place."""
    time, side = input.num_frames // 2, input.size // 4
    positions.temporal_size, positions.spatial_size = time, (side, side)
    if positions.spatial_pos is not None:
        for name, length in {"spatial_pos": side * side, "temporal_pos": time}.items():
            table = torch.empty(length, positions.spatial_pos.shape[1])
            setattr(positions, name, nn.Parameter(nn.init.trunc_normal_(table, std=0.02)))


def _check(model: str, input: InputConfig) -> None:
    if model == "s3d" and (input.num_frames < 5 or input.size < 17):
        raise ConfigError(
            f"input.num_frames {input.num_frames} and input.size {input.size}: torchvision's s3d needs at least 5 "
            "frames of 17 pixels; encoder.name=s3d is the same network and takes any"
        )
    if model.startswith("mvit") and (input.num_frames % 2 or input.size % 4):
        raise ConfigError(
            f"input.num_frames {input.num_frames} and input.size {input.size} must be multiples of 2 and 4 for {model}"
        )


def _set_drop_path(network: Any, rate: float) -> None:
    """Growing linearly with depth, as where the network is built."""
    from torchvision.ops import StochasticDepth

    layers = [module for module in network.modules() if isinstance(module, StochasticDepth)]
    for i, layer in enumerate(layers):
        layer.p = rate * i / max(1, len(layers) - 1)
