from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from st_ssl.cli.prepare import main
from st_ssl.data.packs import points_index as module
from st_ssl.data.packs.points_index import describe, survey
from st_ssl.data.sources.points import read_source
from st_ssl.data.streams.points import ReadOptions
from tests.data.streams.points.test_scenes import write_pointcept


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two clouds and a scene that can be read, two that cannot."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "clouds"
    write_pointcept(folder / "scene", coord=np.linspace(0, 9, 60).reshape(20, 3).astype("f4"))
    xyz = rng.uniform(-1, 1, (30, 3))
    xyz[:2] = [[-1, -2, -3], [4, 5, 6]]
    xyz[7] = np.nan
    np.savez(folder / "a.npz", xyz=xyz, color=rng.random((30, 3)), segment=np.arange(30) % 4 - 1)
    np.save(folder / "far.npy", rng.random((10, 3)) + np.array([500_000.0, 5_000_000.0, 0]))
    np.save(folder / "one.npy", np.zeros((1, 3)))
    (folder / "text.ply").write_text("no")
    return folder


def test_what_is_found(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "found.jsonl"
    records = survey(read_source(root), file, progress=False)
    found = {os.path.relpath(path, root): record for path, record in records.items()}
    assert list(found) == ["a.npz", "far.npy", "one.npy", "scene", "text.ply"]
    a, far, scene = found["a.npz"].table, found["far.npy"].table, found["scene"].table
    assert a is not None and far is not None and scene is not None
    assert (a.num_points, a.num_lost, a.low, a.high) == (29, 1, (-1, -2, -3), (4, 5, 6))
    assert (a.attributes, a.labels) == ({"color": 3}, {"segment": 3})
    assert a.extent == 9
    assert far.low[1] == pytest.approx(5_000_000, abs=1)  # where it is in the file
    assert (scene.num_points, scene.attributes, scene.labels) == (
        20,
        {"color": 3, "normal": 3},
        {"segment": 20, "instance": 4},
    )
    assert found["one.npy"].error == "has 1 point: a cloud needs at least 2"
    assert "not a PLY file" in str(found["text.ply"].error)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["path"] for row in rows] == [f"clouds/{name}" for name in found]


def test_what_has_not_changed_is_not_read_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def noted(path: str, options: ReadOptions) -> object:
        asked.append(os.path.relpath(path, root))
        return read(path, options)

    read = module.read_counted
    monkeypatch.setattr(module, "read_counted", noted)
    entries, file = read_source(root), tmp_path / "found.jsonl"
    first = survey(entries, file, progress=False)
    assert len(asked) == 5
    asked.clear()
    assert survey(entries, file, progress=False) == first
    assert asked == []
    np.save(root / "one.npy", np.zeros((3, 3)))
    np.save(root / "scene" / "strength.npy", np.zeros(20))
    again = survey(entries, file, progress=False)
    assert asked == ["one.npy", "scene"]
    assert [record.error for record in again.values()].count(None) == 4
    asked.clear()
    survey(entries, file, ReadOptions(surface_points=9), progress=False)
    assert len(asked) == 5


def test_labels_of_which_no_point_has_one_are_told_apart(tmp_path: Path) -> None:
    for name, labels in {"a": np.arange(9), "b": np.full(9, -1)}.items():
        np.savez(tmp_path / f"{name}.npz", xyz=np.eye(9, 3), segment=labels)
    records = survey(read_source(tmp_path), tmp_path / "found.jsonl", progress=False)
    lines = describe(record.table for record in records.values() if record.table is not None).splitlines()
    assert lines[-1] == "labels of points: segment in 1, segment of -1 alone in 1"


def test_the_command(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for step, file in (("verify", "cache/st_ssl/verified/clouds-*.jsonl"), ("index", "clouds/st_ssl_index.jsonl")):
        monkeypatch.setattr(sys, "argv", ["prepare", step, str(root), "--kind", "points", "--workers", "0"])
        assert main() == 1
        assert len(list(tmp_path.glob(file))) == 1
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "read as data.format=folder: 5 samples (5 train)"
        assert "59 points, 10 to 29 a cloud (median 20)" in lines
        at = lines.index("attributes: color in 2, normal in 1")
        assert lines[at + 1] == "labels of points: segment in 2, instance in 1"
        assert f"left out: {root}/a.npz: 1 of 30 points, which are nowhere (NaN, infinity)" in lines
        broken = [line.partition(": ")[2].partition(": ")[0] for line in lines if line.startswith("broken")]
        assert broken == [f"{root}/one.npy", f"{root}/text.ply"]
        assert lines[-1] == "3 of 5 clouds are sound, 2 broken"
    assert read_source(root)  # the index in the folder is no cloud
