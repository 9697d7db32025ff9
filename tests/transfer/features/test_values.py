"""Which targets are values: what labels say by themselves, what the user says, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.transfer.features.values import number, numbers_of, value_targets


def column(*labels: str, name: str = "speed") -> list[Entry]:
    """One entry for each label; none where that is empty."""
    return [Entry(f"{i}.mp4", labels={name: label} if label else {}) for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("labels", "value"),
    [
        (("0.37", "12.5", "3"), True),
        (("1e-3", "2", "-4"), True),
        (("-.5", "", "+7."), True),
        (("1E3", "2"), True),
        (("0", "1", "10"), False),
        (("1.0", "2.0"), False),  # whole numbers, as pandas writes those of a column with gaps
        (("run", "jump"), False),
        (("run", "2"), False),
        (("0,37", "12,5"), False),
        (("1_0.5", "2"), False),
    ],
)
def test_numbers_with_fractions_are_values(labels: tuple[str, ...], value: bool) -> None:
    assert value_targets(column(*labels), column("1"), {}) == ["speed"] * value


def test_the_training_part_decides_and_the_user_before_it() -> None:
    whole, fractions = column("1", "2"), column("1.5", "2")
    assert value_targets(whole, fractions, {}) == []
    assert value_targets(whole, whole, {"speed": True}) == ["speed"]
    assert value_targets(fractions, fractions, {"speed": False}) == []
    assert value_targets(column("1.5", "fast"), fractions, {"speed": False}) == []
    both = [Entry(f"{i}", labels={"age": "3", "speed": f"{i}.5"}) for i in range(3)]
    assert value_targets(both, both, {"age": True}) == ["age", "speed"]


@pytest.mark.parametrize("text", ["n/a", "nan", "inf", "1e999"])
def test_numbers_mixed_with_text_are_refused_by_example(text: str) -> None:
    told = rf"'speed': its labels mix .*: 1\.mp4 has '{text}', while 0\.mp4 has '0\.5'.*probe\.values\.speed=false"
    with pytest.raises(DataError, match=told):
        value_targets(column("0.5", text), column("1"), {})
    with pytest.raises(DataError, match=told.replace("1", "0", 1)):
        value_targets(column("0.5", "1.5"), column(text), {})
    with pytest.raises(DataError, match=f"probe.values says that it is a value: 1.mp4 has '{text}'"):
        value_targets(column("3", text), column("1"), {"speed": True})


def test_numbers() -> None:
    assert [number(text) for text in ("12.5", "-1e-3", "+7", ".5")] == [12.5, -0.001, 7, 0.5]
    assert np.array_equal(numbers_of(column("1.5", "", "-2"), "speed"), [1.5, np.nan, -2], equal_nan=True)
