"""What was said of test clouds is kept for people to look at, as the figures count it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.transfer.fitting.finetune import finetune
from st_ssl.transfer.fitting.predictions import Predictions
from st_ssl.transfer.tasks.metrics import confusion_matrix, part_scores, segmentation_scores, shape_iou
from tests.transfer.clouds import KINDS, TinySource, cloud, tiny_registered
from tests.transfer.fitting.test_finetune import CPU, run, settings

__all__ = ["run", "tiny_registered"]


def kept(run: Path, folder: Path, task: dict[str, Any], limit: int | None, **changes: Any) -> tuple[Any, Any, Any]:
    """The figures of the fit that is kept, the description, and the arrays of each cloud."""
    config = settings(task, epochs=2, **changes)
    result = finetune(TinySource(), [run], config, CPU, predictions=Predictions(folder, limit))
    assert json.loads((folder / "classes.json").read_text()) == result["classes"]
    about = json.loads((folder / "about.json").read_text())
    last = {
        name: value["mean"]
        for name, value in next(row["metrics"].items() for row in reversed(result["results"]) if row["fraction"] == 1)
    }
    files = sorted(folder.glob("*.npz"))
    assert [file.name for file in files] == list(about["clouds"])
    return last, about, [np.load(file, allow_pickle=False) for file in files]


def test_points_of_all_clouds_give_the_figures_again(run: Path, tmp_path: Path) -> None:
    task = {"name": "segment", "votes": 2, "class_names": ["lower", "upper"]}
    changes: dict[str, Any] = {"modes": ("frozen", "full"), "label_fractions": (1.0, 0.5)}
    figures, about, clouds = kept(run, tmp_path / "kept", task, None, **changes)
    assert (about["task"], about["mode"], about["fraction"], about["votes"]) == ("segment", "full", 1.0, 2)
    assert len(clouds) == 18
    confusion = np.zeros((2, 2), dtype=np.int64)
    for arrays, path in zip(clouds, about["clouds"].values(), strict=True):
        one = cloud(path)
        np.testing.assert_array_equal(arrays["xyz"], one.xyz)
        np.testing.assert_array_equal(arrays["label"], one.labels["segment"])
        assert arrays["prediction"].dtype == np.int64
        confusion += confusion_matrix(arrays["label"], arrays["prediction"], 2)
    again = segmentation_scores(confusion)
    assert {name: figures[name] for name in again} == pytest.approx(again)


def test_parts_are_chosen_among_those_of_the_category(run: Path, tmp_path: Path) -> None:
    figures, about, clouds = kept(run, tmp_path, {"name": "part"}, None, modes=("frozen",))
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for arrays, path in zip(clouds, about["clouds"].values(), strict=True):
        kind = path.split("/")[1]
        own = [2 * KINDS.index(kind), 2 * KINDS.index(kind) + 1]
        assert set(arrays["prediction"].tolist()) <= set(own)
        found[kind].append(shape_iou(arrays["label"], arrays["prediction"], own))
    assert figures == pytest.approx(part_scores(found))


def test_a_few_objects_spread_over_the_test_part(run: Path, tmp_path: Path) -> None:
    (tmp_path / "0042.npz").write_bytes(b"of an earlier time")
    _, about, clouds = kept(run, tmp_path, {"name": "classify"}, 4, modes=("frozen",), seeds=2)
    entries = TinySource().entries()[-18:]
    assert list(about["clouds"].values()) == [entries[row].path for row in (0, 6, 11, 17)]
    for arrays, path in zip(clouds, about["clouds"].values(), strict=True):
        assert arrays["xyz"].shape == (48, 3) and arrays["xyz"].dtype == np.float64
        own = cloud(path).xyz  # of the file, and not of the unit sphere that the network was shown
        assert np.linalg.norm(arrays["xyz"][:, None] - own[None], axis=-1).min(1).max() < 1e-6
        assert arrays["label"].shape == arrays["prediction"].shape == ()
        assert KINDS[int(arrays["label"])] == path.split("/")[1]
        assert 0 <= int(arrays["prediction"]) < 3
