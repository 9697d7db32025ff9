"""Tables of whoever's making: recognised by their looks, read by names of columns, or refused with what is known."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from st_ssl.core.errors import DataError
from st_ssl.data.sources.points import read_source as read_clouds
from st_ssl.data.sources.video import read_source
from tests.data.sources.video.test_sources import seen, touch

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

TABLES = {
    "ids of classes": "video_path,class_id\nrun/clip_0.mp4,0\njump fast/clip_0.mp4,1\n",
    "bars": "path|label\nrun/clip_0.mp4|0\njump fast/clip_0.mp4|1\n",
    "slashes in front": "clip_name,clip_path,label\nclip_0,/run/clip_0.mp4,0\nclip_0,/jump fast/clip_0.mp4,1\n",
    "backslashes": "file,label\nrun\\clip_0.mp4,0\njump fast\\clip_0.mp4,1\n",
    "names of two words": "Video Name;Action Label\nrun/clip_0.mp4;0\njump fast/clip_0.mp4;1\n",
    "a blank line first": "\nvideo-id\tCategory\nrun/clip_0\t0\njump fast/clip_0\t1\n",
    "no extensions": "video-id\tCategory\nrun/clip_0\t0\njump fast/clip_0\t1\n",
}


def videos(root: Path) -> None:
    touch(root, "run/clip_0.mp4", "jump fast/clip_0.mp4", "run/unlisted.mp4")


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_are_understood(tmp_path: Path, name: str) -> None:
    videos(tmp_path / "videos")
    (tmp_path / "t.txt").write_text(TABLES[name])
    listing = read_source(tmp_path / "videos", tmp_path / "t.txt")
    assert listing.format == "csv"
    assert seen(tmp_path / "videos", listing) == [
        ("run/clip_0.mp4", "train", "0"),
        ("jump fast/clip_0.mp4", "train", "1"),
    ]
    unused = [line for line in listing.told if "not used" in line]
    assert unused == (
        [f"{tmp_path / 't.txt'}: columns that are not used: clip_name"] if name == "slashes in front" else []
    )


def test_ids_are_found_wherever_the_files_are(tmp_path: Path) -> None:
    touch(tmp_path, "a/x1.mp4", "b/x2.webm", "b/twice.mp4", "a/twice.mp4")
    (tmp_path / "train.csv").write_text("id,target\nx1,0\nx2,1\ntwice,1\n")
    found = seen(tmp_path, read_source(tmp_path, tmp_path / "train.csv"))
    assert found == [("a/x1.mp4", "train", "0"), ("b/x2.webm", "train", "1"), ("twice", "train", "1")]
    touch(tmp_path / "clouds", "y1.npy")
    (tmp_path / "t.csv").write_text("cloud id,label\ny1,0\n")
    with pytest.raises(DataError, match=r"no column `path`.*the columns are cloud id, label"):
        read_clouds(tmp_path / "clouds", tmp_path / "t.csv", "csv")
    (tmp_path / "t.csv").write_text("scene_id,label\ny1,0\n")
    assert [Path(entry.path).name for entry in read_clouds(tmp_path / "clouds", tmp_path / "t.csv")] == ["y1.npy"]


def test_other_names_are_an_error_that_names_the_known_ones(tmp_path: Path) -> None:
    videos(tmp_path)
    (tmp_path / "t.csv").write_text("recording,emotion\nrun/clip_0.mp4,0\njump fast/clip_0.mp4,1\n")
    with pytest.raises(DataError) as refused:
        read_source(tmp_path, tmp_path / "t.csv")
    told = str(refused.value)
    assert "the columns are recording, emotion" in told and "known are path, video_name" in told
    assert "'recording' has the names of files" in told and "write a header" not in told
    (tmp_path / "t.csv").write_text("vidio,label\nrun/clip_0.mp4,0\n")
    with pytest.raises(DataError, match="did you mean 'video'"):
        read_source(tmp_path, tmp_path / "t.csv")
    for row in ("gone.mp4,glad", "clip_0,glad"):  # by the extension, and by a file of that name
        (tmp_path / "t.csv").write_text(f"recording,emotion\n{row}\n")
        with pytest.raises(DataError, match="the columns are recording, emotion"):
            read_source(tmp_path / "run", tmp_path / "t.csv")


def test_columns_that_are_not_used_are_told(tmp_path: Path) -> None:
    videos(tmp_path)
    (tmp_path / "t.csv").write_text("path,emotion,age\nrun/clip_0.mp4,glad,3\n")
    listing = read_source(tmp_path, tmp_path / "t.csv")
    assert listing[0].labels == {}
    line = next(line for line in listing.told if "not used" in line)
    assert line.startswith(
        f"{tmp_path / 't.csv'}: columns that are not used: emotion, age. It has no labels: known are"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file_name": "run/clip_0.mp4"\n', r"t.jsonl, line 1: not JSON"),
        ('{"file_name": "run/clip_0.mp4"}\n[1]\n', r"t.jsonl, line 2: expected one object"),
        ('{"label": "x"}\n', r"t.jsonl, line 1: no column `path`"),
    ],
)
def test_json_lines_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    videos(tmp_path)
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        read_source(tmp_path, tmp_path / "t.jsonl")


def test_json_lines(tmp_path: Path) -> None:
    videos(tmp_path)
    text = '{"file_name": "run/clip_0.mp4", "label": 3, "tags": ["a", "b"]}\n\n{"file_name": "run/unlisted.mp4"}\n'
    (tmp_path / "t.jsonl").write_text(text)
    first, second = read_source(tmp_path, tmp_path / "t.jsonl")
    assert (first.labels, first.tags) == ({"label": "3"}, ("a", "b"))
    assert (second.labels, second.tags) == ({}, ())


@pytest.mark.parametrize(("on_disk", "in_list"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_that_look_the_same_are_the_same(tmp_path: Path, on_disk: str, in_list: str) -> None:
    name = "été/café 1.{}"
    spelled = {form: unicodedata.normalize(form, name) for form in ("NFC", "NFD")}
    for read, end in ((read_source, "mp4"), (read_clouds, "npy")):
        root = tmp_path / end
        touch(root, spelled[on_disk].format(end))
        for file, text in (("list.txt", "{} 0\n"), ("t.csv", "path,label\n{},0\n")):
            (root / file).write_text(text.format(spelled[in_list].format(end)), encoding="utf-8")
            listing = read(root, root / file)
            assert [entry.path for entry in listing] == [str(root / spelled[on_disk].format(end))]


def test_a_column_of_splits_is_known_by_its_values(tmp_path: Path) -> None:
    touch(tmp_path, "0.mp4", "1.mp4")
    (tmp_path / "t.csv").write_text("path,label,Fold\n0.mp4,train,Train\n1.mp4,test,Test\n")
    listing = read_source(tmp_path, tmp_path / "t.csv")
    assert [(entry.split, entry.labels["label"]) for entry in listing] == [("train", "train"), ("test", "test")]
    assert listing.told == [f"{tmp_path / 't.csv'}: splits by its column 'Fold', whose values are all names of splits"]


def test_a_summary(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}.mp4" for number in range(12)))
    rows = "".join(f"{number}.mp4,{number},{'test' if number > 9 else 'train'}\n" for number in range(12))
    (tmp_path / "t.csv").write_text(f"path,label,split\n{rows}")
    summary = read_source(tmp_path, tmp_path / "t.csv").summary()
    assert list(summary["classes"]["label"]) == [str(number) for number in range(12)]
    assert summary["classes"]["label"]["11"] == {"test": 1}
    assert (summary["format"], summary["samples"], summary["splits"]) == ("csv", 12, {"train": 10, "test": 2})
    assert (summary["frames"], summary["told"]) == ([], [])
