from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from st_ssl.cli.prepare.verify_drives import verify_drives
from st_ssl.core.errors import SampleError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.types import PointCloud
from st_ssl.data.drives.config import DriveDataConfig
from st_ssl.data.drives.dataset import DriveSource
from st_ssl.data.sources.drives import read_drives
from st_ssl.data.sources.drives.kitti import read_boxes
from st_ssl.ops.boxes import points_in_boxes
from tests.data.drives.made import source_of, world, write_sweep

REAL = Path(__file__).parents[4] / "../shared/data/points/kitti"
LIDAR = PointInputConfig(num_points=None, unit_sphere=False, centre=False)
CALIB = (
    "P2: 700 0 600 45 0 700 180 0.2 0 0 1 0.003\n"
    "R0_rect: 1 0 0 0 1 0 0 0 1\n"
    "Tr_velo_to_cam: 0 -1 0 0.1 0 0 -1 -0.05 1 0 0 -0.3\n\n"
)
CAR = "Car 0.10 1 -1.57 500.5 150 620 210 1.50 1.60 4.00 -2.00 1.70 20.00 -1.57\n"
NOBODY = "DontCare -1 -1 -10 0 10 20 30 -1 -1 -1 -1000 -1000 -1000 -10\n"


def write_frame(root: Path, name: str, labels: str | None, part: str = "training") -> None:
    """A frame of KITTI's object benchmark; x ahead of the sensor is z of the camera."""
    write_sweep(root / part / "velodyne" / f"{name}.bin", world())
    for folder, text in (("calib", CALIB), ("label_2", labels)):
        if text is not None:
            (root / part / folder).mkdir(parents=True, exist_ok=True)
            (root / part / folder / f"{name}.txt").write_text(text)


def sweep_of(source: DriveSource, at: int = 0) -> PointCloud:
    """The sweep of the entry ``at``."""
    entries = source.entries()
    dataset = source.dataset(entries, source.evaluation(LIDAR))
    with dataset.open(entries[at]) as recording:
        return next(iter(recording.stream().read([0])))[1]


def test_boxes_of_the_camera_become_those_of_the_sweep(tmp_path: Path) -> None:
    write_frame(tmp_path, "000000", CAR + NOBODY)
    source = source_of(tmp_path)
    boxes = sweep_of(source).boxes
    assert source.layout.name == "kitti" and boxes is not None
    # x ahead is z of the camera and .3 m more, y to the left is -x and .1 m more, z up is -y - .05 m, raised by h / 2
    np.testing.assert_allclose(boxes.values[0, :6], [20.3, 2.1, -1.70 - 0.05 + 0.75, 4.0, 1.6, 1.5], atol=1e-5)
    assert boxes.values[0, 6] == pytest.approx(-np.pi / 2 + 1.57, abs=1e-5), "it drives away: ahead"
    assert boxes.classes.tolist() == [0, -1] and np.isnan(boxes.values[1, :7]).all()
    assert [source.kinds[kind] for kind in boxes.facts["kind"]] == ["car", "dontcare"]
    assert boxes.facts["image"].tolist() == [[500.5, 150, 620, 210], [0, 10, 20, 30]]
    assert boxes.facts["truncated"].tolist() == pytest.approx([0.1, -1]) and boxes.facts["occluded"].tolist() == [1, -1]


def test_lists_of_frames_are_splits_and_testing_is_tested_on(tmp_path: Path) -> None:
    for name in ("000000", "000001", "000002"):
        write_frame(tmp_path, name, CAR)
    write_frame(tmp_path, "000000", None, "testing")
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets" / "train.txt").write_text("000002\n000009\n")
    (tmp_path / "ImageSets" / "val.txt").write_text("000001\n")
    _, drives, told = read_drives(tmp_path)
    assert [(Path(drive.path).stem, drive.split) for drive in drives] == [
        ("000001", "val"),
        ("000002", "train"),
        ("000000", "test"),
    ]
    assert "1 of 3 frames are not there, 000009 say" in told[0] and "1 of 3 frames are in none" in told[1]
    entries = source_of(tmp_path).entries()
    assert [(entry.split, entry.tags, entry.window) for entry in entries] == [
        ("val", ("car",), False),
        ("train", ("car",), False),
        ("test", (), False),
    ]


def test_in_view_leaves_what_the_camera_sees(tmp_path: Path) -> None:
    write_frame(tmp_path, "000000", CAR)
    whole, cut = (sweep_of(source_of(tmp_path, in_view=view)) for view in (False, True))
    x, y, z = whole.xyz.T.astype(np.float64)
    right, down, ahead = 0.1 - y, -z - 0.05, x - 0.3
    depth = ahead + 0.003
    u, v = (700 * right + 600 * ahead + 45) / depth, (700 * down + 180 * ahead + 0.2) / depth
    seen = (depth > 0) & (u >= 0) & (u < 1242) & (v >= 0) & (v < 375)
    assert 0 < seen.sum() < len(whole)
    np.testing.assert_array_equal(cut.xyz, whole.xyz[seen])


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (CAR + "Car 0 0 1\n", "line 2: 4 columns, expected 15 or 16: type truncated"),
        (CAR.replace("Car", "Cat"), "line 1: no class 'Cat'; did you mean 'Car'?"),
        (CAR.replace("1.60", "wide"), "line 1: 'wide' is no number"),
        (CAR.replace("4.00", "0"), "line 1: a box of length, width and height 0 1.6 1.5"),
        (CAR.replace("20.00", "nan"), "line 1: a box at nan nan nan, 4 1.6 1.5"),
    ],
)
def test_a_wrong_label_is_named_by_file_and_line(tmp_path: Path, labels: str, reason: str) -> None:
    write_frame(tmp_path, "000000", labels)
    part = tmp_path / "training"
    with pytest.raises(SampleError) as error:
        read_boxes(part / "label_2" / "000000.txt", part / "calib" / "000000.txt")
    assert error.value.path.endswith("label_2/000000.txt") and error.value.reason.startswith(reason)


def test_a_calibration_without_a_matrix_is_named(tmp_path: Path) -> None:
    write_frame(tmp_path, "000000", CAR)
    calib = tmp_path / "training" / "calib" / "000000.txt"
    calib.write_text(CALIB.replace("Tr_velo_to_cam", "Tr_cam_to_velo"))
    with pytest.raises(SampleError, match=r"no line Tr_velo_to_cam or Tr_velo_cam \(there are: P2, R0_rect, Tr_cam"):
        read_boxes(tmp_path / "training" / "label_2" / "000000.txt", calib)


@pytest.mark.skipif(not REAL.is_dir(), reason="the three frames of KITTI are not here")
def test_the_points_of_every_real_car_lie_in_its_box() -> None:
    source = source_of(REAL)
    names = []
    for at in range(3):
        cloud = sweep_of(source, at)
        boxes = cloud.boxes
        assert boxes is not None and 100_000 < len(cloud) < 130_000
        for values, kind in zip(boxes.values, boxes.classes, strict=True):
            if kind < 0:
                continue
            names.append(source.box_classes[kind])
            xyz = torch.from_numpy(cloud.xyz)
            own, larger = (torch.from_numpy(values[None, :7].copy()) for _ in range(2))
            larger[:, 3:5] += 0.6
            inside = points_in_boxes(xyz, own)[:, 0]
            # without the road beneath: what is around the box, but not in it, would be points of a car beside its box
            high = xyz[:, 2] > own[0, 2] - own[0, 5] / 2 + 0.3
            around = points_in_boxes(xyz, larger)[:, 0] & high & ~inside
            assert inside.sum() > 4 and around.sum() <= 0.2 * (inside & high).sum(), (names[-1], at)
    assert sorted(names) == ["car", "car", "cyclist", "pedestrian"]


@pytest.mark.skipif(not REAL.is_dir(), reason="the three frames of KITTI are not here")
def test_real_boxes_are_too_few_to_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = DriveDataConfig(root=str(REAL), num_workers=0)
    assert verify_drives(config, tmp_path / "seen.jsonl", workers=0, page=tmp_path / "boxes.html") == 0
    told = capsys.readouterr().out
    assert "boxes: 4 in 3 sweeps" in told and "mistake" not in told
    assert "too few boxes to judge: 4 have points, of 10 needed" in told
    assert (tmp_path / "boxes.html").read_text().count("<img") == 3
