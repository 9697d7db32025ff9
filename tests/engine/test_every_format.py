"""Each format in its own form, with videos in it: pretrained on for an epoch, and what the probe is then given."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from st_ssl.data.packs.video_write import PackConfig, VideoPacker
from st_ssl.data.packs.write_pack import write_pack
from st_ssl.data.sources.video import FORMATS
from st_ssl.data.video.dataset import VideoSource
from st_ssl.engine.trainer import Trainer
from st_ssl.transfer.features.features import Split, collect_clips
from tests.data.sources.video.test_formats import CASES, Case, part, whole
from tests.runs import CPU, Runtime, load, tiny

pytest.importorskip("av")

FOLDERS = "f/img_00001.jpg\ng h/img_00001.jpg"
IMAGES = 12  # of a folder of images
RUNS = {
    name: CASES[name]
    for name in ("folder", "factors", "list", "multilabel", "csv", "hmdb51", "kinetics", "ssv2", "diving48")
}
RUNS |= {name: CASES[name] for name in ("ucf101", "ucf101, second split")}
RUNS |= {
    "folder of folders of images": Case(
        "folder",
        "run/f/1.jpg\nrun/g/1.jpg\njump/h/1.jpg",
        {},
        [whole("jump/h", "jump"), whole("run/f", "run"), whole("run/g", "run")],
        None,
    ),
    "videomae": Case(
        "videomae",
        "a.mp4\nb c.mp4\n" + FOLDERS,
        {"list.csv": "a.mp4 0 -1\nb c.mp4 0 10\nb c.mp4 10 14\nf 1 12\ng h 5 8\n"},
        [whole("a.mp4"), part("b c.mp4", 0, 10), part("b c.mp4", 10, 14), part("f", 0, 12), part("g h", 4, 8)],
        "list.csv",
    ),
    "rawframes": Case(
        "rawframes", FOLDERS, {"list.txt": "f 12 1\ng h 8 40\n"}, [part("f", 0, 12, "1"), part("g h", 0, 8, "40")]
    ),
    "rawframes_offset": Case(
        "rawframes_offset",
        FOLDERS,
        {"list.txt": "f 4 8 3\nf 0 9 4\ng h 1 8 4\n"},
        [part("f", 4, 8, "3"), part("f", 0, 9, "4"), part("g h", 1, 8, "4")],
    ),
}


def fill(case: Case, root: Path, videos: Path) -> None:
    """The files of ``case``, each a video of its own, or the first image of a folder of 12."""
    case.write(root)
    originals = sorted(videos.iterdir())
    for number, name in enumerate(filter(None, (name.strip() for name in case.files.split("\n")))):
        file = root / name
        file.unlink()
        if file.suffix != ".jpg":
            os.link(originals[number % len(originals)], file)
            continue
        for index in range(IMAGES):
            colour = np.full((48, 64, 3), 20 * index, dtype=np.uint8)
            Image.fromarray(colour).save(file.with_name(file.name.replace("1.jpg", f"{index + 1}.jpg")))


def pretrain_and_probe(data: dict[str, object], root: Path, case: Case, output: Path) -> None:
    config = load(tiny(root, output, "videomae", data=data, engine={"epochs": 1, "batch_size": 1}))
    trainer = Trainer(config, Runtime(CPU))
    used: list[int] = []
    update = trainer._update

    def watched(batch: object) -> object:
        used.extend(batch.indices.tolist())  # type: ignore[attr-defined]
        return update(batch)  # type: ignore[arg-type]

    trainer._update = watched  # type: ignore[assignment, method-assign]
    trainer.fit()
    training = [row for row in case.expected if row[1] == "train"]
    assert sorted(used) == list(range(len(trainer.entries)))
    assert len(used) == len(training)
    assert not (output / "bad_samples.jsonl").exists()
    assert (output / "encoder.safetensors").is_file()

    assert isinstance(trainer.source, VideoSource)
    entries = trainer.source.entries()
    classes = sorted({row[2] for row in case.expected if row[2] is not None})
    clips = collect_clips(trainer.source, Split(entries), {"label": classes}, config.input, 0)
    assert not clips.bad
    given = [None if code < 0 else classes[code] for code in clips.targets["label"]]
    names = [(os.path.relpath(root / (entry.source or entry.path), root), entry.start) for entry in clips.entries]
    found = [
        (*name, entry.split, label, entry.tags) for name, entry, label in zip(names, clips.entries, given, strict=True)
    ]
    assert Counter(found) == Counter((row[0], row[3], row[1], row[2], row[5]) for row in case.expected)


def test_every_format_is_run() -> None:
    assert {case.format for case in RUNS.values()} == set(FORMATS)


@pytest.mark.filterwarnings("ignore:several labels a video", "ignore:.*are not in .* left out")
@pytest.mark.parametrize("name", RUNS)
def test_an_epoch_of_every_format(tmp_path: Path, videos: Path, name: str) -> None:
    case, root = RUNS[name], tmp_path / "data"
    fill(case, root, videos)
    listing = str(root / case.listing) if case.listing else None
    data: dict[str, object] = {"list": listing, "format": case.format, "split": case.split}
    pretrain_and_probe(data, root, case, tmp_path / "run")


def test_an_epoch_of_a_pack(tmp_path: Path, videos: Path) -> None:
    case, root = RUNS["csv"], tmp_path / "data"
    fill(case, root, videos)
    assert not write_pack(
        case.read(root, "csv"), tmp_path / "pack", VideoPacker(PackConfig(short_side=32)), progress=False
    )
    sources = Case(case.format, case.files, case.texts, case.expected)
    pretrain_and_probe({"root": str(tmp_path / "pack")}, root, sources, tmp_path / "run")
