from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.list_lines import split_lines
from st_ssl.data.sources.video import VIDEO_EXTENSIONS, read_source, target_names
from st_ssl.data.sources.video.base import is_video

REAL = Path(__file__).parents[4] / "../shared/data/video"


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def seen(root: Path, entries: list[Entry]) -> list[tuple[str, str, str | None]]:
    return [(os.path.relpath(entry.path, root), entry.split, entry.labels.get("label")) for entry in entries]


def test_flat_folder(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "a.MKV", "B.avi", ".hidden.mp4", "notes.txt", "é.webm", "a b.mov")
    entries = read_source(tmp_path)
    assert seen(tmp_path, entries) == [(n, "train", None) for n in ("B.avi", "a b.mov", "a.MKV", "b.mp4", "é.webm")]
    assert target_names(entries) == []
    assert all(os.path.exists(entry.path) and isinstance(entry.path, str) for entry in entries)


def test_every_extension_in_any_case(tmp_path: Path) -> None:
    touch(tmp_path, *(f"a{suffix}" for suffix in VIDEO_EXTENSIONS), *(f"b{s.upper()}" for s in VIDEO_EXTENSIONS))
    assert len(read_source(tmp_path)) == 2 * len(VIDEO_EXTENSIONS)
    assert {".mp4", ".mts", ".vob", ".gif"} <= set(VIDEO_EXTENSIONS)


def test_folders_are_labels(tmp_path: Path) -> None:
    touch(tmp_path, "run/a.mp4", "walk/deep/er/b.mp4", "top.mp4", ".cache/c.mp4")
    entries = read_source(tmp_path)
    assert seen(tmp_path, entries) == [
        ("run/a.mp4", "train", "run"),
        ("top.mp4", "train", None),
        ("walk/deep/er/b.mp4", "train", "walk"),
    ]
    assert target_names(entries) == ["label"]


def test_splits_and_labels(tmp_path: Path) -> None:
    touch(tmp_path, "Train/run/a.mp4", "train/b.mp4", "VALIDATION/run/c.mp4", "val/walk/d.mp4", "test/e.mp4")
    assert seen(tmp_path, read_source(tmp_path)) == [
        ("Train/run/a.mp4", "train", "run"),
        ("VALIDATION/run/c.mp4", "val", "run"),
        ("test/e.mp4", "test", None),
        ("train/b.mp4", "train", None),
        ("val/walk/d.mp4", "val", "walk"),
    ]


def test_split_names_below_the_top_are_labels(tmp_path: Path) -> None:
    touch(tmp_path, "train/test/a.mp4", "train.mp4")
    assert seen(tmp_path, read_source(tmp_path)) == [
        ("train.mp4", "train", None),
        ("train/test/a.mp4", "train", "test"),
    ]


def test_folders_of_images_are_videos(tmp_path: Path) -> None:
    touch(tmp_path, "train/run/clip0/img_1.jpg", "train/run/clip0/img_2.JPG", "train/run/clip1/1.png", "clip2/.x")
    touch(tmp_path, "clip2/1.webp", "train/mixed/1.jpg", "train/mixed/notes.txt", "train/mixed/a.mp4")
    assert seen(tmp_path, read_source(tmp_path)) == [
        ("clip2", "train", None),
        ("train/mixed/a.mp4", "train", "mixed"),
        ("train/run/clip0", "train", "run"),
        ("train/run/clip1", "train", "run"),
    ]
    assert seen(tmp_path, read_source(tmp_path / "clip2")) == [("clip2", "train", None)]


def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "real/run/a.mp4", "root/walk/b.mp4")
    (tmp_path / "root/run").symlink_to(tmp_path / "real/run")
    (tmp_path / "root/walk/loop").symlink_to(tmp_path / "root")
    found = seen(tmp_path / "root", read_source(tmp_path / "root"))
    assert found == [("run/a.mp4", "train", "run"), ("walk/b.mp4", "train", "walk")]


def test_the_order_does_not_depend_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/1.mp4", "a-b/2.mp4", "a.mp4", "B/3.mp4", "a/c/4.mp4")
    once = read_source(tmp_path)
    listed = list(os.walk(tmp_path, followlinks=True))
    monkeypatch.setattr(os, "walk", lambda *_, **__: ((f, d[::-1], n[::-1]) for f, d, n in listed[::-1]))
    assert read_source(tmp_path) == once


class Listing(ExitStack):
    """What ``os.scandir`` gives, with the items in an order of ours."""

    def __init__(self, items: Iterable[os.DirEntry[str]]) -> None:
        super().__init__()
        self._items = iter(items)

    def __iter__(self) -> Listing:
        return self

    def __next__(self) -> os.DirEntry[str]:
        return next(self._items)


@pytest.mark.parametrize("backwards", [False, True])
def test_of_several_links_to_a_folder_the_first_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backwards: bool
) -> None:
    touch(tmp_path, "set/walk/a.mp4")
    (tmp_path / "set/run").symlink_to("walk")
    listed = os.scandir

    def scandir(folder: str) -> Listing:
        return Listing(sorted(listed(folder), key=lambda item: item.name, reverse=backwards))

    monkeypatch.setattr(os, "scandir", scandir)
    assert seen(tmp_path / "set", read_source(tmp_path / "set", format="folder")) == [("run/a.mp4", "train", "run")]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "run/a.mp4", "walk/b.mp4", "lost+found/x", ".trash/x")
    listed = os.scandir

    def scandir(folder: str) -> Any:
        if os.path.basename(folder) in ("walk", "lost+found", ".trash"):
            raise PermissionError(13, "Permission denied", folder)
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"the folder .*walk cannot be listed: Permission denied"):
        read_source(tmp_path, format="folder")
    (tmp_path / "walk").rename(tmp_path / ".walk")
    assert seen(tmp_path, read_source(tmp_path, format="folder")) == [("run/a.mp4", "train", "run")]


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    touch(tmp_path, "videos/a.txt", "videos/b.txt", "videos/c.npy", "videos/sub/README")
    with pytest.raises(DataError, match=r"videso does not exist; did you mean 'videos'\?"):
        read_source(tmp_path / "videso")
    (tmp_path / "linked").symlink_to("/mnt/nowhere")
    with pytest.raises(DataError, match=r"linked does not exist: it is a link to /mnt/nowhere, which is not there"):
        read_source(tmp_path / "linked")
    with pytest.raises(DataError, match="nor does the folder"):
        read_source(tmp_path / "no" / "where")
    with pytest.raises(DataError, match=r"looked for mp4 mkv .*; found 2 \.txt, 1 \.npy, 1 without extension"):
        read_source(tmp_path / "videos")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is empty: expected videos"):
        read_source(tmp_path / "empty")
    touch(tmp_path, "one.mp4")
    with pytest.raises(DataError, match="is a video: expected a folder"):
        read_source(tmp_path / "one.mp4")


def test_list_of_paths_and_labels(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "videos/run/a.mp4",
        "videos/with two  spaces.mp4",
        "lists/beside.mp4",
        "absolute.mp4",
        "videos/clip0/1.jpg",
    )
    text = [
        "\ufeff# path label",
        "",
        "run/a.mp4 0",
        "with two  spaces.mp4\t \t1\r",
        "  beside.mp4   jump ",
        f"{tmp_path / 'absolute.mp4'} 0",
        "   # another",
        "missing.mp4 2",
        "clip0 3",
    ]
    listing = tmp_path / "lists/train.txt"
    listing.write_text("\n".join(text), encoding="utf-8")
    entries = read_source(tmp_path / "videos", listing)
    assert [(os.path.relpath(e.path, tmp_path), e.labels["label"]) for e in entries] == [
        ("videos/run/a.mp4", "0"),
        ("videos/with two  spaces.mp4", "1"),
        ("lists/beside.mp4", "jump"),
        ("absolute.mp4", "0"),
        ("videos/missing.mp4", "2"),
        ("videos/clip0", "3"),
    ]
    assert {entry.split for entry in entries} == {"train"}
    assert target_names(entries) == ["label"]


def test_list_without_labels_as_root(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b c.mp4")
    listing = tmp_path / "list.txt"
    listing.write_text("a.mp4\nb c.mp4\n")
    assert seen(tmp_path, read_source(listing)) == [("a.mp4", "train", None), ("b c.mp4", "train", None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 0\n\nb.mp4\n", r"list\.txt, line 3: b\.mp4 has no label, while line 1 has one"),
        ("# x\na.mp4\nb.mp4 1\n", r"list\.txt, line 3: b\.mp4 has a label, while line 2 has none"),
        ("# nothing\n\n", r"list\.txt lists no videos"),
        (
            "x/1.mp4 0\nx/2.mp4 1\n",
            r"list\.txt: none of the 2 files listed exists; the first, x/1\.mp4, not in .*videos",
        ),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "videos/a.mp4", "videos/b.mp4")
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_source(tmp_path / "videos", tmp_path / "list.txt")


def test_list_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"a.mp4 \xff\xfe")
    with pytest.raises(DataError, match="not text in UTF-8"):
        read_source(tmp_path, tmp_path / "list.txt")
    with pytest.raises(DataError, match=r"lsit\.txt does not exist; did you mean 'list\.txt'"):
        read_source(tmp_path, tmp_path / "lsit.txt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        read_source(tmp_path, tmp_path / "folder")


WORD = st.text(
    st.characters(categories=["L", "N", "P", "S"], exclude_characters="#/\\"), min_size=1, max_size=8
).filter(lambda word: not word.lower().endswith(VIDEO_EXTENSIONS))
SPACE = st.text(st.sampled_from(" \t"), min_size=1, max_size=3)


@st.composite
def paths(draw: st.DrawFn) -> str:
    words = draw(st.lists(WORD, min_size=1, max_size=3))
    return "".join(word + draw(SPACE) for word in words[:-1]) + words[-1] + draw(st.sampled_from(VIDEO_EXTENSIONS))


@given(path=paths(), label=WORD, before=st.just("") | SPACE, between=SPACE, after=st.just("") | SPACE)
def test_list_line_round_trip(path: str, label: str, before: str, between: str, after: str) -> None:
    assert split_lines([before + path + between + label + after], is_video)[0][1:3] == (path, (label,))
    assert split_lines([before + path + after], is_video)[0][1:3] == (path, ())


def test_factors(tmp_path: Path) -> None:
    touch(tmp_path, "videos/a.mp4", "videos/b.mp4", "c,d.mp4")
    (tmp_path / "factors.csv").write_text(
        "split,path,x0,shape,y0,x1,y1,motion\n"
        "train,videos/a.mp4,1,circle,2,3,4,left\n"
        "\n"
        "Validation,videos/b.mp4,1,square,2,3,4,\n"
        'test,"c,d.mp4",1,square,2,3,4,up\n'
        ",videos/missing.mp4,1,circle,2,3,4,up\n"
    )
    entries = read_source(tmp_path)
    assert [(os.path.relpath(e.path, tmp_path), e.split, e.labels) for e in entries] == [
        ("videos/a.mp4", "train", {"shape": "circle", "motion": "left"}),
        ("videos/b.mp4", "val", {"shape": "square"}),
        ("c,d.mp4", "test", {"shape": "square", "motion": "up"}),
        ("videos/missing.mp4", "train", {"shape": "circle", "motion": "up"}),
    ]
    assert target_names(entries) == ["shape", "motion"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"factors\.csv, line 1: no column `path`"),
        ("paths,shape\na.mp4,x\n", r"factors\.csv, line 1: no column `path`; .* paths, shape; did you mean 'paths'"),
        ("path,shape,shape\na.mp4,x,y\n", r"factors\.csv, line 1: the column 'shape' is there twice"),
        ("path,shape\na.mp4,x\nb.mp4\n", r"factors\.csv, line 3: 1 fields, expected 2 \(path, shape\)"),
        ("path,shape\na.mp4,x,y\n", r"factors\.csv, line 2: 3 fields, expected 2"),
        ("path,shape\na.mp4,x\n\na.mp4,y\n", r"factors\.csv, line 4: a\.mp4 is there twice, first on line 2"),
        ("path,shape\n,x\n", r"factors\.csv, line 2: the path is empty"),
        ("path,split\na.mp4,trian\n", r"factors\.csv, line 2: split 'trian', expected one of .*did you mean 'train'"),
        ("path,shape\n", r"factors\.csv lists no videos"),
        ("path,shape\nx.mp4,1\n", r"factors\.csv: none of the 1 files listed exists; the first, x\.mp4, not in"),
        ('path,shape\n"a.mp4,1\n', r"factors\.csv, line \d: not a table"),
    ],
)
def test_factors_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "factors.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_source(tmp_path)


def test_a_list_goes_before_factors(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    (tmp_path / "factors.csv").write_text("path,shape\na.mp4,x\n")
    (tmp_path / "list.txt").write_text("a.mp4 7\n")
    assert read_source(tmp_path, tmp_path / "list.txt")[0].labels == {"label": "7"}


@pytest.mark.skipif(not REAL.is_dir(), reason="no real data")
def test_real_folder() -> None:
    entries = read_source(REAL)
    assert len(entries) == 37
    assert {entry.labels["label"] for entry in entries} == {"asl", "clips", "edge", "frames"}
    assert len(read_source(REAL / "asl")) == 20
