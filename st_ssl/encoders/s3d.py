"""S3D and S3D-G: Inception with convolutions taken apart into space and time, and with gates (Xie et al. 2018)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from st_ssl.core.config import Config
from st_ssl.encoders.base import ENCODERS, InputConfig
from st_ssl.encoders.conv3d import ConvEncoder, HalvingPool, Triple, convolution, initialise

Inception = tuple[int, int, int, int, int, int]
STAGES: tuple[tuple[Inception, ...], ...] = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)
"""Channels of GoogLeNet's blocks (2015) by stage: of the first branch, inside and after the second, inside and after
the third, and of the fourth."""

Gating = Literal["none", "temporal", "branches", "blocks"]


class S3DConfig(Config):
    """The defaults are torchvision's ``s3d``, with its key names.

    ``gating`` makes it S3D-G: a gate after every convolution over time (``temporal``), or, as in the code that the
    authors released, after the second convolution of the stem and every branch of every block (``branches``), or of the
    blocks alone (``blocks``, as in CoCLR). ``norm_eps`` is what batch norm adds to variances.
    """

    name: Literal["s3d"] = "s3d"
    width: int = Field(default=64, gt=0)
    gating: Gating = "none"
    norm_eps: float = Field(default=1e-3, gt=0)


class Gate(nn.Module):
    """Weighs each channel of [B, C, T, H, W] by what the whole clip holds: sigmoid(W mean(x) + b) · x."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3, 4))).sigmoid()[:, :, None, None, None]


def _unit(cin: int, cout: int, kernel: Triple = (1, 1, 1), stride: Triple = (1, 1, 1)) -> nn.Sequential:
    # The published momentum, 0.001, would leave the running statistics of a short run where they started.
    norm = nn.BatchNorm3d(cout, eps=1e-3)
    return nn.Sequential(convolution(cin, cout, kernel, stride), norm, nn.ReLU(inplace=True))


def _apart(cin: int, cout: int, size: int, stride: int, gate: bool) -> nn.Sequential:
    space = _unit(cin, cout, (1, size, size), (1, stride, stride))
    time = _unit(cout, cout, (size, 1, 1), (stride, 1, 1))
    return nn.Sequential(space, time, *([Gate(cout)] if gate else []))


class InceptionBlock(nn.Module):
    """Four branches side by side: 1×1×1; 1×1×1 and 3×3×3 taken apart, twice; max pooling and 1×1×1."""

    def __init__(self, cin: int, channels: Inception, gating: Gating) -> None:
        super().__init__()
        first, inside2, second, inside3, third, fourth = channels
        gate, every = gating != "none", gating in ("branches", "blocks")
        self.branch0 = nn.Sequential(*_unit(cin, first), *([Gate(first)] if every else []))
        self.branch1 = nn.Sequential(_unit(cin, inside2), _apart(inside2, second, 3, 1, gate))
        self.branch2 = nn.Sequential(_unit(cin, inside3), _apart(inside3, third, 3, 1, gate))
        pool = nn.MaxPool3d(3, stride=1, padding=1)
        self.branch3 = nn.Sequential(pool, _unit(cin, fourth), *([Gate(fourth)] if every else []))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)], dim=1)


@ENCODERS.register(S3DConfig)
class S3D(ConvEncoder):
    """Clips [B, 3, T, H, W] to a map [B, 16 widths, T / 8, H / 32, W / 32] and its mean; any T, H, W."""

    def __init__(self, config: S3DConfig, input: InputConfig) -> None:
        super().__init__(config, input)
        width, gate = config.width, config.gating in ("temporal", "branches")
        layers: list[nn.Module] = [
            _apart(3, width, 7, 2, gate=config.gating == "temporal"),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            _unit(width, width),
            _apart(width, 3 * width, 3, 1, gate),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ]
        cin = 3 * width
        for stage, blocks in enumerate(STAGES):
            if stage:
                layers.append(nn.MaxPool3d(3, 2, 1) if stage == 1 else HalvingPool())
            for block in blocks:
                a, b, c, d, e, f = (max(1, n * width // 64) for n in block)
                layers.append(InceptionBlock(cin, (a, b, c, d, e, f), config.gating))
                cin = a + c + e + f
        self.features = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eps = config.norm_eps
        self.embed_dim = cin
        initialise(self)

    def extract(self, clip: Tensor) -> Tensor:
        return self.features(clip)
