"""Splits by the names of folders and of lists, by one rule for videos and clouds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from st_ssl.core.errors import DataError
from st_ssl.data.sources.base import Listing
from st_ssl.data.sources.points import read_source as read_clouds
from st_ssl.data.sources.splits import folder_split, split_in
from st_ssl.data.sources.video import read_source as read_videos
from tests.data.sources.video.test_sources import seen, touch

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

Read = Callable[..., Listing]
BOTH = pytest.mark.parametrize(("read", "end"), [(read_videos, "mp4"), (read_clouds, "npy")], ids=["videos", "clouds"])


def write(root: Path, end: str, text: str) -> None:
    touch(root, *(name.replace("*", f"x.{end}") for name in text.split()))


def splits(listing: Listing) -> dict[str, int]:
    counted: dict[str, int] = listing.summary()["splits"]
    return counted


@pytest.mark.parametrize(
    ("name", "split", "folder"),
    [
        ("train", "train", True),
        ("Training", "train", True),
        ("valid", "val", True),
        ("dev", "val", True),
        ("eval", "val", True),
        ("testing", "test", True),
        ("train_256", "train", True),
        ("videos_val", "val", True),
        ("scans_test", "test", True),
        ("k400_val.csv", "val", False),
        ("ucf101_train_split_1_rawframes.txt", "train", False),
        ("sthv2_val_list_videos.txt", "val", False),
        ("trainlist01.txt", "train", True),
        ("Anomaly_Test.txt", "test", False),
        ("train_test_split.csv", None, False),
        ("bus", None, False),
        ("contest.txt", None, False),
        ("train_station", "train", False),
    ],
)
def test_names(name: str, split: str | None, folder: bool) -> None:
    found = split_in(name)
    assert (found[0] if found else None) == split
    assert folder_split(name) == (split if folder else None)


@BOTH
def test_splits_in_each_class(tmp_path: Path, read: Read, end: str) -> None:
    write(tmp_path, end, "ball/train/* ball/training/1* ball/test/* box/train/* box/valid/* box/1*")
    listing = read(tmp_path)
    assert seen(tmp_path, listing) == [
        (f"ball/test/x.{end}", "test", "ball"),
        (f"ball/train/x.{end}", "train", "ball"),
        (f"ball/training/1x.{end}", "train", "ball"),
        (f"box/1x.{end}", "train", "box"),
        (f"box/train/x.{end}", "train", "box"),
        (f"box/valid/x.{end}", "val", "box"),
    ]
    assert any(
        "the folders test, train, training, valid in each folder at the top are splits" in t for t in listing.told
    )


@BOTH
def test_a_class_may_be_called_train(tmp_path: Path, read: Read, end: str) -> None:
    write(tmp_path, end, "train/* train/1* bus/* plane/*")
    listing = read(tmp_path)
    assert [(split, label) for _, split, label in seen(tmp_path, listing)] == [
        ("train", "bus"),
        ("train", "plane"),
        ("train", "train"),
        ("train", "train"),
    ]
    assert any("the folders train are no splits, since others are beside them" in line for line in listing.told)
    # and one of several classes, in folders below the others
    write(tmp_path, end, "bus/test/*")
    assert splits(read(tmp_path)) == {"train": 5}


@BOTH
def test_folders_beside_splits_of_the_same_classes_are_left_out(tmp_path: Path, read: Read, end: str) -> None:
    write(tmp_path, end, "train/a/* train/b/* val/a/* val/b/* extra/a/* extra/a/1*")
    listing = read(tmp_path)
    assert splits(listing) == {"train": 2, "val": 2}
    assert listing.summary()["classes"]["label"] == {"a": {"train": 1, "val": 1}, "b": {"train": 1, "val": 1}}
    assert any(
        line.split(": ", 1)[1].startswith("the folders train, val are splits; left out") for line in listing.told
    )


@BOTH
def test_splits_below_a_single_folder(tmp_path: Path, read: Read, end: str) -> None:
    write(tmp_path, end, "data/train/a/* data/train/b/* data/test/a/*")
    assert [(split, label) for _, split, label in seen(tmp_path, read(tmp_path))] == [
        ("test", "a"),
        ("train", "a"),
        ("train", "b"),
    ]


def lists(root: Path, end: str, *names: str, label: str = " 1") -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, number in zip(names, range(len(names)), strict=True):
        (root / name).write_text(f"run/{number}.{end} 0\njump fast/{number}.{end}{label}\n")


def samples(root: Path, end: str, count: int = 4) -> None:
    touch(root, *(f"{name}/{i}.{end}" for name in ("run", "jump fast") for i in range(count)))


NAMES = [
    ("train.csv", "val.csv", "test.csv"),
    ("train.txt", "validation.txt", "testing.txt"),
    ("k400_train_list_videos.txt", "k400_val_list_videos.txt", "k400_test_list_videos.txt"),
    ("trainlist01.txt", "vallist01.txt", "testlist01.txt"),
    ("ucf_train_split_1_rawframes.txt", "ucf_val_split_1_rawframes.txt", "ucf_test_split_1_rawframes.txt"),
]


@BOTH
@pytest.mark.parametrize("names", NAMES)
def test_lists_of_splits(tmp_path: Path, read: Read, end: str, names: tuple[str, str, str]) -> None:
    samples(tmp_path / "data", end)
    lists(tmp_path / "lists", end, *names)
    lists(tmp_path / "data" / "annotations", end, *names)
    by_folder = read(tmp_path / "data", tmp_path / "lists")
    assert splits(by_folder) == {"train": 2, "val": 2, "test": 2}
    assert {entry.labels["label"] for entry in by_folder} == {"0", "1"}
    assert any(f"splits by the names of the lists: {names[0]} (train)" in line for line in by_folder.told)
    for name in names:
        assert read(tmp_path / "data", tmp_path / "lists" / name) == by_folder
    inside = read(tmp_path / "data")
    assert inside == by_folder
    assert any(
        f"2 {'videos' if end == 'mp4' else 'clouds'} are in no list and left out" in line for line in inside.told
    )


@BOTH
def test_a_list_alone_is_read_and_told(tmp_path: Path, read: Read, end: str) -> None:
    samples(tmp_path / "data", end)
    lists(tmp_path / "lists", end, "train.txt")
    listing = read(tmp_path / "data", tmp_path / "lists/train.txt")
    assert splits(listing) == {"train": 2}
    assert any("no list of another split is beside it" in line for line in listing.told)
    assert any("no val or test split" in line for line in listing.told)
    assert splits(read(tmp_path / "data", tmp_path / "lists")) == {"train": 2}


@BOTH
def test_lists_of_other_files_are_not_used(tmp_path: Path, read: Read, end: str) -> None:
    samples(tmp_path, end)
    lists(tmp_path, "gone", "train.csv", "test.csv")
    assert splits(read(tmp_path)) == {"train": 8}
    lists(tmp_path, end, "test_scores.csv")
    listing = read(tmp_path)
    assert splits(listing) == {"train": 8}
    assert any("test_scores.csv: not used, as there are no lists of other splits" in line for line in listing.told)
    with pytest.raises(DataError, match=r"train.csv: none of the 2 files listed exists"):
        read(tmp_path, tmp_path / "train.csv")


@BOTH
def test_official_splits_by_number(tmp_path: Path, read: Read, end: str) -> None:
    samples(tmp_path / "data", end)
    for number in (1, 2):
        lists(
            tmp_path / "lists", end, *[f"x_{part}_split_{number}.txt" for part in ("train", "val")][:: 3 - 2 * number]
        )
    first, second = (read(tmp_path / "data", tmp_path / "lists", split=number) for number in (None, 2))
    assert [e.split for e in first] == ["train", "train", "val", "val"] == [e.split for e in second]
    assert {e.path: e.split for e in first} != {e.path: e.split for e in second}
    assert any("lists of data.split=2, of 2 official splits" in line for line in second.told)
    with pytest.raises(DataError, match=r"no lists of data.split=3; there are splits 1, 2"):
        read(tmp_path / "data", tmp_path / "lists", split=3)


@BOTH
def test_lists_that_cannot_be_used(tmp_path: Path, read: Read, end: str) -> None:
    samples(tmp_path / "data", end)
    lists(tmp_path / "lists", end, "a_train.txt", "a_val.txt")
    (tmp_path / "lists/a_val.txt").write_text((tmp_path / "lists/a_train.txt").read_text())
    with pytest.raises(DataError, match=r"a_val.txt, sample 1: .* is there twice, first in .*a_train.txt"):
        read(tmp_path / "data", tmp_path / "lists")
    lists(tmp_path / "lists", end, "b_train.txt", "b_val.txt")
    with pytest.raises(DataError, match=r"several sets of lists, a_train.txt, b_train.txt: data.list=FILE names one"):
        read(tmp_path / "data", tmp_path / "lists")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty cannot be read: it is a folder; expected a file, lists in it"):
        read(tmp_path / "data", tmp_path / "empty")


@BOTH
def test_a_list_of_which_nothing_is_there_is_told(tmp_path: Path, read: Read, end: str) -> None:
    samples(tmp_path / "data", end)
    lists(tmp_path / "lists", end, "train.txt", "val.txt")
    lists(tmp_path / "lists", "gone", "test.txt")
    listing = read(tmp_path / "data", tmp_path / "lists")
    assert splits(listing) == {"train": 2, "val": 2}
    assert any("left out: " in line and "test.txt: none of the 2 files listed exists" in line for line in listing.told)


@BOTH
def test_a_test_list_without_labels_has_those_of_folders(tmp_path: Path, read: Read, end: str) -> None:
    samples(tmp_path / "data", end)
    lists(tmp_path / "lists", end, "train.txt")
    (tmp_path / "lists/test.txt").write_text(f"run/3.{end}\njump fast/3.{end}\n")
    listing = read(tmp_path / "data", tmp_path / "lists")
    assert [(e.split, e.labels["label"]) for e in listing] == [
        ("train", "0"),
        ("train", "1"),
        ("test", "0"),
        ("test", "1"),
    ]


@BOTH
def test_tables_of_the_hub(tmp_path: Path, read: Read, end: str) -> None:
    touch(tmp_path, *(f"{split}/{i}.{end}" for split in ("train", "test") for i in range(2)))
    for split in ("train", "test"):
        (tmp_path / split / "metadata.csv").write_text(f"file_name,label\n0.{end},a\n1.{end},b\n")
    inside = read(tmp_path)
    assert splits(inside) == {"train": 2, "test": 2}
    assert inside.summary()["classes"] == {"label": {"a": {"train": 1, "test": 1}, "b": {"train": 1, "test": 1}}}
    rows = "".join(f'{{"file_name": "{s}/{i}.{end}", "label": "{i}"}}\n' for s in ("train", "test") for i in range(2))
    for split in ("train", "test"):
        (tmp_path / split / "metadata.csv").unlink()
    (tmp_path / "metadata.jsonl").write_text(rows)
    objects = read(tmp_path)
    assert splits(objects) == {"train": 2, "test": 2}
    assert {entry.labels["label"] for entry in objects} == {"0", "1"}
    assert any("splits by the folders train, test in its paths" in line for line in objects.told)
