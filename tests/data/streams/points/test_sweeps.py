"""Recordings of points in time, against what plain numpy reads from the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.core.errors import SampleError
from st_ssl.core.types import Entry
from st_ssl.data.streams.points import read_cloud
from st_ssl.data.streams.points.base import ReadOptions
from st_ssl.data.streams.points.sweeps import Sweeps, WindowConfig, Windows, open_windows, windows_of

SHARED = Path(__file__).parents[5] / "shared/data/points/radhar"
OPTIONS = ReadOptions(timed=True)


def write_recording(file: Path, seed: int = 0, sweeps: int = 40, every: float = 0.1, **others: Any) -> Path:
    """``sweeps`` sweeps, ``every`` s apart, of 4 to 9 points each, whose times differ a little within a sweep. Points
    lie in no order."""
    rng = np.random.default_rng(seed)
    sweep = np.repeat(np.arange(sweeps), rng.integers(4, 10, sweeps))
    count = len(sweep)
    arrays = {
        "points": rng.normal(size=(count, 3)).astype("f4"),
        "intensity": rng.uniform(0, 1, count).astype("f4"),
        "velocity": rng.normal(scale=2, size=count).astype("f4"),
        "time": 1.6e9 + every * (sweep + 0.5 * rng.random(count)),
        "sweep": sweep,
    }
    order = rng.permutation(count)
    kept = {name: values[order] for name, values in arrays.items()} | others
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **{name: values for name, values in kept.items() if values is not None})
    return file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "walk.npz")


def test_sweeps_are_those_of_the_file(file: Path) -> None:
    window = WindowConfig(speed=2.0)
    with np.load(file) as arrays:
        raw = dict(arrays)
    stream = Sweeps(str(file), window, OPTIONS)
    assert stream.meta.num_frames == 40
    begins = np.array([raw["time"][raw["sweep"] == number].min() for number in range(40)])
    np.testing.assert_allclose(stream.times(), begins - raw["time"].min(), atol=1e-6)
    for number, cloud in stream.read([0, 7, 39]):
        own = raw["sweep"] == number
        np.testing.assert_array_equal(cloud.xyz, raw["points"][own])
        expected = (raw["velocity"][own, None] / 2).clip(-1, 1)
        np.testing.assert_array_equal(cloud.attributes["velocity"], expected)
        seconds = raw["time"][own, None] - raw["time"].min()
        np.testing.assert_array_equal(cloud.attributes["time"], seconds.astype("f4"))
        np.testing.assert_array_equal(cloud.attributes["intensity"], raw["intensity"][own, None])


def test_a_window_has_all_its_points_and_their_times(file: Path) -> None:
    window = WindowConfig(seconds=1.5)
    stream = Windows(Sweeps(str(file), window, OPTIONS), window, Entry(str(file)))
    with np.load(file) as arrays:
        time, points, sweep = (arrays[name] for name in ("time", "points", "sweep"))
    time -= time.min()
    begins = np.array([time[sweep == number].min() for number in range(40)])
    assert 25 <= stream.meta.num_frames <= 27
    assert begins[-1] - 1.5 < begins[stream.meta.num_frames - 1]
    np.testing.assert_allclose(stream.times(), begins[: stream.meta.num_frames] + 0.75)
    for index, cloud in stream.read(range(stream.meta.num_frames)):
        inside = np.flatnonzero((begins >= begins[index]) & (begins < begins[index] + 1.5))
        own = np.isin(sweep, inside)
        order = np.argsort(sweep[own], kind="stable")
        np.testing.assert_array_equal(cloud.xyz, points[own][order])
        expected = (time[own][order].astype("f4").astype("f8") - begins[index] - 0.75) / 0.75
        np.testing.assert_array_equal(cloud.attributes["time"][:, 0], expected.astype("f4"))


def test_sweeps_count_in_the_order_of_time_whatever_they_are_called(file: Path, tmp_path: Path) -> None:
    with np.load(file) as arrays:
        raw = dict(arrays)
    np.savez(tmp_path / "back.npz", **(raw | {"sweep": 1000 - 3 * raw["sweep"]}))
    same, other = (Sweeps(str(path), WindowConfig(), OPTIONS) for path in (file, tmp_path / "back.npz"))
    np.testing.assert_array_equal(same.times(), other.times())
    for (_, a), (_, b) in zip(same.read(range(40)), other.read(range(40)), strict=True):
        np.testing.assert_array_equal(a.xyz, b.xyz)


def test_without_sweeps_points_of_one_time_are_one(tmp_path: Path) -> None:
    time = np.repeat([3.0, 1.0, 2.0], 4)
    file = write_recording(
        tmp_path / "a.npz", sweep=None, time=time, points=np.eye(12, 3), intensity=None, velocity=None
    )
    stream = Sweeps(str(file), WindowConfig(), OPTIONS)
    assert stream.times().tolist() == [0.0, 1.0, 2.0]
    assert [len(cloud) for _, cloud in stream.read(range(3))] == [4, 4, 4]
    np.testing.assert_array_equal(next(stream.read([2]))[1].xyz, np.eye(12, 3)[:4])


@pytest.mark.parametrize(("seconds", "stride"), [(1.0, None), (1.0, 0.25), (1.3, 0.9), (4.0, None), (9.0, 1.0)])
def test_windows_cover_a_recording(file: Path, seconds: float, stride: float | None) -> None:
    window = WindowConfig(seconds=seconds, stride=stride)
    parts = windows_of(Entry(str(file), "test", {"label": "walk"}), window, OPTIONS)
    assert {(part.split, part.labels["label"], part.window) for part in parts} == {("test", "walk", True)}
    assert len({(part.start, part.num_frames) for part in parts}) == len(parts)
    covered = {sweep for part in parts for sweep in range(part.start, part.start + (part.num_frames or 0))}
    assert covered == set(range(40))
    recording = Sweeps(str(file), window, OPTIONS)
    for part in parts:
        first, last = recording.times()[[part.start, part.start + (part.num_frames or 0) - 1]]
        assert last - first < seconds <= last - first + 0.2 or len(parts) == 1
    starts = recording.times()[[part.start for part in parts]]
    assert (np.diff(starts) < (stride or seconds) + 0.15).all()
    if seconds > 4:
        assert len(parts) == 1


def test_a_fixed_window_is_one_of_those_of_its_recording(file: Path) -> None:
    window = WindowConfig(seconds=1.5, stride=0.4)
    every = dict(open_windows(Entry(str(file)), window, OPTIONS).stream().read(range(20)))
    for part in windows_of(Entry(str(file)), window, OPTIONS)[:5]:
        with open_windows(part, window, OPTIONS) as recording:
            assert recording.stream().meta.num_frames == 1
            ((_, cloud),) = recording.stream().read([0])
            assert recording.stream().num_points == len(cloud)
        np.testing.assert_array_equal(cloud.xyz, every[part.start].xyz)
        np.testing.assert_array_equal(cloud.attributes["time"], every[part.start].attributes["time"])


def test_points_far_away_are_left_out(tmp_path: Path) -> None:
    file = write_recording(tmp_path / "a.npz")
    with np.load(file) as arrays:
        raw = dict(arrays)
    raw["points"][::7] *= 1000
    np.savez(file, **raw)
    clouds = [cloud for _, cloud in Sweeps(str(file), WindowConfig(within=6.0), OPTIONS).read(range(40))]
    near = np.linalg.norm(raw["points"], axis=1) <= 6
    assert sum(map(len, clouds)) == near.sum() < len(near)
    assert max(np.linalg.norm(cloud.xyz, axis=1).max(initial=0) for cloud in clouds) <= 6


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({"time": None}, r"has no array of times \(time, .*data.window; it has points, intensity, velocity, sweep"),
        ({"time": np.ones(3)}, r"time is float64 \[3\], for \d+ points"),
        ({"sweep": np.ones(3)}, r"sweep is float64 \[3\], for \d+ points"),
        ({"velocity": np.ones(3)}, r"velocity is float64 \[3\], for \d+ points"),
    ],
)
def test_errors_name_the_file_and_the_array(tmp_path: Path, others: dict[str, Any], expected: str) -> None:
    file = write_recording(tmp_path / "odd.npz", **others)
    with pytest.raises(SampleError, match=expected) as caught:
        Sweeps(str(file), WindowConfig(), OPTIONS)
    assert str(file) in str(caught.value)


def test_times_that_are_not_finite_and_windows_that_are_not_there(tmp_path: Path, file: Path) -> None:
    with np.load(file) as arrays:
        raw = dict(arrays)
    raw["time"][3] = np.nan
    np.savez(tmp_path / "nan.npz", **raw)
    with pytest.raises(SampleError, match=r"nan\.npz.*expected a finite number of seconds"):
        Sweeps(str(tmp_path / "nan.npz"), WindowConfig(), OPTIONS)
    broken = Entry(str(tmp_path / "nan.npz"))
    assert windows_of(broken, WindowConfig(), OPTIONS) == [broken]
    with pytest.raises(SampleError, match="has 40 sweeps, but the window is sweeps 30 to 45"):
        open_windows(Entry(str(file), start=30, num_frames=15), WindowConfig(), OPTIONS).stream()
    recording = open_windows(Entry(str(file), start=10, num_frames=1), WindowConfig(within=1e-9), OPTIONS)
    with pytest.raises(SampleError, match=r"0 points from [01]\.\d+ s on: a window needs 2"):
        list(recording.stream().read([0]))


def test_without_a_window_files_are_clouds_as_before(file: Path) -> None:
    cloud = read_cloud(file)
    assert list(cloud.attributes) == ["intensity"] and not cloud.labels
    with np.load(file) as arrays:
        np.testing.assert_array_equal(cloud.xyz, arrays["points"])


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared radar recordings")
def test_real_recordings() -> None:
    files = sorted(SHARED.glob("*/*/*.npz"))
    assert len(files) == 55
    window = WindowConfig(seconds=2.0, within=6.0, speed=3.0)
    for file in files[::9]:
        parts = windows_of(Entry(str(file)), window, OPTIONS)
        assert 10 <= len(parts) <= 11
        clouds = [cloud for part in parts for _, cloud in open_windows(part, window, OPTIONS).stream().read([0])]
        assert all(len(cloud) > 500 and np.abs(cloud.attributes["time"]).max() <= 1.05 for cloud in clouds)
        assert max(np.abs(cloud.xyz).max() for cloud in clouds) <= 6
        assert max(np.abs(cloud.attributes["velocity"]).max() for cloud in clouds) <= 1
