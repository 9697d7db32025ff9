"""Layouts of drives: from the files of a log or benchmark to ``Drive``s.

One file for each; ``LAYOUTS`` has them in the order in which they are tried.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from st_ssl.core.errors import DataError, SampleError, sample_fault
from st_ssl.data.sources.base import Place, sibling
from st_ssl.data.sources.drives import kitti, kitti_raw, nuscenes, once, own, rosbag, semantic_kitti, waymo_kitti
from st_ssl.data.sources.drives.base import Layout
from st_ssl.data.streams.points.drives import Drive

__all__ = ["LAYOUTS", "Layout", "LayoutName", "read_drives"]

_ALL = (nuscenes, once, waymo_kitti, kitti, kitti_raw, semantic_kitti, rosbag, own)  # the more special ones first
LAYOUTS: dict[str, Layout] = {module.LAYOUT.name: module.LAYOUT for module in _ALL}
if TYPE_CHECKING:
    LayoutName = str
else:
    LayoutName = Literal["auto", *LAYOUTS]


def read_drives(
    root: Path, layout: str = "auto", rate: float = 10.0, topic: str | None = None
) -> tuple[Layout, list[Drive], list[str]]:
    """The layout of the drives at ``root`` (by its name, or "auto" for the first that it looks like), the drives in a
    fixed order, and lines for the user. ``rate``: sweeps a second where nothing tells when they were taken; ``topic``:
    that of ROS bags. Raises ``DataError`` where the place as a whole cannot be used."""
    if not root.exists():
        raise DataError(f"{root} does not exist{sibling(root)}")
    place = Place(root, root, series=topic)
    chosen = (
        LAYOUTS[layout] if layout != "auto" else next((one for one in LAYOUTS.values() if one.matches(place)), None)
    )
    if chosen is None:
        known = ", ".join(LAYOUTS)
        raise DataError(
            f"{root} looks like none of the layouts {known}: expected folders of drives with sweeps/ in them"
        )
    try:
        with sample_fault(str(root)):
            drives = chosen.read(place, rate)
    except SampleError as error:  # of a file without which there is no drive
        raise DataError(str(error)) from error
    return chosen, drives, place.told
