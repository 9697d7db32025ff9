"""Planted drives and a small encoder for them, for the tests of detection."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from st_ssl.core.inputs import PointInputConfig
from st_ssl.data.base import DATA, DataSource
from st_ssl.data.synthetic.drives import SyntheticDriveConfig, write_dataset
from st_ssl.encoders.base import ENCODERS, Encoder, random_encoder, save_encoder

INPUT = PointInputConfig(num_points=None, unit_sphere=False, centre=False, attributes=("intensity",))
ENCODER: dict[str, Any] = {
    "range": (-19.2, -19.2, -3, 19.2, 19.2, 3.4),
    "voxel": (0.4, 0.4, 0.4),
    "widths": (8, 16),
    "out": 16,
}
DETECTOR: dict[str, Any] = {"bev": {"layers": (1,), "widths": (32,)}, "head": {"name": "centre", "width": 16}}
PLANTED = SyntheticDriveConfig(num_train=3, num_val=0, num_test=1, sweeps=4, key_every=1, beams=24, columns=300)


@lru_cache(maxsize=1)
def streets(folder: Path) -> Path:
    """Three training drives and a test drive of four labelled sweeps each."""
    return write_dataset(folder / "streets", PLANTED)


def source(root: Path, **changes: Any) -> DataSource:
    """The drives as data, read in this process."""
    config = DATA.config("drives").model_validate({"root": str(root), "num_workers": 0, **changes})
    return DATA.build(config)


def write_encoder(folder: Path, **changes: Any) -> Path:
    """The folder of a small encoder."""
    config = ENCODERS.config("second").model_validate({**ENCODER, **changes})
    encoder: Encoder = random_encoder(config, INPUT, 1)
    save_encoder(encoder, folder)
    return folder
