"""Planted drives in the layouts of benchmarks, read back by what their documentation says, not by our readers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.core.boxes import Boxes
from st_ssl.core.errors import ConfigError
from st_ssl.data.synthetic.drives import (
    CLASSES,
    SEGMENTS,
    Scan,
    SyntheticDriveConfig,
    camera,
    scan_sweep,
    write_dataset,
)
from st_ssl.ops.boxes import box_corners, points_in_boxes

SMALL = SyntheticDriveConfig(num_train=2, num_val=1, num_test=1, sweeps=5, key_every=2, beams=24, columns=360)
DRIVES = (("train", 0), ("train", 1), ("val", 0), ("test", 0))
MARKERS = {
    "kitti": "training/velodyne/000005.bin",
    "semantic_kitti": "sequences/01",
    "nuscenes": ".scenes/planted-train-0001.json",
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("layouts")
    configs = {layout: SyntheticDriveConfig(**{**SMALL.model_dump(), "layout": layout}) for layout in MARKERS}
    return {layout: write_dataset(folder / layout, config, 1, progress=False) for layout, config in configs.items()}


def _boxes(scan: Scan) -> Boxes:
    assert scan.cloud.boxes is not None
    return scan.cloud.boxes


def _pose(scan: Scan) -> np.ndarray:
    assert scan.cloud.pose is not None
    return scan.cloud.pose


def _contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("layout", list(MARKERS))
def test_a_stopped_run_is_taken_up(roots: dict[str, Path], layout: str) -> None:
    root, before = roots[layout], _contents(roots[layout])
    for path in [*sorted((root / MARKERS[layout]).rglob("*"), reverse=True), root / MARKERS[layout]]:
        path.rmdir() if path.is_dir() else path.unlink()
    assert _contents(root) != before
    config = SyntheticDriveConfig(**{**SMALL.model_dump(), "layout": layout})
    write_dataset(root, config, num_workers=2, progress=False)
    assert _contents(root) == before


def _calibration(file: Path) -> dict[str, np.ndarray]:
    rows = [line.split(":") for line in file.read_text().splitlines() if line]
    return {name: np.array(values.split(), dtype=float).reshape(3, -1) for name, values in rows}


def _frames(root: Path) -> list[tuple[Path, str, Scan]]:
    """Folder, number and sweep of the frames with labels."""
    keys = [(split, index, sweep) for split, index in DRIVES[:3] for sweep in (0, 2, 4)]
    return [(root / "training", f"{n:06d}", scan_sweep(SMALL, *key)) for n, key in enumerate(keys)]


def test_kitti_has_the_files_of_each_frame(roots: dict[str, Path]) -> None:
    root = roots["kitti"]
    sets = {path.stem: path.read_text().split() for path in (root / "ImageSets").iterdir()}
    names = [f"{n:06d}" for n in range(9)]
    assert sets == {"train": names[:6], "val": names[6:], "trainval": names, "test": names[:3]}
    parts = (("training", 9, {"velodyne", "calib", "label_2"}), ("testing", 3, {"velodyne", "calib"}))
    for part, count, inside in parts:
        assert {path.name for path in (root / part).iterdir()} == inside
        for inner in inside:
            assert sorted(path.stem for path in (root / part / inner).iterdir()) == names[:count]
    for folder, name, scan in _frames(root):
        points = np.fromfile(folder / "velodyne" / f"{name}.bin", np.float32).reshape(-1, 4)
        assert np.array_equal(points[:, :3], scan.cloud.xyz) and points[:, 3].max() <= 1


def test_kitti_labels_are_the_boxes_in_the_image(roots: dict[str, Path]) -> None:
    kinds: Counter[str] = Counter()
    hidden: Counter[str] = Counter()
    for folder, name, scan in _frames(roots["kitti"]):
        calib, truth = _calibration(folder / "calib" / f"{name}.txt"), _boxes(scan)
        to_rect = calib["R0_rect"] @ calib["Tr_velo_to_cam"]
        left = truth.facts["points"] >= SMALL.min_points
        named = set()
        for line in (folder / "label_2" / f"{name}.txt").read_text().splitlines():
            kind, *words = line.split()
            values = np.array(words, dtype=float)
            kinds[kind] += 1
            image = values[3:7]
            assert len(values) == 14 and (image[2:] > image[:2]).all()
            assert (image >= 0).all() and (image <= [1241, 374, 1241, 374]).all()
            if kind == "DontCare":
                assert words[:3] == ["-1", "-1", "-10"] and words[7:] == ["-1"] * 3 + ["-1000"] * 3 + ["-10"]
                continue
            hidden[words[1]] += 1
            height, width, length, *place, turn = values[7:]
            lidar = np.linalg.inv(to_rect[:, :3]) @ (place - to_rect[:, 3]) + [0, 0, height / 2]
            at = int(np.argmin(np.linalg.norm(truth.values[:, :3] - lidar, axis=1)))
            assert CLASSES[truth.classes[at]].capitalize() == kind and left[at]
            assert np.allclose(truth.values[at, :3], lidar, atol=1e-3)
            assert np.allclose(truth.values[at, 3:6], [length, width, height], atol=1e-4)
            assert np.allclose(np.exp(1j * truth.values[at, 6]), np.exp(1j * (-turn - np.pi / 2)), atol=1e-3)
            assert np.isclose(
                values[2], (turn - np.arctan2(place[0], place[2]) + np.pi) % (2 * np.pi) - np.pi, atol=1e-3
            )
            named.add(at)
            _check_image_box(scan, at, calib["P2"] @ np.vstack([to_rect, [0, 0, 0, 1]]), image, values[0])
        ahead = truth.values[:, 0] > 5
        in_view = ahead & (np.abs(truth.values[:, 1]) < 0.7 * truth.values[:, 0]) & left
        assert set(np.flatnonzero(in_view)) <= named
        assert all(truth.values[at, 0] > -2 for at in named)
    assert all(kinds[kind] > 2 for kind in ("Car", "Pedestrian", "Cyclist", "DontCare")), kinds
    assert all(hidden[level] > 1 for level in "012"), hidden


def _check_image_box(scan: Scan, at: int, matrix: np.ndarray, image: np.ndarray, truncated: float) -> None:
    """All points of an object are in its 2D box, which is within that of its 3D box."""

    def projected(points: np.ndarray) -> np.ndarray:
        pixels = np.hstack([points, np.ones((len(points), 1))]) @ matrix.T
        return (pixels[:, :2] / pixels[:, 2:])[pixels[:, 2] > 0.1]

    boxes = _boxes(scan)
    own = projected(scan.cloud.xyz[scan.cloud.labels["instance"] == boxes.facts["track"][at]])
    own = own[(own >= 0).all(1) & (own <= [1241, 374]).all(1)]
    near = 3 + 60 / np.linalg.norm(boxes.values[at, :3])  # pixels: noise, and the corners of what is round
    assert (own >= image[:2] - near).all() and (own <= image[2:] + near).all()
    corners = projected(box_corners(torch.from_numpy(boxes.values[[at], :7])).numpy()[0])
    if len(corners) == 8:
        low, high = corners.min(0), corners.max(0)
        assert (image[:2] >= low.clip(0) - near).all() and (image[2:] <= high + near).all()
        assert (truncated > 0.005) <= ((low < 0).any() or (high > [1241, 374]).any())


def test_what_is_half_out_of_the_image_is_truncated_by_half() -> None:
    """A car straight ahead, moved sideways until the edge of the image cuts it in the middle."""
    scan = scan_sweep(SMALL, "train", 0, 0)
    actor = _boxes(scan).facts["track"][_boxes(scan).classes == 0][:1]
    car = scan.parts.take(scan.parts.owner == actor)
    box = _boxes(scan).values[np.flatnonzero(_boxes(scan).facts["track"] == actor)[0]]
    car = car.moved(0.0, -box[:3].astype(np.float64)).moved(-float(box[6]), np.array([20.0, 0.0, -1.0]))
    whole = camera.look(car, actor)
    assert whole.truncated[0] == 0
    shares = []
    for left in np.linspace(0, 30, 31):
        seen = camera.look(car.moved(0.0, np.array([0.0, left, 0.0])), actor)
        shares.append(seen.truncated[0])
    assert shares[0] == 0 and shares[-1] == 1 and (np.diff(shares) >= 0).all()
    assert any(0.3 < share < 0.7 for share in shares)


def test_semantic_kitti(roots: dict[str, Path]) -> None:
    root = roots["semantic_kitti"] / "sequences"
    assert sorted(path.name for path in root.iterdir()) == ["00", "01", "08", "11"]
    assert not (root / "11" / "labels").exists()
    numbers = {"road": {40}, "sidewalk": {48}, "terrain": {72}, "building": {50}, "fence": {51}, "pole": {80}}
    numbers |= {"vegetation": {70}, "object": {99}, "car": {10, 252}, "pedestrian": {30, 254}, "cyclist": {31, 253}}
    moving = 0
    for (split, index), name in zip(DRIVES, ("00", "01", "08", "11"), strict=True):
        to_camera = np.vstack([_calibration(root / name / "calib.txt")["Tr"], [0, 0, 0, 1]])
        poses = np.loadtxt(root / name / "poses.txt").reshape(-1, 3, 4)
        assert np.allclose(np.loadtxt(root / name / "times.txt"), np.arange(5) / 5)
        first = np.linalg.inv(_pose(scan_sweep(SMALL, split, index, 0)))
        for number in range(5):
            scan = scan_sweep(SMALL, split, index, number)
            to_first = np.linalg.inv(to_camera) @ np.vstack([poses[number], [0, 0, 0, 1]]) @ to_camera
            assert np.allclose(to_first, first @ _pose(scan), atol=1e-6)
            points = np.fromfile(root / name / "velodyne" / f"{number:06d}.bin", np.float32).reshape(-1, 4)
            assert np.array_equal(points[:, :3], scan.cloud.xyz)
            if split == "test":
                continue
            label = np.fromfile(root / name / "labels" / f"{number:06d}.label", np.uint32)
            assert np.array_equal((label >> 16).astype(np.int64) - 1, scan.cloud.labels["instance"])
            for at, segment in enumerate(SEGMENTS):
                assert set(label[scan.cloud.labels["segment"] == at] & 0xFFFF) <= numbers[segment]
            speed = dict(zip(_boxes(scan).facts["track"], np.hypot(*_boxes(scan).values[:, 7:].T), strict=True))
            for one in np.unique(label[label >> 16 > 0]):
                assert ((one & 0xFFFF) > 250) == (speed[(one >> 16) - 1] > 0.3)
                moving += (one & 0xFFFF) > 250
    assert moving > 10


def test_semantic_kitti_has_only_so_many_sequences(tmp_path: Path) -> None:
    config = SyntheticDriveConfig(num_train=3, num_val=2, num_test=1, layout="semantic_kitti")
    with pytest.raises(ConfigError, match="num_val: 2; SemanticKITTI has at most 1 of them"):
        write_dataset(tmp_path / "drives", config, progress=False)


def _matrix(row: dict[str, Any]) -> np.ndarray:
    """From the quaternion (w, x, y, z) and the translation of a row."""
    w, x, y, z = row["rotation"]
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = row["translation"]
    return matrix


@pytest.fixture
def tables(roots: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """The tables of nuScenes, by token."""
    files = (roots["nuscenes"] / "v1.0-trainval").glob("*.json")
    loaded = {path.stem: json.loads(path.read_text()) for path in files if path.stem != "splits"}
    by_token = {name: {row["token"]: row for row in rows} for name, rows in loaded.items()}
    assert all(len(by_token[name]) == len(rows) for name, rows in loaded.items()), "a token twice"
    return by_token


def test_nuscenes_tables_refer_to_rows_that_are_there(roots: dict[str, Path], tables: dict[str, Any]) -> None:
    assert {name: len(rows) for name, rows in tables.items() if name in ("scene", "sample", "sample_data", "log")} == {
        **{"scene": 4, "sample": 12, "sample_data": 20, "log": 1},
    }
    for name, rows in tables.items():
        for row in rows.values():
            for key, value in row.items():
                other = name if key in ("prev", "next") else key.removesuffix("s").removesuffix("_token")
                other = other.removeprefix("first_").removeprefix("last_")
                other = {"annotation": "sample_annotation"}.get(other, other)
                for token in value if isinstance(value, list) else [value]:
                    if (key.endswith(("_token", "_tokens")) or key in ("prev", "next")) and token:
                        assert token in tables[other], (name, key)
            if name in ("sample", "sample_data", "sample_annotation") and row["next"]:
                assert rows[row["next"]]["prev"] == row["token"]
    splits = json.loads((roots["nuscenes"] / "v1.0-trainval" / "splits.json").read_text())
    scenes = {row["name"] for row in tables["scene"].values()}
    assert {split: len(names) for split, names in splits.items()} == {"train": 2, "val": 1, "test": 1}
    assert scenes == {name for names in splits.values() for name in names}
    assert (roots["nuscenes"] / next(iter(tables["map"].values()))["filename"]).is_file()


def test_nuscenes_chains_end_in_the_world(roots: dict[str, Path], tables: dict[str, Any]) -> None:
    root, names = roots["nuscenes"], {f"planted-{split}-{index:04d}": (split, index) for split, index in DRIVES}
    kinds: Counter[str] = Counter()
    for row in tables["scene"].values():
        sample = tables["sample"][row["first_sample_token"]]
        sweeps = [data for data in tables["sample_data"].values() if row["name"] in data["filename"]]
        assert [data["is_key_frame"] for data in sweeps] == [True, False, True, False, True]
        assert all(tables["sample"][data["sample_token"]]["timestamp"] >= data["timestamp"] for data in sweeps)
        for number, data in enumerate(sweeps):
            scan = scan_sweep(SMALL, *names[row["name"]], number)
            assert data["timestamp"] - sweeps[0]["timestamp"] == number * 200_000
            sensor = _matrix(tables["calibrated_sensor"][data["calibrated_sensor_token"]])
            ego = _matrix(tables["ego_pose"][data["ego_pose_token"]])
            assert abs(ego[2, 3]) < 1e-9
            points = np.fromfile(root / data["filename"], np.float32).reshape(-1, 5)
            world = points[:, :3] @ (ego @ sensor)[:3, :3].T + (ego @ sensor)[:3, 3]
            assert np.abs(world - (scan.cloud.xyz @ _pose(scan)[:3, :3].T + _pose(scan)[:3, 3])).max() < 1e-3
            assert np.abs(points[:, 3] / 255 - scan.cloud.attributes["intensity"][:, 0]).max() < 0.5 / 255 + 1e-6
            assert np.array_equal(points[:, 4], scan.cloud.labels["ring"])
            ahead = scan.cloud.xyz[:, 0] > 5
            assert (points[ahead, 1] > 4).all(), "the sensor's y is ahead"
            if data["is_key_frame"]:
                found = [a for a in tables["sample_annotation"].values() if a["sample_token"] == sample["token"]]
                kinds.update(_check_annotations(found, world, scan, tables))
                label = np.fromfile(root / tables["lidarseg"][data["token"]]["filename"], np.uint8)
                meaning = {c["index"]: c["name"] for c in tables["category"].values()}
                cars = scan.cloud.labels["segment"] == SEGMENTS.index("car")
                assert np.array_equal(cars, np.array([meaning[n] == "vehicle.car" for n in label.tolist()]))
                sample = tables["sample"].get(sample["next"])
        assert sample is None
    assert set(kinds) >= {"vehicle.moving", "vehicle.parked", "cycle.with_rider", "pedestrian.moving"}


def _check_annotations(found: list[dict[str, Any]], world: np.ndarray, scan: Scan, tables: dict[str, Any]) -> list[str]:
    """Against the truth; the names of their attributes."""
    truth, pose = _boxes(scan), _pose(scan)
    assert len(found) == len(truth) > 5
    for at, row in enumerate(found):
        width, length, height = row["size"]
        matrix = _matrix(row)
        assert np.allclose(matrix[:3, 3], pose[:3, :3] @ truth.values[at, :3] + pose[:3, 3], atol=1e-4)
        assert np.allclose([length, width, height], truth.values[at, 3:6])
        ahead = [np.cos(truth.values[at, 6]), np.sin(truth.values[at, 6]), 0.0]
        assert np.allclose(matrix[:3, 0], pose[:3, :3] @ ahead, atol=1e-5)
        box = torch.tensor(
            [[*row["translation"], length + 0.2, width + 0.2, height + 0.2, np.arctan2(*matrix[1::-1, 0])]]
        )
        own = scan.cloud.labels["instance"] == truth.facts["track"][at]
        assert points_in_boxes(torch.from_numpy(world[own]), box.double()).all()
        assert row["num_lidar_pts"] == truth.facts["points"][at] == own.sum()
        after = tables["sample_annotation"].get(row["next"])
        if after and np.abs(np.subtract(after["rotation"], row["rotation"])).max() < 0.03:
            moved = (np.array(after["translation"]) - row["translation"])[:2] / 0.4
            assert np.allclose(moved, pose[:2, :2] @ truth.values[at, 7:], atol=0.6)
        category = tables["category"][tables["instance"][row["instance_token"]]["category_token"]]["name"]
        assert category == ("vehicle.car", "human.pedestrian.adult", "vehicle.bicycle")[truth.classes[at]]
        assert (row["visibility_token"] == "4") == (truth.facts["visible"][at] >= 0.8)
    return [tables["attribute"][token]["name"] for row in found for token in row["attribute_tokens"]]
