"""Files of results, read as the benchmarks read them, and figures of answers that are known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.core.boxes import Boxes
from st_ssl.core.errors import ConfigError, OutputError
from st_ssl.data.drives.config import DriveDataConfig
from st_ssl.data.drives.dataset import DriveSource
from st_ssl.data.sources.drives.nuscenes import ATTRIBUTES, CLASSES
from st_ssl.data.sources.drives.semantic_kitti import CLASSES as SEGMENTS
from st_ssl.data.sources.drives.semantic_kitti import written_back
from st_ssl.data.streams.points.drives import Drive, NamedBoxes
from st_ssl.data.synthetic.drives import SyntheticDriveConfig, write_dataset
from st_ssl.transfer.benchmarks.kitti import KittiResults
from st_ssl.transfer.benchmarks.nuscenes import NuscenesResults, attribute, in_world
from st_ssl.transfer.benchmarks.semantic_kitti import SemanticKittiResults
from st_ssl.transfer.detection.kitti_objects import read_objects

FEW: dict[str, Any] = {"num_train": 1, "num_val": 2, "num_test": 0, "sweeps": 4, "key_every": 2, "beams": 24}


def planted(root: Path, layout: Any, **changes: Any) -> DriveSource:
    write_dataset(root, SyntheticDriveConfig(**{**FEW, "columns": 300, **changes}, layout=layout), progress=False)
    return DriveSource(DriveDataConfig(root=str(root), num_workers=0))


def truth(source: DriveSource, drive: Drive, at: int) -> Boxes:
    """The true boxes of a sweep, as if they had been found."""
    boxes = drive.boxes[at]().numbered(source.numbers, {})
    boxes = boxes.take((boxes.classes >= 0) & (boxes.facts.get("points", 1) != 0))
    return Boxes(boxes.values, boxes.classes, {"score": np.linspace(0.9, 0.4, len(boxes.classes))})


def test_kitti(tmp_path: Path) -> None:
    source = planted(tmp_path / "kitti", "kitti", sweeps=12, key_every=1)
    entries = [entry for entry in source.entries() if entry.split == "val"]
    results = KittiResults(tmp_path / "out", source, entries, source.box_classes)
    for drive, at in results.samples[1:]:
        results.add(drive, at, truth(source, drive, at))
    figures = results.close()
    files = sorted((tmp_path / "out").iterdir())
    assert [file.stem for file in files] == sorted(Path(drive.files[0]).stem for drive, _ in results.samples)
    first = Path(results.samples[0][0].files[0]).stem
    assert (tmp_path / "out" / f"{first}.txt").read_text() == "", "nothing was said of it"
    found = 0
    for drive, at in results.samples[1:]:
        stem = Path(drive.files[at]).stem
        written = read_objects(tmp_path / "out" / f"{stem}.txt")
        label = read_objects(tmp_path / "kitti/training/label_2" / f"{stem}.txt")
        real = [row for row, name in enumerate(label.names) if name != "DontCare"]
        found += len(written)
        for row in range(len(written)):
            away = np.linalg.norm(label.bottom[real] - written.bottom[row], axis=1)
            assert away.min() < 0.02, "what is written is where the label is"
    assert found > 20
    assert figures["3d_Car_hard_R40"] > 80


def test_nuscenes(tmp_path: Path) -> None:
    source = planted(tmp_path / "nuscenes", "nuscenes")
    entries = [entry for entry in source.entries() if entry.split == "val"]
    results = NuscenesResults(tmp_path / "out", source, entries, source.box_classes)
    for drive, at in results.samples[1:]:
        results.add(drive, at, truth(source, drive, at))
    figures = results.close()
    assert figures["AP_car"] == pytest.approx(100) and figures["mATE"] < 1
    told = json.loads((tmp_path / "out" / "results_nusc.json").read_text())
    assert set(told["meta"]) == {f"use_{name}" for name in ("camera", "lidar", "radar", "map", "external")}
    assert set(told["results"]) == {drive.tokens[at][0] for drive, at in results.samples}
    assert told["results"][entries_token(results)] == []
    table = json.loads(next((tmp_path / "nuscenes").glob("v1.0-*/sample_annotation.json")).read_text())
    for token, rows in told["results"].items():
        places = np.array([row["translation"] for row in table if row["sample_token"] == token])
        for row in rows:
            away = np.linalg.norm(places - row["translation"], axis=1)
            own = [one for one in table if one["sample_token"] == token][int(away.argmin())]
            assert away.min() < 1e-3 and row["size"] == pytest.approx(own["size"], abs=1e-3)
            assert abs(np.dot(row["rotation"], own["rotation"])) == pytest.approx(1, abs=1e-4)
            assert np.isfinite([*row["velocity"], row["detection_score"]]).all()


def test_rows_of_nuscenes_are_as_the_benchmark_has_them(tmp_path: Path) -> None:
    source = planted(tmp_path / "nuscenes", "nuscenes")
    results = NuscenesResults(tmp_path / "out", source, source.entries(), CLASSES)
    (drive, at), rng, count = results.samples[0], np.random.default_rng(0), 600
    values = rng.normal(2, 0.1, (count, 9))
    values[:, 7:] = rng.normal(0, 4, (count, 2))
    values[7, 7:] = np.nan
    score = 1 - rng.permutation(count) / count
    score[7] = 2  # the first
    results.add(drive, at, Boxes(values, np.arange(count) % 10, {"score": score}))
    results.close()
    told = json.loads((tmp_path / "out" / "results_nusc.json").read_text())
    assert [name for name, used in told["meta"].items() if used] == ["use_lidar"]
    rows = told["results"][drive.tokens[at][0]]
    order = np.argsort(-score)[:500]
    assert [row["detection_score"] for row in rows] == score[order].tolist()
    assert [row["detection_name"] for row in rows] == [CLASSES[number % 10] for number in order]
    seen = np.array([row["velocity"] for row in rows]) @ drive.poses[at][:2, :2]
    seen[np.isnan(values[order, 7])] = np.nan  # what is unknown is written as 0
    np.testing.assert_allclose(seen, values[order, 7:], atol=1e-9)
    assert rows[0]["velocity"] == [0, 0]
    kinds = {"pedestrian": "pedestrian", "bicycle": "cycle", "motorcycle": "cycle", "barrier": "", "traffic_cone": ""}
    for row in rows:
        assert list(row) == [
            *("sample_token", "translation", "size", "rotation", "velocity"),
            *("detection_name", "detection_score", "attribute_name"),
        ]
        assert row["attribute_name"] in ("", *ATTRIBUTES)
        assert row["attribute_name"].partition(".")[0] == kinds.get(row["detection_name"], "vehicle")


def test_racks_and_the_way_to_the_vehicle_count_in_nuscenes(tmp_path: Path) -> None:
    source = planted(tmp_path / "nuscenes", "nuscenes")
    drive = next(iter(source.drives.values()))
    at = int(drive.keys[0])
    values = np.array([[45.0, 0, 0, 4, 2, 1.5, 0, 0, 0], [10, 0, 0, 2, 1, 1, 0, 0, 0], [10, 5, 0, 2, 1, 1, 0, 0, 0]])
    names = ("car", "bicycle", "bicycle")

    def figures(folder: str, rack: tuple[float, float], sensor: np.ndarray) -> dict[str, float]:
        boxes = NamedBoxes(np.vstack([values, [*rack, 0, 4, 2, 2, 0, 0, 0]]), (*names, "bicycle_rack"), {})
        source.drives[drive.path] = replace(drive, boxes={at: lambda: boxes}, sensor=sensor)
        entry = next(one for one in source.entries() if one.path == drive.path and one.start == at)
        results = NuscenesResults(tmp_path / folder, source, [entry], CLASSES)
        numbers = np.array([CLASSES.index(name) for name in names])
        results.add(source.drives[drive.path], at, Boxes(values[:2], numbers[:2], {"score": np.array([0.9, 0.8])}))
        return results.close()

    near, ahead = np.eye(4), np.eye(4)
    ahead[0, 3] = 6  # the sensor is before the vehicle's middle, from which the car is then 51 m away
    free = figures("free", (30, 30), near)
    assert free["AP_car"] == pytest.approx(100) and free["AP_bicycle"] < 50
    racked = figures("racked", (10, 5), near)
    assert racked["AP_bicycle"] == pytest.approx(100), "the one that was not found is in a rack"
    assert figures("ahead", (30, 30), ahead)["AP_car"] == 0


def entries_token(results: NuscenesResults) -> str:
    drive, at = results.samples[0]
    return drive.tokens[at][0]


@pytest.mark.parametrize(
    ("name", "speed", "told"),
    [
        ("car", 3.0, 0),
        ("bus", 0.0, 1),
        ("truck", 0.1, 2),
        ("bicycle", 1.0, 3),
        ("motorcycle", 0.0, 4),
        ("pedestrian", 1.0, 5),
        ("pedestrian", 0.0, 6),
        ("barrier", 2.0, -1),
    ],
)
def test_attributes_are_told_from_the_speed(name: str, speed: float, told: int) -> None:
    assert attribute(name, speed) == told


def test_boxes_turn_with_the_sweep() -> None:
    pose = np.array([[0.0, -1, 0, 10], [1, 0, 0, 20], [0, 0, 1, 2], [0, 0, 0, 1]])
    found = in_world(np.array([[3.0, 1, -1, 4, 2, 1.5, 0.2, 5, 1]]), pose)
    np.testing.assert_allclose(found, [[9, 23, 1, 4, 2, 1.5, 0.2 + np.pi / 2, -1, 5]])


def test_boxes_are_upright_where_the_sweep_is_tilted() -> None:
    lean, pitch = np.array([[1.0, 0, 0], [0, 0.96, -0.28], [0, 0.28, 0.96]]), np.eye(3)
    pitch[::2, ::2] = [[0.96, 0.28], [-0.28, 0.96]]
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = lean @ pitch, (10, 20, 2)
    yaw, velocity = 0.7, np.array([5.0, -3, 0])
    x, y, _ = pose[:3, :3].T @ [np.cos(yaw), np.sin(yaw), 0]
    vx, vy, _ = pose[:3, :3].T @ velocity
    found = in_world(np.array([[0.0, 0, 0, 4, 2, 1.5, np.arctan2(y, x), vx, vy]]), pose)
    np.testing.assert_allclose(found, [[10, 20, 2, 4, 2, 1.5, yaw, 5, -3]])


def test_semantic_kitti(tmp_path: Path) -> None:
    source = planted(tmp_path / "kitti", "semantic_kitti", num_val=1)
    drive = next(own for own in source.drives.values() if own.split == "val")
    raw = np.fromfile(drive.files[0], dtype="<f4").reshape(-1, 4)
    raw[5, :3], raw[9, 0] = 0, np.nan
    raw.tofile(drive.files[0])
    source = DriveSource(DriveDataConfig(root=str(tmp_path / "kitti"), num_workers=0))
    entries = [entry for entry in source.entries() if entry.split == "val"]
    results = SemanticKittiResults(tmp_path / "out", source, entries, tuple(SEGMENTS))
    rng, conf = np.random.default_rng(0), np.zeros((20, 20), dtype=np.int64)
    for drive, at in results.samples[:-1]:
        count = Path(drive.files[at]).stat().st_size // 16
        label = drive.labels[at](count)["segment"]
        kept = np.ones(count, dtype=bool)
        if drive.files[at] == results.samples[0][0].files[0]:
            kept[[5, 9]] = False
        found = np.where(rng.random(kept.sum()) < 0.7, label[kept].clip(0), rng.integers(0, 18, kept.sum()))
        results.add(drive, at, found)
        place = (
            tmp_path / "out/sequences" / Path(drive.path).name / "predictions" / f"{Path(drive.files[at]).stem}.label"
        )
        written = np.fromfile(place, dtype=np.uint32) & 0xFFFF
        np.testing.assert_array_equal(written[kept], written_back(found))
        np.testing.assert_array_equal(written[~kept], 0)
        # As semantic-kitti-api counts: rows are predictions, 0 is ignored in the truth.
        full = np.zeros(count, dtype=np.int64)
        full[kept] = found + 1
        np.add.at(conf, (full, label + 1), 1)
    figures = results.close()
    conf[:, 0] = 0
    hits = np.diag(conf).astype(float)
    union = conf.sum(0) + conf.sum(1) - hits
    iou = (hits / (union + 1e-15))[1:]
    assert figures["mIoU"] == pytest.approx(100 * iou.mean(), abs=1e-6)
    assert figures["IoU_traffic-sign"] == 0 and not conf[19].any() and not conf[:, 19].any(), (
        "what is nowhere counts as 0"
    )
    assert figures["IoU_road"] == pytest.approx(100 * iou[list(SEGMENTS).index("road")], abs=1e-6)
    drive, at = results.samples[-1]
    last = tmp_path / "out/sequences" / Path(drive.path).name / "predictions" / f"{Path(drive.files[at]).stem}.label"
    assert not np.fromfile(last, dtype=np.uint32).any(), "nothing was said of it"


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    source = planted(tmp_path / "kitti", "kitti")
    with pytest.raises(ConfigError, match=r"class 'cars', and kitti does not; did you mean 'car'\? \(it has: car, "):
        KittiResults(tmp_path / "out", source, source.entries(), ["cars"])
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out" / "note").write_text("mine")
    with pytest.raises(OutputError, match="holds other files"):
        KittiResults(tmp_path / "out", source, source.entries(), ["car"])
