"""Testing with several clips and crops: all views of a video in one pass and few batches, against one by one."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from st_ssl.cli.benchmark.data import videos
from st_ssl.cli.benchmark.timing import alternate, ratio
from st_ssl.core.random import keyed_seed
from st_ssl.core.types import View
from st_ssl.data.streams.base import Recording
from st_ssl.data.streams.video import open_video
from st_ssl.data.video.views import MultiViews, multi_views
from st_ssl.data.views import CutView, stack
from st_ssl.encoders.base import InputConfig
from st_ssl.encoders.video_vit import VideoViT, VideoViTConfig

NUM_CLASSES = 400
SMALL = {"dim": 96, "depth": 6, "heads": 3}  # the quickstart's

Plan = Sequence[tuple[np.ndarray, dict[str, np.ndarray]]]
"""Of each view its frame indices and the parameters of its crop."""


class Recogniser(nn.Module):
    """Scores [B, K] of clips."""

    def __init__(self, variant: str, input: InputConfig) -> None:
        super().__init__()
        shape = SMALL if variant == "small" else {"variant": variant}
        self.encoder = VideoViT(VideoViTConfig.model_validate(shape), input)
        self.head = nn.Linear(self.encoder.embed_dim, NUM_CLASSES)

    def forward(self, clip: Tensor) -> Tensor:
        return self.head(self.encoder(clip).pooled)


@torch.inference_mode()
def views(arguments: argparse.Namespace) -> None:
    """Print the time of a test video each way, that of the network alone, and how far the scores differ."""
    input = InputConfig(num_frames=arguments.frames, stride=arguments.stride, size=arguments.size)
    declared = multi_views(input, arguments.clips, arguments.crops)
    torch.manual_seed(keyed_seed("benchmark", "views"))
    model, device = Recogniser(arguments.variant, input).to(arguments.device).eval(), arguments.device
    found: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        plans = {entry.path: planned(entry.path, declared) for entry in videos(arguments.root, Path(folder))}

        def over(name: str, scores: Callable[[str], Tensor]) -> Callable[[], None]:
            return lambda: found.update({name: torch.cat([scores(path).cpu() for path in plans])})

        clips = torch.zeros(arguments.batch, 3, input.num_frames, input.size, input.size, device=device)
        seconds = alternate(
            {
                "together": over("together", lambda path: together(path, declared, model, arguments.batch, device)),
                "one by one": over("one by one", lambda path: one_by_one(path, plans[path], declared, model, device)),
                "network alone": over("network", lambda _: alone(model, clips, declared.num_views)),
            },
            arguments.runs,
        )
    what = f"{arguments.clips} × {arguments.crops} views of {input.num_frames} × {input.size}², stride {input.stride}"
    how = f"batch {arguments.batch}, {torch.get_num_threads()} threads, {device}"
    print(f"ViT {arguments.variant}, {what}, {len(plans)} videos, {how}")
    for name, values in seconds.items():
        each = median(values) / len(plans)
        print(f"{name:13} {each * 1e3:8.1f} ms a video, {declared.num_views / each:7.1f} views/s")
    print(f"one by one takes {ratio(seconds, 'one by one', 'together'):.2f} times as long as together")
    print(f"largest difference of a score: {(found['together'] - found['one by one']).abs().max():.1e}")


def planned(path: str, declared: MultiViews) -> Plan:
    """What is to be cut, in the order of ``declared``."""
    with open_video(path) as reader:
        return [(view.at, view.params) for view in declared.cut(Recording.of(reader), (0,))]


def together(path: str, declared: MultiViews, model: nn.Module, batch: int, device: str = "cpu") -> Tensor:
    """Scores [V, K] of all views: the video is opened and decoded once, ``batch`` views are fed at a time."""
    with open_video(path) as reader:
        first, *others = stack([declared.cut(Recording.of(reader), (0,))])
    raw = first.joined(others)
    parts = [raw.part(start, start + batch) for start in range(0, len(raw), batch)]
    return torch.cat([_scores(declared, part, model, device) for part in parts])


def one_by_one(path: str, plan: Plan, declared: MultiViews, model: nn.Module, device: str = "cpu") -> Tensor:
    """The same, with the video opened, the clip decoded and the network fed anew for each view."""
    found = []
    for index, params in plan:
        with open_video(path) as reader:
            frames = dict(reader.read(np.unique(index).tolist()))
        cut = CutView(declared.augment.cut([frames[int(i)] for i in index], params), index, {}, params)
        found.append(_scores(declared, stack([[cut]])[0], model, device))
    return torch.cat(found)


def alone(model: nn.Module, clips: Tensor, count: int) -> Tensor:
    """The network on ``count`` clips that need no decoding."""
    return torch.cat([model(clips[: min(len(clips), count - at)]) for at in range(0, count, len(clips))])


def _scores(declared: MultiViews, raw: View, model: nn.Module, device: str) -> Tensor:
    moved = replace(raw, content=raw.content.to(device))
    return model(declared.prepare([moved])[0].clip)
