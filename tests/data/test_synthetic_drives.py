from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from st_ssl.core.boxes import Boxes
from st_ssl.core.errors import DataError
from st_ssl.core.types import PointCloud
from st_ssl.data.synthetic.drives import (
    CLASSES,
    SEGMENTS,
    Scan,
    SyntheticDriveConfig,
    draw_drive,
    lidar,
    scan_sweep,
    write_dataset,
)
from st_ssl.data.synthetic.drives.bodies import BLOCK, CYLINDER, MAKERS, Parts
from st_ssl.data.synthetic.drives.paths import Frame, Pace
from st_ssl.data.synthetic.drives.paths import Path as Way
from st_ssl.data.synthetic.drives.street import KERB
from st_ssl.ops.boxes import iou_bev, points_in_boxes

CONFIG = SyntheticDriveConfig()
EXACT = SyntheticDriveConfig(noise=0.0, dropout=0.0)
TINY = SyntheticDriveConfig(num_train=2, num_val=1, num_test=1, sweeps=4, key_every=2, beams=8, columns=90)


@pytest.fixture(scope="module")
def scans() -> list[Scan]:
    return [scan_sweep(CONFIG, "train", drive, 20) for drive in range(12)]


def _boxes(cloud: PointCloud) -> Boxes:
    assert cloud.boxes is not None
    return cloud.boxes


def _world(cloud: PointCloud) -> np.ndarray:
    assert cloud.pose is not None
    return cloud.xyz @ cloud.pose[:3, :3].T + cloud.pose[:3, 3]


def test_sweeps_are_sound(scans: list[Scan]) -> None:
    for scan in scans:
        cloud, boxes = scan.cloud, _boxes(scan.cloud)
        assert 15_000 < len(cloud) <= 32 * 900 and cloud.xyz.dtype == np.float32
        assert np.linalg.norm(cloud.xyz, axis=1).max() < CONFIG.max_range + 0.15
        intensity = cloud.attributes["intensity"]
        assert intensity.shape == (len(cloud), 1) and intensity.min() >= 0 and intensity.max() <= 1
        assert intensity.std() > 0.05
        up = np.degrees(np.arcsin(cloud.xyz[:, 2] / np.linalg.norm(cloud.xyz, axis=1)))
        assert np.allclose(up, -25 + 30 / 31 * cloud.labels["ring"], atol=1e-3)
        assert boxes.values.shape == (len(boxes), 9) and np.isfinite(boxes.values).all()
        named = {name: cloud.labels["segment"] == number for number, name in enumerate(SEGMENTS)}
        assert np.array_equal(cloud.labels["instance"] >= 0, named["car"] | named["pedestrian"] | named["cyclist"])


def test_there_is_enough_of_everything(scans: list[Scan]) -> None:
    seen = np.sum([np.bincount(s.cloud.labels["segment"], minlength=len(SEGMENTS)) > 10 for s in scans], axis=0)
    assert (seen >= 5).all(), dict(zip(SEGMENTS, seen.tolist(), strict=True))
    clear = [_boxes(s.cloud).classes[_boxes(s.cloud).facts["points"] >= 5] for s in scans]
    often = np.mean([np.bincount(classes, minlength=3) for classes in clear], axis=0)
    assert (often > [6, 3, 1.5]).all(), often
    speed = np.concatenate([np.hypot(*_boxes(s.cloud).values[:, 7:].T) for s in scans])
    assert 0.3 < (speed > 0.5).mean() < 0.9
    parked = np.concatenate([_boxes(s.cloud).facts["parked"] for s in scans])
    assert (speed[parked] == 0).all() and 0.1 < parked.mean() < 0.7


def test_points_of_an_actor_are_in_its_box_and_no_others(scans: list[Scan]) -> None:
    for scan in scans:
        cloud, boxes = scan.cloud, _boxes(scan.cloud)
        xyz = torch.from_numpy(cloud.xyz)
        track, instance = boxes.facts["track"], cloud.labels["instance"]
        for sign, wrong in ((1, lambda own, inside: own & ~inside), (-1, lambda own, inside: inside & ~own)):
            wider = torch.from_numpy(boxes.values[:, :7].copy())
            wider[:, 3:6] += sign * 2 * 0.1  # five deviations of the noise, to all sides
            inside = points_in_boxes(xyz, wider).numpy()
            assert not wrong(instance[:, None] == track, inside).any()
        assert np.array_equal(boxes.facts["points"], (instance[:, None] == track).sum(0))
        kind = cloud.labels["segment"][instance >= 0] - SEGMENTS.index("car")
        place = np.searchsorted(track, instance[instance >= 0])
        assert np.array_equal(kind, boxes.classes[place]), "the segment is that of the box"


@pytest.mark.parametrize("name", CLASSES)
def test_a_box_is_as_large_as_what_is_in_it(name: str) -> None:
    """By rays from all sides, and by what the parts reach at any moment of a step."""
    rays = lidar.spin(60, 360, -12, 12)
    for number in range(4):
        size, drawn = MAKERS[name](np.random.default_rng(number))
        parts = Parts.of(drawn, [0] * len(drawn))
        reached = []
        for phase in np.linspace(0, 2 * np.pi, 9)[: 1 if name == "car" else 9]:
            for yaw in np.linspace(0, 2 * np.pi, 16, endpoint=False):
                placed = parts.strode(np.full(len(parts), phase)).moved(yaw, np.array([6.0, 0.0, -0.9]))
                pairs = lidar.meet(rays, placed)
                x, y, z = (rays.directions[pairs.ray] * pairs.enter[:, None] - [6.0, 0.0, -0.9]).T
                c, s = np.cos(yaw), np.sin(yaw)
                reached.append(np.column_stack([c * x + s * y, c * y - s * x, z]))
        low, high = np.concatenate(reached).min(0), np.concatenate(reached).max(0)
        half = np.array([size[0] / 2, size[1] / 2, size[2]])
        assert (high <= half + 1e-6).all() and (low >= np.array([-half[0], -half[1], 0.0]) - 1e-6).all()
        assert high[2] > size[2] - 0.12 and low[2] < 0.1
        if name != "pedestrian":  # whose feet rarely reach where a box has to
            assert (np.abs([low[:2], high[:2]]) > half[:2] - 0.06).all()


def test_boxes_move_by_their_velocity() -> None:
    turned = 0
    for drive in range(4):
        street = draw_drive(CONFIG, "train", drive)
        for sweep in (3, 17):
            first, second = (scan_sweep(CONFIG, "train", drive, sweep + step).cloud for step in (0, 1))
            a, b = _boxes(first), _boxes(second)
            _, i, j = np.intersect1d(a.facts["track"], b.facts["track"], return_indices=True)
            assert len(i) > 5
            assert first.pose is not None and second.pose is not None
            places = [
                boxes.values[k, :3] @ cloud.pose[:3, :3].T + cloud.pose[:3, 3]
                for boxes, cloud, k in ((a, first, i), (b, second, j))
                if cloud.pose is not None
            ]
            velocity = (a.values[i, 7:] @ first.pose[:2, :2].T + b.values[j, 7:] @ second.pose[:2, :2].T) / 2
            assert np.allclose((places[1] - places[0])[:, :2], velocity * 0.2, atol=0.03)
            assert np.array_equal(a.values[i, 3:6], b.values[j, 3:6]) and np.array_equal(a.classes[i], b.classes[j])
            speed = np.hypot(*a.values[i, 7:].T)
            ahead = np.column_stack([np.cos(a.values[i, 6]), np.sin(a.values[i, 6])])
            assert np.allclose(ahead * speed[:, None], a.values[i, 7:], atol=1e-4), "yaw is along the motion"
        turned += int((np.ptp(np.unwrap(street.actors.yaw, axis=0), axis=0) > 1.2).sum())
    assert turned > 0, "somebody turns at a crossing"


def test_the_ego_vehicle_turns_stands_or_drives_on() -> None:
    streets = [draw_drive(TINY.model_copy(update={"num_train": 30, "sweeps": 40}), "train", i) for i in range(30)]
    turned = np.array([np.ptp(np.unwrap(street.yaw)) for street in streets]) > 1.2
    way = np.array([np.hypot(*np.diff(street.place, axis=0).T).sum() for street in streets])
    assert 0 < turned.sum() < 10 and 0 < (way == 0).sum() < 10
    assert ((way > 30) & ~turned).sum() > 12 and way.max() < 110


def test_nobody_runs_into_anybody() -> None:
    for drive in range(6):
        street = draw_drive(CONFIG, "val", drive)
        ego = np.array([[0, 0, 0, 4.4, 1.8, 1.5, 0]])
        for sweep in range(0, CONFIG.sweeps, 3):
            boxes = np.column_stack([street.actors.place[sweep], street.actors.size, street.actors.yaw[sweep]])
            ego[0, :2], ego[0, 6] = street.place[sweep], street.yaw[sweep]
            overlap = iou_bev(*[torch.from_numpy(np.concatenate([boxes, ego]))] * 2).numpy()
            assert np.triu(overlap, 1).max() == 0
        cars = street.actors.classes == CLASSES.index("car")
        assert street.ground.is_road(street.actors.place[:, cars, :2]).mean() > 0.99
        assert street.ground.is_road(street.place).all()


def _inside(parts: Parts, number: int, points: np.ndarray, skin: float) -> np.ndarray:
    """Which of ``points`` [N, 3] are deeper than ``skin`` metres (about) in a part: by what the part is."""
    c, s = np.cos(parts.yaw[number]), np.sin(parts.yaw[number])
    x, y, z = (points - parts.centre[number]).T
    x, y = c * x + s * y, c * y - s * x
    (hx, hy, hz), (front, back, side) = parts.half[number] - skin, parts.top[number]
    if parts.kind[number] == BLOCK:
        hx, hy, hz = parts.half[number]
        up = (z + hz) / (2 * hz)
        most = hx * (1 - up + front * up), hx * (1 - up + back * up), hy * (1 - up + side * up)
        return (x < most[0] - skin) & (-x < most[1] - skin) & (np.abs(y) < most[2] - skin) & (np.abs(z) < hz - skin)
    if min(hx, hy, hz) <= 0:
        return np.zeros(len(points), dtype=bool)
    flat = (x / hx) ** 2 + (y / hy) ** 2
    return (flat < 1) & (np.abs(z) < hz) if parts.kind[number] == CYLINDER else flat + (z / hz) ** 2 < 1


def test_only_what_the_sensor_sees_has_points() -> None:
    """Against steps of 2 cm along rays: no solid lies in between, and behind the point there is one."""
    for drive in range(2):
        scan = scan_sweep(EXACT, "test", drive, 8)
        solid = scan.parts.take(scan.parts.open == 0)
        pick = np.random.default_rng(drive).permutation(len(scan.cloud))[:250]
        xyz = scan.cloud.xyz[pick].astype(np.float64)
        away = np.linalg.norm(xyz, axis=1)
        steps = np.arange(0.02, CONFIG.max_range, 0.02)
        share = np.minimum(steps[:, None], away - 0.01)[..., None] / away[:, None]
        places = (xyz * share).reshape(-1, 3)
        for number in range(len(solid)):
            close = np.flatnonzero(
                ((places - solid.centre[number]) ** 2).sum(1) < (2.5 * solid.half[number].max()) ** 2
            )
            assert not _inside(solid, number, places[close], 1e-3).any()
        beyond = xyz * (1 + 2e-3 / away)[:, None]
        segment = scan.cloud.labels["segment"][pick]
        met = np.any([_inside(scan.parts, n, beyond, 0.0) for n in range(len(scan.parts))], axis=0)
        ground = segment < SEGMENTS.index("building")
        assert met[~ground].mean() > 0.97  # edges


def test_every_ray_that_may_meet_a_part_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SyntheticDriveConfig(beams=12, columns=180)
    for drive in range(4):
        parts = scan_sweep(config, "train", drive, 0).parts
        found = lidar.meet(config.rays, parts)
        every = np.divmod(np.arange(len(parts) * 12 * 180), len(parts))
        with monkeypatch.context() as patch:
            patch.setattr(lidar, "_candidates", lambda rays, parts, every=every: every)
            all_pairs = lidar.meet(config.rays, parts)
        assert len(found.ray) == len(all_pairs.ray) > 500
        before, after = [np.sort(pairs.ray * len(parts) + pairs.part) for pairs in (found, all_pairs)]
        assert np.array_equal(before, after)


def test_what_stands_still_stays_where_it_is() -> None:
    """Points of two sweeps, brought to the world by their poses, lie on the same walls, and on ground of one height."""
    for drive in range(4):
        street = draw_drive(EXACT, "train", drive)
        house = SEGMENTS.index("building")
        walls = street.fixed.take(street.fixed.segment == house)
        for sweep in (0, 39):
            cloud = scan_sweep(EXACT, "train", drive, sweep).cloud
            world, segment = _world(cloud), cloud.labels["segment"]
            points = world[segment == house]
            reach = np.full(len(points), np.inf)
            for number in range(len(walls)):
                c, s = np.cos(walls.yaw[number]), np.sin(walls.yaw[number])
                x, y, z = (points - walls.centre[number]).T
                local = np.abs(np.stack([c * x + s * y, c * y - s * x, z])) - walls.half[number][:, None]
                reach = np.minimum(reach, np.abs(local.max(0)))
            assert len(points) > 100 and reach.max() < 1e-4
            ground = segment < house
            height = world[ground, 2]
            road = street.ground.is_road(world[ground, :2])
            assert (np.minimum(np.abs(height), np.abs(height - KERB)) < 1e-4).mean() > 0.97
            assert height.min() > -1e-4 and height.max() < KERB + 1e-4, "between them are kerbs"
            assert np.abs(height[road] < 0.06).mean() > 0.97 and (height[~road] > 0.06).mean() > 0.9


def test_noise_is_along_the_ray() -> None:
    noisy = scan_sweep(EXACT.model_copy(update={"noise": 0.05}), "train", 0, 0).cloud
    exact = scan_sweep(EXACT, "train", 0, 0).cloud
    away = np.linalg.norm(exact.xyz, axis=1)
    off = noisy.xyz - exact.xyz
    along = (off * exact.xyz).sum(1) / away
    assert np.abs(off - (along / away)[:, None] * exact.xyz).max() < 1e-4
    assert np.isclose(along.std(), 0.05, rtol=0.05) and abs(along.mean()) < 0.002


def test_what_is_dark_far_or_hidden_has_fewer_returns(scans: list[Scan]) -> None:
    lost = scan_sweep(EXACT.model_copy(update={"dropout": 0.3}), "train", 0, 0).cloud
    assert np.isclose(len(lost) / len(scan_sweep(EXACT, "train", 0, 0).cloud), 0.7, atol=0.02)
    clouds = [scan.cloud for scan in scans]
    bright = np.concatenate([cloud.attributes["intensity"][:, 0] for cloud in clouds])
    segment = np.concatenate([cloud.labels["segment"] for cloud in clouds])
    mean = {name: bright[segment == number].mean() for number, name in enumerate(SEGMENTS)}
    assert mean["road"] < mean["terrain"] < mean["building"]
    facts = [_boxes(cloud) for cloud in clouds]
    cars = np.concatenate([boxes.classes == 0 for boxes in facts])
    points, visible = (np.concatenate([b.facts[name] for b in facts])[cars] for name in ("points", "visible"))
    away = np.concatenate([np.hypot(*b.values[:, :2].T) for b in facts])[cars]
    near, far = (points[(visible > 0.9) & (away > low) & (away < low + 8)].mean() for low in (6, 26))
    assert near > 5 * far
    assert ((visible >= 0) & (visible <= 1)).all() and (points[visible == 0] == 0).all()
    assert (visible > 0.9).mean() > 0.2 and (visible < 0.5).mean() > 0.1


def test_a_sweep_depends_on_its_key_alone() -> None:
    other = CONFIG.model_copy(update={"num_train": 3, "key_every": 2})
    again = scan_sweep(other, "train", 2, 7).cloud
    before = scan_sweep(CONFIG, "train", 2, 7).cloud
    assert np.array_equal(again.xyz, before.xyz) and np.array_equal(_boxes(again).values, _boxes(before).values)
    for changed in (CONFIG.model_copy(update={"seed": 1}), CONFIG):
        split = "train" if changed.seed else "val"
        assert len(scan_sweep(changed, split, 2, 7).cloud) != len(before)


def test_a_sensor_may_see_next_to_nothing() -> None:
    near = TINY.model_copy(update={"max_range": 4.5, "num_train": 8})
    clouds = [scan_sweep(near, "train", index, 0).cloud for index in range(8)]
    assert any(len(_boxes(cloud)) == 0 for cloud in clouds)
    assert all(np.linalg.norm(cloud.xyz, axis=1).max(initial=0) < 5 for cloud in clouds)
    up = scan_sweep(TINY.model_copy(update={"lowest": 60.0, "highest": 80.0}), "train", 0, 0).cloud
    assert len(up) == 0 or up.xyz[:, 2].min() > 0


def test_street_coordinates_are_undone() -> None:
    rng = np.random.default_rng(0)
    for curvature in (0.0, 0.008, -0.005):
        frame = Frame(3.0, -7.0, 2.2, curvature)
        along, left = rng.uniform(-100, 200, 50), rng.uniform(-60, 60, 50)
        assert np.allclose(frame.street(frame.world(along, left)), [along, left])
        step = (frame.world(along + 1e-5) - frame.world(along)) / 1e-5
        assert np.allclose(step, np.stack([np.cos(frame.heading(along)), np.sin(frame.heading(along))], -1), atol=1e-4)


def test_a_path_is_as_long_as_it_says_and_bends_where_it_says() -> None:
    path = Way(1.0, 2.0, 0.3, ((10.0, 0.0), (np.pi * 3, 1 / 6), (np.inf, 0.0)))
    distance = np.linspace(-5, 40, 20_001)
    place, yaw = path.at(distance)
    assert np.isclose(np.hypot(*np.diff(place, axis=0).T).sum(), 45, atol=1e-4)
    assert np.allclose(yaw[distance < 10], 0.3) and np.allclose(yaw[distance > 10 + np.pi * 3], 0.3 + np.pi / 2)
    assert np.abs(np.diff(yaw)).max() < 1e-3, "and without a jump"
    pace, time = Pace(2.0, 5.0, 0.3, 7.0, 1.0), np.linspace(0, 20, 20_001)
    assert pace.distance(time)[0] == 2.0
    assert np.allclose(np.gradient(pace.distance(time), time)[1:-1], pace.speeds(time)[1:-1], atol=1e-5)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "drives", TINY, num_workers=1, progress=False)


def _contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_files_are_the_same_for_any_number_of_processes(dataset: Path, tmp_path: Path) -> None:
    again = write_dataset(tmp_path / "again", TINY, num_workers=2, progress=False)
    assert _contents(again) == _contents(dataset)
    assert len(_contents(dataset)) == 4 * (4 + 4 + 2 + 2) + 1


def test_a_stopped_run_is_taken_up(dataset: Path) -> None:
    before = _contents(dataset)
    shutil.rmtree(dataset / "train" / "drive_0001")
    write_dataset(dataset, TINY, num_workers=1, progress=False)
    assert _contents(dataset) == before


def test_a_drive_is_a_folder_of_sweeps_with_text_beside(dataset: Path) -> None:
    folder = dataset / "val" / "drive_0000"
    assert (folder / "classes.txt").read_text().split() == list(SEGMENTS)
    poses = [line.split() for line in (folder / "poses.txt").read_text().splitlines()]
    assert [row[0] for row in poses] == [f"{i:06d}" for i in range(4)]
    assert sorted(path.stem for path in (folder / "boxes").iterdir()) == ["000000", "000002"]
    for number, row in enumerate(poses):
        cloud = scan_sweep(TINY, "val", 0, number).cloud
        points = np.fromfile(folder / "sweeps" / f"{row[0]}.bin", np.float32).reshape(-1, 4)
        assert np.array_equal(points, np.hstack([cloud.xyz, cloud.attributes["intensity"]]))
        labels = np.fromfile(folder / "labels" / f"{row[0]}.label", np.uint8)
        assert np.array_equal(labels, cloud.labels["segment"])
        assert cloud.pose is not None and float(row[1]) == cloud.time == number / 5
        assert np.allclose(np.array(row[2:], dtype=float).reshape(3, 4), cloud.pose[:3], atol=1e-6)
        if number % 2 == 0:
            boxes = _boxes(cloud).take(_boxes(cloud).facts["points"] >= TINY.min_points)
            comment, *lines = (folder / "boxes" / f"{row[0]}.txt").read_text().splitlines()
            assert comment == "# class x y z length width height yaw vx vy track"
            rows = [line.split() for line in lines]
            assert [row[0] for row in rows] == [CLASSES[kind] for kind in boxes.classes] and rows
            assert np.allclose([[float(v) for v in row[1:10]] for row in rows], boxes.values, atol=1e-4)
            assert [int(row[10]) for row in rows] == boxes.facts["track"].tolist()


def test_mistakes_are_named(dataset: Path) -> None:
    with pytest.raises(DataError, match="holds another set of synthetic drives"):
        write_dataset(dataset, CONFIG, progress=False)
    with pytest.raises(DataError, match=r"'tarin' is not one of train, val, test; did you mean 'train'"):
        scan_sweep(TINY, "tarin", 0, 0)
    with pytest.raises(DataError, match="drives 0 to 1"):
        scan_sweep(TINY, "train", 2, 0)
    with pytest.raises(ValueError, match=r"lowest is 5\.0 degrees, and highest only -5\.0"):
        SyntheticDriveConfig(lowest=5, highest=-5)
