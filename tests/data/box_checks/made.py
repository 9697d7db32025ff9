"""Planted drives whose boxes are made wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from st_ssl.core.boxes import Boxes
from st_ssl.data.box_checks import Frame
from st_ssl.data.synthetic.drives import SyntheticDriveConfig, scan_sweep
from st_ssl.ops.boxes import points_in_boxes

Array = np.ndarray
CONFIG = SyntheticDriveConfig(num_train=5, num_val=0, num_test=0, sweeps=12, columns=600)
TURNS = (0.0, 35.0, -110.0, 160.0, 70.0)  # degrees by which each drive is turned; the first is seen along the axes


def frames(drives: tuple[int, ...] = (1, 2, 3, 4), sweeps: tuple[int, ...] = (0, 8)) -> list[Frame]:
    """Sweeps of planted drives, each drive turned its own way, with the boxes that hold some points."""
    made = []
    for drive in drives:
        c, s = np.cos(np.deg2rad(TURNS[drive])), np.sin(np.deg2rad(TURNS[drive]))
        matrix = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        for sweep in sweeps:
            cloud = scan_sweep(CONFIG, "train", drive, sweep).cloud
            boxes = cloud.boxes
            assert boxes is not None
            boxes = boxes.take(boxes.facts["points"] >= 3).moved(matrix)
            made.append((f"{drive}/{sweep}", (cloud.xyz @ matrix[:3, :3].T).astype(np.float32), boxes))
    return made


def spoilt(made: list[Frame], wrong: Callable[[Array], Array], classes: tuple[int, ...] = (0, 1, 2)) -> list[Frame]:
    """The same frames with ``wrong`` of the boxes [N, 7] of ``classes``."""
    found = []
    for name, xyz, boxes in made:
        values = boxes.values.copy()
        own = np.isin(boxes.classes, classes)
        values[own, :7] = wrong(values[own, :7].astype(np.float64))
        found.append((name, xyz, Boxes(values, boxes.classes, boxes.facts)))
    return found


def noisy(made: list[Frame]) -> list[Frame]:
    """Each centre and size is off by up to 5 cm, each angle by up to 3°."""
    rng = np.random.default_rng(0)
    most = np.array([0.05] * 6 + [np.deg2rad(3)])
    return spoilt(made, lambda values: values + rng.uniform(-1, 1, values.shape) * most)


def emptied(made: list[Frame]) -> list[Frame]:
    """Three boxes of ten hold no points."""
    import torch

    rng, found = np.random.default_rng(0), []
    for name, xyz, boxes in made:
        gone = torch.from_numpy(boxes.values[rng.random(len(boxes)) < 0.3, :7]).double()
        gone[:, 3:6] += 0.2
        found.append((name, xyz[~points_in_boxes(torch.from_numpy(xyz).double(), gone).any(1).numpy()], boxes))
    return found


def _with(values: Array, **columns: Array) -> Array:
    """``values`` with other ``columns``."""
    places = {name: place for place, name in enumerate(("x", "y", "z", "length", "width", "height", "yaw"))}
    made = values.copy()
    for name, column in columns.items():
        made[:, places[name]] = column
    return made


MISTAKES: dict[str, Callable[[Array], Array]] = {
    "bottom": lambda v: _with(v, z=v[:, 2] - v[:, 5] / 2),
    "quarter": lambda v: _with(v, yaw=v[:, 6] + np.pi / 2),
    "sign": lambda v: _with(v, yaw=-v[:, 6]),
    "other axis": lambda v: _with(v, yaw=np.pi / 2 - v[:, 6]),
    "degrees": lambda v: _with(v, yaw=np.rad2deg(v[:, 6])),
    "swapped": lambda v: _with(v, length=v[:, 4], width=v[:, 3]),
    "sizes height, width, length": lambda v: _with(v, length=v[:, 5], height=v[:, 3]),
    "axes y, x": lambda v: _with(v, x=v[:, 1], y=v[:, 0], yaw=np.pi / 2 - v[:, 6]),
    "camera axes": lambda v: _with(v, x=-v[:, 1], y=-v[:, 2] + v[:, 5] / 2, z=v[:, 0], yaw=-v[:, 6] - np.pi / 2),
    "scale 2": lambda v: _with(v, length=v[:, 3] / 2, width=v[:, 4] / 2, height=v[:, 5] / 2),
}
"""Ten mistakes by the names of what is to be found."""
