"""Planted drives in the layouts of KITTI's objects and of SemanticKITTI."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from st_ssl.core.errors import ConfigError
from st_ssl.core.files import replace_text
from st_ssl.data.synthetic.design import Planted, save_bytes, write_planted
from st_ssl.data.synthetic.drives import camera
from st_ssl.data.synthetic.drives.bodies import SEGMENTS
from st_ssl.data.synthetic.drives.own import ABOUT, matrix_text, save_folder
from st_ssl.data.synthetic.drives.scan import Scan, SyntheticDriveConfig, scan_sweep

_NAMES = ("Car", "Pedestrian", "Cyclist")
_IN_IMAGE = 0.95  # what the image cuts more off than that is not in it
_SEEN, _PARTLY = 0.8, 0.4  # visible shares from which on something is not, or only partly, hidden
SEQUENCES = {"train": (0, 1, 2, 3, 4, 5, 6, 7, 9, 10), "val": (8,), "test": tuple(range(11, 22))}
LABELS = (40, 48, 72, 50, 51, 80, 70, 99, 10, 30, 31)
"""SemanticKITTI's number of each of ``SEGMENTS``."""
MOVING = {10: 252, 30: 254, 31: 253}
_SLOW = 0.3  # m/s below which something stands


def points(scan: Scan) -> bytes:
    """What is in a file of points: float32 x, y, z, intensity."""
    return np.hstack([scan.cloud.xyz, scan.cloud.attributes["intensity"]]).tobytes()


def _row(name: str, matrix: np.ndarray) -> str:
    return f"{name}: {' '.join(f'{value:.12e}' for value in matrix.ravel())}\n"


_PROJECTIONS = "".join(_row(f"P{number}", matrix) for number, matrix in enumerate(camera.CAMERAS))
_CALIB = "".join(
    [
        *(_PROJECTIONS, _row("R0_rect", camera.RECTIFY), _row("Tr_velo_to_cam", camera.TO_CAMERA[:3])),
        *(_row("Tr_imu_to_velo", np.eye(4)[:3]), "\n"),
    ]
)


@dataclass(frozen=True)
class _Frames(Planted):
    """The key frames of a drive, by consecutive numbers. The points of the last are written last."""

    numbers: tuple[int, ...]

    @property
    def path(self) -> str:
        return f"{'testing' if self.split == 'test' else 'training'}/velodyne/{self.numbers[-1]:06d}.bin"


def _plan_frames(config: SyntheticDriveConfig, split: str, index: int) -> _Frames:
    keys = len(range(0, config.sweeps, config.key_every))
    first = keys * (index + (config.num_train if split == "val" else 0))
    return _Frames(split, index, {}, tuple(range(first, first + keys)))


def label_text(scan: Scan, min_points: int) -> str:
    """KITTI's labels of the objects in the image; those of which a ray sees something, but with fewer points, are
    DontCare."""
    boxes, rows = scan.cloud.boxes, []
    assert boxes is not None
    seen = camera.look(scan.parts, boxes.facts["track"])
    for at in np.flatnonzero(seen.truncated <= _IN_IMAGE):
        image = " ".join(f"{value:.2f}" for value in seen.boxes[at])
        visible = boxes.facts["visible"][at]
        if boxes.facts["points"][at] < min_points:
            if visible == 0:
                continue
            rows.append(f"DontCare -1 -1 -10 {image} -1 -1 -1 -1000 -1000 -1000 -10\n")
            continue
        x, y, z, length, width, height, yaw = boxes.values[at, :7].astype(np.float64)
        place = camera.rectified(np.array([x, y, z - height / 2]))
        turn = _wrapped(-yaw - np.pi / 2)
        alpha = _wrapped(turn - np.arctan2(place[0], place[2]))
        hidden = 0 if visible >= _SEEN else 1 if visible >= _PARTLY else 2
        numbers = (height, width, length, *place, turn)
        rows.append(
            f"{_NAMES[boxes.classes[at]]} {seen.truncated[at]:.2f} {hidden} {alpha:.4f} {image} "
            f"{' '.join(f'{value:.4f}' for value in numbers)}\n"
        )
    return "".join(rows)


def _wrapped(angle: float) -> float:
    return float((angle + np.pi) % (2 * np.pi) - np.pi)


def _make_frames(config: SyntheticDriveConfig, frames: _Frames) -> dict[str, bytes]:
    files = {}
    part = frames.path.partition("/")[0]
    for number, sweep in zip(frames.numbers, range(0, config.sweeps, config.key_every), strict=True):
        scan = scan_sweep(config, frames.split, frames.index, sweep)
        files[f"{part}/calib/{number:06d}.txt"] = _CALIB.encode()
        if part == "training":
            files[f"{part}/label_2/{number:06d}.txt"] = label_text(scan, config.min_points).encode()
        files[f"{part}/velodyne/{number:06d}.bin"] = points(scan)
    return files


def save_files(root: Path, files: dict[str, bytes]) -> None:
    """Files by their names under ``root``, in their order."""
    for folder in {(root / name).parent for name in files}:
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        save_bytes(root / name, content)


def write_objects(root: Path, config: SyntheticDriveConfig, num_workers: int, progress: bool) -> Path:
    """``training`` and ``testing`` with ``velodyne``, ``calib`` and (of the former) ``label_2`` of the key frames, and
    ``ImageSets``: drives for training, then those for validation, one after the other."""

    def save(path: Path, files: dict[str, bytes]) -> None:
        save_files(root, files)

    write_planted(root, config, ABOUT, _plan_frames, _make_frames, num_workers, progress, save=save)
    sets: dict[str, list[int]] = {}
    for split, count in config.counts().items():
        sets[split] = [number for index in range(count) for number in _plan_frames(config, split, index).numbers]
    sets["trainval"] = sets["train"] + sets["val"]
    (root / "ImageSets").mkdir(exist_ok=True)
    for split, numbers in sets.items():
        replace_text(root / "ImageSets" / f"{split}.txt", "".join(f"{number:06d}\n" for number in numbers))
    return root


@dataclass(frozen=True)
class _Sequence(Planted):
    """One of SemanticKITTI's."""

    @property
    def path(self) -> str:
        return f"sequences/{SEQUENCES[self.split][self.index]:02d}"


def _plan_sequence(config: SyntheticDriveConfig, split: str, index: int) -> _Sequence:
    return _Sequence(split, index, {})


def _make_sequence(config: SyntheticDriveConfig, sequence: Planted) -> dict[str, bytes]:
    calib = _PROJECTIONS + _row("Tr", camera.TO_CAMERA[:3])
    files, poses, times = {"calib.txt": calib.encode()}, [], []
    first = None
    for number in range(config.sweeps):
        scan = scan_sweep(config, sequence.split, sequence.index, number)
        pose, time = scan.cloud.pose, scan.cloud.time
        assert pose is not None
        first = pose if first is None else first
        to_first = camera.TO_CAMERA @ np.linalg.inv(first) @ pose @ np.linalg.inv(camera.TO_CAMERA)
        poses.append(f"{matrix_text(to_first)}\n")
        times.append(f"{time:.6e}\n")
        files[f"velodyne/{number:06d}.bin"] = points(scan)
        if sequence.split != "test":
            files[f"labels/{number:06d}.label"] = _labels(scan).tobytes()
    return files | {"poses.txt": "".join(poses).encode(), "times.txt": "".join(times).encode()}


def _labels(scan: Scan) -> np.ndarray:
    """uint32 [N]: the class in the lower 16 bits, the actor from 1 on in the upper ones."""
    boxes, instance = scan.cloud.boxes, scan.cloud.labels["instance"]
    assert boxes is not None
    label = np.array(LABELS)[scan.cloud.labels["segment"]]
    moving = boxes.facts["track"][np.hypot(*boxes.values[:, 7:].T) > _SLOW]
    moves = np.isin(instance, moving)
    for still, other in MOVING.items():
        label[moves & (label == still)] = other
    return (label | (instance + 1) << 16).astype(np.uint32)


def write_sequences(root: Path, config: SyntheticDriveConfig, num_workers: int, progress: bool) -> Path:
    """``sequences/00`` … with ``velodyne``, ``labels``, ``poses.txt``, ``times.txt`` and ``calib.txt``, under the
    benchmark's numbers: 10 to train, 08 to validate, 11 without labels to test. ``ConfigError`` where there are
    more."""
    assert len(LABELS) == len(SEGMENTS)
    for split, numbers in SEQUENCES.items():
        if config.count(split) > len(numbers):
            raise ConfigError(f"num_{split}: {config.count(split)}; SemanticKITTI has at most {len(numbers)} of them")
    return write_planted(root, config, ABOUT, _plan_sequence, _make_sequence, num_workers, progress, save=save_folder)
