"""R(2+1)D: 3D ResNets whose convolutions are taken apart into space and time (Tran et al. 2018)."""

from __future__ import annotations

from typing import Literal

from torch import nn

from st_ssl.encoders.base import ENCODERS
from st_ssl.encoders.conv3d import Triple, convolution
from st_ssl.encoders.r3d import ResNet3D, ResNetConfig


class R2Plus1DConfig(ResNetConfig):
    """The defaults are torchvision's ``r2plus1d_18``, with its key names."""

    name: Literal["r2plus1d"] = "r2plus1d"
    temporal_in: Literal["middle"] = "middle"


def apart(cin: int, cout: int, kernel: Triple, stride: Triple, between: int) -> nn.Sequential:
    """A convolution over space and one over time, with a non-linearity in between."""
    (t, h, w), (by_t, by_h, by_w) = kernel, stride
    return nn.Sequential(
        convolution(cin, between, (1, h, w), (1, by_h, by_w)),
        nn.BatchNorm3d(between),
        nn.ReLU(inplace=True),
        convolution(between, cout, (t, 1, 1), (by_t, 1, 1)),
    )


@ENCODERS.register(R2Plus1DConfig)
class R2Plus1D(ResNet3D):
    """Clips [B, 3, T, H, W] to a map [B, D, T', H', W'] and its mean [B, D], as R3D's and with as many parameters."""

    build = staticmethod(apart)

    def _stem(self, config: ResNetConfig) -> list[nn.Module]:
        between = max(1, 45 * config.width // 64)  # 45 of 64 in the paper, by no formula
        steps = apart(3, config.width, config.stem_kernel, config.stem_stride, between)
        return [*steps, nn.BatchNorm3d(config.width), nn.ReLU(inplace=True)]
