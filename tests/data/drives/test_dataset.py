from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from st_ssl.augment.points import PointAugment, PointAugmentConfig
from st_ssl.core.errors import ConfigError, DataError, SampleError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.types import Entry, PointCloud, View
from st_ssl.data.base import DATA
from st_ssl.data.drives.plans import Ahead, OneSweep
from st_ssl.data.loading.sample_dataset import collate
from st_ssl.data.views import Views, each
from st_ssl.transfer.fitting.label_fractions import divide
from tests.data.drives.made import CAR, box_line, pose_at, source_of, write_drive, write_drives, write_sweep
from tests.data.drives.made import world as world_of

LIDAR = PointInputConfig(num_points=None, unit_sphere=False, centre=False, attributes=("intensity",))


def clouds(source: object, at: int = 0) -> list[PointCloud]:
    """All sweeps of a recording of ``source``."""
    dataset = source.dataset(source.recordings(), Views(each(OneSweep())))  # type: ignore[attr-defined]
    with dataset.open(dataset.entries[at]) as recording:
        stream = recording.stream()
        return [cloud for _, cloud in stream.read(range(stream.meta.num_frames))]


def test_a_sample_is_a_drive_for_pretraining_and_a_key_frame_for_fine_tuning(tmp_path: Path) -> None:
    source = source_of(write_drives(tmp_path))
    drives, keys = source.recordings(), source.entries()
    assert [(Path(e.path).name, e.split, e.tags) for e in drives] == [
        ("drive_0000", "test", ("car",)),
        ("drive_0000", "train", ("car",)),
        ("drive_0001", "train", ("car",)),
    ]
    assert [(e.start, e.num_frames, e.window, e.tags) for e in keys if e.path == drives[1].path] == [
        (at, 1, True, ("car",)) for at in (0, 2, 4)
    ]
    assert len(source_of(tmp_path, key_frames=False).entries()) == 18
    parts = divide(keys, lambda entry: "", 0.25)
    assert {e.path for e in parts.test} == {drives[0].path}
    assert DATA.registered("drives") is type(source) and pickle.loads(pickle.dumps(source.drives[drives[0].path]))


def test_sweeps_have_times_poses_and_boxes_and_stand_where_the_world_is(tmp_path: Path) -> None:
    source = source_of(write_drives(tmp_path, train=1, test=0))
    found = clouds(source)
    assert [cloud.time for cloud in found] == pytest.approx(np.arange(6) / 10)
    for number, cloud in enumerate(found):
        assert cloud.pose is not None
        np.testing.assert_allclose(cloud.pose, pose_at(number / 10))
        np.testing.assert_allclose(cloud.xyz @ cloud.pose[:3, :3].T + cloud.pose[:3, 3], world_of(), atol=1e-5)
        assert (cloud.boxes is None) == (number % 2 == 1)
        assert cloud.attributes["intensity"].min() == 0 and cloud.attributes["intensity"].max() == 1
    boxes = found[0].boxes
    assert boxes is not None
    np.testing.assert_allclose(boxes.values, [[*CAR, 1.5, np.nan]], rtol=1e-6)
    assert boxes.classes.tolist() == [0] and boxes.facts["track"].tolist() == [7]


def test_merged_sweeps_of_a_world_that_stands_still_lie_on_one_another(tmp_path: Path) -> None:
    found = clouds(source_of(write_drives(tmp_path, train=1, test=0), sweeps=3))
    count = len(world_of())
    assert [len(cloud) for cloud in found] == [count, 2 * count, *[3 * count] * 4], "a drive begins with fewer"
    parts = found[4].xyz.reshape(3, count, 3)
    np.testing.assert_allclose(parts[1], parts[0], atol=1e-4)
    np.testing.assert_allclose(parts[2], parts[0], atol=1e-4)
    lags = found[4].attributes["time"].reshape(3, count)
    np.testing.assert_allclose(lags, np.array([[0.0], [0.1], [0.2]]) + np.zeros(count), atol=1e-6)
    assert found[4].boxes is not None and len(found[4].boxes) == 1


def test_merging_needs_poses(tmp_path: Path) -> None:
    root = write_drives(tmp_path, train=1, test=0, poses=False)
    with pytest.raises(ConfigError, match=r"data\.sweeps=2 needs poses, and no drive at .* has any"):
        source_of(root, sweeps=2).recordings()
    assert clouds(source_of(root))[3].time == pytest.approx(0.3), "data.rate"
    write_drive(root / "train" / "posed")
    with pytest.raises(SampleError, match=r"000001\.bin: has no pose, and data\.sweeps=2 needs one"):
        clouds(source_of(root, sweeps=2))


def test_a_long_drive_is_several_samples_for_pretraining_where_pieces_are_asked_for(tmp_path: Path) -> None:
    source = source_of(write_drives(tmp_path, train=1, test=0, sweeps=7), piece=3, sweeps=2)
    found = source.recordings()
    assert [(entry.start, entry.num_frames) for entry in found] == [(0, 2), (2, 3), (5, 2)]
    dataset = source.dataset(found, Views(each(OneSweep())))
    with dataset.open(found[1]) as recording:
        stream = recording.stream()
        assert stream.times() == pytest.approx([0.2, 0.3, 0.4])
        (_, cloud), *_ = stream.read([0])
    assert cloud.time == pytest.approx(0.2) and len(cloud) == 2 * len(world_of()), "merged with one of another piece"
    assert len(source.entries()) == 4 and len(source_of(tmp_path, piece=7).recordings()) == 1


def batch_of(source: object, views: Views, entries: object = None) -> list[View]:
    """The first two samples, as a method sees them."""
    samples = source.recordings() if entries is None else entries  # type: ignore[attr-defined]
    dataset = source.dataset(samples, views)  # type: ignore[attr-defined]
    batch = collate([dataset[(0, 0)], dataset[(0, 1)]])
    assert not batch.bad, batch.bad
    return views.prepare(batch.views)


def test_poses_and_the_path_between_them_turn_with_the_points(tmp_path: Path) -> None:
    config = PointAugmentConfig(rotation="z", flip=(0.5, 0.5, 0), scale=(0.9, 1.1))
    views = Views(each(Ahead((0.5, 0.5)), PointAugment(config, None, unit_sphere=False, centre=False)))
    (view,) = batch_of(source_of(write_drives(tmp_path, train=2, test=0)), views)
    assert view.labels["pose"].shape == (2, 2, 4, 4) and view.labels["path"].shape == (2, 3, 4, 4)
    assert view.at[:, 1].sub(view.at[:, 0]).tolist() == view.labels["step"][:, 0].tolist()
    points, bounds = view.points, view.points.offsets.tolist()
    for sample in range(2):
        world = torch.from_numpy(world_of(sample))
        for place in range(2):
            own = points.xyz[bounds[2 * sample + place] : bounds[2 * sample + place + 1]].double()
            pose = view.labels["pose"][sample, place]
            torch.testing.assert_close(own @ pose[:3, :3].T + pose[:3, 3], world, atol=1e-4, rtol=0)
        path, step = view.labels["path"][sample], int(view.labels["step"][sample, 0])
        torch.testing.assert_close(path[[0, step]], view.labels["pose"][sample])


def test_an_encoder_is_shown_sweeps_where_they_are(tmp_path: Path) -> None:
    source = source_of(write_drives(tmp_path))
    (view,) = batch_of(source, source.evaluation(LIDAR), source.entries())
    own = view.points.xyz[: int(view.points.offsets[1])]
    np.testing.assert_allclose(own, clouds(source)[0].xyz)
    assert view.points.boxes is not None and view.points.boxes.offsets.tolist() == [0, 1, 2]
    for wrong in ({"unit_sphere": True}, {"centre": True}):
        with pytest.raises(ConfigError, match=r"expected input\.unit_sphere=false and input\.centre=false"):
            source.evaluation(LIDAR.model_copy(update=wrong))


def test_a_drive_or_frame_that_cannot_be_read_is_replaced_and_listed(tmp_path: Path) -> None:
    root = write_drives(tmp_path, train=2, test=0)
    (root / "train" / "drive_0000" / "sweeps" / "000000.bin").write_bytes(b"")
    (root / "train" / "drive_0000" / "boxes" / "000002.txt").write_text(box_line(more="1.5"))
    source = source_of(root)
    with pytest.warns(
        UserWarning, match=r"files of boxes that are broken: 1, the first: .*000002\.txt: line 1: 9 columns"
    ):
        entries = source.entries()
    dataset = source.dataset(entries, source.evaluation(LIDAR))
    bad = [dataset[(0, at)].bad[0].reason for at in (0, 1)]
    assert bad[0] == "file is empty"
    assert bad[1].startswith("line 1: 9 columns, expected 8 or 10 or 11: class x y z length width height yaw")
    assert not dataset[(0, 2)].bad


def test_returns_at_the_origin_and_nowhere_are_left_out_and_counted(tmp_path: Path) -> None:
    root, xyz = write_drives(tmp_path, train=1, test=0, sweeps=2), world_of()
    xyz[:5], xyz[5:8, 1], xyz[8, :2] = 0, np.nan, 0.5
    write_sweep(root / "train" / "drive_0000" / "sweeps" / "000000.bin", xyz)
    source = source_of(root, near=1.0)
    assert len(clouds(source)[0]) == np.isfinite(xyz).all(1).sum() - 5 - (np.abs(xyz[5:, :2]) < 1).all(1).sum()
    told = "\n".join(source.account()["listing"]["told"])
    assert "left out of 800 returns in 2 sweeps looked at: 5 at the origin, 3 nowhere (not finite)" in told
    assert "2 sweeps, 2 with a pose; 1 key frames; boxes: car 1" in told


def test_classes_are_those_asked_for_and_misspelled_ones_are_named(tmp_path: Path) -> None:
    root = write_drives(tmp_path, train=1, test=0)
    boxes = root / "train" / "drive_0000" / "boxes" / "000000.txt"
    boxes.write_text(box_line("van") + box_line("car") + box_line("pedestrian"))
    source = source_of(root, classes=["pedestrian", "car"])
    with pytest.warns(UserWarning, match="neither right nor wrong .*: van 1"):
        found = clouds(source)[0].boxes
    assert found is not None and found.classes.tolist() == [-1, 1, 0]
    assert source_of(root).box_classes == ("car", "pedestrian", "van")
    found = clouds(source_of(root, classes=["car", "pedestrian"], renamed={"van": "car"}))[0].boxes
    assert found is not None and found.classes.tolist() == [0, 0, 1]
    with pytest.raises(ConfigError, match=r"data\.classes: no box is a 'Car'; did you mean 'car'\?"):
        source_of(root, classes=["Car"]).recordings()
    with pytest.raises(ConfigError, match=r"data\.renamed: no box is a 'vam'; did you mean 'van'\?"):
        source_of(root, classes=["car"], renamed={"vam": "car"}).recordings()
    with pytest.warns(UserWarning, match=r"no box is of tram \(data\.classes\)"):
        source_of(root, classes=["car", "van", "pedestrian", "tram"]).recordings()


def test_a_file_of_no_drive_is_a_sweep_alone(tmp_path: Path) -> None:
    source = source_of(write_drives(tmp_path / "set"))
    write_sweep(tmp_path / "other.bin", world_of(9))
    dataset = source.dataset([Entry(str(tmp_path / "other.bin"))], source.evaluation(LIDAR))
    sample = dataset[(0, 0)]
    assert not sample.bad and sample.views is not None
    np.testing.assert_allclose(sample.views[0].content[0].xyz, world_of(9), atol=1e-5)


def test_a_root_without_drives_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="looks like none of the layouts"):
        source_of(tmp_path).recordings()
    (tmp_path / "drives").mkdir()
    with pytest.raises(DataError, match=r"does not exist; did you mean 'drives'\?"):
        source_of(tmp_path / "drive").recordings()
    with pytest.raises(DataError, match=r"no drives: expected folders with sweeps/\*\.bin"):
        source_of(tmp_path, layout="own").recordings()
