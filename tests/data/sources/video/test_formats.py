"""Each format, written tiny and read."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.video import FORMATS, SourceFormat, read_source

Seen = tuple[str, str, str | None, int, int | None, tuple[str, ...]]


@dataclass
class Case:
    """A format, its empty ``files`` and its ``texts``, and what is to be read: (path, split, label, start, number of
    frames, tags). ``listing`` is what ``data.list`` names; ``auto`` whether the looks of it are enough."""

    format: str
    files: str
    texts: dict[str, str]
    expected: list[Seen]
    listing: str | None = "list.txt"
    split: int | None = None
    auto: bool = True
    warns: str | None = None

    def write(self, root: Path, end: str = "\n", start: str = "") -> None:
        for name in self.files.split("\n"):
            if name.strip():
                (root / name.strip()).parent.mkdir(parents=True, exist_ok=True)
                (root / name.strip()).touch()
        for name, text in self.texts.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((start + text.replace("\n", end)).encode())

    def read(self, root: Path, format: str) -> list[Entry]:
        return read_source(root, root / self.listing if self.listing else None, format, self.split)


def whole(path: str, label: str | None = None, split: str = "train", *tags: str) -> Seen:
    return (path, split, label, 0, None, tags)


def part(path: str, start: int, num_frames: int, label: str | None = None, *tags: str) -> Seen:
    return (path, "train", label, start, num_frames, tags)


def seen(root: Path, entries: list[Entry]) -> list[Seen]:
    return [
        (os.path.relpath(e.path, root), e.split, e.labels.get("label"), e.start, e.num_frames, e.tags) for e in entries
    ]


VIDEOS = "a.mp4\nb c.mp4\nd/e.avi"
FOLDERS = "f/1.jpg\ng h/1.jpg"
SSV2 = {
    "train": [
        {"id": "1", "label": "holding a cup", "template": "Holding [something]"},
        {"id": "2", "template": "[A] of B"},
    ],
    "validation": [{"id": 3, "label": "", "template": "Holding [something]", "placeholders": ["cup"]}],
    "test": [{"id": "4"}],
    "labels": {"Holding something": "0", "A of B": "1"},
}
SSV2_SEEN = [
    whole("v/4.webm", None, "test"),
    whole("v/1.webm", "Holding something"),
    whole("v/2.webm", "A of B"),
    whole("v/3.webm", "Holding something", "val"),
]
UCF = {
    "ucfTrainTestlist/classInd.txt": "1 ApplyEyeMakeup\n2 HandstandPushups\n\n",
    "ucfTrainTestlist/trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\n"
    "HandstandPushups/v_HandStandPushups_g08_c01.avi 2\n",
    "ucfTrainTestlist/testlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n",
    "ucfTrainTestlist/trainlist02.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1\n",
    "ucfTrainTestlist/testlist02.txt": "HandStandPushups/v_HandStandPushups_g08_c01.avi\n",
}
UCF_FILES = """UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi
               UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.mp4
               UCF-101/HandstandPushups/v_HandstandPushups_g08_c01.avi"""
HMDB = {
    "splits/brush_hair_test_split1.txt": "April_brush_hair_u_0.avi 1 \nb_brush_hair_1.avi 2 \nc_brush_hair_2.avi 0 \n",
    "splits/ride_bike_test_split1.txt": "#437_How_To_[x];(y)&!_ride_bike_0.avi 1 \nsame.avi 2\n",
    "splits/brush_hair_test_split2.txt": "same.avi 1\nb_brush_hair_1.avi 0 \nc_brush_hair_2.avi 2 \n",
}
HMDB_FILES = """brush_hair/April_brush_hair_u_0.avi
                brush_hair/b_brush_hair_1.avi
                brush_hair/c_brush_hair_2.avi
                brush_hair/same.avi
                ride_bike/same.avi
                ride_bike/#437_How_To_[x];(y)&!_ride_bike_0.avi"""
DIVING = {
    "Diving48_V2_train.json": [
        {"vid_name": "-mmq0PT-u8k_00155", "label": 1, "start_frame": 0, "end_frame": 48},
        {"vid_name": "_8Vy_00000", "label": 0, "start_frame": 0, "end_frame": 70},
    ],
    "Diving48_V2_test.json": [{"vid_name": "2x00_00001", "label": 1, "start_frame": 0, "end_frame": 61}],
}
DIVING_VOCABULARY = [["Back", "15som", "05Twis", "FREE"], ["Reverse", "Dive", "NoTwis", "PIKE"]]
DIVING_FILES = "rgb/-mmq0PT-u8k_00155.mp4\nrgb/_8Vy_00000.mp4\nrgb/2x00_00001.mp4"
KINETICS_FILES = """train/riding_a_bike/-0aB_000059_000069.mp4
                    train/x-Y_000000_000010.mp4
                    val/abseiling/-0ab_000059_000069.mp4"""
CASES = {
    "folder": Case(
        "folder",
        "train/run/a.mp4\nvalidate/b.mp4",
        {},
        [whole("train/run/a.mp4", "run"), whole("validate/b.mp4", None, "val")],
        None,
    ),
    "factors": Case(
        "factors",
        "a.mp4\nb.mp4",
        {"factors.csv": "path,split,label\na.mp4,train,x\nb.mp4,test,y\n"},
        [whole("a.mp4", "x"), whole("b.mp4", "y", "test")],
        None,
    ),
    "list": Case(
        "list",
        VIDEOS,
        {"list.txt": "# c\na.mp4 0\n  b c.mp4\t riding a bike \n\nd/e.avi  3\n"},
        [whole("a.mp4", "0"), whole("b c.mp4", "riding a bike"), whole("d/e.avi", "3")],
    ),
    "list of paths": Case(
        "list",
        VIDEOS + "\n" + FOLDERS,
        {"list.csv": "a.mp4\nb c.mp4\nf\n"},
        [whole("a.mp4"), whole("b c.mp4"), whole("f")],
        "list.csv",
    ),
    "list of folders": Case("list", FOLDERS, {"list.txt": "f 3\ng h 62\n"}, [whole("f", "3"), whole("g h", "62")]),
    "list of folders that end in numbers": Case(
        "list",
        "f 3/1.jpg\nf 4/1.jpg",
        {"list.txt": "f 3 30\nf 4 40\n"},
        [whole("f 3", "30"), whole("f 4", "40")],
        auto=False,
    ),
    "multilabel": Case(
        "multilabel",
        VIDEOS,
        {"list.txt": "a.mp4 1 4 7\nb c.mp4 0\n"},
        [whole("a.mp4", None, "train", "1", "4", "7"), whole("b c.mp4", None, "train", "0")],
        warns="several labels a video .see line 1.; data.format=multilabel says",
    ),
    "videomae": Case(
        "videomae",
        VIDEOS + "\n" + FOLDERS,
        {"list.txt": "a.mp4 0 -1\nb c.mp4 0 -1\nf 1 58\ng h 9601 300\ng h 9901 300\n"},
        [whole("a.mp4"), whole("b c.mp4"), part("f", 0, 58), part("g h", 9600, 300), part("g h", 9900, 300)],
    ),
    "videomae, images from 0": Case(
        "videomae",
        FOLDERS,
        {"list.txt": "g h 0 300\ng h 300 300\nf 1 9\n"},
        [part("g h", 0, 300), part("g h", 300, 300), part("f", 0, 9)],
    ),
    "videomae with labels": Case(
        "videomae", VIDEOS, {"list.txt": "a.mp4 0 -1 5\nb c.mp4 0 -1 6\n"}, [whole("a.mp4", "5"), whole("b c.mp4", "6")]
    ),
    "videomae, parts of videos": Case(
        "videomae",
        VIDEOS,
        {"list.txt": "a.mp4 0 120\na.mp4 120 60\n"},
        [part("a.mp4", 0, 120), part("a.mp4", 120, 60)],
        auto=False,
    ),
    "rawframes": Case(
        "rawframes", FOLDERS, {"list.txt": "f 163 1\ng h 122 40\n"}, [part("f", 0, 163, "1"), part("g h", 0, 122, "40")]
    ),
    "rawframes, several labels": Case(
        "rawframes",
        FOLDERS,
        {"list.txt": "f 163 1 3 5\ng h 122 2\n"},
        [part("f", 0, 163, None, "1", "3", "5"), part("g h", 0, 122, None, "2")],
        warns="several labels a video",
    ),
    "rawframes without labels": Case(
        "rawframes", FOLDERS, {"list.txt": "f 163\ng h 122\n"}, [part("f", 0, 163), part("g h", 0, 122)], auto=False
    ),
    "rawframes_offset": Case(
        "rawframes_offset",
        FOLDERS,
        {"list.txt": "f 12 163 3\nf 0 12 4\ng h 1 122 4\n"},
        [part("f", 12, 163, "3"), part("f", 0, 12, "4"), part("g h", 1, 122, "4")],
    ),
    "csv": Case(
        "csv",
        VIDEOS,
        {
            "t.csv": "id,Filename,class,Subset,tags\n1,a.mp4,run,train,x|y\n"
            "2,b c.mp4,,validation,1 4\n\n3,d/e.avi,jump,,\n"
        },
        [whole("a.mp4", "run", "train", "x", "y"), whole("b c.mp4", None, "val", "1", "4"), whole("d/e.avi", "jump")],
        "t.csv",
        warns="t.csv: columns that are not used: id$",
    ),
    "csv with tabs": Case(
        "csv",
        VIDEOS,
        {"t.tsv": "video\tlabel\nb c.mp4\triding, a bike\n"},
        [whole("b c.mp4", "riding, a bike")],
        "t.tsv",
    ),
    "csv with semicolons": Case(
        "csv", VIDEOS, {"t.csv": 'label;"path"\n"a;b";a.mp4\n'}, [whole("a.mp4", "a;b")], "t.csv"
    ),
    "kinetics": Case(
        "kinetics",
        KINETICS_FILES,
        {
            "annotations/train.csv": "label,youtube_id,time_start,time_end,split,is_cc\n"
            '"riding a bike",-0aB,59,69,train,0\nabseiling,x-Y,0,10,train,0\n',
            "annotations/val.csv": "label,youtube_id,time_start,time_end,split\nabseiling,-0ab,59,69,validate\n",
        },
        [
            whole("train/riding_a_bike/-0aB_000059_000069.mp4", "riding a bike"),
            whole("train/x-Y_000000_000010.mp4", "abseiling"),
            whole("val/abseiling/-0ab_000059_000069.mp4", "abseiling", "val"),
        ],
        None,
    ),
    "kinetics, one table": Case(
        "kinetics",
        KINETICS_FILES,
        {"test.csv": "youtube_id,time_start,time_end,split\nx-Y,0,10,test\ngone,5,15,test\n"},
        [whole("train/x-Y_000000_000010.mp4", None, "test")],
        "test.csv",
        warns="1 of 2 videos are not in .* left out; the first: gone_000005_000015",
    ),
    "ucf101": Case(
        "ucf101",
        UCF_FILES,
        UCF,
        [
            whole("UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "ApplyEyeMakeup"),
            whole("UCF-101/HandstandPushups/v_HandstandPushups_g08_c01.avi", "HandstandPushups"),
            whole("UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.mp4", "ApplyEyeMakeup", "test"),
        ],
        None,
    ),
    "ucf101, second split": Case(
        "ucf101",
        UCF_FILES,
        UCF,
        [
            whole("UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.mp4", "ApplyEyeMakeup"),
            whole("UCF-101/HandstandPushups/v_HandstandPushups_g08_c01.avi", "HandstandPushups", "test"),
        ],
        "ucfTrainTestlist",
        2,
    ),
    "hmdb51": Case(
        "hmdb51",
        HMDB_FILES,
        HMDB,
        [
            whole("brush_hair/April_brush_hair_u_0.avi", "brush_hair"),
            whole("brush_hair/b_brush_hair_1.avi", "brush_hair", "test"),
            whole("ride_bike/#437_How_To_[x];(y)&!_ride_bike_0.avi", "ride_bike"),
            whole("ride_bike/same.avi", "ride_bike", "test"),
        ],
        None,
    ),
    "hmdb51, second split": Case(
        "hmdb51",
        HMDB_FILES,
        HMDB,
        [whole("brush_hair/same.avi", "brush_hair"), whole("brush_hair/c_brush_hair_2.avi", "brush_hair", "test")],
        None,
        2,
    ),
    "ssv2": Case(
        "ssv2",
        "v/1.webm\nv/2.webm\nv/3.webm\nv/4.webm",
        {f"something-something-v2-{name}.json": json.dumps(data, indent=1) for name, data in SSV2.items()},
        SSV2_SEEN,
        None,
    ),
    "ssv2 of today": Case(
        "ssv2",
        "v/1.webm\nv/2.webm\nv/3.webm\nv/4.webm",
        {f"labels/{name}.json": json.dumps(data) for name, data in SSV2.items()},
        SSV2_SEEN,
        None,
    ),
    "diving48": Case(
        "diving48",
        DIVING_FILES,
        {
            **{name: json.dumps(data, indent=1) for name, data in DIVING.items()},
            "Diving48_train.json": "[]",  # the first version counts only where it is alone
            "Diving48_vocab.json": json.dumps(DIVING_VOCABULARY),
        },
        [
            whole("rgb/2x00_00001.mp4", "Reverse_Dive_NoTwis_PIKE", "test"),
            whole("rgb/-mmq0PT-u8k_00155.mp4", "Reverse_Dive_NoTwis_PIKE"),
            whole("rgb/_8Vy_00000.mp4", "Back_15som_05Twis_FREE"),
        ],
        None,
    ),
    "diving48, first version without a vocabulary": Case(
        "diving48",
        DIVING_FILES,
        {f"annotations/{name.replace('_V2', '')}": json.dumps(data) for name, data in DIVING.items()},
        [
            whole("rgb/2x00_00001.mp4", "1", "test"),
            whole("rgb/-mmq0PT-u8k_00155.mp4", "1"),
            whole("rgb/_8Vy_00000.mp4", "0"),
        ],
        None,
    ),
}


def test_every_format_has_a_case() -> None:
    assert set(get_args(SourceFormat)) == {"auto", *FORMATS}
    assert {case.format for case in CASES.values()} == set(FORMATS)
    assert sum(case.format == name for name, case in CASES.items()) == len(FORMATS)


@pytest.mark.parametrize(("end", "start"), [("\n", ""), ("\r\n", "\ufeff")], ids=["unix", "windows"])
@pytest.mark.parametrize("name", CASES)
def test_formats(tmp_path: Path, name: str, end: str, start: str) -> None:
    case = CASES[name]
    case.write(tmp_path, end, start)
    for format in [case.format, "auto"] if case.auto else [case.format]:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            entries = case.read(tmp_path, format)
        assert sorted(seen(tmp_path, entries)) == sorted(case.expected)
        assert seen(tmp_path, entries) == case.expected or case.format == "ssv2"
        guessed = format == "auto" or case.format in ("kinetics", "csv")
        assert len(told) == (1 if case.warns and guessed else 0)
        if told:
            assert case.warns is not None
            with pytest.warns(UserWarning, match=case.warns):
                case.read(tmp_path, format)


@pytest.mark.parametrize("name", ["videomae, parts of videos", "list of folders that end in numbers"])
def test_what_the_looks_do_not_tell_is_not_guessed(tmp_path: Path, name: str) -> None:
    CASES[name].write(tmp_path)
    with pytest.raises(DataError, match=f"line 1: .* say which: .*data.format={CASES[name].format}"):
        CASES[name].read(tmp_path, "auto")
