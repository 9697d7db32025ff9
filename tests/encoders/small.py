"""Every encoder at the smallest size that its family comes in: the settings that make it fit tests."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
from torch import Tensor

from st_ssl.encoders.base import ENCODERS, Encoder

SMALL: dict[str, dict[str, Any]] = {
    "c3d": {"width": 4},
    "pytorchvideo": {"model": "x3d_xs"},
    "r2plus1d": {"depth": 10, "width": 4},
    "r3d": {"depth": 10, "width": 4},
    "s3d": {"width": 8, "gating": "branches"},
    "slow": {"width": 4},
    "torchvision": {"model": "mc3_18"},
    "video_vit": {"dim": 24, "depth": 2, "heads": 3, "patch": 8},
}

EXTRAS = {"pytorchvideo": "pytorchvideo"}
"""The packages of an extra that an encoder needs."""

NAMES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(name in EXTRAS and find_spec(EXTRAS[name]) is None, reason=f"{name} is not installed"),
    )
    for name in ENCODERS.names()
]
"""All encoders, to parametrise tests with."""


def assert_all_trained(encoder: Encoder, clip: Tensor) -> None:
    """Every parameter has a gradient: without one, it could not be trained in several processes."""
    encoder(clip).pooled.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
