"""Few-shot folds that the data have, of several settings beside each other."""

from __future__ import annotations

from typing import Any

import pytest

from st_ssl.errors import ConfigError, DataError
from st_ssl.transfer.few_shot import FewShot, FewShotConfig
from st_ssl.types import Entry

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
    parts = task(ways=5, shots=1, folds=11).parts(ENTRIES, 0.1, repeat)
    assert {entry.path.partition("#")[0] for entry in (*parts.train, *parts.test)} == {f"5way_1shot/{repeat}.pkl"}
    assert (len(parts.train), len(parts.val), len(parts.test)) == (5, 0, 10)
    assert len(task(ways=10, shots=1, folds=1).parts(ENTRIES, 0.0, 0).train) == 10


def test_settings_that_the_data_have_not() -> None:
    with pytest.raises(DataError, match=r"task.folds: 2 are asked for, and the data has 1"):
        task(ways=10, shots=1, folds=2).parts(ENTRIES, 0.0, 1)
    with pytest.raises(ConfigError, match=r"task.ways=5 task.shots=10: the fold '.*way_1shot/0' of the data has"):
        task(ways=5, shots=10).parts(ENTRIES, 0.0, 0)
