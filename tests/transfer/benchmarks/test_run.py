"""``predict --benchmark``: networks that fine-tuning kept are asked about the splits of planted benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.cli import guarded
from st_ssl.cli.predict import main
from st_ssl.data.sources.drives.semantic_kitti import CLASSES as SEGMENTS
from st_ssl.encoders.base import load_encoder
from st_ssl.transfer.fitting.finetune_model import Tuned, save_tuned
from st_ssl.transfer.tasks.base import TASKS
from tests.transfer.benchmarks.test_results import planted
from tests.transfer.streets import DETECTOR, write_encoder


def network(folder: Path, classes: list[str], **task: Any) -> Path:
    """An untrained network."""
    encoder = load_encoder(write_encoder(folder / "encoder"))
    made = TASKS.build(TASKS.config(task["name"]).model_validate(task))
    made.restore(classes)
    torch.manual_seed(0)
    save_tuned(Tuned(encoder, made.head(encoder), True), made, classes, {}, folder / "fit")
    return folder / "fit"


def asked(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["predict", *map(str, words)])
    return guarded(main)


def test_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    planted(tmp_path / "kitti", "kitti")
    model = network(tmp_path, ["car", "cyclist"], name="detect", detector=DETECTOR)
    sweeps = sorted((tmp_path / "kitti/training/velodyne").iterdir())
    names = (tmp_path / "kitti/ImageSets/val.txt").read_text().split()
    broken = next(file for file in sweeps if file.stem == names[0])
    broken.write_bytes(b"")
    words = [tmp_path / "kitti", "--model", model, "--output", tmp_path / "out", "--benchmark"]
    assert asked(monkeypatch, *words, "vall") == 2
    assert "no such split; did you mean 'val'?" in capsys.readouterr().err
    assert asked(monkeypatch, *words, "val") == 0
    told = capsys.readouterr()
    assert "file is empty" in told.err and f"judged without 1 of {len(names)} sweeps" in told.err
    assert sorted(file.stem for file in (tmp_path / "out").iterdir()) == sorted(names)
    figures = json.loads((tmp_path / "out.json").read_text())
    assert {"3d_Car_moderate_R40", "bev_Cyclist_easy_R11"} <= set(figures)
    assert asked(monkeypatch, *words, "val") == 2
    assert "it holds other files" in capsys.readouterr().err
    planted(tmp_path / "own", "own")
    words[0], words[4] = tmp_path / "own", tmp_path / "other"
    assert asked(monkeypatch, *words, "val") == 2
    assert "layout own; --benchmark writes boxes for kitti, nuscenes" in capsys.readouterr().err


def test_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = planted(tmp_path / "kitti", "semantic_kitti", num_val=1)
    model = network(tmp_path, list(SEGMENTS), name="segment", num_classes=len(SEGMENTS))
    words = (tmp_path / "kitti", "--model", model, "--output", tmp_path / "out", "--benchmark", "val")
    assert asked(monkeypatch, *words) == 0
    (drive,) = (own for own in source.drives.values() if own.split == "val")
    written = sorted((tmp_path / "out/sequences" / Path(drive.path).name / "predictions").iterdir())
    assert [file.stem for file in written] == [Path(file).stem for file in drive.files]
    own, pairs = np.array([labels[0] for labels in SEGMENTS.values()]), []
    for at, file in enumerate(drive.files):
        count = Path(file).stat().st_size // 16
        told, truth = np.fromfile(written[at], dtype=np.uint32), drive.labels[at](count)["segment"]
        assert len(told) == count and told.all(), "every point has a class"
        pairs.append(np.stack([told, own[truth]])[:, truth >= 0])
    told, truth = np.concatenate(pairs, 1)
    shares = [((told == n) & (truth == n)).sum() / max(1, ((told == n) | (truth == n)).sum()) for n in own]
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["mIoU"] == pytest.approx(100 * np.mean(shares))
    assert set(figures) == {"mIoU", *(f"IoU_{name}" for name in SEGMENTS)}
