"""nuScenes v1.0 (Caesar et al., CVPR 2020): its tables are read as they are, those of lidarseg too."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from st_ssl.core.boxes import BOX
from st_ssl.core.errors import DataError, SampleError
from st_ssl.data.sources.base import Place
from st_ssl.data.sources.drives.base import Layout, rotation_of, velocities, yaw_of
from st_ssl.data.sources.points.base import subfolders
from st_ssl.data.sources.splits import split_in
from st_ssl.data.streams.points.drives import Drive, NamedBoxes

CLASSES = (
    *("car", "truck", "bus", "trailer", "construction_vehicle", "pedestrian"),
    *("motorcycle", "bicycle", "traffic_cone", "barrier"),
)
NAMES = {
    **{"movable_object.barrier": "barrier", "movable_object.trafficcone": "traffic_cone"},
    **{"vehicle.bicycle": "bicycle", "vehicle.motorcycle": "motorcycle", "vehicle.car": "car"},
    **{"vehicle.bus.bendy": "bus", "vehicle.bus.rigid": "bus", "vehicle.construction": "construction_vehicle"},
    **{"vehicle.trailer": "trailer", "vehicle.truck": "truck"},
    **{
        f"human.pedestrian.{kind}": "pedestrian" for kind in ("adult", "child", "construction_worker", "police_officer")
    },
    **{f"human.pedestrian.{kind}": kind for kind in ("personal_mobility", "stroller", "wheelchair")},
    **{"vehicle.emergency.ambulance": "ambulance", "vehicle.emergency.police": "police"},
    **{f"movable_object.{kind}": kind for kind in ("debris", "pushable_pullable")},
    **{"animal": "animal", "static_object.bicycle_rack": "bicycle_rack"},
}
ATTRIBUTES = (
    *("vehicle.moving", "vehicle.stopped", "vehicle.parked", "cycle.with_rider", "cycle.without_rider"),
    *("pedestrian.moving", "pedestrian.standing", "pedestrian.sitting_lying_down"),
)
SEGMENTS = {
    **{"barrier": (9,), "bicycle": (14,), "bus": (15, 16), "car": (17,), "construction_vehicle": (18,)},
    **{"motorcycle": (21,), "pedestrian": (2, 3, 4, 6), "traffic_cone": (12,), "trailer": (22,), "truck": (23,)},
    **{"driveable_surface": (24,), "other_flat": (25,), "sidewalk": (26,), "terrain": (27,), "manmade": (28,)},
    "vegetation": (30,),
}
"""The 16 classes of lidarseg, and the labels in files that are of each; all others are ignored."""
# Scenes for validation: of v1.0-trainval by ranges of their numbers, of v1.0-mini.
_VAL = (
    *((3, 3), (12, 18), (35, 39), (92, 110), (221, 221), (268, 278), (329, 332), (344, 346), (519, 524), (552, 565)),
    *((625, 638), (770, 784), (794, 802), (904, 931), (962, 972), (1059, 1073)),
)
_MINI_VAL = ((103, 103), (916, 916))
_AHEAD = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
"""The sensor's x is to the right, its y ahead."""
_MAP = np.full(256, -1, dtype=np.int64)
for _number, _labels in enumerate(SEGMENTS.values()):
    _MAP[list(_labels)] = _number


def _read(place: Place, rate: float) -> list[Drive]:
    """``v1.0-trainval`` or ``v1.0-mini``, and ``v1.0-test``: the sweeps of LIDAR_TOP, those between key frames too.
    Splits are the official ones, or those of ``splits.json`` beside the tables, as the devkit has them."""
    folders = _versions(place.root)
    if not folders:
        raise DataError(f"{place.root}: no v1.0-*/scene.json, as nuScenes has them")
    if any(folder.name == "v1.0-trainval" for folder in folders):
        folders = [folder for folder in folders if folder.name != "v1.0-mini"]
    drives = []
    for folder in folders:
        try:
            drives += _scenes(place.root, folder)
        except KeyError as error:
            raise DataError(f"{folder}: its tables do not belong together: no {error.args[0]!r}") from error
    there = [drive for drive in drives if Path(drive.files[0]).exists()]
    if not there:
        raise DataError(
            f"{place.root}: none of the {len(drives)} scenes is there; the first sweep: {drives[0].files[0]}"
        )
    if gone := len(drives) - len(there):
        place.tell(f"{place.root}: {gone} of {len(drives)} scenes are not there and are left out")
    return there


def _versions(root: Path) -> list[Path]:
    """The folders of tables."""
    return [path for path in subfolders(root) if path.name.startswith("v1.0-") and (path / "scene.json").is_file()]


Row = dict[str, Any]


def _table(folder: Path, name: str, keep: Callable[[Row], Any] = lambda row: row) -> Iterator[Any]:
    """What ``keep`` makes of the rows of a table, without those of which it makes None; rows that are not kept take no
    memory, of which some tables would need much."""
    path = folder / f"{name}.json"
    try:
        with path.open("rb") as file:
            yield from (row for row in json.load(file, object_hook=keep) if row is not None)
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: not a table of nuScenes: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _matrix(row: Row) -> np.ndarray:
    """The matrix [4, 4] of a translation and a rotation."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation_of(np.array(row["rotation"])), row["translation"]
    return matrix


def _scenes(root: Path, folder: Path) -> list[Drive]:
    """The drives of one folder of tables."""
    lidar = {row["token"] for row in _table(folder, "sensor") if row["channel"] == "LIDAR_TOP"}
    sensors = {
        row["token"]: _matrix(row) @ np.linalg.inv(_AHEAD)
        for row in _table(folder, "calibrated_sensor")
        if row["sensor_token"] in lidar
    }
    samples = {row["token"]: (row["scene_token"], row["timestamp"]) for row in _table(folder, "sample")}
    rows = list(_table(folder, "sample_data", lambda row: row if row["calibrated_sensor_token"] in sensors else None))
    wanted = {row["ego_pose_token"] for row in rows}
    egos = dict(
        _table(folder, "ego_pose", lambda row: (row["token"], _matrix(row)) if row["token"] in wanted else None)
    )
    segments = {}
    if (folder / "lidarseg.json").is_file():
        segments = {row["sample_data_token"]: root / row["filename"] for row in _table(folder, "lidarseg")}
    annotations = _annotations(folder, samples)
    by_scene: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["timestamp"]):
        by_scene.setdefault(samples[row["sample_token"]][0], []).append(row)
    splits = _splits(folder)
    drives = []
    for scene in _table(folder, "scene"):
        own = by_scene.get(scene["token"], [])
        if not own:
            continue
        poses = np.stack([egos[row["ego_pose_token"]] @ sensors[row["calibrated_sensor_token"]] for row in own])
        times = np.array([row["timestamp"] for row in own], dtype=np.int64)
        keys = [at for at, row in enumerate(own) if row["is_key_frame"]]
        boxes = {at: annotations[own[at]["sample_token"]] for at in keys} if annotations else {}
        labels = {at: segments[own[at]["token"]] for at in keys if own[at]["token"] in segments}
        drives.append(
            Drive(
                str(root / scene["name"]),
                splits(scene["name"]),
                tuple(str(root / row["filename"]) for row in own),
                (times - times[0]) / 1e6,
                poses,
                {at: partial(_boxes, box, poses[at]) for at, box in boxes.items()},
                {at: partial(read_labels, file) for at, file in labels.items()},
                tokens={at: (own[at]["sample_token"], own[at]["token"]) for at in keys},
                keys=np.array(keys, dtype=np.int64),
                axes=_AHEAD,
                sensor=sensors[own[0]["calibrated_sensor_token"]],
            )
        )
    if not drives:
        raise DataError(f"{folder}: no scene has sweeps of LIDAR_TOP")
    return drives


def _splits(folder: Path) -> Callable[[str], str]:
    """Which split the scene of a name is in."""
    file = folder / "splits.json"
    if file.is_file():
        custom: dict[str, list[str]] = json.loads(file.read_text(encoding="utf-8"))
        told = {name: (split_in(split) or ("train",))[0] for split, names in custom.items() for name in names}
        return lambda name: told.get(name, "train")
    if folder.name == "v1.0-test":
        return lambda name: "test"
    ranges = _MINI_VAL if folder.name == "v1.0-mini" else _VAL

    def official(name: str) -> str:
        number = name.rpartition("-")[2]
        inside = number.isdecimal() and any(low <= int(number) <= high for low, high in ranges)
        return "val" if inside else "train"

    return official


@dataclass
class Annotations:
    """The boxes of a sample: ``centre`` and ``size`` (width, length, height) [N, 3], ``rotation`` [N, 4] (w, x, y, z)
    and ``velocity`` [N, 3], all in the world; ``track``, ``points``, ``radar`` and ``attribute`` int64 [N], the last
    by its place in ``ATTRIBUTES``; the ``names`` of their categories."""

    centre: np.ndarray
    size: np.ndarray
    rotation: np.ndarray
    velocity: np.ndarray
    track: np.ndarray
    points: np.ndarray
    radar: np.ndarray
    attribute: np.ndarray
    names: np.ndarray

    def take(self, index: np.ndarray) -> Annotations:
        """Those at ``index``."""
        return Annotations(*(getattr(self, one.name)[index] for one in fields(self)))


@dataclass
class _Columns:
    """Rows of ``sample_annotation`` as they are read, without the memory that objects take."""

    samples: Mapping[str, int]
    instances: Mapping[str, int]
    attributes: Mapping[str, int]
    numbers: array[float] = field(default_factory=lambda: array("d"))
    counts: array[int] = field(default_factory=lambda: array("q"))

    def add(self, row: Row) -> None:
        """Ten floats and five whole numbers."""
        self.numbers.extend([*row["translation"], *row["size"], *row["rotation"]])
        attribute = self.attributes[row["attribute_tokens"][0]] if row["attribute_tokens"] else -1
        counts = (row["num_lidar_pts"], row["num_radar_pts"], attribute)
        self.counts.extend([self.samples[row["sample_token"]], self.instances[row["instance_token"]], *counts])


def _annotations(folder: Path, samples: Mapping[str, tuple[str, int]]) -> dict[str, Annotations]:
    """The boxes of each sample; {} where there are none, as of the test split."""
    if not (folder / "sample_annotation.json").is_file():
        return {}
    categories = {row["token"]: row["name"] for row in _table(folder, "category")}
    instances = [(row["token"], categories[row["category_token"]]) for row in _table(folder, "instance")]
    attributes = {
        row["token"]: ATTRIBUTES.index(row["name"]) if row["name"] in ATTRIBUTES else -1
        for row in _table(folder, "attribute")
    }
    columns = _Columns(
        {token: at for at, token in enumerate(samples)},
        {token: at for at, (token, _) in enumerate(instances)},
        attributes,
    )
    for _ in _table(folder, "sample_annotation", columns.add):
        """Nothing is kept of a row but its numbers."""
    if not columns.counts:
        return {}
    numbers, counts = np.array(columns.numbers).reshape(-1, 10), np.array(columns.counts).reshape(-1, 5)
    seconds = np.array([stamp for _, stamp in samples.values()], dtype=np.int64)
    sample, track = counts[:, 0], counts[:, 1]
    names = np.array([NAMES.get(name, name) for _, name in instances])
    every = Annotations(
        *(numbers[:, :3], numbers[:, 3:6], numbers[:, 6:]),
        velocities(numbers[:, :3], track, seconds[sample] / 1e6),
        *(track, counts[:, 2], counts[:, 3], counts[:, 4], names[track]),
    )
    order = np.argsort(sample, kind="stable")
    bounds = np.searchsorted(sample[order], np.arange(len(samples) + 1))
    return {token: every.take(order[bounds[at] : bounds[at + 1]]) for at, token in enumerate(samples)}


def _boxes(own: Annotations, pose: np.ndarray) -> NamedBoxes:
    """The boxes of a sample, as seen from the sweep whose ``pose`` [4, 4] it is."""
    back = np.linalg.inv(pose)
    values = np.full((len(own.names), len(BOX)), np.nan)
    values[:, :3] = own.centre @ back[:3, :3].T + back[:3, 3]
    values[:, 3:6] = own.size[:, [1, 0, 2]]
    values[:, 6] = yaw_of(back[:3, :3] @ rotation_of(own.rotation)) if len(values) else 0.0
    values[:, 7:] = (own.velocity @ back[:3, :3].T)[:, :2]
    facts = {"track": own.track, "points": own.points, "radar": own.radar, "attribute": own.attribute}
    return NamedBoxes(values, tuple(own.names.tolist()), facts)


def read_labels(file: Path, count: int) -> dict[str, np.ndarray]:
    """``segment`` int64 [N] of the ``count`` points of a key frame, in the order of ``SEGMENTS``, -1 for what is
    ignored. Raises ``SampleError`` where there are more or fewer."""
    labels = np.fromfile(file, dtype=np.uint8)
    if len(labels) != count:
        raise SampleError(str(file), f"{len(labels)} labels for {count} points (uint8, one for each)")
    return {"segment": _MAP[labels]}


LAYOUT = Layout(
    "nuscenes",
    _read,
    lambda place: _versions(place.root),
    NAMES,
    CLASSES,
    segments=lambda drive: tuple(SEGMENTS),
    columns=("x", "y", "z", "intensity", "_"),
    intensity_range=(0.0, 255.0),
)
