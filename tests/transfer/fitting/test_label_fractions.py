"""Who is trained on and who is asked: balanced, nested, disjoint, and the same every time."""

from __future__ import annotations

from collections import Counter

import pytest

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.types import Entry
from st_ssl.transfer.fitting.label_fractions import (
    at_most,
    balanced,
    divide,
    draws,
    fold,
    kept_labels,
    labelled,
    with_validation,
)


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
    parts = divide([*val, *test, *train], group)
    assert (parts.train, parts.val, parts.test) == (train, val, test)
    assert parts.tested == "the split test of the data"
    parts = divide([*train, *val], group)  # with one of both it is tested on
    assert (parts.train, parts.val, parts.test) == (train, [], val)
    assert parts.tested == "the split val of the data: it has no test split"


def test_of_few_labels_all_are_trained_on() -> None:
    labels, own = rows({"a": 120, "b": 79}), rows({"a": 10}, "val")
    for val in (own, []):
        parts = with_validation(labels, val, group, 0.1)
        assert (parts.train, parts.val) == (labels, [])


def test_of_more_some_are_for_choosing() -> None:
    labels = rows({"a": 150, "b": 46, "c": 3, "d": 1})
    parts = with_validation(labels, [], group, 0.1)
    assert Counter(map(group, parts.val)) == {"a": 15, "b": 5, "c": 1}
    assert sorted(e.path for e in parts.train + parts.val) == sorted(e.path for e in labels)
    assert parts.val == balanced(
        labels, 0.1, group, "val", leave_one=True
    )  # those of before there were fractions of it
    assert with_validation(labels, [], group, 0.0).val == []
    parts = with_validation(labels, [], group, 0.9)
    assert len(parts.val) == len(parts.train) == 100


def test_a_validation_split_is_never_larger_than_what_is_trained_on() -> None:
    labels, own = rows({"a": 160, "b": 40}), rows({"a": 4000, "b": 1000}, "val")
    parts = with_validation(labels, own, group, 0.1)
    assert parts.train == labels and Counter(map(group, parts.val)) == {"a": 160, "b": 40}
    assert with_validation(labels, own[:50], group, 0.1).val == own[:50]


def test_at_most_so_many_have_the_shares_of_all() -> None:
    entries = rows(SIZES)
    few, more = (at_most(entries, count, group, 0) for count in (14, 70))
    assert Counter(map(group, few)) == {"a": 10, "b": 4} and len(more) == 70
    assert {e.path for e in few} < {e.path for e in more} and at_most(entries, 143, group, 0) == entries
    assert {e.path for e in at_most(entries[::-1], 14, group, 0)} == {e.path for e in few}
    assert at_most(entries, 14, group, 1) != few
    alike = rows({"a": 10, "b": 10, "c": 10})  # whose turn it is first is no matter of the listing
    assert {e.path for e in at_most(alike[::-1], 10, group, 0)} == {e.path for e in at_most(alike, 10, group, 0)}


@pytest.mark.parametrize(
    ("labels", "seeds", "runs", "times"),
    [
        *[(199, None, 1, 5), (200, None, 1, 3), (199, None, 3, 6), (200, None, 3, 3), (200, None, 2, 4)],
        *[(9, 1, 1, 1), (9, 1, 3, 3), (9, 4, 3, 6)],
    ],
)
def test_how_often_labels_are_drawn(labels: int, seeds: int | None, runs: int, times: int) -> None:
    assert draws(labels, seeds, runs) == times


def test_parts_are_drawn_where_there_are_none() -> None:
    parts = divide(rows(SIZES), group)
    assert parts.tested == "no test split: 25 % of each class drawn by name"
    together = [e.path for part in (parts.train, parts.test) for e in part]
    assert sorted(together) == sorted(e.path for e in rows(SIZES))
    assert Counter(map(group, parts.test)) == {"a": 25, "b": 10, "c": 1}
    with pytest.raises(DataError, match="too few"):
        divide(rows({"a": 3}, "test"), group)


def test_folds() -> None:
    sizes = {f"class{n}": 12 for n in range(8)} | {"small": 2}
    whole = divide(rows(sizes) + rows(sizes, "test"), group)
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
