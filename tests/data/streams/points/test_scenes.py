"""Scenes that are folders, written by NumPy in the form they come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.core.errors import SampleError
from st_ssl.data.streams.points import read_cloud, read_counted
from st_ssl.data.streams.points.scenes import S3DIS_CLASSES

RNG = np.random.default_rng(0)


def write_pointcept(folder: Path, count: int = 20, **arrays: Any) -> dict[str, Any]:
    """A scene in Pointcept's form, with ``arrays`` in place of its own."""
    folder.mkdir(parents=True)
    scene: dict[str, Any] = {
        "coord": RNG.normal(size=(count, 3)).astype(np.float32),
        "color": RNG.integers(0, 256, (count, 3)).astype(np.uint8),
        "normal": np.tile(np.array([0, 0, 1], dtype=np.float32), (count, 1)),
        "segment20": np.arange(count, dtype=np.int16) % 20,
        "segment200": np.arange(count, dtype=np.int16) % 200,
        "instance": np.arange(count, dtype=np.int16) // 5,
    } | arrays
    for name, values in scene.items():
        np.save(folder / f"{name}.npy", values)
    return scene


def write_room(folder: Path, objects: dict[str, np.ndarray]) -> None:
    """A room of S3DIS as it comes: the whole, and each object."""
    (folder / "Annotations").mkdir(parents=True)
    for name, rows in objects.items():
        lines = [" ".join([f"{v:.3f}" for v in row[:3]] + [f"{v:.0f}" for v in row[3:]]) for row in rows]
        (folder / "Annotations" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    np.savetxt(folder / f"{folder.name}.txt", np.concatenate(list(objects.values())), fmt="%.3f")


def rows(count: int) -> np.ndarray:
    return np.hstack([RNG.random((count, 3)).round(3), RNG.integers(0, 256, (count, 3))])


def test_pointcept(tmp_path: Path) -> None:
    scene = write_pointcept(tmp_path / "scene0000_00")
    cloud = read_cloud(tmp_path / "scene0000_00")
    assert np.array_equal(cloud.xyz, scene["coord"])
    assert np.allclose(cloud.attributes["color"], scene["color"] / 255)
    assert np.array_equal(cloud.attributes["normal"], scene["normal"])
    assert {name: values.tolist() for name, values in cloud.labels.items()} == {
        "segment": scene["segment20"].tolist(),
        "instance": scene["instance"].tolist(),
    }
    write_pointcept(tmp_path / "column", segment=np.full((20, 1), 7))  # S3DIS there has a column
    assert read_cloud(tmp_path / "column").labels["segment"].tolist() == [7] * 20


def test_pointcept_whose_arrays_do_not_fit(tmp_path: Path) -> None:
    write_pointcept(tmp_path / "a", color=np.zeros((19, 3)))
    with pytest.raises(SampleError, match=r"color.npy is float64 \[19, 3\]: expected \[20, 3\]"):
        read_cloud(tmp_path / "a")
    write_pointcept(tmp_path / "b", coord=np.zeros((20, 2)))
    with pytest.raises(SampleError, match=r"coord.npy is float64 \[20, 2\]: expected \[points, 3\]"):
        read_cloud(tmp_path / "b")


def test_rooms_of_s3dis(tmp_path: Path) -> None:
    objects = {"chair_1": rows(5), "chair_2": rows(6), "ceiling_1": rows(7), "stairs_1": rows(8)}
    write_room(tmp_path / "office_1", objects)
    cloud, lost = read_counted(tmp_path / "office_1")
    assert lost == 0
    order = ["ceiling_1", "chair_1", "chair_2", "stairs_1"]
    assert np.allclose(cloud.xyz, np.concatenate([objects[name][:, :3] for name in order]), atol=1e-6)
    assert np.allclose(cloud.attributes["color"], np.concatenate([objects[name][:, 3:] / 255 for name in order]))
    classes = [S3DIS_CLASSES.index(name) for name in ("ceiling", "chair", "chair", "clutter")]
    assert cloud.labels["segment"].tolist() == np.repeat(classes, [7, 5, 6, 8]).tolist()
    assert cloud.labels["instance"].tolist() == np.repeat(range(4), [7, 5, 6, 8]).tolist()


def test_the_bad_line_of_area_5_is_dropped_and_counted(tmp_path: Path) -> None:
    write_room(tmp_path / "hallway_6", {"ceiling_1": rows(50), "wall_1": rows(5)})
    file = tmp_path / "hallway_6" / "Annotations" / "ceiling_1.txt"
    lines = file.read_bytes().split(b"\n")
    lines[23] = b"-22.348 6.692 3.048 185\x10187 182"  # as in Area_5/hallway_6, line 180389
    file.write_bytes(b"\n".join(lines))
    cloud, lost = read_counted(tmp_path / "hallway_6")
    assert (len(cloud), lost) == (54, 1)
    assert cloud.labels["segment"].tolist() == [0] * 49 + [2] * 5
    file.write_bytes(b"\n".join([b"a b c"] * 5 + lines))
    with pytest.raises(SampleError, match="6 of 55 lines are not `x y z r g b`"):
        read_cloud(tmp_path / "hallway_6")
