"""What a method sees and makes: its augmented views, and its own pictures, as film strips."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st_ssl.errors import DataError
from st_ssl.report.clouds import render
from st_ssl.report.figures import Picture, strip

if TYPE_CHECKING:
    from torch import Tensor

    from st_ssl.data.base import Batch
    from st_ssl.report.folder import RunFolder
    from st_ssl.types import Entry, PointBatch, PointView, View


@dataclass(frozen=True)
class Sample:
    """One video's strips: the lines of each one's caption, and its picture."""

    name: str
    labels: list[tuple[str, str]]
    strips: list[tuple[list[str], Picture]]


def _draw_batch(run: RunFolder) -> tuple[Batch, list[Entry]]:
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

    batch, entries = _draw_batch(run)
    with torch.inference_mode():
        views = run.method.views.prepare(batch.views)
        frames = [_undone(view, run.config.input) for view in views]
    samples = []
    for row, entry in enumerate(entries):
        strips = []
        for number, (view, shown) in enumerate(zip(views, frames, strict=True), 1):
            caption = [f"View {number}", *_what(view, row)]
            strips.append((caption, strip(_rows(shown, row), f"{caption[0]} of {Path(entry.path).name}, {caption[1]}")))
        samples.append(_sample(entry, strips))
    return samples


def _undone(view: View | PointView, input: Any) -> Tensor | PointBatch:
    """What a view shows: clips [B, 3, T, H, W] in 0 … 1 without their normalisation, or clouds."""
    from st_ssl.augment.video import undo_normalise
    from st_ssl.types import View

    return undo_normalise(view.clip, input.mean, input.std) if isinstance(view, View) else view.points


def _what(view: View | PointView, row: int) -> list[str]:
    """What a caption says of one sample of a view."""
    from st_ssl.types import View

    if isinstance(view, View):
        times = view.frame_index[row].tolist()
        return [f"frames {times[0]}–{times[-1]}"]
    return [f"{int(view.points.offsets.diff()[row]):,} points"]


def _rows(shown: Tensor | PointBatch, row: int) -> Any:
    """One sample of what is shown, as pictures uint8 [T, H, W, 3]: the frames of a clip, a cloud from four sides."""
    from st_ssl.types import PointBatch

    if not isinstance(shown, PointBatch):
        return _to_uint8(shown[row : row + 1])[0]
    cloud = shown.part(row, row + 1)
    colour = cloud.attributes.get("color")
    return render(cloud.xyz.cpu().numpy(), None if colour is None else colour.cpu().numpy())


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
    samples = []
    for row, entry in enumerate(entries):
        name = Path(entry.path).name
        strips = [([c.capitalize()], strip(_rows(shown, row), f"{c} of {name}")) for c, shown in pictures.items()]
        samples.append(_sample(entry, strips))
    return samples, step


def _sample(entry: Entry, strips: list[tuple[list[str], Picture]]) -> Sample:
    return Sample(Path(entry.path).name, list(entry.labels.items()), strips)


def _to_uint8(clip: Tensor) -> Tensor:
    """Pixels [B, 3, T, H, W] in 0 … 1 to uint8 [B, T, H, W, 3]."""
    import torch

    return (clip.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()
