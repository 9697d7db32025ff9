"""What can be wrong with annotations: each mistake has its message, or its warning and a reading."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.video import FORMATS, read_source

HEAD = "label,youtube_id,time_start,time_end,split\n"
LISTS = {
    # name: (format, text of list.txt, message)
    "column missing": (
        "auto",
        "a.mp4 0 -1\nb.mp4 0\n",
        "line 1: `a.mp4 0 -1`, unlike line 2: `b.mp4 0`: no format has",
    ),
    "column too many": (
        "list",
        "a.mp4 0\nb.mp4 0 1\n",
        r"line 2: `b.mp4 0 1`, expected `path label` .data.format=list",
    ),
    "count missing": ("videomae", "a.mp4 0 -1\nb.mp4 0\n", "line 2: `b.mp4 0`, expected `path start num_frames`"),
    "count of another kind": (
        "rawframes",
        "a.mp4 many 1\n",
        "line 1: `a.mp4 many 1`, expected `folder num_frames label`",
    ),
    "count negative": ("rawframes", "f -1 1\n", "line 1: `f -1 1`, expected `folder num_frames label`"),
    "offset negative": ("rawframes_offset", "f -5 20 1\n", "line 1: .* expected `folder offset num_frames label`"),
    "no labels": ("multilabel", "a.mp4 1 2\nb.mp4\n", "line 2: `b.mp4`, expected `path label label"),
    "seconds": (
        "auto",
        "a.mp4 0.5 10.0\n",
        "line 1: `a.mp4 0.5 10.0`: no format has that; expected one of `path label`",
    ),
    "start or label": ("auto", "a.mp4 0 120\n", r"in 2 ways; say which: data.format=multilabel .*data.format=videomae"),
    "count or start": ("auto", "f 30 120\n", r"in 3 ways; say which: data.format=videomae .*=rawframes .*=list"),
    "commas": ("auto", "a.mp4,0\nb.mp4,1\n", "none of the 2 .* for ',' write a header above it: `path,label`"),
    "another label": (
        "auto",
        "a.mp4 0\nb.mp4 1\na.mp4 1\n",
        "line 3: a.mp4 is there twice, first on line 1, with other",
    ),
    "a split": (
        "auto",
        "a.mp4 0 train\nb.mp4 1 train\n",
        "line 1: `a.mp4 0 train` ends with a split: .* `path,label,split`",
    ),
    "two splits": ("auto", "a.mp4 Train\nb.mp4 Test\n", "line 1: `a.mp4 Train` ends with a split"),
    "nothing there": ("auto", "x 9 1\ny 8 1\n", "none of the 2 .* the first, x, not in .*; read as `folder num_frames"),
    "csv: no path": (
        "csv",
        "recording,label\na.mp4,1\n",
        r"line 1: no column `path` .or filename, .*: the columns are recording, label; known .* 'recording' has",
    ),
    "csv: separators": ("csv", "path,label\na.mp4;1\n", r"line 2: 1 fields, expected 2 .path, label."),
    "csv: path empty": ("csv", "path,label\n,1\n", "line 2: the path is empty"),
    "csv: split": ("auto", "path,split\na.mp4,tst\n", "line 2: split 'tst', expected one of .*; did you mean 'test'"),
    "csv: nothing there": ("auto", "path,label\nx.mp4,1\n", "none of the 1 files listed exists; the first, x.mp4"),
    "csv: nothing listed": ("auto", "path,label\n\n", "lists no videos: expected one row for each below the header"),
    "csv: another label": ("auto", "path,label\na.mp4,1\na.mp4,2\n", "line 3: a.mp4 is there twice, first on line 2"),
    "csv: another split": (
        "auto",
        "path,split\na.mp4,train\na.mp4,test\n",
        "line 3: a.mp4 .* other splits .train, test.",
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_and_tables(tmp_path: Path, name: str) -> None:
    format, text, message = LISTS[name]
    (tmp_path / "f").mkdir()
    for video in ("a.mp4", "b.mp4", "f/1.jpg"):
        (tmp_path / video).touch()
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=rf"list\.txt.*{message}"):
        read_source(tmp_path, tmp_path / "list.txt", format)


def test_rows_that_say_the_same_twice_count_once(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "list.txt").write_text("a.mp4 0\nb.mp4 1\na.mp4 0\n\na.mp4 0\n")
    with pytest.warns(UserWarning, match=r"list\.txt: 2 rows repeat another one .* the first: line 3, a\.mp4"):
        entries = read_source(tmp_path, tmp_path / "list.txt")
    assert [(Path(e.path).name, e.labels["label"]) for e in entries] == [("a.mp4", "0"), ("b.mp4", "1")]


UCF = {
    "classInd.txt": "1 A\n2 B\n",
    "trainlist01.txt": "A/v_A_g01_c01.avi 1\n",
    "testlist01.txt": "B/v_B_g01_c01.avi\n",
}
HMDB = {"A_test_split1.txt": "v_A_g01_c01.avi 1\n"}
SSV2 = {
    "something-something-v2-train.json": '[{"id": "x_000000_000010", "template": "[A]"}]',
    "something-something-v2-labels.json": '{"A": "0", "Bee": "1"}',
}
DIVING = {
    "Diving48_V2_train.json": '[{"vid_name": "v_A_g01_c01", "label": 0}]',
    "Diving48_V2_test.json": '[{"vid_name": "v_B_g01_c01", "label": 1}]',
    "Diving48_vocab.json": '[["A", "x"], ["B", "y"]]',
}
KINETICS = {"train.csv": f"{HEAD}A,x,0,10,train\n"}
SETS = {
    # name: (official files, the one that is changed, how (None: it is missing), message)
    "ucf101: number": (UCF, "trainlist01.txt", "A/v_A_g01_c01.avi 3\n", r"list01\.txt, line 1: no class 3 in classInd"),
    "ucf101: other class": (UCF, "trainlist01.txt", "\nA/x.avi 2\n", "line 2: class 2 is B in .* but the folder is A"),
    "ucf101: class": (UCF, "testlist01.txt", "BB/v_B_g01_c01.avi\n", "line 1: no class 'BB' in .*; did you mean 'B'"),
    "ucf101: fields": (UCF, "trainlist01.txt", "A/v.avi 1 1\n", r"line 1: 'A/v.avi 1 1', expected `Class/video.avi`"),
    "ucf101: index": (UCF, "classInd.txt", "1 A\n1 B\n", r"classInd\.txt, line 2: '1 B', expected a new number"),
    "ucf101: no classes": (UCF, "classInd.txt", "\n", r"classInd\.txt names no classes"),
    "ucf101: no list": (UCF, "testlist01.txt", None, r"no testlist01\.txt, for data\.split=1"),
    "ucf101: in both": (
        UCF,
        "testlist01.txt",
        UCF["trainlist01.txt"],
        r"there twice, first in .*trainlist01\.txt, line 1",
    ),
    "ucf101: nothing there": (UCF | {"testlist01.txt": ""}, "trainlist01.txt", "A/z.avi 1\n", "none of the 1 .* z.avi"),
    "hmdb51: flag": (HMDB, "A_test_split1.txt", "v_A_g01_c01.avi 3\n", r"line 1: .*, expected a video and 0, 1 .train"),
    "hmdb51: no flag": (HMDB, "A_test_split1.txt", "v.avi 1\nw.avi\n", r"line 2: 'w.avi', expected a video and 0, 1"),
    "hmdb51: none used": (HMDB, "A_test_split1.txt", "v_A_g01_c01.avi 0\n", "lists no videos"),
    "ssv2: class": (
        SSV2,
        "something-something-v2-train.json",
        '[{"id": "1", "template": "[Be]e."}]',
        "entry 1: 'Bee.' .*; did you mean 'Bee'",
    ),
    "ssv2: no id": (
        SSV2,
        "something-something-v2-train.json",
        '[{"template": "A"}]',
        r"entry 1: expected .\"id\": .*, found",
    ),
    "ssv2: no list": (SSV2, "something-something-v2-train.json", '{"id": 1}', "expected a list of videos, found dict"),
    "ssv2: no JSON": (SSV2, "something-something-v2-train.json", '[\n{"id": 1,}]', r"train\.json, line 2: not JSON"),
    "ssv2: labels": (SSV2, "something-something-v2-labels.json", "[]", r"labels\.json: expected classes .* found list"),
    "ssv2: nothing there": (
        SSV2,
        "something-something-v2-train.json",
        '[{"id": "9"}]',
        "none of the 1 videos .* first: 9",
    ),
    "diving48: class": (
        DIVING,
        "Diving48_V2_test.json",
        '[{"vid_name": "v_B_g01_c01", "label": 2}]',
        r"test\.json, entry 1: no class 2 in Diving48_vocab\.json, which has 0 to 1",
    ),
    "diving48: no test list": (DIVING, "Diving48_V2_test.json", None, r"no Diving48_V2_test\.json, which is official"),
    "diving48: no video": (DIVING, "Diving48_V2_train.json", '[{"label": 0}]', r"entry 1: expected .\"vid_name\": "),
    "diving48: no list": (DIVING, "Diving48_V2_train.json", "{}", "expected a list of videos, found dict"),
    "diving48: vocabulary": (DIVING, "Diving48_vocab.json", "{}", r"vocab\.json: expected a list of classes, found d"),
    "kinetics: seconds": (
        KINETICS,
        "train.csv",
        f"{HEAD}A,x,0,1:10,train\n",
        r"line 2: time_end is '1:10', expected sec",
    ),
    "kinetics: fields": (
        KINETICS,
        "train.csv",
        f"{HEAD}A,x,0,10\n",
        r"line 2: 4 fields, expected 5 .label, youtube_id",
    ),
    "kinetics: split": (
        KINETICS,
        "train.csv",
        f"{HEAD}A,x,0,10,trai\n",
        "line 2: split 'trai', .* did you mean 'train'",
    ),
    "kinetics: nothing there": (KINETICS, "train.csv", f"{HEAD}A,y,0,10,train\n", "none .* first: y_000000_000010"),
}


def write(root: Path, texts: dict[str, str]) -> None:
    for video in ("A/v_A_g01_c01.avi", "B/v_B_g01_c01.avi", "A/x_000000_000010.mp4"):
        (root / video).parent.mkdir(exist_ok=True)
        (root / video).touch()
    for name, text in texts.items():
        (root / name).write_text(text)


@pytest.mark.parametrize("name", SETS)
def test_data_sets(tmp_path: Path, name: str) -> None:
    files, changed, text, message = SETS[name]
    write(tmp_path, files)
    read_source(tmp_path)  # all is well
    if text is None:
        os.remove(tmp_path / changed)
    else:
        (tmp_path / changed).write_text(text)
    with pytest.raises(DataError, match=message):
        read_source(tmp_path)


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("ucf101", r"no classInd\.txt there, nor in ucfTrainTestlist"),
        ("hmdb51", r"no <class>_test_split1\.txt there; nor in testTrainMulti"),
        ("ssv2", r"train\.json, entry 1: expected"),
        ("diving48", r"no Diving48_V2_train\.json there"),
        ("kinetics", "no table with the columns youtube_id, time_start, time_end"),
        ("factors", r"factors\.csv does not exist"),
    ],
)
def test_a_data_set_that_is_not_there(tmp_path: Path, format: str, message: str) -> None:
    write(tmp_path, {"train.json": '[{"file": "x"}]', "train.csv": "path,label\nx.mp4,1\n"})
    assert len(read_source(tmp_path)) == 3  # a folder
    with pytest.raises(DataError, match=message):
        read_source(tmp_path, format=format)


@pytest.mark.parametrize(("files", "message"), [(UCF, r"no trainlist02\.txt"), (HMDB, "there are splits 1")])
def test_an_official_split_that_is_not_there(tmp_path: Path, files: dict[str, str], message: str) -> None:
    write(tmp_path, files)
    with pytest.raises(DataError, match=message):
        read_source(tmp_path, split=2)


def test_a_split_without_meaning_is_told(tmp_path: Path) -> None:
    write(tmp_path, {})
    with pytest.warns(UserWarning, match=r"data\.split=2 is ignored: the format folder has no numbered splits"):
        assert len(read_source(tmp_path, split=2)) == 3


def test_kinetics_clips_that_are_listed_twice_keep_the_first_label(tmp_path: Path) -> None:
    write(tmp_path, {"train.csv": f"{HEAD}A,x,0,10,train\nB,x,0.0,10.0,train\n"})
    with pytest.warns(UserWarning, match=r"1 rows repeat another one .* line 3, x_000000_000010"):
        assert [entry.labels for entry in read_source(tmp_path)] == [{"label": "A"}]


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="cannot be listed: Permission denied"):
        read_source(tmp_path)


def test_formats_and_places_that_do_not_go_together(tmp_path: Path) -> None:
    write(tmp_path, {"list.txt": "A/v_A_g01_c01.avi 1\n"})
    with pytest.raises(ConfigError, match=r"no format 'lst': one of auto, .*; did you mean 'list'"):
        read_source(tmp_path, format="lst")
    for format in ("list", "csv", "rawframes"):
        with pytest.raises(DataError, match="cannot be read: it is a folder; expected a file"):
            read_source(tmp_path, format=format)
    with pytest.raises(DataError, match=r"data\.format=folder reads no list"):
        read_source(tmp_path, tmp_path / "list.txt", "folder")
    with pytest.raises(DataError, match=r"is a file, and the list .* another one"):
        read_source(tmp_path / "list.txt", tmp_path / "list.txt")


WORDS = [
    "a.mp4",
    "f",
    "A/v_A_g01_c01.avi",
    "path",
    "label",
    "youtube_id,time_start,time_end",
    "x,0,inf",
    "-1",
    "0",
    "1",
]
WORDS += ["7", "2.5", "²", "#", '"', "\0", ",", ";", "\t", "\r", "[", "]", "{", "}", '{"id": 1}', '"template"', "null"]
FILES = ["list.txt", "t.csv", "classInd.txt", "trainlist01.txt", "testlist01.txt", "A_test_split1.txt", "train.json"]


@given(
    text=st.lists(st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join), max_size=5).map("\n".join),
    file=st.sampled_from(FILES),
    format=st.sampled_from(["auto", *FORMATS]),
)
def test_any_text_is_read_or_refused(text: str, file: str, format: str) -> None:
    with TemporaryDirectory() as name:
        root = Path(name)
        write(root, {"classInd.txt": "1 A\n", "trainlist01.txt": "A/x.mp4\n", "testlist01.txt": "", file: text})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for listing in (None, root / file):
                refused, entries = "", list[Entry]()
                try:
                    entries = read_source(root, listing, format)
                except DataError as error:
                    refused = str(error)
                assert name in refused or "data.format" in refused or entries
                assert all(isinstance(entry, Entry) for entry in entries)
