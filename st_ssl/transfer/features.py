"""From a data set to what a probe works on: train and test clips, their targets, and the features of an encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from st_ssl.augment.video import centre_crop
from st_ssl.data.base import BadSample, DataSource
from st_ssl.data.loader import build_loader
from st_ssl.data.video.plans import EvenClips
from st_ssl.data.video.sources import target_names
from st_ssl.data.video.views import VideoViews
from st_ssl.encoders.base import Encoder, InputConfig
from st_ssl.errors import DataError
from st_ssl.random import keyed_rng, keyed_seed
from st_ssl.types import RawView, VideoEntry

INSTANCE = "video"
"""The target where there are no labels: which video a clip was cut from."""


@dataclass
class Split:
    """Some videos, and the share of each in time that is looked at."""

    entries: list[VideoEntry]
    span: tuple[float, float] = (0.0, 1.0)


@dataclass
class ClipSet:
    """Clips of N videos ready for an encoder: ``raw.frames`` uint8 [N × ``num_clips``, T, H, W, 3], video by video;
    ``targets`` name to int64 [N], -1 for no label; ``metadata`` float [N, 4]: width, height, frames per second and
    number of frames of the file."""

    entries: list[VideoEntry]
    raw: RawView
    targets: dict[str, np.ndarray]
    metadata: np.ndarray
    bad: list[BadSample] = field(default_factory=list)
    num_clips: int = 1

    def __len__(self) -> int:
        return len(self.entries)


def split_entries(entries: Sequence[VideoEntry], test_share: float, limit: int) -> tuple[Split, Split]:
    """Train and test parts, at most ``limit`` videos each.

    The data set's own test (or else validation) split where it has one; else a draw of ``test_share`` of the labelled
    videos that depends on their names alone. Without labels, or with the same for all, the first half of each video in
    time against its second half, to be told apart by which video they are from.
    """
    if not any(len({e.labels.get(name) for e in entries} - {None}) > 1 for name in target_names(entries)):
        chosen = [replace(e, labels={INSTANCE: e.path}) for e in _limit(list(entries), limit)]
        return Split(chosen, (0.0, 0.5)), Split(chosen, (0.5, 1.0))
    by_split: dict[str, list[VideoEntry]] = {}
    entries = [entry for entry in entries if entry.labels]
    for entry in entries:
        by_split.setdefault(entry.split, []).append(entry)
    test = by_split.get("test") or by_split.get("val")
    train = by_split.get("train", [])
    if not test or not train:
        drawn = [
            keyed_seed("test", (e.source or e.path).rsplit("/", 1)[-1]) % 1000 < 1000 * test_share for e in entries
        ]
        test = [e for e, out in zip(entries, drawn, strict=True) if out]
        train = [e for e, out in zip(entries, drawn, strict=True) if not out]
    if not test or not train:
        raise DataError(f"{len(entries)} labelled videos are too few for a train and a test part")
    return Split(_limit(train, limit)), Split(_limit(test, limit))


def _limit(entries: list[VideoEntry], limit: int) -> list[VideoEntry]:
    if len(entries) <= limit:
        return entries
    return [entries[i] for i in sorted(keyed_rng("limit", len(entries)).permutation(len(entries))[:limit])]


def classes_of(train: Split, test: Split) -> dict[str, list[str]]:
    """Each target's classes, sorted. A target with a single class in the training part, or without a label in the test
    part, says nothing and is left out."""
    result = {}
    for name in target_names(train.entries):
        known, asked = ({e.labels[name] for e in part.entries if name in e.labels} for part in (train, test))
        if len(known) > 1 and asked:
            result[name] = sorted(known | asked)
    return result


def collect_clips(
    source: DataSource,
    split: Split,
    classes: dict[str, list[str]],
    input: InputConfig,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
    num_clips: int = 1,
) -> ClipSet:
    """Decode ``num_clips`` clips of each video, evenly over its span (where exactly is a draw of ``seed``); a single
    one near its middle.

    Videos that cannot be used are left out and listed. Raises ``DataError`` where none is left.
    """
    views = centred_views(input, num_clips, split.span, jitter=0.5)
    dataset = source.dataset(split.entries, views, keyed_seed(seed, "probe"))
    keys = [[(0, i)] for i in range(len(split.entries))]  # one by one: a broken video takes no other with it
    used: list[int] = []
    parts: list[RawView] = []
    metadata: list[np.ndarray] = []
    bad: list[BadSample] = []
    max_lost = source.max_bad(len(keys))  # where more than that hang, waiting for the rest is in vain
    workers, timeout = source.num_workers, source.sample_timeout
    for batch in build_loader(dataset, keys, source.collate, workers, timeout=timeout, max_lost=max_lost):
        bad += batch.bad
        if batch.views and batch.indices.equal(batch.wanted):
            used += batch.indices.tolist()
            parts += [copied(view) for view in batch.views]
            metadata.append(batch.metadata.numpy().copy())
        progress(len(batch.wanted))
    if not used:
        raise DataError(f"none of {len(split.entries)} videos can be read; the first: {bad[0].path}: {bad[0].reason}")
    entries = [split.entries[i] for i in used]
    targets = {name: _encode([e.labels.get(name) for e in entries], values) for name, values in classes.items()}
    found = list(dict.fromkeys(bad))
    return ClipSet(entries, concatenate(parts), targets, np.concatenate(metadata), found, num_clips)


def centred_views(
    input: InputConfig, num_clips: int = 1, span: tuple[float, float] = (0.0, 1.0), jitter: float = 0.0
) -> VideoViews:
    """What an encoder is shown when it is evaluated: clips at even distances over ``span``, cropped at the centre."""
    plan = EvenClips(input.num_frames, input.stride, num_clips, span, jitter)
    return VideoViews(plan, centre_crop(input.size, input.mean, input.std))


def _rows(view: RawView, rows: Tensor) -> RawView:
    return RawView(view.frames[rows], {k: v[rows] for k, v in view.params.items()}, view.frame_index[rows])


def concatenate(parts: list[RawView]) -> RawView:
    """The rows of all ``parts``, in order."""
    return RawView(
        torch.cat([p.frames for p in parts]),
        {name: torch.cat([p.params[name] for p in parts]) for name in parts[0].params},
        torch.cat([p.frame_index for p in parts]),
    )


def copied(view: RawView) -> RawView:
    """A copy in plain memory. What comes from a worker holds on to a file descriptor for each of its tensors, and of
    these a process may often have no more than a thousand."""
    return _rows(view, torch.arange(len(view.frames)))


def _encode(labels: list[str | None], classes: list[str]) -> np.ndarray:
    number = {name: i for i, name in enumerate(classes)}
    return np.array([-1 if label is None else number[label] for label in labels])


def encode(
    encoder: Encoder, clips: ClipSet, batch_size: int, device: torch.device, local: bool = True
) -> tuple[Tensor, Tensor]:
    """Features of all videos, on the CPU: pooled ones float32 [N, D], the mean over a video's clips, and local ones
    float16 [N, L, D] (empty unless ``local``), those of all its clips."""
    pooled, tokens = encode_clips(encoder, clips.raw, batch_size, device, local)
    grouped = (len(clips), clips.num_clips)
    return pooled.unflatten(0, grouped).mean(1), tokens.unflatten(0, grouped).flatten(1, 2)


@torch.inference_mode()
def encode_clips(
    encoder: Encoder, raw: RawView, batch_size: int, device: torch.device, local: bool
) -> tuple[Tensor, Tensor]:
    """Pooled features float32 [B, D] and local ones float16 [B, L, D] (L = 0 unless ``local``) of clips cut by
    ``centred_views``, on the CPU."""
    views = centred_views(encoder.input)
    encoder = encoder.to(device).eval()
    pooled, tokens = [], []
    for rows in torch.arange(len(raw.frames)).split(batch_size):
        part = _rows(raw, rows)
        part.frames = part.frames.to(device)
        features = encoder(views.prepare([part])[0].clip)
        pooled.append(features.pooled.float().cpu())
        tokens.append(features.as_tokens().half().cpu() if local else torch.empty(len(rows), 0, encoder.embed_dim))
    return torch.cat(pooled), torch.cat(tokens)


def shrunken_pixels(clips: ClipSet, frames: int = 4, size: int = 8) -> np.ndarray:
    """The trivial baseline: ``frames`` frames at ``size`` × ``size`` pixels, [N, frames × size² × 3], the mean over a
    video's clips."""
    from torch.nn.functional import adaptive_avg_pool3d

    clip = clips.raw.frames.permute(0, 4, 1, 2, 3)
    small = [adaptive_avg_pool3d(part.float(), (frames, size, size)) for part in clip.split(64)]
    return torch.cat(small).flatten(1).unflatten(0, (len(clips), clips.num_clips)).mean(1).numpy() / 255
