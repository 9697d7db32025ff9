"""Planted drives in the tables of nuScenes v1.0."""

from __future__ import annotations

import json
import math
import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from st_ssl.core.files import replace_text
from st_ssl.core.plain_json import load_json
from st_ssl.core.random import Key, keyed_seed
from st_ssl.data.synthetic.design import Planted, save_bytes, write_planted
from st_ssl.data.synthetic.drives.kitti import save_files
from st_ssl.data.synthetic.drives.own import ABOUT
from st_ssl.data.synthetic.drives.scan import HEIGHT, Scan, SyntheticDriveConfig, scan_sweep

VERSION = "v1.0-trainval"
_BEGIN = 1_500_000_000_000_000  # of the first drive, microseconds
_SLOW = 0.2  # m/s below which something stands
Rows = dict[str, list[dict[str, Any]]]

CATEGORIES = (
    *("noise", "animal", "human.pedestrian.adult", "human.pedestrian.child", "human.pedestrian.construction_worker"),
    *("human.pedestrian.personal_mobility", "human.pedestrian.police_officer", "human.pedestrian.stroller"),
    *("human.pedestrian.wheelchair", "movable_object.barrier", "movable_object.debris"),
    *("movable_object.pushable_pullable", "movable_object.trafficcone", "static_object.bicycle_rack"),
    *("vehicle.bicycle", "vehicle.bus.bendy", "vehicle.bus.rigid", "vehicle.car", "vehicle.construction"),
    *("vehicle.emergency.ambulance", "vehicle.emergency.police", "vehicle.motorcycle", "vehicle.trailer"),
    *("vehicle.truck", "flat.driveable_surface", "flat.other", "flat.sidewalk", "flat.terrain", "static.manmade"),
    *("static.other", "static.vegetation", "vehicle.ego"),
)
"""The classes of boxes and points, by their numbers in lidarseg."""
_OF_CLASS = ("vehicle.car", "human.pedestrian.adult", "vehicle.bicycle")
_OF_SEGMENT = [
    CATEGORIES.index(name)
    for name in (
        *("flat.driveable_surface", "flat.sidewalk", "flat.terrain", "static.manmade", "static.manmade"),
        *("static.manmade", "static.vegetation", "static.manmade", *_OF_CLASS),
    )
]
_ATTRIBUTES = (
    *("vehicle.moving", "vehicle.stopped", "vehicle.parked", "cycle.with_rider"),
    *("pedestrian.moving", "pedestrian.standing"),
)


def _about(axis: int, degrees: float) -> np.ndarray:
    """A quaternion (w, x, y, z)."""
    half = math.radians(degrees) / 2
    turn = np.zeros(4)
    turn[0], turn[1 + axis] = math.cos(half), math.sin(half)
    return turn


def _times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The turn ``b``, then ``a``."""
    vector = a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:])
    return np.array([a[0] * b[0] - a[1:] @ b[1:], *vector])


def _matrix(turn: np.ndarray) -> np.ndarray:
    w, x, y, z = turn
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


# The sensor's x is to the right of the vehicle, and it does not stand quite upright.
SENSOR_TURN = _times(_about(2, -90.0), _times(_about(0, 0.4), _about(1, -0.3)))
SENSOR_PLACE = np.array([0.94, 0.0, HEIGHT])


def _token(config: SyntheticDriveConfig, *key: Key) -> str:
    return f"{keyed_seed(config.seed, 'nuscenes', *key):032x}"


@dataclass(frozen=True)
class _Scene(Planted):
    """A drive; the rows that it adds to the tables are written last."""

    @property
    def name(self) -> str:
        return f"planted-{self.split}-{self.index:04d}"

    @property
    def path(self) -> str:
        return f".scenes/{self.name}.json"


def _plan(config: SyntheticDriveConfig, split: str, index: int) -> _Scene:
    return _Scene(split, index, {})


def _make(config: SyntheticDriveConfig, scene: _Scene) -> dict[str, bytes]:
    tables = ("scene", "sample", "sample_data", "ego_pose", "sample_annotation", "instance", "lidarseg")
    rows: Rows = {name: [] for name in tables}
    files: dict[str, bytes] = {}
    name, count = scene.name, config.sweeps
    before = {"train": 0, "val": config.num_train, "test": config.num_train + config.num_val}[scene.split]
    keys = list(range(0, count, config.key_every))

    def token(kind: str, at: int) -> str:
        """Of the sweep or key frame ``at``; "" where there is none."""
        there = 0 <= at < (len(keys) if kind == "sample" else count)
        return _token(config, kind, name, at) if there else ""

    for at in range(count):
        scan = scan_sweep(config, scene.split, scene.index, at)
        key = at in keys
        stamp = _BEGIN + (before + scene.index) * 10**9 + round((scan.cloud.time or 0.0) * 1e6)
        file = f"{'samples' if key else 'sweeps'}/LIDAR_TOP/{name}__LIDAR_TOP__{stamp}.pcd.bin"
        files[file] = _points(scan)
        rows["ego_pose"].append({"token": token("ego_pose", at), "timestamp": stamp, **_ego(scan)})
        after = min(-(-at // config.key_every), len(keys) - 1)
        rows["sample_data"].append(
            {
                "token": token("sample_data", at),
                "sample_token": token("sample", after),
                "ego_pose_token": token("ego_pose", at),
                "calibrated_sensor_token": _token(config, "calibrated_sensor"),
                "timestamp": stamp,
                "fileformat": "pcd",
                "is_key_frame": key,
                "height": 0,
                "width": 0,
                "filename": file,
                "prev": token("sample_data", at - 1),
                "next": token("sample_data", at + 1),
            }
        )
        if key:
            rows["sample"].append(
                {
                    "token": token("sample", after),
                    "timestamp": stamp,
                    "prev": token("sample", after - 1),
                    "next": token("sample", after + 1),
                    "scene_token": _token(config, "scene", name),
                }
            )
            rows["sample_annotation"] += _annotations(config, name, scan, after, token("sample", after))
            segment = f"lidarseg/{VERSION}/{token('sample_data', at)}_lidarseg.bin"
            files[segment] = np.array(_OF_SEGMENT, np.uint8)[scan.cloud.labels["segment"]].tobytes()
            own = token("sample_data", at)
            rows["lidarseg"].append({"token": own, "sample_data_token": own, "filename": segment})
    rows["instance"] = _chain(config, rows["sample_annotation"])
    rows["scene"].append(
        {
            "token": _token(config, "scene", name),
            "log_token": _token(config, "log"),
            "nbr_samples": len(keys),
            "first_sample_token": token("sample", 0),
            "last_sample_token": token("sample", len(keys) - 1),
            "name": name,
            "description": f"planted drive {scene.index} of {scene.split}",
        }
    )
    return files | {scene.path: json.dumps(rows).encode()}


def _points(scan: Scan) -> bytes:
    """float32 x, y, z, intensity in 0 … 255, ring, in the axes of the sensor."""
    xyz = scan.cloud.xyz @ _to_upright()
    intensity = (scan.cloud.attributes["intensity"] * 255).round()
    return np.hstack([xyz, intensity, scan.cloud.labels["ring"][:, None]]).astype(np.float32).tobytes()


def _to_upright() -> np.ndarray:
    """[3, 3]: from the axes of the sensor to those of sweeps, which are parallel to the vehicle's."""
    return _matrix(SENSOR_TURN)


def _ego(scan: Scan) -> dict[str, Any]:
    pose = scan.cloud.pose
    assert pose is not None
    yaw = math.degrees(math.atan2(pose[1, 0], pose[0, 0]))
    return {"rotation": _about(2, yaw).tolist(), "translation": (pose[:3, 3] - pose[:3, :3] @ SENSOR_PLACE).tolist()}


def _annotations(config: SyntheticDriveConfig, scene: str, scan: Scan, key: int, sample: str) -> list[dict[str, Any]]:
    """Of all actors within range, also of those without points."""
    boxes, pose = scan.cloud.boxes, scan.cloud.pose
    assert boxes is not None and pose is not None
    turn, found = math.atan2(pose[1, 0], pose[0, 0]), []
    for at, (kind, track) in enumerate(zip(boxes.classes.tolist(), boxes.facts["track"].tolist(), strict=True)):
        x, y, z, length, width, height, yaw, *velocity = boxes.values[at].astype(np.float64).tolist()
        moves = math.hypot(*velocity) > _SLOW
        attribute = (
            "vehicle.parked" if boxes.facts["parked"][at] else "vehicle.moving" if moves else "vehicle.stopped",
            "pedestrian.moving" if moves else "pedestrian.standing",
            "cycle.with_rider",
        )[kind]
        shown = np.digitize(boxes.facts["visible"][at], [0.4, 0.6, 0.8])
        found.append(
            {
                "token": _token(config, "sample_annotation", scene, key, track),
                "sample_token": sample,
                "instance_token": _token(config, "instance", scene, track, _OF_CLASS[kind]),
                "visibility_token": str(1 + shown),
                "attribute_tokens": [_token(config, "attribute", attribute)],
                "translation": (pose[:3, :3] @ [x, y, z] + pose[:3, 3]).tolist(),
                "size": [width, length, height],
                "rotation": _about(2, math.degrees(yaw + turn)).tolist(),
                "prev": "",
                "next": "",
                "num_lidar_pts": int(boxes.facts["points"][at]),
                "num_radar_pts": 0,
                "category": _OF_CLASS[kind],
            }
        )
    return found


def _chain(config: SyntheticDriveConfig, annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Link the annotations of each instance; the rows of the instances."""
    instances: dict[str, list[dict[str, Any]]] = {}
    for row in annotations:
        instances.setdefault(row["instance_token"], []).append(row)
    found = []
    for instance, rows in instances.items():
        categories = {row.pop("category") for row in rows}
        for before, after in pairwise(rows):
            before["next"], after["prev"] = after["token"], before["token"]
        found.append(
            {
                "token": instance,
                "category_token": _token(config, "category", categories.pop()),
                "nbr_annotations": len(rows),
                "first_annotation_token": rows[0]["token"],
                "last_annotation_token": rows[-1]["token"],
            }
        )
    return found


def _fixed(config: SyntheticDriveConfig) -> Rows:
    """The rows that no drive adds to."""
    own = {kind: _token(config, kind) for kind in ("log", "map", "sensor", "calibrated_sensor")}
    shares = ("0-40", "40-60", "60-80", "80-100")
    return {
        "category": [
            {"token": _token(config, "category", name), "name": name, "description": "", "index": index}
            for index, name in enumerate(CATEGORIES)
        ],
        "attribute": [
            {"token": _token(config, "attribute", name), "name": name, "description": ""} for name in _ATTRIBUTES
        ],
        "visibility": [
            {
                "token": str(1 + at),
                "level": f"v{share}",
                "description": f"visible between {share.replace('-', ' and ')} %",
            }
            for at, share in enumerate(shares)
        ],
        "sensor": [{"token": own["sensor"], "channel": "LIDAR_TOP", "modality": "lidar"}],
        "calibrated_sensor": [
            {
                "token": own["calibrated_sensor"],
                "sensor_token": own["sensor"],
                "translation": SENSOR_PLACE.tolist(),
                "rotation": SENSOR_TURN.tolist(),
                "camera_intrinsic": [],
            }
        ],
        "log": [
            {
                "token": own["log"],
                "logfile": "",
                "vehicle": "planted",
                "date_captured": "2017-07-14",
                "location": "planted",
            }
        ],
        "map": [
            {
                "token": own["map"],
                "log_tokens": [own["log"]],
                "category": "semantic_prior",
                "filename": "maps/planted.png",
            }
        ],
    }


def _white_pixel() -> bytes:
    """A PNG of one pixel: the tables need a map."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\x00\xff")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def write(root: Path, config: SyntheticDriveConfig, num_workers: int, progress: bool) -> Path:
    """``samples`` (key frames), ``sweeps`` and ``lidarseg`` of LIDAR_TOP, and the tables in ``v1.0-trainval``, with the
    names of the scenes of each split in ``splits.json``, where the devkit finds splits that are not its own. The rows
    of each drive are kept in ``.scenes``."""

    def save(path: Path, files: dict[str, bytes]) -> None:
        save_files(root, files)

    write_planted(root, config, ABOUT, _plan, _make, num_workers, progress, save=save)
    tables, splits = _fixed(config), {}
    for split, count in config.counts().items():
        scenes = [_Scene(split, index, {}) for index in range(count)]
        splits[split] = [scene.name for scene in scenes]
        for scene in scenes:
            for table, rows in load_json((root / scene.path).read_text(encoding="utf-8")).items():
                tables.setdefault(table, []).extend(rows)
    for folder in (VERSION, "maps"):
        (root / folder).mkdir(exist_ok=True)
    save_bytes(root / "maps" / "planted.png", _white_pixel())
    for table, content in {**tables, "splits": splits}.items():
        replace_text(root / VERSION / f"{table}.json", json.dumps(content, indent=0))
    return root
