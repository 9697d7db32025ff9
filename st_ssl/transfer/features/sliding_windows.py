"""Features of windows that slide over whole videos, for temporal action localisation.

One ``.npy`` [N, D] a video, as ActionFormer (Zhang et al. 2022) and OpenTAD (Liu et al. 2024) read them. Windows are
cut in ``windows.py``; what is in memory of a video are a few batches of them and its features, however long it is.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from st_ssl.core.errors import ConfigError
from st_ssl.core.inputs import InputConfig
from st_ssl.core.types import Entry, View
from st_ssl.data.base import DATA, BadSample
from st_ssl.data.sources.video.base import is_video
from st_ssl.data.video.dataset import VideoSource
from st_ssl.encoders.base import Encoder, describe_encoder, load_encoder
from st_ssl.training import distributed
from st_ssl.transfer.features.array_shards import Stream, write_npy, write_text
from st_ssl.transfer.features.extract import (
    PARTS,
    FeatureConfig,
    Progress,
    check_broken,
    claim,
    settings_of,
    with_data,
)
from st_ssl.transfer.features.features import encode_views
from st_ssl.transfer.features.window_loader import Whole, Windows, stream

_PAUSE = 0.2  # seconds between two looks at what the other processes have done


class SlidingConfig(FeatureConfig):
    """How windows slide. ``window_stride``: frames of the video from one window to the next; ``frame_stride``: those
    from one frame of a window to the next (default: as the encoder was pretrained)."""

    window_stride: int = Field(default=4, gt=0)
    frame_stride: int | None = Field(default=None, gt=0)


@lru_cache(maxsize=1)
def sliding_model() -> type[SlidingConfig]:
    """``SlidingConfig`` with the registered kinds of data."""
    return with_data(SlidingConfig)


def slide(
    run: Path, config: SlidingConfig, output: Path, device: torch.device, progress: Progress = lambda *_: None
) -> None:
    """Write the features that the encoder in the folder ``run`` gives for windows over all videos of ``config.data``.

    - ``NAME.npy`` float32 [N, D]: row i is the pooled feature of the window that begins at frame i × window_stride;
      windows that do not fit are left out, a video shorter than one is played in a loop. See ``feature_names``
    - ``index.jsonl`` a line for each video: file, windows, path, split, labels, frames (their number), fps, duration
      in seconds, whether it has no constant frame rate (``variable_rate``), and ``times``: the second at the middle of
      each row. Where the rate is variable, only ``times`` tell where a row is, and a warning counts such videos. Of a
      packed video also its ``source``, the file that was packed
    - ``sliding.json`` what configurations of ActionFormer and OpenTAD need to be told
    - ``bad_samples.jsonl`` the videos that could not be read, or that hung or crashed their decoder, if any
    - ``extract.json`` the settings: with other ones the work is not gone on with

    Every process of a group calls this and does its share; a video that is done is not done again. ``index.jsonl``
    comes last. Raises what ``extract`` does.
    """
    is_main = distributed.rank() == 0
    source, input = _source(run, config)
    if not is_main:
        distributed.barrier()  # the main process goes first, since it may have to write the data
    entries = source.entries()
    if is_main:
        distributed.barrier()
    records = _Records(output, feature_names(entries))
    if is_main:
        claim(output, settings_of(run, config, entries))
    pending = distributed.gather_objects(records.pending() if is_main else None)[0]
    mine = pending[distributed.rank() :: distributed.world_size()]
    if mine:
        windows = Windows(source, entries, input, config.batch_size, config.window_stride)
        _work(load_encoder(run), windows, mine, records, device, progress)
    if is_main and not (output / "index.jsonl").is_file():
        while (done := records.count()) < len(entries):
            progress(done, len(entries))
            time.sleep(_PAUSE)
        progress(len(entries), len(entries))
        records.assemble(entries, _about(run, input, config), source)


def _source(run: Path, config: SlidingConfig) -> tuple[VideoSource, InputConfig]:
    """The videos, and the clip that the encoder is fed at the frame stride asked for."""
    source, input = DATA.build(config.data), describe_encoder(run)[1]
    if not isinstance(source, VideoSource) or not isinstance(input, InputConfig):
        raise ConfigError("windows slide over videos: expected an encoder of videos, and data.name=video")
    return source, input.model_copy(update={"stride": config.frame_stride or input.stride})


def feature_names(entries: Sequence[Entry]) -> list[str]:
    """The file of each video, without ``.npy``: its own name without extension, which is what annotations call it.

    Where several videos have the same one, all are in the folders that they are in below the one common to all; where
    that is not enough the extension stays, and parts of a video have their first frame behind it.
    """
    paths = [os.path.abspath(entry.shown) for entry in entries]
    common = os.path.commonpath([os.path.dirname(path) for path in paths])
    whole = [Path(os.path.relpath(path, common)).as_posix() for path in paths]
    below = [os.path.splitext(path)[0] if is_video(path) else path for path in whole]
    parts = [
        path if entry.start == 0 and entry.num_frames is None else f"{path}_{entry.start}_{entry.num_frames or 'end'}"
        for path, entry in zip(whole, entries, strict=True)
    ]
    names = ([path.rsplit("/", 1)[-1] for path in below], below, whole, parts)
    return next((found for found in names if len(set(found)) == len(found)), parts)


def _work(
    encoder: Encoder,
    windows: Windows,
    mine: Sequence[int],
    records: _Records,
    device: torch.device,
    progress: Progress,
) -> None:
    """Features of the videos ``mine``, each written as soon as its last window is done."""
    total = len(windows.entries)
    progress(records.count(), total)
    lost: list[str] = []
    begun: dict[int, list[Tensor]] = {}
    for video, content in stream(windows, mine):
        if isinstance(content, View):
            pooled, _ = encode_views(encoder, windows.views, content, windows.batch_size, device, False)
            begun.setdefault(video, []).append(pooled)
            continue
        if isinstance(content, Whole):
            records.save(video, torch.cat(begun.pop(video)), content)
        else:
            begun.pop(video, None)
            records.save_broken(video, content)
            lost.append(f"{windows.entries[video].shown}: {content}")
            check_broken(lost, total, windows.source)
        progress(records.count(), total)


class _Records:
    """Which videos are done: a line about each in a file of its own, which comes after its features."""

    def __init__(self, output: Path, names: list[str]) -> None:
        self.output, self.names, self.folder = output, names, output / PARTS

    def pending(self) -> list[int]:
        """The videos to do: all that have no features, broken ones among them, since that may be mended. For a single
        process, before any works."""
        if (self.output / "index.jsonl").is_file():
            return []
        self.folder.mkdir(exist_ok=True)
        done = {number for number in self._numbers() if self._whole(number)}
        for number in set(self._numbers()) - done:
            self._file(number).unlink()
        return [number for number in range(len(self.names)) if number not in done]

    def save(self, number: int, features: Tensor, about: Whole) -> None:
        """Write features [N, D] of a video: from then on it is done."""
        file = self._features(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = features.numpy().astype(np.float32)
        write_npy(file, Stream(rows.dtype, rows.shape, [rows]))
        told: dict[str, Any] = {"windows": len(rows), "frames": about.meta.num_frames, "fps": about.meta.fps}
        told |= {"duration": about.duration, "variable_rate": about.variable, "times": about.times}
        write_text(self._file(number), [json.dumps(told)])

    def save_broken(self, number: int, reason: str) -> None:
        write_text(self._file(number), [json.dumps({"bad": reason})])

    def count(self) -> int:
        """The number of videos that are done."""
        return len(self._numbers())

    def assemble(self, entries: Sequence[Entry], about: dict[str, Any], source: VideoSource) -> None:
        """Write what there is to tell of all videos, the index last."""
        lines, bad = [], []
        for number, entry in enumerate(entries):
            record = json.loads(self._file(number).read_text())
            if "bad" in record:
                bad.append(asdict(BadSample.of(entry, record["bad"])))
                continue
            own = {"file": f"{self.names[number]}.npy", "path": entry.path, "split": entry.split}
            known = {"source": entry.source} if entry.source else {}
            segment = {"start": entry.start} if entry.start else {}
            lines.append(own | known | {"labels": entry.labels} | segment | record)
        check_broken([f"{row['path']}: {row['reason']}" for row in bad], len(entries), source)
        if variable := sum(line["variable_rate"] for line in lines):
            told = f"{variable} of {len(lines)} videos have no constant frame rate: no formula of fps finds their rows"
            warnings.warn(f"{told}; `times` in index.jsonl has the second at the middle of each", stacklevel=2)
        if bad:
            write_text(self.output / "bad_samples.jsonl", [json.dumps(row) + "\n" for row in bad])
        write_text(self.output / "sliding.json", [json.dumps(about, indent=2) + "\n"])
        write_text(self.output / "index.jsonl", [json.dumps(row) + "\n" for row in lines])
        for number in self._numbers():
            self._file(number).unlink()
        self.folder.rmdir()

    def _whole(self, number: int) -> bool:
        bad = "bad" in json.loads(self._file(number).read_text())
        return not bad and number < len(self.names) and self._features(number).is_file()

    def _numbers(self) -> list[int]:
        return sorted(int(file.stem) for file in self.folder.glob("*.json") if file.stem.isdigit())

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.json"

    def _features(self, number: int) -> Path:
        return self.output / f"{self.names[number]}.npy"


def _about(run: Path, input: InputConfig, config: SlidingConfig) -> dict[str, Any]:
    """What those who read the features have to know, also by the names that their configurations have for it.

    Both take row i for what is around frame i × stride + half a window.
    """
    extent = (input.num_frames - 1) * input.stride + 1
    dim = load_encoder(run).embed_dim
    return {
        "window": {"num_frames": input.num_frames, "frame_stride": input.stride, "extent": extent},
        "actionformer": {
            "feat_stride": config.window_stride,
            "num_frames": extent,
            "default_fps": None,  # each video's own, which its annotations have to tell as in index.jsonl
            "input_dim": dim,
            "file_prefix": None,
            "file_ext": ".npy",
        },
        "opentad": {
            "feature_stride": config.window_stride,
            "sample_stride": 1,
            "offset_frames": extent // 2,
            "in_channels": dim,
            "feat_format": "npy",
        },
    }
