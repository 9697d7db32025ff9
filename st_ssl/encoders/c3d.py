"""C3D: eight 3×3×3 convolutions with max pooling in between (Tran et al. 2015)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

from st_ssl.core.config import Config
from st_ssl.encoders.base import ENCODERS, InputConfig
from st_ssl.encoders.conv3d import ConvEncoder, HalvingPool, convolution, initialise

LAYERS = {"1": 1, "2": 2, "3a": 4, "3b": 4, "4a": 8, "4b": 8, "5a": 8, "5b": 8}
"""The convolutions by name, and their channels as multiples of the width."""
POOL_BEFORE = ("2", "3a", "4a", "5a")


class C3DConfig(Config):
    """C3D's convolutions, ``conv1`` to ``conv5b``. Its fully connected layers, which fix the size of a clip, give way
    to the mean. The network of 2015 has no ``batch_norm``; its self-supervised descendants often do."""

    name: Literal["c3d"] = "c3d"
    width: int = Field(default=64, gt=0)
    batch_norm: bool = False


@ENCODERS.register(C3DConfig)
class C3D(ConvEncoder):
    """Clips [B, 3, T, H, W] to a map [B, 8 widths, T / 8, H / 16, W / 16] and its mean; any T, H, W."""

    def __init__(self, config: C3DConfig, input: InputConfig) -> None:
        super().__init__(config, input)
        cin = 3
        for name, multiple in LAYERS.items():
            cout = multiple * config.width
            self.add_module(f"conv{name}", convolution(cin, cout, (3, 3, 3), bias=not config.batch_norm))
            if config.batch_norm:
                self.add_module(f"bn{name}", nn.BatchNorm3d(cout))
            cin = cout
        self.pool_space, self.pool = HalvingPool(time=False), HalvingPool()
        self.normalised = config.batch_norm
        self.embed_dim = cin
        initialise(self)

    def extract(self, clip: Tensor) -> Tensor:
        x = clip
        for name in LAYERS:
            if name in POOL_BEFORE:
                x = self.pool_space(x) if name == "2" else self.pool(x)  # time is not merged too early
            x = self.get_submodule(f"conv{name}")(x)
            if self.normalised:
                x = self.get_submodule(f"bn{name}")(x)
            x = relu(x)
        return x
