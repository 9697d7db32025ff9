"""What a fine-tuned network said of test videos, on the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.report.recognised import read_said, recognised

CLASSES = ["<b>clap", "run", "wave"]
LABELS = ["run", "run", "run", "wave", "wave", "<b>clap", None]
SCORES = np.array(
    [
        [0.1, 0.8, 0.1],
        [0.1, 0.3, 0.6],
        [0.2, 0.2, 0.6],
        [0.0, 0.1, 0.9],
        [0.0, 0.9, 0.1],
        [0.9, 0.1, 0.0],
        [0.4, 0.3, 0.3],
    ]
)


def write_predictions(folder: Path, scores: np.ndarray = SCORES, **about: Any) -> Path:
    folder.mkdir(parents=True)
    np.save(folder / "scores.npy", scores.astype(np.float32))
    rows = [{"row": i, "path": f"/videos/{i}.mp4", "label": label} for i, label in enumerate(LABELS)]
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "classes.json").write_text(json.dumps(CLASSES))
    told = {"task": "recognise", "mode": "full", "fraction": 0.1, "votes": 5} | about
    (folder / "about.json").write_text(json.dumps(told))
    return folder


def test_confusion_and_calibration_are_those_of_the_predictions(tmp_path: Path) -> None:
    found = recognised(write_predictions(tmp_path / "a_predictions"))
    confusion, calibration = found.panels
    assert confusion.value == "50.0 % right"  # 3 of the 6 that have a label
    assert confusion.note == "Of 6 test videos; not counted: 1 without a label of a class."
    # in tenths: 0.6 twice, never right; 0.8, right; 0.9 three times, two of them right
    error = 100 * (2 * 0.6 + abs(0.8 - 1) + 3 * abs(0.9 - 2 / 3)) / 6
    assert calibration.value == f"calibration error {error:.1f} %"
    assert found.confused == [("run", "wave", 2, "67"), ("wave", "run", 1, "50")]
    assert "<b>" not in confusion.figure and "&lt;b&gt;clap" in confusion.figure
    assert found.hardest == [] and "weights were not kept" in found.note


def test_of_many_classes_the_worst_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("st_ssl.report.recognised.MOST_CLASSES", 2)
    panel = recognised(write_predictions(tmp_path / "a_predictions")).panels[0]
    assert "run" in panel.figure and "wave" in panel.figure and "clap" not in panel.figure
    assert "of 3" in panel.note


def test_scores_of_other_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\[7, 2\] are not of 7 videos and 3 classes"):
        read_said(write_predictions(tmp_path / "a_predictions", SCORES[:, :2]))
