"""nuScenes' detection benchmark (Caesar et al., CVPR 2020): one file of JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from st_ssl.core.boxes import Boxes
from st_ssl.core.files import replace_text
from st_ssl.core.types import Entry
from st_ssl.data.drives.dataset import DriveSource
from st_ssl.data.sources.drives.nuscenes import ATTRIBUTES, CLASSES
from st_ssl.data.streams.points.drives import Drive
from st_ssl.transfer.benchmarks.base import Results
from st_ssl.transfer.detection.nuscenes_metrics import nuscenes_scores

FILE = "results_nusc.json"
MOST = 500  # boxes of a sample
_USED = {"use_camera": False, "use_lidar": True, "use_radar": False, "use_map": False, "use_external": False}
_MOVING = 0.2  # m/s
_CYCLES, _STILL = ("bicycle", "motorcycle"), {"pedestrian": "pedestrian.standing", "bus": "vehicle.stopped"}


class NuscenesResults(Results[Boxes]):
    """``results_nusc.json`` with the boxes of every sample of the split, in the axes of the world: the 500 with the
    highest scores. Attributes are told from the class and the speed, as OpenPCDet does."""

    known = CLASSES

    def __init__(self, folder: Path, source: DriveSource, entries: Sequence[Entry], classes: Sequence[str]) -> None:
        super().__init__(folder, source, entries, classes)
        self._found: dict[str, Boxes] = {}

    def add(self, drive: Drive, at: int, found: Boxes) -> None:
        best = np.argsort(-found.facts["score"], kind="stable")[:MOST]
        values = in_world(found.values[best], drive.poses[at])
        values[:, 7:] = np.nan_to_num(values[:, 7:])
        own = found.classes[best]
        told = [attribute(self.classes[number], speed) for number, speed in zip(own, _speeds(values), strict=True)]
        facts = {"score": found.facts["score"][best], "attribute": np.array(told, dtype=np.int64)}
        self._found[drive.tokens[at][0]] = Boxes(values, own, facts)

    def close(self) -> dict[str, float]:
        tokens = [drive.tokens[at][0] for drive, at in self.samples]
        results = {token: self._rows(token) if token in self._found else [] for token in tokens}
        replace_text(self.folder / FILE, json.dumps({"meta": _USED, "results": results}))
        judged = [(drive, at) for drive, at in self.samples if at in drive.boxes and drive.tokens[at][0] in self._found]
        if not judged:
            return {}
        numbers = {name: number for number, name in enumerate(self.classes)}
        truth, racks, vehicles = [], [], []
        for drive, at in judged:
            named, pose = drive.boxes[at](), drive.poses[at]
            own = named.numbered(numbers, {})
            values = in_world(own.values, pose)
            truth.append(Boxes(values, own.classes, own.facts))
            racks.append(values[[name == "bicycle_rack" for name in named.names], :7])
            assert drive.sensor is not None  # its tables have it of every sweep
            vehicles.append((pose @ np.linalg.inv(drive.sensor))[:2, 3])
        found = [self._found[drive.tokens[at][0]] for drive, at in judged]
        return nuscenes_scores(found, truth, self.classes, np.array(vehicles), racks)

    def _rows(self, token: str) -> list[dict[str, Any]]:
        """The boxes of a sample, as the benchmark has them."""
        boxes = self._found[token]
        rows = []
        columns = (boxes.classes, boxes.values.tolist(), boxes.facts["score"].tolist(), boxes.facts["attribute"])
        for number, values, score, told in zip(*columns, strict=True):
            x, y, z, length, width, height, yaw, vx, vy = values
            rows.append(
                {
                    **{"sample_token": token, "translation": [x, y, z], "size": [width, length, height]},
                    **{"rotation": [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))], "velocity": [vx, vy]},
                    **{"detection_name": self.classes[number], "detection_score": score},
                    "attribute_name": ATTRIBUTES[told] if told >= 0 else "",
                }
            )
        return rows


def in_world(values: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Boxes float64 [N, 9] of a sweep in the axes of the world, where they stand upright and move level; ``pose``
    [4, 4] is from the sweep, which may be tilted: it then sees headings and velocities shortened."""
    found, level = np.array(values, dtype=np.float64), np.linalg.inv(pose[:2, :2])
    found[:, :3] = found[:, :3] @ pose[:3, :3].T + pose[:3, 3]
    ahead = np.column_stack([np.cos(values[:, 6]), np.sin(values[:, 6])]) @ level
    found[:, 6] = np.arctan2(ahead[:, 1], ahead[:, 0])
    found[:, 7:] = found[:, 7:] @ level
    return found


def attribute(name: str, speed: float) -> int:
    """The likeliest attribute of an object of a class that is so fast (m/s), by its place in ``ATTRIBUTES``; -1 for
    none."""
    if name in ("traffic_cone", "barrier"):
        return -1
    moving = speed > _MOVING
    if name in _CYCLES:
        told = "cycle.with_rider" if moving else "cycle.without_rider"
    elif moving:
        told = "pedestrian.moving" if name == "pedestrian" else "vehicle.moving"
    else:
        told = _STILL.get(name, "vehicle.parked")
    return ATTRIBUTES.index(told)


def _speeds(values: np.ndarray) -> np.ndarray:
    return np.linalg.norm(values[:, 7:], axis=1)
