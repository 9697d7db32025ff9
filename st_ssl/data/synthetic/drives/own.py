"""Planted drives as folders of sweeps with text files beside them: the layout "own"."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from st_ssl.core.boxes import BOX
from st_ssl.core.files import sync, write_atomically
from st_ssl.data.sources.drives.own import matrix_text
from st_ssl.data.synthetic.design import Planted, write_planted
from st_ssl.data.synthetic.drives.bodies import CLASSES, SEGMENTS
from st_ssl.data.synthetic.drives.scan import SyntheticDriveConfig, scan_sweep

ABOUT = {"classes": list(CLASSES), "segments": list(SEGMENTS)}


class Drive(Planted):
    """One folder."""

    form: ClassVar[str] = "drive_{:04d}"


def plan(config: SyntheticDriveConfig, split: str, index: int) -> Drive:
    """Drive ``index`` of ``split``."""
    return Drive(split, index, {})


def make(config: SyntheticDriveConfig, drive: Planted) -> dict[str, bytes]:
    """The files of a drive, by their names in its folder."""
    files, poses = {"classes.txt": "\n".join([*SEGMENTS, ""]).encode()}, []
    for number in range(config.sweeps):
        cloud = scan_sweep(config, drive.split, drive.index, number).cloud
        assert cloud.pose is not None and cloud.boxes is not None
        name = f"{number:06d}"
        poses.append(f"{name} {cloud.time:.6f} {matrix_text(cloud.pose)}\n")
        files[f"sweeps/{name}.bin"] = np.hstack([cloud.xyz, cloud.attributes["intensity"]]).tobytes()
        files[f"labels/{name}.label"] = cloud.labels["segment"].astype(np.uint8).tobytes()
        if number % config.key_every == 0:
            boxes = cloud.boxes.take(cloud.boxes.facts["points"] >= config.min_points)
            lines = [f"# class {' '.join(BOX)} track\n"]
            for kind, values, track in zip(boxes.classes, boxes.values, boxes.facts["track"], strict=True):
                lines.append(f"{CLASSES[kind]} {' '.join(f'{value:.4f}' for value in values)} {track}\n")
            files[f"boxes/{name}.txt"] = "".join(lines).encode()
    files["poses.txt"] = "".join(poses).encode()
    return files


def save_folder(folder: Path, files: dict[str, bytes]) -> None:
    """A folder with its own name is complete."""
    with write_atomically(folder) as unfinished:
        for name, content in files.items():
            path = unfinished / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            sync(path)


def write(root: Path, config: SyntheticDriveConfig, num_workers: int, progress: bool) -> Path:
    """``train/drive_0000/`` (and ``val``, ``test``) with ``sweeps/000000.bin``, ``poses.txt``, ``boxes/000000.txt`` of
    every sweep that has boxes, ``labels/000000.label`` (uint8) and their ``classes.txt``."""
    return write_planted(root, config, ABOUT, plan, make, num_workers, progress, save=save_folder)
