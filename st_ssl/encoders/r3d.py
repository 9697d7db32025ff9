"""R3D: the ResNet family with 3D convolutions (Hara et al. 2018; Tran et al. 2018), and its slow variant (Feichtenhofer
et al. 2019; CVRL 2021)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from st_ssl.core.config import Config
from st_ssl.encoders.base import ENCODERS, InputConfig
from st_ssl.encoders.conv3d import ConvEncoder, Triple, convolution, initialise

BLOCKS: dict[int, tuple[Literal["basic", "bottleneck"], tuple[int, int, int, int]]] = {
    10: ("basic", (1, 1, 1, 1)),
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}


class ResNetConfig(Config):
    """What all 3D ResNets are described by.

    ``temporal_kernels`` and ``temporal_strides`` are per stage. ``temporal_in``: which convolution of a bottleneck
    spans time, the middle one (3×3×3) or the first one (k×1×1, as in SlowFast and CVRL).
    """

    name: str
    depth: Literal[10, 18, 34, 50, 101, 152, 200] = 18
    width: int = Field(default=64, gt=0)
    stem_kernel: Triple = (3, 7, 7)
    stem_stride: Triple = (1, 2, 2)
    stem_pool: bool = False
    temporal_kernels: tuple[int, int, int, int] = (3, 3, 3, 3)
    temporal_strides: tuple[int, int, int, int] = (1, 2, 2, 2)
    temporal_in: Literal["middle", "first"] = "middle"
    zero_init_residual: bool = False

    @model_validator(mode="after")
    def _warn_of_ignored(self) -> ResNetConfig:
        if self.temporal_in != "middle" and BLOCKS[self.depth][0] == "basic":
            warnings.warn(
                f"temporal_in={self.temporal_in} is ignored: depth {self.depth} has no bottlenecks", stacklevel=3
            )
        return self


class R3DConfig(ResNetConfig):
    """The defaults are torchvision's ``r3d_18``, with its key names. Its ``mc3_18``, which spans time in the stem and
    the first stage alone, has ``temporal_kernels`` [3, 1, 1, 1] and ``temporal_strides`` [1, 1, 1, 1]."""

    name: Literal["r3d"] = "r3d"


class SlowConfig(ResNetConfig):
    """The defaults are the slow pathway of SlowFast by itself, "Slow-R50": a few frames, far apart, of which none is
    pooled away, and convolutions over time in the last two stages alone."""

    name: Literal["slow"] = "slow"
    depth: Literal[50, 101, 152, 200] = 50
    stem_kernel: Triple = (1, 7, 7)
    stem_pool: bool = True
    temporal_kernels: tuple[int, int, int, int] = (1, 1, 3, 3)
    temporal_strides: tuple[int, int, int, int] = (1, 1, 1, 1)
    temporal_in: Literal["middle", "first"] = "first"


Spatiotemporal = Callable[[int, int, Triple, Triple, int], nn.Module]
"""Channels in and out, kernel, stride, and the channels in between where it takes two steps: what spans space and time
in a block."""


def in_one(cin: int, cout: int, kernel: Triple, stride: Triple, between: int) -> nn.Module:
    """Space and time in one convolution."""
    return convolution(cin, cout, kernel, stride)


def between_of(cin: int, cout: int, kernel: Triple) -> int:
    """The channels between a convolution over space and one over time that together have as many parameters as one
    convolution over both (Tran et al. 2018)."""
    t, h, w = kernel
    return cin * cout * t * h * w // (cin * h * w + cout * t)


class BasicBlock(nn.Module):
    """Two convolutions over space and time and a shortcut."""

    expansion = 1

    def __init__(
        self, cin: int, planes: int, kernel: int, stride: Triple, temporal_in: str, build: Spatiotemporal = in_one
    ) -> None:
        super().__init__()
        window = (kernel, 3, 3)
        between = between_of(cin, planes, window)  # of both convolutions, as published
        self.conv1 = nn.Sequential(
            build(cin, planes, window, stride, between), nn.BatchNorm3d(planes), nn.ReLU(inplace=True)
        )
        self.conv2 = nn.Sequential(build(planes, planes, window, (1, 1, 1), between), nn.BatchNorm3d(planes))
        self.downsample = _shortcut(cin, planes, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv2(self.conv1(x)) + shortcut)


class Bottleneck(nn.Module):
    """1×1×1, 3×3×3, 1×1×1 (or k×1×1, 1×3×3, 1×1×1) and a shortcut; four times as wide outside as inside."""

    expansion = 4

    def __init__(
        self, cin: int, planes: int, kernel: int, stride: Triple, temporal_in: str, build: Spatiotemporal = in_one
    ) -> None:
        super().__init__()
        cout = planes * self.expansion
        first, middle = ((kernel, 1, 1), (1, 3, 3)) if temporal_in == "first" else ((1, 1, 1), (kernel, 3, 3))
        between = between_of(cin, planes, middle)
        self.conv1 = nn.Sequential(convolution(cin, planes, first), nn.BatchNorm3d(planes), nn.ReLU(inplace=True))
        self.conv2 = nn.Sequential(
            build(planes, planes, middle, stride, between), nn.BatchNorm3d(planes), nn.ReLU(inplace=True)
        )
        self.conv3 = nn.Sequential(convolution(planes, cout, (1, 1, 1)), nn.BatchNorm3d(cout))
        self.downsample = _shortcut(cin, cout, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv3(self.conv2(self.conv1(x))) + shortcut)


def _shortcut(cin: int, cout: int, stride: Triple) -> nn.Sequential | None:
    if cin == cout and stride == (1, 1, 1):
        return None
    return nn.Sequential(convolution(cin, cout, (1, 1, 1), stride), nn.BatchNorm3d(cout))


class ResNet3D(ConvEncoder):
    """A 3D ResNet of any kind; any T, H, W that survive the strides."""

    build: Spatiotemporal = staticmethod(in_one)

    def __init__(self, config: ResNetConfig, input: InputConfig) -> None:
        super().__init__(config, input)
        stem = self._stem(config)
        if config.stem_pool:
            stem.append(nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))
        self.stem = nn.Sequential(*stem)
        kind, counts = BLOCKS[config.depth]
        block: type[BasicBlock | Bottleneck] = BasicBlock if kind == "basic" else Bottleneck
        cin = config.width
        for stage, count in enumerate(counts):
            planes = config.width * 2**stage
            space = 1 if stage == 0 else 2
            strides = [(config.temporal_strides[stage], space, space)] + [(1, 1, 1)] * (count - 1)
            blocks = []
            for stride in strides:
                kernel = config.temporal_kernels[stage]
                blocks.append(block(cin, planes, kernel, stride, config.temporal_in, self.build))
                cin = planes * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.embed_dim = cin
        initialise(self)
        if config.zero_init_residual:
            self._zero_residuals()

    def _stem(self, config: ResNetConfig) -> list[nn.Module]:
        return [
            convolution(3, config.width, config.stem_kernel, config.stem_stride),
            nn.BatchNorm3d(config.width),
            nn.ReLU(inplace=True),
        ]

    def _zero_residuals(self) -> None:
        for module in self.modules():
            if isinstance(module, BasicBlock | Bottleneck):
                last = module.conv3 if isinstance(module, Bottleneck) else module.conv2
                nn.init.zeros_(last[1].weight)  # type: ignore[arg-type]

    def extract(self, clip: Tensor) -> Tensor:
        x = self.stem(clip)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return x


@ENCODERS.register(R3DConfig)
class R3D(ResNet3D):
    """Clips [B, 3, T, H, W] to a map [B, D, T', H', W'] and its mean [B, D]: D is 8 or, with bottlenecks, 32 widths."""


@ENCODERS.register(SlowConfig)
class Slow(ResNet3D):
    """Clips [B, 3, T, H, W] to a map [B, D, T, H', W'] and its mean [B, D]: all frames are there to the end."""
