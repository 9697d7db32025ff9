"""Every encoder at the smallest size that its family comes in: the settings that make it fit tests."""

from __future__ import annotations

from typing import Any

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
