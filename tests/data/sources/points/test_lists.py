"""Lists of clouds: a path and a label on each line."""

from __future__ import annotations

from pathlib import Path

import pytest

from st_ssl.core.errors import DataError
from st_ssl.data.sources.points import read_source
from st_ssl.data.streams.points import read_cloud
from tests.data.sources.points.test_sources import Seen, hdf5, save, seen, text_of
from tests.data.streams.points.test_scenes import rows, write_pointcept


def listing(root: Path) -> None:
    """A list of a file with a blank in its name, a scene, and an item of a file of many."""
    save(root / "clouds/a chair.npy", rows(5))
    write_pointcept(root / "clouds/scene0000_00")
    hdf5(root / "clouds/many.h5", [0, 0, 0])
    lines = ["# made by hand", "", "clouds/a chair.npy chair", "clouds/scene0000_00 room", "clouds/many.h5#2 3"]
    text_of(root / "list.txt", "\n".join(lines))


def test_a_list(tmp_path: Path) -> None:
    listing(tmp_path)
    lines = (tmp_path / "list.txt").read_text()
    expected: Seen = [
        ("clouds/a chair.npy", "train", "chair"),
        ("clouds/scene0000_00", "train", "room"),
        ("clouds/many.h5#2", "train", "3"),
    ]
    entries = read_source(tmp_path / "list.txt")
    assert seen(tmp_path, entries) == expected
    assert [len(read_cloud(entry.path)) for entry in entries] == [5, 20, 8]
    text_of(tmp_path / "lists/mine.lst", lines.replace("clouds/", ""))
    assert read_source(tmp_path / "clouds", tmp_path / "lists/mine.lst") == entries
    assert read_source(tmp_path / "clouds", tmp_path / "lists/mine.lst", "list") == entries
    plain = "clouds/a chair.npy\nclouds/many.h5#0\n"
    (tmp_path / "list.txt").write_text(plain)
    assert [entry.labels for entry in read_source(tmp_path / "list.txt")] == [{}, {}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing\n\n", "lists no clouds: expected one `path label`"),
        ("clouds/a chair.npy chair\nclouds/many.h5#0\n", "line 2: clouds/many.h5#0 has no label, while line 1 has one"),
        ("a.ply x\nb.ply y\n", r"none of the 2 files listed exists; the first, a.ply, not in .*"),
        ("clouds/#1.ply x\n", r"none of the 1 files listed exists; the first, clouds/#1.ply"),
        ("clouds/#1 x\n", r"none of the 1 files listed exists; the first, clouds/#1"),
        ("a.ply,x\n", r"write a header above it: `path,label`"),
        ("clouds/many.h5#0 x\nclouds/many.h5#0 y\n", "line 2: clouds/many.h5#0 is there twice, first on line 1"),
    ],
)
def test_lists_that_cannot_be_meant(tmp_path: Path, text: str, message: str) -> None:
    listing(tmp_path)
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_source(tmp_path / "list.txt")
