"""What is shown of the boxes that a detector found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from st_ssl.report.box_edges import box_edges
from st_ssl.report.detected import detected


def write(folder: Path) -> Path:
    """Two sweeps with a car each, one of which was found, and a box that was made up."""
    folder.mkdir()
    car = np.array([[10, 0, 0, 4, 2, 1.5, 0.3, np.nan, np.nan]], np.float32)
    far = car + np.array([[20, 5, 0, 0, 0, 0, 0, 0, 0]], np.float32)
    np.savez(
        folder / "boxes.npz",
        sweep=np.array([0, 0]),
        classes=np.array([0, 0]),
        score=np.array([0.9, 0.2], np.float32),
        values=np.concatenate([car, far]),
        true_sweep=np.array([0, 1]),
        true_classes=np.array([0, 0]),
        true_values=np.concatenate([car, far]),
        true_points=np.array([120, 7]),
    )
    np.savez(folder / "0000.npz", xyz=np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32))
    (folder / "classes.json").write_text('["car"]')
    sweeps = {"0": ["test/a", 0], "1": ["test/b", 4]}
    (folder / "about.json").write_text(json.dumps({"overlaps": {"car": 0.5}, "overlap_of": "bev", "sweeps": sweeps}))
    return folder


def test_what_was_found_and_what_was_missed(tmp_path: Path) -> None:
    found = detected(write(tmp_path / "said"))
    assert found.missed == [("car", 7, "30", "b", 4)]
    heads, rows = found.by_range
    assert heads == ["0 to 15", "15 to 30", "30 or more"]
    assert rows == [("car", ["100.0 / 100.0 (1)", "–", "0.0 / 0.0 (1)"])]
    (scene,) = found.scenes
    assert scene.name == "a, sweep 0"
    assert [cloud.caption for cloud in scene.clouds] == [
        ["truth", "1 boxes"],
        ["found", "1 boxes with a score of 0.3 or more"],
    ]
    assert "precision" in found.panels[0].figure


def test_edges_lie_on_the_box_and_point_ahead() -> None:
    box = np.array([[1.0, 2.0, 3.0, 4.0, 2.0, 1.0, np.pi / 2]])
    places = box_edges(box, 0.1)
    low, high = np.array([0, 0, 2.5]), np.array([2, 4, 3.5])  # turned by a quarter
    np.testing.assert_allclose([places.min(0), places.max(0)], [low, high], atol=1e-9)
    ahead = places[(np.abs(places[:, 0] - 1) < 1e-6) & (places[:, 1] > 2.5) & (places[:, 1] < 3.5)]
    assert len(ahead) > 5  # the line to the front, which nothing else is on
    assert box_edges(np.zeros((0, 9))).shape == (0, 3)
