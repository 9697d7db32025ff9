"""The pieces that every 3D convolutional network here is made of."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool3d

from st_ssl.core.types import Features
from st_ssl.encoders.base import ClipEncoder

Triple = tuple[int, int, int]
"""Of time, height and width."""


NARROW = 256


def arranged(clip: Tensor, embed_dim: int) -> Tensor:
    """``clip`` [B, C, T, H, W] in the memory layout that suits a convolutional network of that width.

    Channels last is what half-precision kernels of GPUs compute in. On CPUs a training step of a narrow network is up
    to a quarter faster with it (R3D-10 of width 24), that of a wide one takes up to twice as long (C3D); the other
    families do not care.
    """
    last = clip.device.type != "cpu" or embed_dim <= NARROW
    return clip.contiguous(memory_format=torch.channels_last_3d if last else torch.contiguous_format)


class ConvEncoder(ClipEncoder):
    """Clips [B, 3, T, H, W] to the map [B, D, T', H', W'] that ``extract`` makes of them, and its mean [B, D]."""

    @abstractmethod
    def extract(self, clip: Tensor) -> Tensor:
        """The network without a head: [B, 3, T, H, W] to [B, D, T', H', W']."""

    def forward(self, clip: Tensor, keep: Tensor | None = None) -> Features:
        assert keep is None, "a convolutional encoder sees whole clips"
        x = self.extract(arranged(clip, self.embed_dim))
        return Features(pooled=x.mean((2, 3, 4)), map=x)


def convolution(cin: int, cout: int, kernel: Triple, stride: Triple = (1, 1, 1), bias: bool = False) -> nn.Conv3d:
    """A convolution that keeps the size but for its stride."""
    t, h, w = kernel
    return nn.Conv3d(cin, cout, kernel, stride, padding=(t // 2, h // 2, w // 2), bias=bias)


class HalvingPool(nn.Module):
    """Max pooling by 2 along every axis (along height and width alone if not ``time``), but for axes of length 1: a
    network for long or large clips takes short and small ones, too."""

    def __init__(self, time: bool = True) -> None:
        super().__init__()
        self.time = time

    def forward(self, x: Tensor) -> Tensor:
        t, h, w = (min(2, n) for n in x.shape[2:])
        return max_pool3d(x, (t if self.time else 1, h, w))


def initialise(module: nn.Module) -> None:
    """Convolutions drawn for ReLU (He et al. 2015), by what goes out of them; zero bias."""
    for child in module.modules():
        if isinstance(child, nn.Conv3d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
            if child.bias is not None:
                nn.init.zeros_(child.bias)
