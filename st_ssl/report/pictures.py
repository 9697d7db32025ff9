"""What a method sees and makes: its augmented views, and its own pictures, as film strips."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from st_ssl.errors import DataError
from st_ssl.report.figures import Picture, strip

if TYPE_CHECKING:
    from torch import Tensor

    from st_ssl.data.base import Batch
    from st_ssl.report.folder import RunFolder
    from st_ssl.types import VideoEntry


@dataclass(frozen=True)
class Sample:
    """One video's strips: the lines of each one's caption, and its picture."""

    name: str
    labels: list[tuple[str, str]]
    strips: list[tuple[list[str], Picture]]


def _draw_batch(run: RunFolder) -> tuple[Batch, list[VideoEntry]]:
    """The views of ``report.samples`` training videos as the first pass of the run draws them, and the videos."""
    from st_ssl.data.base import training_part
    from st_ssl.random import keyed_rng

    entries = training_part(run.entries)
    dataset = run.source.dataset(entries, run.method.views, run.config.seed)
    chosen = keyed_rng("report", len(entries)).permutation(len(entries))[: run.config.report.samples]
    batch = run.source.collate([dataset[0, int(i)] for i in sorted(chosen)])
    if not batch.views:
        first = batch.bad[0]
        raise DataError(f"No sample could be read; the first: {first.path}: {first.reason}")
    return batch, [entries[i] for i in batch.indices.tolist()]


def view_samples(run: RunFolder) -> list[Sample]:
    """Each sample's augmented views [T, H, W, 3] as the method gets them, without the normalisation."""
    import torch

    from st_ssl.augment.video import undo_normalise

    batch, entries = _draw_batch(run)
    clip = run.config.input
    with torch.inference_mode():
        views = run.method.views.prepare(batch.views)
        clips = [_to_uint8(undo_normalise(view.clip, clip.mean, clip.std)) for view in views]
    samples = []
    for row, entry in enumerate(entries):
        strips = []
        for number, (view, frames) in enumerate(zip(views, clips, strict=True), 1):
            caption = f"View {number}"
            times = view.frame_index[row].tolist()
            alt = f"{caption} of {Path(entry.path).name}, frames {times[0]} to {times[-1]}"
            strips.append(([caption, f"frames {times[0]}–{times[-1]}"], strip(frames[row], alt)))
        samples.append(_sample(entry, strips))
    return samples


def method_samples(run: RunFolder) -> tuple[list[Sample], int]:
    """``method.pictures`` of the same samples and the step of the weights; no samples for a method without any."""
    import torch

    from st_ssl.methods.base import Method

    if type(run.method).pictures is Method.pictures:
        return [], 0
    method, step = run.trained
    batch, entries = _draw_batch(run)
    with torch.inference_mode():
        pictures = method.pictures(method.views.prepare(batch.views))
    clips = {caption: _to_uint8(clip) for caption, clip in pictures.items()}
    samples = []
    for row, entry in enumerate(entries):
        name = Path(entry.path).name
        strips = [([c.capitalize()], strip(clip[row], f"{c} of {name}")) for c, clip in clips.items()]
        samples.append(_sample(entry, strips))
    return samples, step


def _sample(entry: VideoEntry, strips: list[tuple[list[str], Picture]]) -> Sample:
    return Sample(Path(entry.path).name, list(entry.labels.items()), strips)


def _to_uint8(clip: Tensor) -> Tensor:
    """Pixels [B, 3, T, H, W] in 0 … 1 to uint8 [B, T, H, W, 3]."""
    import torch

    return (clip.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()
