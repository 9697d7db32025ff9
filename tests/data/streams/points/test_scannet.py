"""Scenes of ScanNet as they come: two files that are one cloud."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from st_ssl.core.errors import SampleError
from st_ssl.data.streams.points import read_cloud
from st_ssl.data.streams.points.scannet import CLASSES

HEAD = "ply\nformat ascii 1.0\nelement vertex {}\n{}end_header\n"
PLACE = "".join(f"property float {axis}\n" for axis in "xyz")
COLOUR = "".join(f"property uchar {name}\n" for name in ("red", "green", "blue", "alpha"))


def write_scannet(folder: Path, labels: Sequence[int] | None, num_points: int = 3, extra: bool = True) -> Path:
    """A scene of ``num_points`` vertices, and its labels if there are any; ``extra``: and files that are not read."""
    folder.mkdir(parents=True, exist_ok=True)
    name = folder.name
    rows = "".join(f"{i} 0 1 255 0 {i} 255\n" for i in range(num_points))
    scene = folder / f"{name}_vh_clean_2.ply"
    scene.write_text(HEAD.format(num_points, PLACE + COLOUR) + rows)
    if labels is not None:
        text = "".join(f"{i} 0 1 9 9 9 255 {label}\n" for i, label in enumerate(labels))
        file = folder / f"{name}_vh_clean_2.labels.ply"
        file.write_text(HEAD.format(len(labels), f"{PLACE}{COLOUR}property ushort label\n") + text)
    for end in ("_vh_clean_2.0.010000.segs.json", ".aggregation.json", ".txt") if extra else ():
        (folder / f"{name}{end}").write_text("{}")
    return scene


def test_colours_of_one_file_and_classes_of_the_other(tmp_path: Path) -> None:
    ids = [0, 1, 2, 14, 16, 24, 28, 33, 34, 36, 39, 40, 13, 12, 41, 65535]
    cloud = read_cloud(write_scannet(tmp_path / "scene0000_00", ids, len(ids)))
    expected = [-1, 0, 1, 12, 13, 14, 15, 16, 17, 18, 19, -1, -1, 11, -1, -1]
    assert cloud.labels["segment"].tolist() == expected
    assert set(cloud.labels) == {"segment"}
    assert len(CLASSES) == 20 and CLASSES[13] == "curtain" and CLASSES[12] == "desk"
    np.testing.assert_allclose(cloud.attributes["color"][2], [1.0, 0, 2 / 255], atol=1e-6)


def test_a_scene_without_labels(tmp_path: Path) -> None:
    assert read_cloud(write_scannet(tmp_path / "scene0707_00", None)).labels == {}


def test_labels_of_another_scene_break_it(tmp_path: Path) -> None:
    scene = write_scannet(tmp_path / "scene0000_00", [1, 2])
    with pytest.raises(SampleError, match=r"scene0000_00_vh_clean_2.labels.ply has 2 vertices, and the scene 3"):
        read_cloud(scene)
    labels = scene.with_name("scene0000_00_vh_clean_2.labels.ply")
    labels.write_text(scene.read_text())
    with pytest.raises(SampleError, match="has no property `label`"):
        read_cloud(scene)
