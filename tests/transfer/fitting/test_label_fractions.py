"""Who is trained on and who is asked: balanced, nested, disjoint, and the same every time."""

from __future__ import annotations

from collections import Counter

import pytest

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.types import Entry
from st_ssl.transfer.fitting.label_fractions import balanced, divide, fold, kept_labels, labelled


def rows(sizes: dict[str, int], split: str = "train") -> list[Entry]:
    return [Entry(f"{split}/{n}/{i}", split, {"class": n}) for n, size in sizes.items() for i in range(size)]


def group(entry: Entry) -> str:
    return entry.labels["class"]


SIZES = {"a": 100, "b": 40, "c": 3}


@pytest.mark.parametrize(
    ("share", "counts"),
    [
        (0.01, {"a": 1, "b": 1, "c": 1}),
        (0.05, {"a": 5, "b": 2, "c": 1}),
        (0.1, {"a": 10, "b": 4, "c": 1}),
        (0.2, {"a": 20, "b": 8, "c": 1}),
        (1.0, SIZES),
    ],
)
def test_a_fraction_takes_the_same_share_of_every_class(share: float, counts: dict[str, int]) -> None:
    assert Counter(map(group, balanced(rows(SIZES), share, group, 0))) == counts


def test_fractions_are_nested_and_do_not_depend_on_the_order_of_the_listing() -> None:
    entries = rows(SIZES)
    small, large = (balanced(entries, share, group, 0) for share in (0.1, 0.2))
    paths = {entry.path for entry in large}
    assert {entry.path for entry in small} < paths
    assert {entry.path for entry in balanced(entries[::-1], 0.2, group, 0)} == paths
    assert {entry.path for entry in balanced(entries, 0.2, group, 1)} != paths  # another seed


def test_own_splits_are_kept() -> None:
    train, val, test = (rows(SIZES, split) for split in ("train", "val", "test"))
    parts = divide([*val, *test, *train], group, 0.1)
    assert (parts.train, parts.val, parts.test) == (train, val, test)
    assert parts.tested == "the split test of the data"
    # With one of both it is tested on, and the validation part comes out of the training part.
    parts = divide([*train, *val], group, 0.1)
    assert parts.test == val
    assert parts.tested == "the split val of the data: it has no test split"
    assert Counter(map(group, parts.val)) == {"a": 10, "b": 4, "c": 1}
    assert sorted(e.path for e in parts.train + parts.val) == sorted(e.path for e in train)
    assert divide([*train, *val], group, 0.0).val == []


def test_parts_are_drawn_where_there_are_none() -> None:
    parts = divide(rows(SIZES), group, 0.1)
    assert parts.tested == "no test split: 25 % of each class drawn by name"
    together = [e.path for part in (parts.train, parts.val, parts.test) for e in part]
    assert sorted(together) == sorted(e.path for e in rows(SIZES))
    assert Counter(map(group, parts.test)) == {"a": 25, "b": 10, "c": 1}
    # A class of one stays in the training part.
    assert Counter(map(group, divide(rows({"a": 9, "b": 1}) + rows({"a": 1}, "test"), group, 0.1).train))["b"] == 1
    with pytest.raises(DataError, match="too few"):
        divide(rows({"a": 3}, "test"), group, 0.1)


def test_folds() -> None:
    sizes = {f"class{n}": 12 for n in range(8)} | {"small": 2}
    whole = divide(rows(sizes) + rows(sizes, "test"), group, 0.0)
    folds = [fold(whole, group, 5, 3, 4, number) for number in range(6)]
    for parts in folds:
        classes = set(map(group, parts.train))
        assert len(classes) == 5 and "small" not in classes
        assert Counter(map(group, parts.train)) == dict.fromkeys(classes, 3)
        assert Counter(map(group, parts.test)) == dict.fromkeys(classes, 4)
        assert all(e.split == "train" for e in parts.train) and all(e.split == "test" for e in parts.test)
    assert len({str(parts.train) for parts in folds}) == 6
    assert fold(whole, group, 5, 3, 4, 2) == folds[2]
    with pytest.raises(DataError, match="only 8 of 9 classes"):
        fold(whole, group, 9, 3, 4, 0)
    with pytest.raises(DataError, match=r"Of 5 classes there are 12 or more .*training.* and 12 in the test part"):
        fold(whole, group, 5, 3, 13, 0)


def test_the_target_is_found_or_asked_for() -> None:
    entries = rows({"a": 2, "b": 2})
    unlabelled = Entry("x", "train")
    assert labelled([*entries, unlabelled], None) == ("class", entries)
    both = [Entry("y", "train", {"class": "a", "style": "s"})]
    with pytest.raises(ConfigError, match=r"task.target: is needed \(the data has: class, style\).*=class$"):
        labelled(both, None)
    assert labelled(both, "style") == ("style", both)
    with pytest.raises(ConfigError, match=r"no target named 'motion' \(the data has: class, style\)$"):
        labelled(both, "motion")
    with pytest.raises(ConfigError, match=r"'motion' \(the data has: class; task.target=null takes it\)$"):
        labelled(entries, "motion")
    with pytest.raises(ConfigError, match="the data has no labels: expected a folder for each class"):
        labelled([unlabelled], None)


def test_labelled_points() -> None:
    assert len(set(kept_labels("scene", 0, 1000, 20))) == 20
    assert len(kept_labels("scene", 0, 1000, 0.1)) == 100
    assert kept_labels("scene", 0, 1000, 20) == kept_labels("scene", 0, 1000, 0.1)[:20]
    assert kept_labels("scene", 0, 1000, 20) != kept_labels("scene", 1, 1000, 20)
    assert len(kept_labels("scene", 0, 1000, 1)) == 1 and len(kept_labels("scene", 0, 1000, 1.0)) == 1000
    assert len(kept_labels("scene", 0, 5, 0.01)) == 1 and kept_labels("scene", 0, 0, 20) == []
