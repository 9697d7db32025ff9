from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from st_ssl.cli import guarded
from st_ssl.cli.prepare import main
from st_ssl.data.drives.config import DriveDataConfig
from st_ssl.data.drives.dataset import DriveSource
from st_ssl.data.synthetic.drives import SyntheticDriveConfig, write_dataset

THREE = SyntheticDriveConfig(num_train=3, num_val=0, num_test=0, sweeps=12, key_every=6)


def called(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["prepare", "poses", *map(str, words)])
    return guarded(main)


def test_the_way_of_the_sensor_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("kiss_icp")
    root = write_dataset(tmp_path / "drives", THREE, progress=False)
    true = [drive.poses for drive in DriveSource(DriveDataConfig(root=str(root))).drives.values()]
    first, second, fast = sorted((root / "train").iterdir())
    kept = (first / "poses.txt").read_text()
    (fast / "poses.txt").unlink()
    shutil.move(second / "poses.txt", tmp_path / "was.txt")
    assert called(monkeypatch, root) == 0
    told = capsys.readouterr().out
    assert "1 of 3 drives have poses, and keep them" in told and f"{second}: 12 sweeps, " in told
    assert (first / "poses.txt").read_text() == kept
    drives = list(DriveSource(DriveDataConfig(root=str(root))).drives.values())
    assert all(drive.posed.all() for drive in drives)
    for number, least in ((1, 10), (2, 25)):
        way = np.linalg.inv(true[number][0]) @ true[number]
        metres = np.linalg.norm(np.diff(way[:, :3, 3], axis=0), axis=1).sum()
        off = np.linalg.norm(drives[number].poses[:, :3, 3] - way[:, :3, 3], axis=1)
        assert metres > least and off.max() < 0.03 * metres, (off, metres)
    (second / "sweeps" / "000004.bin").write_bytes(b"")
    before = (second / "poses.txt").read_text()
    assert called(monkeypatch, root, "--overwrite") == 1
    assert "left as it is" in capsys.readouterr().out
    assert (second / "poses.txt").read_text() == before, "nothing half is written"


def test_without_the_package_or_drives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_dataset(tmp_path / "drives", THREE.model_copy(update={"sweeps": 2, "key_every": 1}), progress=False)
    for file in root.glob("train/*/poses.txt"):
        file.unlink()
    for name in ("kiss_icp", "kiss_icp.config", "kiss_icp.kiss_icp"):
        monkeypatch.setitem(sys.modules, name, None)
    assert called(monkeypatch, root) != 0
    assert 'pip install "st_ssl[poses]"' in capsys.readouterr().err
    kitti = write_dataset(
        tmp_path / "kitti", THREE.model_copy(update={"layout": "kitti", "num_val": 1}), progress=False
    )
    assert called(monkeypatch, kitti) != 0
    assert "layout kitti: poses are written for drives of one's own alone" in capsys.readouterr().err
