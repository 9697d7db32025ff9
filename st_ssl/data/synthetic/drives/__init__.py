"""Planted drives: streets that are driven through, as a spinning LiDAR sees them, in the layouts that logs have. All of
it is a function of the seed, the drive and the sweep."""

from __future__ import annotations

from pathlib import Path

from st_ssl.data.synthetic.drives import own
from st_ssl.data.synthetic.drives.bodies import CLASSES, SEGMENTS
from st_ssl.data.synthetic.drives.scan import Scan, SyntheticDriveConfig, draw_drive, scan_sweep

__all__ = ["CLASSES", "SEGMENTS", "Scan", "SyntheticDriveConfig", "draw_drive", "scan_sweep", "write_dataset"]


def write_dataset(root: Path, config: SyntheticDriveConfig, num_workers: int = 2, progress: bool = True) -> Path:
    """Write the data set under ``root``, in ``config.layout``, and return ``root``: see ``write_planted``."""
    return own.write(Path(root), config, num_workers, progress)
