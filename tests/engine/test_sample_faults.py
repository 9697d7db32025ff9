"""What is wrong with one sample ends as one line of bad_samples.jsonl, never as an error of the run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.core.config import merge
from st_ssl.core.errors import DataError, MissingDependencyError, SampleError, sample_fault
from tests.runs import tiny, train

XYZ = np.random.default_rng(0).uniform(0, 2, (200, 3))
UTM = XYZ + np.array([512_345.25, 5_403_210.5, 250])
RGB = np.random.default_rng(1).integers(0, 256, (200, 3)).astype(np.float64)
WHOLE = {"augment": {"crop": "none"}}  # else the stray point may be cropped away
SPARSE: dict[str, Any] = {"name": "point_contrast", "method": WHOLE}
POINTS: dict[str, Any] = {"name": "point_mae"}
ALL_POINTS = POINTS | {"input": {"num_points": None}}
COLOURED = SPARSE | {"input": {"attributes": ["color"]}}
Write = Callable[[Path], Any]
FAULTS: dict[str, tuple[dict[str, Any], Write, str]] = {
    "off the grid": (SPARSE, lambda file: np.savez(file, points=np.vstack([UTM, [[0, 0, 0]]])), "stray points"),
    "too few for patches": (ALL_POINTS, lambda file: np.savez(file, points=XYZ[:9]), "encoder.num_groups"),
    "colours of two columns": (POINTS, lambda file: np.savez(file, points=XYZ, color=RGB[:, :2]), r"\[200, 2\]"),
    "colours of other points": (POINTS, lambda file: np.savez(file, points=XYZ, color=RGB[:9]), "for 200 points"),
    "no colours": (COLOURED, lambda file: np.savez(file, points=XYZ), "has no color"),
    "colours of another range": (
        COLOURED,
        lambda file: np.savez(file, points=XYZ, color=RGB * 99.0),
        "data.color_range",
    ),
    "labels of other points": (POINTS, lambda file: np.savez(file, points=XYZ, label=range(9)), "for 200 points"),
    "labels beyond 64 bits": (POINTS, lambda file: np.savez(file, points=XYZ, label=XYZ[:, 0] * 1e30), "64 bits"),
    "columns of another number": (POINTS, lambda file: np.savez(file, points=np.hstack([XYZ, XYZ])), "has 6 columns"),
    "nothing finite": (POINTS, lambda file: np.savez(file, points=XYZ * np.nan), "none of its 200 points is finite"),
    "numbers beyond floats": (SPARSE, lambda file: np.savez(file, points=XYZ * 1e14), "input.voxel_size"),
    "no archive": (POINTS, lambda file: file.write_bytes(b"PK\3\4nothing"), "not a file of arrays"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_of_a_cloud_is_one_line(tmp_path: Path, case: str) -> None:
    changes, write, reason = FAULTS[case]
    (tmp_path / "clouds").mkdir()
    for number in range(11):
        shifted = XYZ[number:] + np.array([number, 0, 0])
        np.savez(tmp_path / "clouds" / f"{number:02}.npz", points=shifted, color=RGB[number:])
    write(tmp_path / "clouds" / "bad.npz")
    settings = {key: value for key, value in changes.items() if key != "name"}
    engine = {"epochs": 2, "checkpoint_every": 100}
    config = tiny(tmp_path / "clouds", tmp_path / "run", changes["name"], engine=engine)
    trainer = train(merge(config, settings))
    assert trainer.step == trainer.total_steps
    (row,) = (json.loads(line) for line in (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines())
    assert row["path"].endswith("bad.npz")
    assert re.search(reason, row["reason"]), row["reason"]


@pytest.mark.parametrize("error", [ZeroDivisionError("by 0"), RecursionError(), MemoryError(), IndexError("7")])
def test_whatever_a_reader_raises_names_its_sample(error: Exception) -> None:
    with pytest.raises(SampleError, match=r"^a\.ply: ") as caught, sample_fault("a.ply"):
        raise error
    assert caught.value.path == "a.ply"


@pytest.mark.parametrize(
    "error", [DataError("all"), MissingDependencyError("av", "video", "x"), OSError(28, "No space")]
)
def test_what_is_not_the_samples_is_no_fault_of_it(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, sample_fault("a.ply"):
        raise error
    assert caught.value is error
