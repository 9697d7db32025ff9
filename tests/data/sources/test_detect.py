from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from st_ssl.cli.prepare import main
from st_ssl.core.inputs import Modality
from st_ssl.data.sources.detect import modality_of

TREES: dict[str, tuple[Modality, str]] = {
    "videos": ("video", "a/0.mp4 a/1.MOV b/notes.txt"),
    "clouds": ("points", "chair/train/a.off README.txt preview.jpg"),
    "kitti": ("points", "training/image_2/0.png training/image_2/1.png training/velodyne/0.bin training/label_2/0.txt"),
    "folders of frames": ("video", "a/0.jpg a/1.jpg labels.txt"),
    "s3dis as it comes": ("points", "Area_1/office_1/Annotations/chair_1.txt Area_1/office_1/office_1.txt"),
    "pointcept": ("points", "train/scene0000_00/coord.npy train/scene0000_00/color.npy"),
    "few-shot folds": ("points", "5way_10shot/0.pkl"),
    "videos and what else was kept": ("video", "a/0.mp4 a/0.pkl a/0.txt a/0.csv"),
    "videos with features": ("video", "a/0.mp4 a/1.mp4 features.npy"),
    "hidden": ("video", ".cache/a.npy"),
    "nothing": ("video", ""),
}


@pytest.mark.parametrize("name", TREES)
def test_files_tell(tmp_path: Path, name: str) -> None:
    kind, files = TREES[name]
    for file in files.split():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert modality_of(str(tmp_path)) == kind


def test_lists_and_formats_tell(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    for text, kind in (("a.npy x\nb.npy y\n", "points"), ("path,label\nmany.h5#3,x\n", "points"), ("a.mp4 3", "video")):
        (tmp_path / "list").write_text(text)
        assert modality_of(str(tmp_path / "list")) == kind
        assert modality_of(str(tmp_path), tmp_path / "list") == kind
    (tmp_path / "a.las").write_bytes(b"LASF")
    assert modality_of(str(tmp_path / "a.las")) == "points"
    (tmp_path / "list").write_text("words alone")
    assert modality_of(str(tmp_path), tmp_path / "list") == "video"  # by the folder then
    assert modality_of(str(tmp_path), format="modelnet") == "points"
    assert modality_of(str(tmp_path), format="kinetics") == "video"
    assert modality_of(str(tmp_path / "gone")) == "video"


def test_a_folder_of_lists_is_what_they_name(tmp_path: Path) -> None:
    for name, split in (("a.mp4", "train"), ("b.mp4", "test")):
        (tmp_path / f"{split}.txt").write_text(f"/videos/{name} 0\n")
    assert modality_of(str(tmp_path)) == "video"
    (tmp_path / "train.txt").write_text("0.5 1.5 2.5\n")  # points, not names
    (tmp_path / "test.txt").unlink()
    assert modality_of(str(tmp_path)) == "points"


def test_the_command_takes_clouds_for_clouds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clouds").mkdir()
    np.save(tmp_path / "clouds" / "a.npy", np.random.default_rng(0).random((20, 3)))
    monkeypatch.chdir(tmp_path)
    for step in ("verify", "index"):
        monkeypatch.setattr(sys, "argv", ["prepare", step, "clouds", "--workers", "0", "--reader", "decord"])
        with pytest.warns(UserWarning, match="ignored with clouds: --reader decord"):
            assert main() == 0
        out = capsys.readouterr().out
        assert out.startswith("clouds: taken for clouds by its files (--kind video if it is not)\n")
        assert "20 points, 20 to 20 a cloud" in out


@pytest.mark.parametrize(
    ("kind", "settings", "told"),
    [
        ("shapes", "num_train=2 num_val=1 num_test=0 num_points=64", "2 train (num_train), 1 val (num_val), 0 test"),
        (
            "videos",
            "num_train=1 num_test=0 num_frames=2 size=32",
            "1 train (num_train), 0 val (num_val), 0 test (num_test)",
        ),
    ],
)
def test_what_is_planted_is_told(
    kind: str,
    settings: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["synthetic", kind, "--output", str(tmp_path / "x"), *settings.split(), "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["prepare", *arguments])
    assert main() == 0
    assert f"{kind}: {told}" in capsys.readouterr().out
