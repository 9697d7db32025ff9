"""Small drives as people keep their own, written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from st_ssl.data.drives.config import DriveDataConfig
from st_ssl.data.drives.dataset import DriveSource

CAR = (10.0, 2.0, -1.0, 4.0, 2.0, 1.5, 0.3)


def world(seed: int = 0, count: int = 400) -> np.ndarray:
    """Places float64 [count, 3] that do not move."""
    return np.random.default_rng(seed).uniform((-20, -20, -2), (20, 20, 2), (count, 3))


def pose_at(second: float) -> np.ndarray:
    """Where the sensor is: it turns left as it drives."""
    pose = np.eye(4)
    angle = 0.2 * second
    pose[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    pose[:3, 3] = 5 * second, 0.3 * second, 0.1
    return pose


def seen(places: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """The places [N, 3] as seen from ``pose``."""
    return (places - pose[:3, 3]) @ pose[:3, :3]


def box_line(name: str = "car", box: tuple[float, ...] = CAR, more: str = "") -> str:
    """A line of a file of boxes."""
    return f"{name} {' '.join(map(str, box))} {more}\n"


def write_sweep(path: Path, xyz: np.ndarray, intensity: float = 0.5) -> None:
    """x, y, z and an intensity between 0 and 1, as float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.linspace(0, 2 * intensity, len(xyz))[:, None]
    np.hstack([xyz, values]).astype(np.float32).tofile(path)


def write_drive(folder: Path, sweeps: int = 6, key_every: int = 2, poses: bool = True, seed: int = 0) -> Path:
    """A drive at 10 Hz past a world that stands still, with a car in front at every second sweep."""
    lines = []
    for number in range(sweeps):
        pose, name = pose_at(number / 10), f"{number:06d}"
        write_sweep(folder / "sweeps" / f"{name}.bin", seen(world(seed), pose))
        lines.append(f"{name} {number / 10} {' '.join(map(repr, pose[:3].ravel().tolist()))}\n")
        if number % key_every == 0:
            (folder / "boxes").mkdir(exist_ok=True)
            (folder / "boxes" / f"{name}.txt").write_text("# class and box\n" + box_line(more="1.5 nan 7"))
    if poses:
        (folder / "poses.txt").write_text("".join(lines))
    return folder


def write_drives(root: Path, train: int = 2, test: int = 1, **settings: Any) -> Path:
    """Drives in folders of splits."""
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            write_drive(root / split / f"drive_{number:04d}", seed=number, **settings)
    return root


def source_of(root: Path, **changes: Any) -> DriveSource:
    """The data set at ``root``."""
    return DriveSource(DriveDataConfig.model_validate({"root": str(root), "num_workers": 0, **changes}))
