"""From video files to normalised clips: ours, its peers, and decoding alone, on the same files in one run."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing, redirect_stdout
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from st_ssl.augment.video import VideoAugment, VideoAugmentConfig
from st_ssl.cli import configured
from st_ssl.cli.benchmark.peers import PEERS
from st_ssl.cli.benchmark.scenes import write_scene
from st_ssl.cli.benchmark.timing import alternate, ratio
from st_ssl.core.errors import ConfigError, DataError, nearest
from st_ssl.core.types import Entry
from st_ssl.data.clip_plans import RandomClips, clip_indices, last_start
from st_ssl.data.loading.sample_dataset import SampleDataset
from st_ssl.data.packs.read_pack import is_pack
from st_ssl.data.packs.video_write import PackConfig, VideoPacker
from st_ssl.data.packs.write_pack import write_pack
from st_ssl.data.streams.video import open_video
from st_ssl.data.video.dataset import VideoDataConfig, VideoSource
from st_ssl.data.views import Views, each, stack

NUM_MADE = 10
DECODING = "decoding alone"
Contestants = dict[str, Callable[[], object]]


class Line(NamedTuple):
    """A line of the table: ``clips`` of a file to ``size`` pixels, ours from a pack of short side ``packed`` if any."""

    size: int = 112
    clips: int = 1
    packed: int | None = None

    @property
    def title(self) -> str:
        """What was asked for, and how to ask for it alone."""
        asked = {"size": self.size, "clips": self.clips, "packed": self.packed}
        options = [f"--{name} {value}" for name, value in asked.items() if value != self._field_defaults[name]]
        packed = f"packed at short side {self.packed}, " if self.packed else ""
        clips = f"{self.clips} clips of a file, " if self.clips > 1 else ""
        return f"{packed}{clips}to {self.size}²" + (f" (`{' '.join(options)}`)" if options else "")


TABLE = (Line(), Line(224), Line(clips=2), Line(packed=128), Line(224, packed=256))


def data(arguments: argparse.Namespace) -> None:
    """Print clips a second of each, one process and one thread unless said, and how they compare, as Markdown."""
    peers = [_peer(text) for text in arguments.peer]
    asked = Line(arguments.size, arguments.clips, arguments.packed)
    if arguments.table and asked != Line():
        raise ConfigError("--table has sizes, clips and packs of its own: leave out --size, --clips and --packed")
    lines = TABLE if arguments.table else (asked,)
    with tempfile.TemporaryDirectory() as folder:
        entries = videos(arguments.root, Path(folder))
        paths = [entry.path for entry in entries]
        contestants: Contestants = {}
        for line in lines:
            contestants[line.title] = _passes(_ours(entries, arguments, line, Path(folder)))
        with redirect_stdout(sys.stderr):  # what peers print on the way
            for size in dict.fromkeys(line.size for line in lines):
                for name, build in peers:
                    contestants[f"{name} {size}"] = build(paths, arguments.frames, arguments.stride, size)
        drawn = random.Random(0)
        contestants[DECODING] = lambda: _decode_alone(paths, arguments.frames, arguments.stride, drawn)
        with redirect_stdout(sys.stderr):
            seconds = alternate(contestants, arguments.runs)
    names = [*(name for name, _ in peers), DECODING]
    print(f"{arguments.frames} frames, stride {arguments.stride}, {len(paths)} videos: clips a second\n")
    print(f"| | st_ssl | {' | '.join(names)} |\n|---{'|---' * (1 + len(names))}|")
    for line in lines:
        print(f"| {line.title} | {' | '.join(_cells(line, names, len(paths), seconds))} |")


def _cells(line: Line, names: list[str], num_videos: int, seconds: dict[str, list[float]]) -> list[str]:
    """Our clips a second; for each other its own, and in how many times our time for a clip it makes one."""
    cells = [f"**{num_videos * line.clips / median(seconds[line.title]):.1f}**"]
    for name in names:
        key = name if name == DECODING else f"{name} {line.size}"
        raw = ", raw" if line.packed and name != DECODING else ""
        times = ratio(seconds, key, line.title) * line.clips
        cells.append(f"{num_videos / median(seconds[key]):.1f}{raw} ({times:.2f} ×)")
    return cells


def _peer(text: str) -> tuple[str, Callable[..., Callable[[], object]]]:
    name, _, value = text.partition("=")
    if name not in PEERS:
        raise ConfigError(f"--peer {text}: no such peer{nearest(name, PEERS)} (there are: {', '.join(PEERS)})")
    return name, PEERS[name](value)


def videos(root: str | None, folder: Path) -> list[Entry]:
    if root is not None:
        entries = [] if is_pack(root) else VideoSource(VideoDataConfig(root=root)).entries()
        if not entries or any(os.path.isdir(entry.path) for entry in entries):
            raise ConfigError(f"--root {root}: expected video files (--packed SIDE makes a pack of them)")
        return list(entries)
    paths = [folder / "videos" / f"{number}.mp4" for number in range(NUM_MADE)]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        write_scene(path, number)
    return [Entry(str(path)) for path in paths]


def _ours(entries: list[Entry], arguments: argparse.Namespace, line: Line, folder: Path) -> SampleDataset:
    """VideoMAE's views of the videos: a corner crop at one of several scales, normalised."""
    root = arguments.root or str(folder / "videos")
    if line.packed:
        root = str(folder / f"pack{line.packed}")
        packing = configured(PackConfig, [], {"short_side": line.packed}, {"short_side": f"--packed {line.packed}"})
        write_pack(entries, Path(root), VideoPacker(packing), progress=False)
    source = VideoSource(VideoDataConfig(root=root))
    clips = RandomClips(arguments.frames, arguments.stride, line.clips)
    config = VideoAugmentConfig(crop="multi_scale", flip=0, jitter=0, grayscale=0, blur=0)
    return source.dataset(source.entries(), Views(each(clips, VideoAugment(config, line.size))))


def _passes(dataset: SampleDataset) -> Callable[[], object]:
    """One pass over the videos at each call, each with clips of its own."""
    rounds = count()

    def run() -> None:
        """Every video once, each a batch of its own: cut as the workers do, finished as the training process does."""
        epoch = next(rounds)
        for index in range(len(dataset)):
            sample = dataset[epoch, index]
            if sample.views is None:
                bad = [f"  {bad.path}: {bad.reason}" for bad in sample.bad]
                raise DataError("\n".join(["no video can be used:", *bad]))
            dataset.views.prepare(stack([sample.views]))

    return run


def _decode_alone(paths: list[str], num_frames: int, stride: int, drawn: random.Random) -> None:
    """The frames of one clip a file, decoded in one thread by seeking and going on: no conversion, no scan."""
    import av

    for path in paths:
        with open_video(path, "pyav") as reader, closing(av.open(path)) as container:
            table: Any = reader
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            last = last_start(num_frames, stride, reader.meta.num_frames)
            wanted = clip_indices(drawn.randint(0, last), num_frames, stride, reader.meta.num_frames)
            pts = table.table.pts
            if pts is None:  # it can only be gone through from the start
                for _ in zip(range(int(wanted[-1]) + 1), container.decode(stream), strict=False):
                    continue
                continue
            container.seek(pts[int(wanted[0])], stream=stream)
            for frame in container.decode(stream):
                if frame.pts >= pts[int(wanted[-1])]:
                    break
