"""Few-shot folds that the data have, of several settings beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.types import Entry
from st_ssl.data.points.dataset import PointDataConfig, PointSource
from st_ssl.encoders.base import random_encoder, save_encoder
from st_ssl.transfer.fitting.finetune import finetune
from st_ssl.transfer.probes.few_shot import FewShot, FewShotConfig
from tests.data.streams.points.test_pickled import write_few_shot
from tests.transfer.clouds import INPUT, TinyEncoderConfig, tiny_registered
from tests.transfer.fitting.test_finetune import settings

__all__ = ["tiny_registered"]

FOLDS = [*(("5way_1shot", number, 5) for number in range(11)), ("10way_1shot", 0, 10)]
ENTRIES = [
    Entry(f"{setting}/{number}.pkl#{i}", split, {"label": str(label), "fold": f"{setting}/{number}"})
    for setting, number, ways in FOLDS
    for i, split in enumerate(("train", "test", "test"))
    for label in range(ways)
]


def task(**settings: Any) -> FewShot:
    return FewShot(FewShotConfig.model_validate(settings))


@pytest.mark.parametrize("repeat", [0, 2, 10])
def test_the_folds_of_the_setting_asked_for_are_taken_in_their_order(repeat: int) -> None:
    parts = task(ways=5, shots=1, folds=11).parts(ENTRIES, repeat)
    assert {entry.path.partition("#")[0] for entry in (*parts.train, *parts.test)} == {f"5way_1shot/{repeat}.pkl"}
    assert (len(parts.train), len(parts.val), len(parts.test)) == (5, 0, 10)
    assert len(task(ways=10, shots=1, folds=1).parts(ENTRIES, 0).train) == 10


def test_settings_that_the_data_have_not() -> None:
    with pytest.raises(DataError, match=r"task.folds: 2 are asked for, and the data has 1"):
        task(ways=10, shots=1, folds=2).parts(ENTRIES, 0)  # before anything is trained
    with pytest.raises(ConfigError, match=r"task.ways=5 task.shots=10: the fold '.*way_1shot/0' of the data has"):
        task(ways=5, shots=10).parts(ENTRIES, 0)


def test_pickled_folds_are_fine_tuned_on(tmp_path: Path) -> None:
    write_few_shot(tmp_path / "ModelNetFewShot")
    save_encoder(random_encoder(TinyEncoderConfig(), INPUT, 7), tmp_path / "run")
    source = PointSource(PointDataConfig(root=str(tmp_path / "ModelNetFewShot"), num_workers=0))
    few_shot = {"name": "few_shot", "ways": 3, "shots": 1, "folds": 2}
    result = finetune(source, [tmp_path / "run"], settings(few_shot, modes=("full",), epochs=1), torch.device("cpu"))
    assert result["results"][0]["repeats"] == 2 and result["classes"] == ["0", "1", "2"]
    assert result["sizes"] == {"train": 3, "val": 0, "test": 6}
    assert len(result["results"][0]["metrics"]["accuracy"]["values"]) == 2 and result["bad"] == []
