from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from st_ssl.core.errors import DataError
from st_ssl.data.sources.points import read_source
from st_ssl.data.streams.points import read_cloud
from st_ssl.data.synthetic import rooms
from st_ssl.data.synthetic.rooms import Scan, SyntheticRoomConfig, scan_room, write_dataset
from st_ssl.data.synthetic.rooms_layout import SEGMENTS

CONFIG = SyntheticRoomConfig(num_points=20_000, noise=0.0)
TINY = SyntheticRoomConfig(num_train=2, num_val=1, num_test=2, num_points=1500, num_views=2)


@pytest.fixture(scope="module")
def scans() -> list[Scan]:
    return [scan_room(CONFIG, "train", i) for i in range(12)]


def test_clouds_are_sound(scans: list[Scan]) -> None:
    for scan in scans:
        cloud = scan.cloud
        assert len(cloud) == 20_000 and cloud.xyz.dtype == np.float32
        assert (cloud.xyz >= -0.11).all() and (cloud.xyz <= scan.room.size + 0.11).all()
        assert np.allclose(np.linalg.norm(cloud.attributes["normal"], axis=1), 1, atol=1e-5)
        color = cloud.attributes["color"]
        assert color.min() >= 0 and color.max() <= 1 and color.std() > 0.05
        segment, instance = cloud.labels["segment"], cloud.labels["instance"]
        assert {SEGMENTS[s] for s in np.unique(segment[instance < 0])} <= {"wall", "floor", "ceiling"}
        assert segment[instance >= 0].min() > SEGMENTS.index("ceiling")
        for number in np.unique(instance[instance >= 0]):
            assert len(np.unique(segment[instance == number])) == 1


def test_there_is_something_of_every_class(scans: list[Scan]) -> None:
    seen = np.stack([np.bincount(scan.cloud.labels["segment"], minlength=len(SEGMENTS)) > 20 for scan in scans])
    assert (seen.sum(0) >= 5).all(), dict(zip(SEGMENTS, seen.sum(0).tolist(), strict=True))
    assert seen[:, SEGMENTS.index("ceiling")].sum() < 12, "half of the rooms have none"
    assert np.median([len(np.unique(scan.cloud.labels["instance"])) for scan in scans]) > 8


def test_furniture_does_not_overlap(scans: list[Scan]) -> None:
    for scan in scans:
        taken = np.array(scan.room.taken[1:])  # the first is the way to the door
        low, high = (
            np.maximum(taken[:, None, :2], taken[None, :, :2]),
            np.minimum(taken[:, None, 2:], taken[None, :, 2:]),
        )
        overlap = (low < high).all(-1) & ~np.eye(len(taken), dtype=bool)
        assert not overlap.any()
        assert (taken[:, :2] >= 0).all() and (taken[:, 2:] <= scan.room.size[:2]).all()


def test_only_what_a_sensor_sees_has_points(scans: list[Scan]) -> None:
    """Against steps of 1 cm along the way from the sensor: nothing lies in between, and the surface is where it is."""
    for scan in scans[:3]:
        pick = np.arange(0, len(scan.cloud), 97)
        xyz, sensor = scan.cloud.xyz[pick].astype(np.float64), scan.sensor[pick]
        way = xyz - sensor
        length = np.linalg.norm(way, axis=1)
        blocked = np.zeros(len(pick), dtype=bool)
        for share in np.arange(0.0, 1.0, 0.01 / length.max()):
            at = sensor + share * way
            inner = length * (1 - share) > 0.005
            for piece in scan.room.pieces:
                blocked |= inner & piece.solid.inside(at)
        assert not blocked.any()
        beyond = xyz + way / length[:, None] * 2e-3
        inside = np.any([piece.solid.inside(beyond) for piece in scan.room.pieces], axis=0)
        assert inside.mean() > 0.98  # rounding to float32, and edges
        assert ((scan.cloud.attributes["normal"][pick] * way).sum(1) < 0).all(), "a normal that looks away"
        for number in (0, 1, 2):
            same = scan.cloud.labels["segment"][pick] == number
            normal = np.abs(scan.cloud.attributes["normal"][pick][same])
            assert (normal[:, 2] < 1e-6).all() if number == 0 else (normal[:, 2] > 1 - 1e-6).all()


def test_what_is_far_away_has_fewer_points() -> None:
    """Of a floor seen from a height h the density falls with the cube of the distance, as h / distance³."""
    scan = scan_room(SyntheticRoomConfig(num_points=200_000, num_views=1, noise=0.0), "train", 0)
    floor = scan.cloud.labels["segment"] == SEGMENTS.index("floor")
    away = scan.cloud.xyz[floor] - scan.sensor[0]
    radius = np.hypot(away[:, 0], away[:, 1])
    near, far = ((radius > r) & (radius < r + 0.2) for r in (0.5, 1.5))
    # Furniture may hide a part of either ring: compare how many there are a square metre at their densest.
    angle = np.arctan2(away[:, 1], away[:, 0])
    most = [np.histogram(angle[ring], 36, (-np.pi, np.pi))[0].max() for ring in (near, far)]
    height = scan.sensor[0, 2]
    expected = (0.6 / 1.6) * (np.hypot(1.6, height) / np.hypot(0.6, height)) ** 3
    assert 0.6 * expected < most[0] / most[1] < 1.6 * expected


def test_noise_is_along_the_ray_and_grows_with_the_distance() -> None:
    exact, noisy = (scan_room(SyntheticRoomConfig(num_points=20_000, noise=n), "train", 0) for n in (0.0, 0.01))
    way = exact.cloud.xyz - exact.sensor
    length = np.linalg.norm(way, axis=1)
    off = noisy.cloud.xyz - exact.cloud.xyz
    along = (off * way).sum(1) / length
    assert np.abs(off - along[:, None] * way / length[:, None]).max() < 1e-5
    assert np.isclose((along / np.sqrt(length)).std(), 0.01, rtol=0.05)


def test_colour_alone_does_not_give_the_class(scans: list[Scan]) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    def points(some: list[Scan]) -> tuple[np.ndarray, np.ndarray]:
        colour = np.concatenate([s.cloud.attributes["color"][::10] for s in some])
        return colour, np.concatenate([s.cloud.labels["segment"][::10] for s in some])

    (x, y), (a, b) = points(scans[:8]), points(scans[8:])
    model = KNeighborsClassifier(15).fit(x, y)
    guessed = model.predict(a)
    balanced = np.mean([(guessed[b == c] == c).mean() for c in np.unique(b)])
    assert balanced < 0.2, balanced


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "rooms", TINY, num_workers=1, progress=False)


def _contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_files_are_the_same_for_any_number_of_processes(dataset: Path, tmp_path: Path) -> None:
    again = write_dataset(tmp_path / "again", TINY, num_workers=2, progress=False)
    assert _contents(again) == _contents(dataset)
    assert len(_contents(dataset)) == 5 * 5 + 1


def test_a_room_is_a_folder_as_pointcept_has_it(dataset: Path) -> None:
    cloud = scan_room(TINY, "val", 0).cloud
    folder = dataset / "val" / "room_00000"
    arrays = {path.stem: np.load(path, allow_pickle=False) for path in folder.iterdir()}
    assert {name: (a.dtype.name, a.shape[1:]) for name, a in arrays.items()} == {
        "coord": ("float32", (3,)),
        "color": ("uint8", (3,)),
        "normal": ("float32", (3,)),
        "segment": ("int32", ()),
        "instance": ("int32", ()),
    }
    entries = read_source(dataset)
    assert sorted(entry.split for entry in entries) == ["test", "test", "train", "train", "val"]
    found = read_cloud(next(entry.path for entry in entries if entry.split == "val"))
    assert np.array_equal(found.xyz, cloud.xyz)
    assert np.allclose(found.attributes["normal"], cloud.attributes["normal"], atol=1e-6)
    assert np.abs(found.attributes["color"] - cloud.attributes["color"]).max() <= 0.5 / 255 + 1e-6
    for name in ("segment", "instance"):
        assert np.array_equal(found.labels[name], cloud.labels[name])
    assert json.loads((dataset / "synthetic.json").read_text())["classes"] == list(SEGMENTS)


def test_a_stopped_run_is_taken_up(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _contents(dataset)
    lost = dataset / "train" / "room_00001"
    for path in lost.iterdir():
        path.unlink()
    os.rmdir(lost)

    def fail(path: Path, array: np.ndarray) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(rooms.np, "save", fail)
        with pytest.raises(OSError, match="disk full"):
            write_dataset(dataset, TINY, num_workers=1, progress=False)
    assert sorted(p.name for p in (dataset / "train").iterdir()) == ["room_00000"]
    write_dataset(dataset, TINY, num_workers=1, progress=False)
    assert _contents(dataset) == before


def test_mistakes_are_named(dataset: Path) -> None:
    with pytest.raises(DataError, match="holds another set of synthetic rooms"):
        write_dataset(dataset, CONFIG, progress=False)
    with pytest.raises(DataError, match=r"'tarin' is not one of train, val, test; did you mean 'train'"):
        scan_room(TINY, "tarin", 0)
    with pytest.raises(DataError, match="rooms 0 to 1"):
        scan_room(TINY, "test", 2)
