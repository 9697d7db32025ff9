"""What an encoder is shown of a video when it is evaluated, and what a clip shows without any network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d, adaptive_avg_pool3d

from st_ssl.augment.video import VideoAugment, centre_crop
from st_ssl.core.inputs import InputConfig
from st_ssl.core.random import Key, keyed_rng
from st_ssl.core.types import VideoMeta, View
from st_ssl.data.clip_plans import EvenClips, Plan
from st_ssl.data.streams.base import Recording
from st_ssl.data.views import WHOLE, CutView, Reach, Span, Views, each


def centred_views(input: InputConfig, num_clips: int = 1, span: Span = WHOLE, jitter: float = 0.0) -> Views:
    """What an encoder is shown when it is evaluated: clips at even distances over ``span``, cropped at the centre."""
    plan = EvenClips(input.num_frames, input.stride, num_clips, span, jitter)
    return Views(each(plan, centre_crop(input.size, input.mean, input.std)))


@dataclass(frozen=True)
class MultiViews:
    """Each of the clips seen through ``crops`` squares: 1 is the largest centred one, 3 are those along the longer side
    of the frame, at its middle, its left or top, and its right or bottom (SlowFast, 2019).

    The first view is the centre crop of the clip nearest to the middle of the video; the other crops of that clip
    follow, then the clips farther off, the earlier of two as far. The squares take the place of the crop of
    ``augment``, and are of the same size; it draws nothing. Every frame is decoded once, and goes once through each
    square, however many clips have it; only what comes out is kept.
    """

    clips: Plan
    augment: VideoAugment
    crops: Literal[1, 3] = 1

    @property
    def num_views(self) -> int:
        return self.clips.num_clips * self.crops

    def cut(
        self, recording: Recording, key: tuple[Key, ...], step: int = 0, reach: Reach = lambda _: None
    ) -> list[CutView]:
        """All views of one video, decoded in one pass. Runs in the worker; raises what the reader raises."""
        reader = recording.stream()
        indices = [draw.at for draw in self.clips.draw(keyed_rng(*key, "clips"), reader)]
        boxes = _squares(reader.meta, self.crops)
        wanted = np.unique(np.concatenate(indices))
        seen: dict[tuple[int, ...], list[np.ndarray]] = {tuple(box.tolist()): [] for box in boxes}
        for _, frame in reader.read(wanted.tolist()):
            for box, frames in seen.items():  # of a square video all crops are one
                frames.append(self.augment.cut([frame], {"box": np.array([box])})[0])
        whole = {box: np.stack(frames) for box, frames in seen.items()}
        views = []
        off_middle = np.abs(np.arange(len(indices)) - (len(indices) - 1) / 2)
        for at in np.argsort(off_middle, kind="stable"):
            params = self.augment.sample(keyed_rng(*key, "augment", int(at)), reader.meta, len(indices[at]))
            rows = np.searchsorted(wanted, indices[at])
            for box in boxes:
                own = params | {"box": box[None]}
                views.append(CutView(whole[tuple(box.tolist())][rows], indices[at], {}, own))
        return views

    def prepare(self, views: Sequence[View]) -> list[View]:
        """Normalise a batch on the device that it is on."""
        return [replace(view, content=self.augment.apply(view.clip, view.params)) for view in views]


def _squares(meta: VideoMeta, crops: int) -> np.ndarray:
    """Top, left, height, width of the largest squares of a frame, at its middle, start and end: int64 [crops, 4]."""
    side = min(meta.height, meta.width)
    room = np.array([meta.height - side, meta.width - side])
    corners = np.stack([room // 2, np.zeros_like(room), room][:crops])
    return np.concatenate([corners, np.full_like(corners, side)], axis=1)


def multi_views(
    input: InputConfig, num_clips: int = 1, crops: Literal[1, 3] = 1, clips: Plan | None = None
) -> MultiViews:
    """What an encoder is shown of a video that is tested with several clips and crops: see ``MultiViews``. ``clips``:
    other clips than dense ones at even distances."""
    plan = clips or EvenClips(input.num_frames, input.stride, num_clips)
    return MultiViews(plan, centre_crop(input.size, input.mean, input.std), crops)


def shrunken_pixels(view: View, frames: int = 4, size: int = 8) -> np.ndarray:
    """The trivial baseline: ``frames`` frames at ``size`` × ``size`` pixels, [B, frames × size² × 3] in 0 … 1."""
    clip = view.clip.permute(0, 4, 1, 2, 3)
    small = [adaptive_avg_pool3d(part.float(), (frames, size, size)) for part in clip.split(64)]
    return torch.cat(small).flatten(1).numpy() / 255


def pooled_frames(view: View, size: int = 16) -> np.ndarray:
    """Appearance without time: the mean frame at ``size`` × ``size`` pixels, [B, 3 × size²] in 0 … 1."""
    return _cells(view.clip.numpy().mean(1, dtype=np.float32), size)


def frame_differences(view: View, size: int = 8) -> np.ndarray:
    """Motion without a network, in ``size`` × ``size`` cells, [B, 2 × 3 × size²] in -1 … 1: the mean absolute
    difference of consecutive frames, then the last frame less the first. Zeros for a single frame."""
    found = []
    for start in range(0, len(view), 8):  # so few fit into the caches
        frames = view.clip[start : start + 8].numpy().astype(np.int16)
        moved = np.abs(np.diff(frames, axis=1)).sum(1, dtype=np.float32) / max(1, frames.shape[1] - 1)
        found.append(np.stack([moved, frames[:, -1] - frames[:, 0]], 1))
    return _cells(np.concatenate(found), size)


def _cells(pixels: np.ndarray, size: int) -> np.ndarray:
    """Means over ``size`` × ``size`` cells of float32 pixels [B, …, H, W, 3] in 0 … 255: [B, … × 3 × size²]."""
    planes = torch.from_numpy(pixels).movedim(-1, -3).reshape(len(pixels), -1, *pixels.shape[-3:-1])
    return adaptive_avg_pool2d(planes, size).flatten(1).numpy() / 255
