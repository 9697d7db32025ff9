"""The layouts of known data sets, tiny: the same few videos under the names that each has for them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from tests.transfer.tiny import write_clip

NAMES = ("Bright", "Dark")
COUNT = 6  # videos of a class


def write_originals(folder: Path) -> list[list[Path]]:
    """The videos of each class, which differ in how light they are."""
    folder.mkdir()
    made = []
    for name, level in zip(NAMES, (200, 60), strict=True):
        files = [folder / f"{name}{i}.mp4" for i in range(COUNT)]
        for i, file in enumerate(files):
            write_clip(file, level + i % 3, 9)
        made.append(files)
    return made


def _put(original: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    os.link(original, place)


def _text(file: Path, lines: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


def held_out(number: int, split: int) -> bool:
    """Whether a video of a class is tested on in a split, as groups of UCF101 are: each in one of the three."""
    return number % 3 == split - 1


def write_ucf101(root: Path, originals: list[list[Path]]) -> None:
    lists = root / "ucfTrainTestlist"
    _text(lists / "classInd.txt", [f"{i} {name}" for i, name in enumerate(NAMES, 1)])
    listed: dict[str, list[str]] = {}
    for label, (name, files) in enumerate(zip(NAMES, originals, strict=True), 1):
        for i, file in enumerate(files):
            video = f"{name}/v_{name}_g{i + 1:02d}_c01.avi"
            _put(file, root / "UCF-101" / Path(video).with_suffix(".mp4"))
            for split in (1, 2, 3):
                part = "test" if held_out(i, split) else "train"
                line = video if part == "test" else f"{video} {label}"
                listed.setdefault(f"{part}list0{split}.txt", []).append(line)
    for file_name, lines in listed.items():
        _text(lists / file_name, lines)


def write_hmdb51(root: Path, originals: list[list[Path]]) -> None:
    for name, files in zip(NAMES, originals, strict=True):
        for i, file in enumerate(files):
            _put(file, root / name / f"{name}_{i}.mp4")
        for split in (1, 2, 3):
            lines = [f"{name}_{i}.avi {2 if held_out(i, split) else 1} " for i in range(COUNT)]
            _text(root / "testTrainMulti_7030_splits" / f"{name}_test_split{split}.txt", lines)


def write_ssv2(root: Path, originals: list[list[Path]]) -> None:
    parts: dict[str, list[dict[str, str]]] = {"train": [], "validation": []}
    for label, (name, files) in enumerate(zip(NAMES, originals, strict=True)):
        for i, file in enumerate(files):
            video = str(100 * label + i)
            _put(file, root / "20bn-something-something-v2" / f"{video}.mp4")
            parts["validation" if held_out(i, 1) else "train"].append({"id": video, "template": f"{name} [something]"})
    labels = {f"{name} something": str(i) for i, name in enumerate(NAMES)}
    for part, items in (*parts.items(), ("labels", labels)):
        _text(root / "labels" / f"{part}.json", [json.dumps(items)])


def write_kinetics(root: Path, originals: list[list[Path]]) -> None:
    head = "label,youtube_id,time_start,time_end,split"
    tables = {"train": [head], "val": [head]}
    for name, files in zip(NAMES, originals, strict=True):
        for i, file in enumerate(files):
            part, video = ("val" if held_out(i, 1) else "train"), f"{name}-{i:05d}"
            _put(file, root / part / name / f"{video}_{i:06d}_{i + 10:06d}.mp4")
            tables[part].append(f"{name},{video},{i},{i + 10},{part}")
    for part, lines in tables.items():
        _text(root / "annotations" / f"{part}.csv", lines)


def write_diving48(root: Path, originals: list[list[Path]]) -> None:
    parts: dict[str, list[dict[str, str | int]]] = {"train": [], "test": []}
    for label, files in enumerate(originals):
        for i, file in enumerate(files):
            video = f"x{label}_{i:05d}"
            _put(file, root / "rgb" / f"{video}.mp4")
            item: dict[str, str | int] = {"vid_name": video, "label": label, "start_frame": 0, "end_frame": 9}
            parts["test" if held_out(i, 1) else "train"].append(item)
    for part, items in parts.items():
        _text(root / f"Diving48_V2_{part}.json", [json.dumps(items)])
    _text(root / "Diving48_vocab.json", [json.dumps([[name, "15som"] for name in NAMES])])


LAYOUTS: dict[str, Callable[[Path, list[list[Path]]], None]] = {
    "ucf101": write_ucf101,
    "hmdb51": write_hmdb51,
    "ssv2": write_ssv2,
    "kinetics": write_kinetics,
    "diving48": write_diving48,
}
