"""Every encoder at the smallest size that its family comes in: the settings that make it fit tests."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch

from st_ssl.core.inputs import InputConfig, PointInputConfig
from st_ssl.core.types import PointBatch
from st_ssl.encoders.base import ENCODERS, Encoder

SMALL: dict[str, dict[str, Any]] = {
    "c3d": {"width": 4},
    "dgcnn": {"widths": (8, 12), "neighbours": 6, "dim": 24},
    "pillars": {"range": (-3.2, -3.2, -3, 3.2, 3.2, 3), "pillar": (0.4, 0.4), "widths": (8, 12)},
    "point_vit": {"dim": 24, "depth": 2, "heads": 3, "num_groups": 10, "group_size": 6},
    "pytorchvideo": {"model": "x3d_xs"},
    "r2plus1d": {"depth": 10, "width": 4},
    "r3d": {"depth": 10, "width": 4},
    "s3d": {"width": 8, "gating": "branches"},
    "second": {"range": (-3.2, -3.2, -3.2, 3.2, 3.2, 3.2), "voxel": (0.4, 0.4, 0.4), "widths": (4, 6, 8), "out": 12},
    "slow": {"width": 4},
    "sparse_resnet": {"variant": "tiny", "stem": 4},
    "sparse_unet": {"variant": "tiny", "stem": 4},
    "torchvision": {"model": "mc3_18"},
    "video_vit": {"dim": 24, "depth": 2, "heads": 3, "patch": 8},
}

INPUTS: dict[str, InputConfig | PointInputConfig] = {
    "video": InputConfig(num_frames=4, stride=2, size=32, mean=(0.1, 0.2, 0.3)),
    "points": PointInputConfig(num_points=48),
}
"""What they are fed, by modality."""


def modality(name: str) -> str:
    return ENCODERS.registered(name).modality


def content(name: str, batch: int = 2) -> Any:
    """Clips, or clouds, of noise as the encoder ``name`` takes them at these sizes."""
    generator = torch.Generator().manual_seed(0)
    if modality(name) == "video":
        return torch.randn(batch, 3, 4, 32, 32, generator=generator)
    return PointBatch(torch.randn(batch * 48, 3, generator=generator), torch.arange(batch + 1) * 48)


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


def assert_all_trained(encoder: Encoder, clip: Any) -> None:
    """Every parameter has a gradient: without one, it could not be trained in several processes."""
    encoder(clip).pooled.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
