"""Features of windows that slide over whole videos, for temporal action localisation.

One ``.npy`` [N, D] a video, as ActionFormer (Zhang et al. 2022) and OpenTAD (Liu et al. 2024) read them. Windows are
cut in ``windows.py``; what is in memory of a video are a few batches of them and its features, however long it is.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
from st_ssl.transfer.features.array_shards import Part, PartFolder, Stream, write_bytes, write_npy, write_rows
from st_ssl.transfer.features.extract import PARTS, Extraction, FeatureConfig, Progress, claimed_entries
from st_ssl.transfer.features.features import encode_views
from st_ssl.transfer.features.window_loader import Whole, Windows, stream


class SlidingConfig(FeatureConfig):
    """How windows slide. ``window_stride``: frames of the video from one window to the next; ``frame_stride``: those
    from one frame of a window to the next (default: as the encoder was pretrained)."""

    window_stride: int = Field(default=4, gt=0)
    frame_stride: int | None = Field(default=None, gt=0)


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
    source, input = _source(run, config)
    entries = claimed_entries(source, run, config, output)
    parts = PartFolder(output / PARTS, len(entries), 1)
    windows = Windows(source, entries, input, config.batch_size, config.window_stride)
    _Sliding(source, entries, output, parts, device, progress, windows, feature_names(entries)).carry_out(run)


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


@dataclass
class _Sliding(Extraction):
    """Each video is a part: its features have a file of their own, by ``names``, and the part tells of them."""

    windows: Windows
    names: list[str]

    def worthless(self, done: Mapping[int, int]) -> list[int]:
        """All that have no features, broken ones among them, since that may be mended."""
        return [video for video, broken in done.items() if broken or not self._file(video).is_file()]

    def work(self, encoder: Encoder, mine: list[int]) -> None:
        """Each video is written as soon as its last window is done."""
        lost: list[str] = []
        begun: dict[int, list[Tensor]] = {}
        for video, content in stream(self.windows, mine):
            if isinstance(content, View):
                pooled, _ = encode_views(
                    encoder, self.windows.views, content, self.windows.batch_size, self.device, False
                )
                begun.setdefault(video, []).append(pooled)
                continue
            features = begun.pop(video, [])
            if isinstance(content, Whole):
                self.save(video, torch.cat(features), content)
            else:
                self.parts.save(video, Part([], [(video, content)]))
                lost.append(f"{self.entries[video].shown}: {content}")
                self.check_broken(lost)
            self.progress(self.parts.count(), len(self.entries))

    def save(self, video: int, features: Tensor, about: Whole) -> None:
        """Write features [N, D] of a video: from then on it is done."""
        file = self._file(video)
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = features.numpy().astype(np.float32)
        write_npy(file, Stream(rows.dtype, rows.shape, [rows]))
        told: dict[str, Any] = {"windows": len(rows), "frames": about.meta.num_frames, "fps": about.meta.fps}
        told |= {"duration": about.duration, "variable_rate": about.variable, "times": about.times}
        self.parts.save(video, Part([video], [], told=told))

    def assemble(self, run: Path) -> None:
        """Write what there is to tell of all videos."""
        lines, bad = [], []
        for video, entry in enumerate(self.entries):
            part = self.parts.load(video, ())
            bad += [asdict(BadSample.of(entry, reason)) for _, reason in part.bad]
            if part.indices:
                own = {"file": f"{self.names[video]}.npy", "path": entry.path, "split": entry.split}
                known = {"source": entry.source} if entry.source else {}
                segment = {"start": entry.start} if entry.start else {}
                lines.append(own | known | {"labels": entry.labels} | segment | part.told)
        self.check_broken([f"{row['path']}: {row['reason']}" for row in bad])
        if variable := sum(line["variable_rate"] for line in lines):
            told = f"{variable} of {len(lines)} videos have no constant frame rate: no formula of fps finds their rows"
            warnings.warn(f"{told}; `times` in index.jsonl has the second at the middle of each", stacklevel=2)
        if bad:
            write_rows(self.output / "bad_samples.jsonl", bad)
        about = _about(load_encoder(run).embed_dim, self.windows)
        write_bytes(self.output / "sliding.json", [f"{json.dumps(about, indent=2)}\n".encode()])
        write_rows(self.output / "index.jsonl", lines)

    def _file(self, video: int) -> Path:
        return self.output / f"{self.names[video]}.npy"


def _about(dim: int, windows: Windows) -> dict[str, Any]:
    """What those who read the features have to know, also by the names that their configurations have for it.

    Both take row i for what is around frame i × stride + half a window.
    """
    input = windows.input
    extent = (input.num_frames - 1) * input.stride + 1
    return {
        "window": {"num_frames": input.num_frames, "frame_stride": input.stride, "extent": extent},
        "actionformer": {
            "feat_stride": windows.stride,
            "num_frames": extent,
            "default_fps": None,  # each video's own, which its annotations have to tell as in index.jsonl
            "input_dim": dim,
            "file_prefix": None,
            "file_ext": ".npy",
        },
        "opentad": {
            "feature_stride": windows.stride,
            "sample_stride": 1,
            "offset_frames": extent // 2,
            "in_channels": dim,
            "feat_format": "npy",
        },
    }
