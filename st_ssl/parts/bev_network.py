"""The network of detectors on what is seen from above, as OpenPCDet has it (its BaseBEVBackbone; Yan et al. 2018)."""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn

from st_ssl.core.config import Config


class BevNetworkConfig(Config):
    """Levels of ``layers`` 3 × 3 convolutions of ``widths`` channels, after one that takes every ``strides``-th cell of
    the level before. Each is brought to ``up_widths`` channels and ``up_strides`` times its resolution (below 1:
    less of it), and all are laid on one another; without ``up_widths`` there is one level, which is the answer."""

    layers: tuple[int, ...] = (5,)
    strides: tuple[PositiveInt, ...] = (1,)
    widths: tuple[PositiveInt, ...] = Field(default=(64,), min_length=1)
    up_strides: tuple[PositiveFloat, ...] = ()
    up_widths: tuple[PositiveInt, ...] = ()

    @model_validator(mode="after")
    def _levels_fit(self) -> BevNetworkConfig:
        levels = len(self.widths)
        for name in ("layers", "strides", *(("up_strides", "up_widths") if self.up_widths or levels > 1 else ())):
            if len(getattr(self, name)) != levels:
                raise ValueError(f"{name} has {len(getattr(self, name))} numbers for {levels} levels of widths")
        if len(set(self.resolutions)) > 1:
            raise ValueError(f"levels come out at {self.resolutions} of the input's resolution: expected one for all")
        return self

    @property
    def resolutions(self) -> list[float]:
        """The resolution of each level's output, in that of the input."""
        ups, share, found = self.up_strides or (1.0,) * len(self.widths), 1.0, []
        for stride, up in zip(self.strides, ups, strict=True):
            share /= stride
            found.append(round(share * up, 6))
        return found


class BevNetwork(nn.Module):
    """Maps [B, C, H, W] to [B, ``out_width``, H', W'] at ``resolution`` times the input's. Names of weights are those
    of OpenPCDet's ``backbone_2d``."""

    def __init__(self, config: BevNetworkConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.resolution = config.resolutions[0]
        self.blocks, self.deblocks = nn.ModuleList(), nn.ModuleList()
        for (before, out), layers, stride in zip(
            pairwise((width, *config.widths)), config.layers, config.strides, strict=True
        ):
            modules = [nn.ZeroPad2d(1), nn.Conv2d(before, out, 3, stride, bias=False), *_norm_relu(out)]
            for _ in range(layers):
                modules += [nn.Conv2d(out, out, 3, padding=1, bias=False), *_norm_relu(out)]
            self.blocks.append(nn.Sequential(*modules))
        ups = zip(config.widths, config.up_widths, config.up_strides, strict=False)
        for before, out, up in ups:
            self.deblocks.append(nn.Sequential(_up(before, out, up), *_norm_relu(out)))
        self.out_width = sum(config.up_widths) or config.widths[0]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, ``out_width``, H', W']."""
        levels = []
        for block in self.blocks:
            x = block(x)
            levels.append(x)
        if not self.deblocks:
            return x
        return torch.cat([up(level) for up, level in zip(self.deblocks, levels, strict=True)], 1)


def _norm_relu(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(width, eps=1e-3), nn.ReLU(inplace=True)


def _up(before: int, out: int, stride: float) -> nn.Module:
    if stride < 1:
        step = round(1 / stride)
        return nn.Conv2d(before, out, step, step, bias=False)
    return nn.ConvTranspose2d(before, out, round(stride), round(stride), bias=False)
