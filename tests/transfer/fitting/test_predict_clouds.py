"""A network that was kept answers for every point of clouds of anybody's, in the frame of their files."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.cli import guarded
from st_ssl.cli.predict import main
from st_ssl.core.errors import ConfigError, DataError, OutputError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.types import Entry
from st_ssl.data.points.dataset import PointDataConfig, PointSource
from st_ssl.data.streams.points import read_cloud
from st_ssl.encoders.base import ENCODERS, random_encoder, save_encoder
from st_ssl.transfer.fitting.finetune import finetune
from st_ssl.transfer.fitting.predict import Segmented, predict, segment
from st_ssl.transfer.fitting.predictions import Predictions
from st_ssl.transfer.fitting.segmented_io import SegmentedFolder
from tests.transfer.clouds import settings
from tests.transfer.fits import CPU

ORIGIN = np.array([512345.25, 5403210.5, 120.0])
NAMES = ("ground", "wall", "roof")


def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A ground, a wall and a roof: 300 points [N, 3] and their class."""
    rng = np.random.default_rng(number)
    part = rng.integers(3, size=300)
    xyz = rng.random((300, 3)) * [6, 6, 0.1]
    xyz[part == 1] = rng.random(((part == 1).sum(), 3)) * [6, 0.1, 3]
    xyz[part == 2, 2] += 3
    return xyz + ORIGIN, part


@dataclass
class Made:
    root: Path
    result: dict[str, Any]
    kept: Path
    model: Path
    objects: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Six scenes of three classes, a network that was fine-tuned to them, and one for whole clouds."""
    folder = tmp_path_factory.mktemp("made")
    root = folder / "scenes"
    for number in range(6):
        xyz, part = scene(number)
        place = root / ("test" if number > 3 else "train") / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        np.savez(place / f"s{number}.npz", xyz=xyz, segment=part)
    config = ENCODERS.config("sparse_unet").model_validate({"variant": "tiny", "backend": "torch"})
    input = PointInputConfig(num_points=None, unit_sphere=False, voxel_size=0.5)
    save_encoder(random_encoder(config, input, 0), folder / "run")
    source = PointSource(PointDataConfig(root=str(root), num_workers=0))
    task = {"name": "segment", "class_names": NAMES, "votes": 2}
    fit = settings(task, modes=("full",), epochs=4, val_share=0.0, batch_size=2)
    result = finetune(
        source, [folder / "run"], fit, CPU, weights=folder / "points", predictions=Predictions(folder / "kept")
    )
    whole = settings({"name": "classify"}, modes=("frozen",), epochs=1, val_share=0.0, batch_size=2)
    finetune(source, [folder / "run"], whole, CPU, weights=folder / "whole")
    return Made(root, result, folder / "kept", folder / "points" / "full_100_0", folder / "whole")


def test_every_point_of_the_file_has_an_answer_in_the_frame_of_the_file(made: Made) -> None:
    files = sorted((made.root / "test").glob("*/*.npz"))
    scenes = segment(made.model, files, CPU)
    found = list(scenes.segmented)
    assert scenes.classes == list(NAMES) and scenes.count == 2 and scenes.bad == []
    right = []
    for one, file in zip(found, files, strict=True):
        stored = np.load(file)
        assert one.path == str(file) and one.xyz.dtype == np.float64
        np.testing.assert_allclose(one.xyz, stored["xyz"], atol=1e-6)
        assert one.segment.shape == one.probability.shape == (300,)
        assert (one.probability > 1 / 3 - 1e-6).all() and (one.probability <= 1).all()
        right.append(one.segment == stored["segment"])
    figure = made.result["results"][0]["metrics"]["allAcc"]["mean"]
    assert 100 * np.mean(right) == pytest.approx(figure)  # as it was tested


def test_saved_predictions_keep_the_origin(made: Made) -> None:
    about = json.loads((made.kept / "about.json").read_text())
    for name, path in about["clouds"].items():
        xyz = np.load(made.kept / name)["xyz"]
        assert xyz.dtype == np.float64
        np.testing.assert_allclose(xyz, np.load(path)["xyz"], atol=1e-6)


def test_clouds_without_labels_and_broken_ones(made: Made, tmp_path: Path) -> None:
    xyz, _ = scene(9)
    np.savez(tmp_path / "new.npz", xyz=np.concatenate([xyz, [[np.nan] * 3]]))
    (tmp_path / "broken.npz").write_text("no arrays")
    np.savez(tmp_path / "other.npz", xyz=xyz, segment=np.full(300, 77))  # labels of others are nobody's business
    scenes = segment(made.model, [tmp_path], CPU, num_workers=0)
    found = list(scenes.segmented)
    assert [Path(one.path).name for one in found] == ["new.npz", "other.npz"]
    assert [Path(bad.path).name for bad in scenes.bad] == ["broken.npz"]
    assert (found[0].segment == found[1].segment).mean() > 0.8  # how a vote turns a cloud is drawn from its path
    assert len(found[0].xyz) == 300
    with pytest.raises(DataError, match=r"none of 1 clouds can be read:\n.*broken\.npz: "):
        list(segment(made.model, [tmp_path / "broken.npz"], CPU).segmented)


def called(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
    return guarded(main)


def test_predict_as_it_is_called(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = made.root / "test" / "a" / "s4.npz"
    out = tmp_path / "out"
    assert called(monkeypatch, file, "--model", made.model.parent, "--output", out) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in NAMES) and "300" in told and f"written to {out}" in told
    with np.load(out / "s4.npz", allow_pickle=False) as stored:
        assert list(stored["classes"]) == list(NAMES)
        np.testing.assert_allclose(stored["xyz"], np.load(file)["xyz"], atol=1e-6)
        segments = stored["segment"]
    (row,) = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    assert (row["path"], row["file"], row["points"]) == (str(file), "s4.npz", 300)
    assert row["share"] == {name: round(float((segments == i).mean()), 6) for i, name in enumerate(NAMES)}

    assert called(monkeypatch, made.root, "--model", made.model, "--output", out, "--format", "ply") == 0
    assert "all 6 clouds" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["index.jsonl", *(f"s{i}.ply" for i in range(6))]
    again = read_cloud(out / "s4.ply")
    np.testing.assert_array_equal(again.labels["segment"], segments)
    assert again.pose is not None
    np.testing.assert_allclose(again.xyz + again.pose[:3, 3], np.load(file)["xyz"], atol=1e-5)

    assert called(monkeypatch, file, "--model", made.model) == 0
    assert "nothing is written" in capsys.readouterr().out
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    assert called(monkeypatch, file, "--model", made.model, "--output", tmp_path / "full") == 2
    assert "it holds other files" in capsys.readouterr().err


def test_files_of_one_name_have_names_of_their_own(tmp_path: Path) -> None:
    folder = SegmentedFolder(tmp_path / "out", "npz", ["a", "b"])
    for path in ("x/1.las", "y/1.las", "y/b.h5#3", "room 1/Area"):
        folder.add(Segmented(path, np.zeros((2, 3)), np.array([0, 1]), np.ones(2, np.float32)))
    names = ["1.npz", "1_2.npz", "b_3.npz", "Area.npz"]
    assert [row["file"] for row in folder.rows] == names
    assert all((tmp_path / "out" / name).is_file() for name in names)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "1.npz").touch()
    with pytest.raises(OutputError, match="it holds other files"):
        SegmentedFolder(tmp_path / "other", "npz", ["a", "b"])


def test_whole_clouds_are_told_as_videos_are(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((made.root / "test").glob("*/*.npz"))
    assert called(monkeypatch, *files, "--model", made.objects, "--output", tmp_path / "said.jsonl") == 0
    assert "cloud" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [str(file) for file in files]
    assert all({one["class"] for one in line["top"]} == {"a", "b"} for line in lines)
    (folder,) = made.objects.iterdir()
    with pytest.raises(ConfigError, match="answers for whole samples"):
        segment(folder, files, CPU)
    with pytest.raises(ConfigError, match="answers for every point"):
        predict(made.model, files, CPU)


def test_entries_are_scenes_files_and_folders(made: Made, tmp_path: Path) -> None:
    xyz, _ = scene(7)
    (tmp_path / "room").mkdir()
    np.save(tmp_path / "room" / "coord.npy", xyz)
    scenes = segment(made.model, [tmp_path / "room"], CPU)
    (found,) = scenes.segmented
    assert found.path == str(Entry(str(tmp_path / "room")).path)
    np.testing.assert_allclose(found.xyz, xyz, atol=1e-6)


def test_parts_are_told_where_the_category_is_known(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 1)):
        for first, category in ((0, "mug"), (2, "lamp")):
            (tmp_path / "set" / split / category).mkdir(parents=True)
            for number in range(count):
                xyz = rng.random((70, 3), dtype=np.float32)
                np.savez(tmp_path / "set" / split / category / f"{number}.npz", xyz=xyz, part=first + (xyz[:, 2] > 0.5))
    config = ENCODERS.config("sparse_unet").model_validate({"variant": "tiny", "backend": "torch"})
    input = PointInputConfig(num_points=None, unit_sphere=False, voxel_size=0.2)
    save_encoder(random_encoder(config, input, 0), tmp_path / "run")
    source = PointSource(PointDataConfig(root=str(tmp_path / "set"), num_workers=0))
    fit = settings({"name": "part"}, modes=("full",), epochs=1, val_share=0.0, batch_size=2)
    finetune(source, [tmp_path / "run"], fit, CPU, weights=tmp_path / "kept")
    scenes = segment(tmp_path / "kept" / "full_100_0", [tmp_path / "set" / "test"], CPU)
    found = {Path(one.path).parent.name: set(one.segment.tolist()) for one in scenes.segmented}
    assert found["mug"] <= {0, 1} and found["lamp"] <= {2, 3}
    alone = tmp_path / "set" / "test" / "mug" / "0.npz"
    with pytest.raises(DataError, match=r"0\.npz: its category is not told: .* each of lamp, mug"):
        segment(tmp_path / "kept" / "full_100_0", [alone], CPU)
