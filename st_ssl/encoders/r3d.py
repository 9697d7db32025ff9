"""R3D: the ResNet family with 3D convolutions (Hara et al. 2018; Tran et al. 2018), and the slow variant of CVRL."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from st_ssl.config import Config
from st_ssl.encoders.base import ENCODERS, Encoder, InputConfig
from st_ssl.types import Features

Triple = tuple[int, int, int]

BLOCKS: dict[int, tuple[Literal["basic", "bottleneck"], tuple[int, int, int, int]]] = {
    10: ("basic", (1, 1, 1, 1)),
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}


class R3DConfig(Config):
    """A 3D ResNet. The defaults at depth 18 are torchvision's ``r3d_18``, with its key names.

    ``temporal_kernels`` and ``temporal_strides`` are per stage. ``temporal_in``: which convolution of a bottleneck
    spans time, the middle one (3×3×3) or the first one (k×1×1, as in SlowFast and CVRL).
    """

    name: Literal["r3d"] = "r3d"
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
    def _warn_of_ignored(self) -> R3DConfig:
        if self.temporal_in != "middle" and BLOCKS[self.depth][0] == "basic":
            warnings.warn(
                f"temporal_in={self.temporal_in} is ignored: depth {self.depth} has no bottlenecks", stacklevel=3
            )
        return self


def _convolution(cin: int, cout: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> nn.Conv3d:
    t, h, w = kernel
    return nn.Conv3d(cin, cout, kernel, stride, padding=(t // 2, h // 2, w // 2), bias=False)


class BasicBlock(nn.Module):
    """Two 3D convolutions and a shortcut."""

    expansion = 1

    def __init__(self, cin: int, planes: int, kernel: int, stride: Triple, temporal_in: str) -> None:
        super().__init__()
        window = (kernel, 3, 3)
        self.conv1 = nn.Sequential(_convolution(cin, planes, window, stride), nn.BatchNorm3d(planes), nn.ReLU(True))
        self.conv2 = nn.Sequential(_convolution(planes, planes, window), nn.BatchNorm3d(planes))
        self.downsample = _shortcut(cin, planes, stride)
        self.relu = nn.ReLU(True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv2(self.conv1(x)) + shortcut)


class Bottleneck(nn.Module):
    """1×1×1, 3×3×3, 1×1×1 (or k×1×1, 1×3×3, 1×1×1) and a shortcut; four times as wide outside as inside."""

    expansion = 4

    def __init__(self, cin: int, planes: int, kernel: int, stride: Triple, temporal_in: str) -> None:
        super().__init__()
        cout = planes * self.expansion
        first, middle = ((kernel, 1, 1), (1, 3, 3)) if temporal_in == "first" else ((1, 1, 1), (kernel, 3, 3))
        self.conv1 = nn.Sequential(_convolution(cin, planes, first), nn.BatchNorm3d(planes), nn.ReLU(True))
        self.conv2 = nn.Sequential(_convolution(planes, planes, middle, stride), nn.BatchNorm3d(planes), nn.ReLU(True))
        self.conv3 = nn.Sequential(_convolution(planes, cout, (1, 1, 1)), nn.BatchNorm3d(cout))
        self.downsample = _shortcut(cin, cout, stride)
        self.relu = nn.ReLU(True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv3(self.conv2(self.conv1(x))) + shortcut)


def _shortcut(cin: int, cout: int, stride: Triple) -> nn.Sequential | None:
    if cin == cout and stride == (1, 1, 1):
        return None
    return nn.Sequential(_convolution(cin, cout, (1, 1, 1), stride), nn.BatchNorm3d(cout))


@ENCODERS.register(R3DConfig)
class R3D(Encoder):
    """Clips [B, 3, T, H, W] to a map [B, D, T', H', W'] and its mean [B, D]; any T, H, W that survive the strides."""

    def __init__(self, config: R3DConfig, input: InputConfig) -> None:
        super().__init__(config, input)
        kind, counts = BLOCKS[config.depth]
        block: Callable[..., nn.Module] = BasicBlock if kind == "basic" else Bottleneck
        expansion = BasicBlock.expansion if kind == "basic" else Bottleneck.expansion
        stem: list[nn.Module] = [
            _convolution(3, config.width, config.stem_kernel, config.stem_stride),
            nn.BatchNorm3d(config.width),
            nn.ReLU(True),
        ]
        if config.stem_pool:
            stem.append(nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)))
        self.stem = nn.Sequential(*stem)
        cin = config.width
        for stage, count in enumerate(counts):
            planes = config.width * 2**stage
            space = 1 if stage == 0 else 2
            strides = [(config.temporal_strides[stage], space, space)] + [(1, 1, 1)] * (count - 1)
            blocks = []
            for stride in strides:
                blocks.append(block(cin, planes, config.temporal_kernels[stage], stride, config.temporal_in))
                cin = planes * expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.embed_dim = cin
        self._initialise(config.zero_init_residual)

    def _initialise(self, zero_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_residual:
            for module in self.modules():
                last = module.conv3 if isinstance(module, Bottleneck) else getattr(module, "conv2", None)
                if isinstance(module, BasicBlock | Bottleneck) and isinstance(last, nn.Sequential):
                    nn.init.zeros_(last[1].weight)  # type: ignore[arg-type]

    def forward(self, clip: Tensor, keep: Tensor | None = None) -> Features:
        assert keep is None, "a convolutional encoder sees whole clips"
        x = self.stem(clip.contiguous(memory_format=torch.channels_last_3d))  # a fifth faster on CPUs
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return Features(pooled=x.mean((2, 3, 4)), map=x)
