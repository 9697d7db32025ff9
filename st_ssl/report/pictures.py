"""What a method sees and makes: its augmented views, and its own pictures; clips as film strips, clouds as scenes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from st_ssl.augment.video import undo_normalise
from st_ssl.core.errors import DataError
from st_ssl.core.exhibits import ClipExhibit, CloudExhibit
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import Entry, PointBatch, View
from st_ssl.data.base import Batch, training_part
from st_ssl.data.loading.sample_dataset import collate
from st_ssl.methods.base import Method
from st_ssl.report.figures import Picture, strip
from st_ssl.report.folder import RunFolder
from st_ssl.report.scenes import Cloud, Scene, choose, eye_for, natural

ExhibitT = TypeVar("ExhibitT", ClipExhibit, CloudExhibit)


@dataclass(frozen=True)
class Sample:
    """One video's strips: the lines of each one's caption, and its picture."""

    name: str
    labels: list[tuple[str, str]]
    strips: list[tuple[list[str], Picture]]


def draw_batch(run: RunFolder) -> tuple[Batch, list[Entry]]:
    """The views of ``report.samples`` training videos as the first pass of the run draws them, and the videos."""
    entries = training_part(run.source.recordings())
    dataset = run.source.dataset(entries, run.method.views, run.config.seed)
    chosen = keyed_rng("report", len(entries)).permutation(len(entries))[: run.config.report.samples]
    batch = collate([dataset[0, int(i)] for i in sorted(chosen)])
    if not batch.views:
        first = batch.bad[0]
        raise DataError(f"No sample could be read; the first: {first.path}: {first.reason}")
    return batch, [entries[i] for i in batch.indices.tolist()]


def view_samples(run: RunFolder) -> list[Sample]:
    """Each sample's augmented views [T, H, W, 3] as the method gets them, without the normalisation."""
    batch, entries = draw_batch(run)
    with torch.inference_mode():
        views: list[View] = run.method.views.prepare(batch.views)
        frames = [_to_uint8(undo_normalise(v.clip, run.config.input.mean, run.config.input.std)) for v in views]
    samples = []
    for row, entry in enumerate(entries):
        strips = []
        for number, (view, shown) in enumerate(zip(views, frames, strict=True), 1):
            times = view.at[row].tolist()
            caption = [f"View {number}", f"frames {times[0]}–{times[-1]}"]
            strips.append((caption, strip(shown[row], f"{caption[0]} of {entry.name}, {caption[1]}")))
        samples.append(Sample(entry.name, list(entry.labels.items()), strips))
    return samples


def view_scenes(run: RunFolder) -> list[Scene]:
    """Each sample's augmented clouds side by side, as the method gets them."""
    batch, entries = draw_batch(run)
    with torch.inference_mode():
        views: list[View] = run.method.views.prepare(batch.views)
    shown = {f"View {number}": view.points for number, view in enumerate(views, 1)}
    return [_scene(run, shown, row, entry, shared=False) for row, entry in enumerate(entries)]


def method_samples(run: RunFolder) -> tuple[list[Sample], int]:
    """The clips that ``method.exhibits`` has of the same samples, and the step of the weights; no samples for a method
    without any."""
    exhibits, entries, step = _exhibits(run, ClipExhibit)
    samples = []
    for row, entry in enumerate(entries):
        frames = [(one.caption, _to_uint8(one.clip[row : row + 1])[0]) for one in exhibits]
        strips = [([what.capitalize()], strip(clip, f"{what} of {entry.name}")) for what, clip in frames]
        samples.append(Sample(entry.name, list(entry.labels.items()), strips))
    return samples, step


def method_scenes(run: RunFolder) -> tuple[list[Scene], int]:
    """As ``method_samples``, of a method of clouds."""
    exhibits, entries, step = _exhibits(run, CloudExhibit)
    shown = {one.caption.capitalize(): one.points for one in exhibits}
    return [_scene(run, shown, row, entry) for row, entry in enumerate(entries)], step


def _exhibits(run: RunFolder, kind: type[ExhibitT]) -> tuple[list[ExhibitT], list[Entry], int]:
    """Those of one kind that the method has, the samples that they are of, and the step of the weights."""
    if type(run.method).exhibits is Method.exhibits:
        return [], [], 0
    method, step = run.trained
    batch, entries = draw_batch(run)
    with torch.inference_mode():
        found = [one for one in method.exhibits(method.views.prepare(batch.views)) if isinstance(one, kind)]
    return (found, entries, step) if found else ([], [], 0)


def _scene(run: RunFolder, shown: dict[str, PointBatch], row: int, entry: Entry, shared: bool = True) -> Scene:
    """The clouds number ``row`` of some batches, by their captions."""
    clouds = []
    for caption, points in shown.items():
        cloud = points.part(row, row + 1)
        xyz, color = cloud.xyz.cpu().numpy(), cloud.attributes.get("color")
        chosen = choose(xyz, run.config.input.unit_sphere)
        colour = None if color is None else color.cpu().numpy()[chosen]
        clouds.append(Cloud([caption, f"{len(xyz):,} points"], xyz[chosen], natural(xyz[chosen], colour)))
    eye = eye_for(run.config.input.unit_sphere)
    return Scene(entry.name, list(entry.labels.items()), clouds, eye, shared=shared)


def _to_uint8(clip: Tensor) -> Tensor:
    """Pixels [B, 3, T, H, W] in 0 … 1 to uint8 [B, T, H, W, 3]."""
    return (clip.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()
