from __future__ import annotations

import random

import pytest

from st_ssl.core.class_order import in_order


@pytest.mark.parametrize(
    "ordered",
    [
        [str(number) for number in range(12)],
        ["-2", "-1", "0", "1.5", "2", "10"],
        ["001", "01", "1", "02"],  # equal values stand in the order of their names
        ["0", "1", "10", "11", "2", "walk"],  # one that is no number: all are names
        ["10_walk", "1_run", "2_jump"],
        ["1", "²"],
        ["1", "9" * 5000],  # more digits than int() takes
        [],
    ],
)
def test_numbers_by_value_and_names_by_name(ordered: list[str]) -> None:
    mixed = random.Random(0).sample(ordered, len(ordered))
    assert in_order([*mixed, *mixed]) == ordered
