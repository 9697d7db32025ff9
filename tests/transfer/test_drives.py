"""Drives through the whole house: pretrained on, resumed, and segmented by the names that they have for points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from st_ssl.core.errors import ConfigError
from st_ssl.data.drives.dataset import DriveSource
from st_ssl.data.synthetic.drives import SEGMENTS, SyntheticDriveConfig, write_dataset
from st_ssl.transfer.fitting.finetune import finetune
from st_ssl.transfer.fitting.label_fractions import divide
from tests.data.drives.made import source_of, write_drives
from tests.runs import CPU, load, metrics, tiny, train, weights
from tests.transfer.clouds import settings

SMALL = {"num_train": 4, "num_val": 0, "num_test": 2, "sweeps": 4, "key_every": 2, "beams": 8, "columns": 90}
INPUT = {
    **{"num_points": None, "unit_sphere": False, "centre": False, "voxel_size": 0.4},
    "attributes": ["intensity"],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = SyntheticDriveConfig.model_validate(SMALL)
    return write_dataset(tmp_path_factory.mktemp("drives"), config, num_workers=1, progress=False)


def run_of(root: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Two steps of two drives each."""
    data = {"name": "drives", "root": str(root)}
    engine = {"epochs": 1, "batch_size": 2, "checkpoint_every": 1}
    return tiny(root, output, "point_contrast", **{"data": data, "input": INPUT, "engine": engine, **changes})


def test_a_run_on_drives_resumes_to_the_bit_and_its_encoder_segments_them(root: Path, tmp_path: Path) -> None:
    train(run_of(root, tmp_path / "whole"))
    train(run_of(root, tmp_path / "parts"), stop_at=1)
    train(run_of(root, tmp_path / "parts"))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)

    config = settings({"name": "segment"}, epochs=1, batch_size=2, modes=("full",), val_share=0.0)
    result = finetune(source_of(root), [tmp_path / "whole"], config, CPU)
    assert result["classes"] == list(SEGMENTS), "as classes.txt calls them"
    assert not result["bad"]


def test_a_run_that_moves_sweeps_is_refused(root: Path, tmp_path: Path) -> None:
    config = load(run_of(root, tmp_path / "run", input=INPUT | {"centre": True}))
    source = DriveSource(config.data)
    with pytest.raises(ConfigError, match=r"input\.unit_sphere=false and input\.centre=false, not false and true"):
        source.evaluation(config.input)


def test_labelled_sweeps_of_a_drive_stay_together(tmp_path: Path) -> None:
    entries = source_of(write_drives(tmp_path, train=8, test=0)).entries()
    parts = divide(entries, lambda entry: "", 0.25)
    assert len(parts.test) == 6 and not {e.path for e in parts.test} & {e.path for e in parts.train}
