"""PyTorchVideo's networks (SlowFast, X3D, CSN and others), as they are published and without their heads.

PyTorchVideo is no longer maintained, but its builders work: nothing else of it is used.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d

from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError, MissingDependencyError
from st_ssl.encoders.base import ENCODERS, InputConfig
from st_ssl.encoders.conv3d import ConvEncoder


class PytorchvideoConfig(Config):
    """A network of PyTorchVideo's model zoo, randomly initialised, with its key names but for the head.

    ``alpha`` is for SlowFast alone: the fast pathway sees every frame of a clip, the slow one every ``alpha``-th (every
    4th if None, as published).
    """

    name: Literal["pytorchvideo"] = "pytorchvideo"
    model: Literal[
        "slow_r50",
        "c2d_r50",
        "i3d_r50",
        "slowfast_r50",
        "slowfast_r101",
        "slowfast_16x8_r101_50_50",
        "x3d_xs",
        "x3d_s",
        "x3d_m",
        "x3d_l",
        "csn_r101",
        "r2plus1d_r50",
    ] = "slowfast_r50"
    alpha: int | None = Field(default=None, gt=1)

    @model_validator(mode="after")
    def _warn_of_ignored(self) -> PytorchvideoConfig:
        if self.alpha is not None and not self.model.startswith("slowfast"):
            warnings.warn(f"alpha={self.alpha} is ignored: {self.model} has one pathway", stacklevel=3)
        return self


@ENCODERS.register(PytorchvideoConfig)
class Pytorchvideo(ConvEncoder):
    """Clips [B, 3, T, H, W] to a map [B, D, T', H', W'] and its mean [B, D].

    SlowFast's map is that of both pathways, the fast one's averaged over the ``alpha`` frames beside each slow one, so
    that its mean is what the published head is given. X3D's ends with its ``conv5``, which the zoo keeps in the head.

    Raises ``MissingDependencyError`` without pytorchvideo, ``ConfigError`` where SlowFast's pathways do not fit a clip.
    """

    def __init__(self, config: PytorchvideoConfig, input: InputConfig) -> None:
        super().__init__(config, input)
        self.alpha = (config.alpha or 4) if config.model.startswith("slowfast") else None
        options: dict[str, Any] = {}
        if self.alpha is not None:
            if input.num_frames % self.alpha:
                raise ConfigError(
                    f"input.num_frames {input.num_frames} must be a multiple of encoder.alpha {self.alpha}"
                )
            options = {"slowfast_fusion_conv_stride": (self.alpha, 1, 1)}
        *blocks, head = _builder(config.model)(pretrained=False, **options).blocks
        self.embed_dim = head.proj.in_features
        if self.alpha is not None:
            blocks = blocks[:-1]  # the last one pools and concatenates
        elif config.model.startswith("x3d"):
            conv5 = OrderedDict((name, getattr(head.pool, name)) for name in ("pre_conv", "pre_norm", "pre_act"))
            blocks.append(nn.Sequential(OrderedDict(pool=nn.Sequential(conv5))))
            self.embed_dim = head.pool.pre_conv.out_channels
        self.blocks = nn.ModuleList(blocks)
        _renew(self.blocks)

    def extract(self, clip: Tensor) -> Tensor:
        """Clips [B, 3, T, H, W] to a map [B, D, T', H', W']; SlowFast's fast pathway is averaged over ``alpha`` frames
        and joined to the slow one along D."""
        if self.alpha is None:
            x = clip
            for block in self.blocks:
                x = block(x)
            return x
        frames = clip.shape[2]
        # Spread from the first frame to the last, as for the published weights
        every = torch.linspace(0, frames - 1, frames // self.alpha, device=clip.device).long()
        pathways = [clip.index_select(2, every), clip]
        for block in self.blocks:
            pathways = block(pathways)
        slow, fast = pathways
        return torch.cat([slow, avg_pool3d(fast, (self.alpha, 1, 1))], dim=1)


def _renew(network: nn.Module) -> None:
    """The same activation (Ramachandran et al. 2017) from torch: the zoo's own relies on what torch is to drop."""
    from pytorchvideo.layers.swish import Swish

    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, Swish):
                setattr(module, name, nn.SiLU())


def _builder(model: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it calls torch.jit.script as it is imported
            from pytorchvideo.models import hub
    except ImportError as error:
        raise MissingDependencyError("pytorchvideo", "zoo", f"encoder.model={model}") from error
    return getattr(hub, model)
