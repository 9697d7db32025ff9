"""From video files to normalised clips: ours, its peers, and decoding alone, on the same files in one run."""

from __future__ import annotations

import argparse
import os
import random
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from st_ssl.augment.video import VideoAugment, VideoAugmentConfig
from st_ssl.cli.benchmark.peers import PEERS
from st_ssl.cli.benchmark.scenes import write_scene
from st_ssl.cli.benchmark.timing import alternate, ratio
from st_ssl.data.video.dataset import VideoDataConfig, VideoDataset, VideoSource
from st_ssl.data.video.pack import PackConfig, is_pack, write_pack
from st_ssl.data.video.plans import RandomClips, clip_indices, last_start
from st_ssl.data.video.readers import open_video
from st_ssl.data.video.views import VideoViews, stack_views
from st_ssl.errors import ConfigError, nearest
from st_ssl.types import VideoEntry

NUM_MADE = 10


def data(arguments: argparse.Namespace) -> None:
    """Print clips a second of each, one process and one thread unless said, and how they compare."""
    peers = [_peer(text) for text in arguments.peer]
    with tempfile.TemporaryDirectory() as folder:
        entries = _videos(arguments.root, Path(folder))
        paths = [entry.path for entry in entries]
        shape = (arguments.frames, arguments.stride, arguments.size)
        contestants: dict[str, Callable[[], object]] = {}
        dataset = _ours(entries, arguments, Path(folder))
        rounds = iter(range(1_000_000))
        contestants["st_ssl"] = lambda: _pass(dataset, next(rounds))
        for name, build in peers:
            contestants[name] = build(paths, *shape)
        drawn = random.Random(0)
        contestants["decoding alone"] = lambda: _decode_alone(paths, arguments.frames, arguments.stride, drawn)
        seconds = alternate(contestants, arguments.runs)
    clips = {name: len(paths) * (arguments.clips if name == "st_ssl" else 1) for name in contestants}
    packed = f", st_ssl from a pack of short side {arguments.packed}" if arguments.packed else ""
    title = f"{arguments.frames} frames, stride {arguments.stride}, to {arguments.size}², {len(paths)} videos{packed}"
    table = Table("", "clips/s", "st_ssl, clip for clip", title=title, title_justify="left")
    for name in contestants:
        rate = clips[name] / median(seconds[name])
        times = ratio(seconds, name, "st_ssl") * clips["st_ssl"] / clips[name]
        table.add_row(name, f"{rate:.1f}", "" if name == "st_ssl" else f"{times:.2f} ×")
    Console().print(table)


def _peer(text: str) -> tuple[str, Callable[..., Callable[[], object]]]:
    name, _, value = text.partition("=")
    if name not in PEERS:
        raise ConfigError(f"--peer {text}: no such peer{nearest(name, PEERS)} (there are: {', '.join(PEERS)})")
    return name, PEERS[name](value)


def _videos(root: str | None, folder: Path) -> list[VideoEntry]:
    if root is not None:
        entries = [] if is_pack(root) else VideoSource(VideoDataConfig(root=root)).entries()
        if not entries or any(os.path.isdir(entry.path) for entry in entries):
            raise ConfigError(f"--root {root}: expected video files (--packed SIDE makes a pack of them)")
        return entries
    paths = [folder / f"{number}.mp4" for number in range(NUM_MADE)]
    for number, path in enumerate(paths):
        write_scene(path, number)
    return [VideoEntry(str(path)) for path in paths]


def _ours(entries: list[VideoEntry], arguments: argparse.Namespace, folder: Path) -> VideoDataset:
    """VideoMAE's views of the videos: a corner crop at one of several scales, normalised."""
    root = arguments.root
    if arguments.packed:
        write_pack(entries, folder / "pack", PackConfig(short_side=arguments.packed), progress=False)
        root = str(folder / "pack")
    elif root is None:
        root = str(folder)
    source = VideoSource(VideoDataConfig(root=root))
    clips = RandomClips(arguments.frames, arguments.stride, arguments.clips)
    config = VideoAugmentConfig(crop="multi_scale", flip=0, jitter=0, grayscale=0, blur=0)
    return source.dataset(source.entries(), VideoViews(clips, VideoAugment(config, arguments.size)))


def _pass(dataset: VideoDataset, epoch: int) -> None:
    """Every video once, each a batch of its own: cut as the workers do, finished as the training process does."""
    for index in range(len(dataset)):
        sample = dataset[epoch, index]
        assert sample.views is not None, sample.bad
        dataset.views.prepare(stack_views([sample.views]))


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


def memory(arguments: argparse.Namespace) -> None:
    """Print the resident memory of this process after a tenth of the samples and after all of them."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = _ours(_videos(arguments.root, Path(folder)), arguments, Path(folder))
        marks = {}
        for number in range(arguments.samples):
            sample = dataset[divmod(number, len(dataset))]
            assert sample.views is not None, sample.bad
            if number + 1 in (max(1, arguments.samples // 10), arguments.samples):
                marks[number + 1] = _resident()
    early, late = min(marks), max(marks)
    before, after = marks[early], marks[late]
    print(f"{before / 2**20:.1f} MiB after {early} samples, {after / 2**20:.1f} MiB after {late}: ", end="")
    print(f"{100 * (after / before - 1):+.2f} %")


def _resident() -> int:
    """Bytes of this process in memory (Linux)."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
