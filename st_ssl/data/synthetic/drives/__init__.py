"""Planted drives: streets that are driven through, as a spinning LiDAR sees them, in the layouts that logs have. All of
it is a function of the seed, the drive and the sweep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from st_ssl.data.synthetic.drives import kitti, nuscenes, own
from st_ssl.data.synthetic.drives.bodies import CLASSES, SEGMENTS
from st_ssl.data.synthetic.drives.scan import Layout, Scan, SyntheticDriveConfig, draw_drive, scan_sweep

__all__ = ["CLASSES", "SEGMENTS", "Scan", "SyntheticDriveConfig", "draw_drive", "scan_sweep", "write_dataset"]


def write_dataset(root: Path, config: SyntheticDriveConfig, num_workers: int = 2, progress: bool = True) -> Path:
    """Write the data set under ``root``, in ``config.layout``, and return ``root``: see ``write_planted``."""
    writers: dict[Layout, Callable[[Path, SyntheticDriveConfig, int, bool], Path]] = {
        "own": own.write,
        "kitti": kitti.write_objects,
        "semantic_kitti": kitti.write_sequences,
        "nuscenes": nuscenes.write,
    }
    return writers[config.layout](Path(root), config, num_workers, progress)
