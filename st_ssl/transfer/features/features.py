"""From a data set to what a probe works on: train and test clips, their targets, and the features of an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from st_ssl.core.class_order import in_order
from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.inputs import INPUTS
from st_ssl.core.random import keyed_rng, keyed_seed
from st_ssl.core.types import Entry, Features, View
from st_ssl.data.base import BadSample, Batch, CutsViews, DataSource
from st_ssl.data.loading.loader import build_loader
from st_ssl.data.loading.sample_dataset import collate
from st_ssl.data.sources.video import target_names
from st_ssl.encoders.base import AnyInput, Encoder, describe_encoder

INSTANCE = "sample"
"""The target where there are no labels: which video a clip was cut from, or which cloud points are from."""


@dataclass
class Split:
    """Some videos, and the share of each in time that is looked at."""

    entries: Sequence[Entry]
    span: tuple[float, float] = (0.0, 1.0)


@dataclass
class ClipSet:
    """Clips of N videos, or N clouds, on their way to an encoder: ``raw`` holds N × ``num_clips``, sample by sample,
    which ``views`` had cut and can prepare; ``targets`` name to int64 [N], -1 for no label; ``metadata`` float [N, k]:
    what the file says of itself; ``rows`` int64 [N]: which of the videos that were asked for these are."""

    entries: list[Entry]
    views: CutsViews
    raw: Any
    targets: dict[str, np.ndarray]
    metadata: np.ndarray
    bad: list[BadSample] = field(default_factory=list)
    num_clips: int = 1
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.entries)


def one_encoder(runs: Sequence[Path]) -> tuple[Config, AnyInput]:
    """The encoder, and its input, that all of ``runs`` hold; raises ``DataError`` where they are not the same."""
    first = describe_encoder(runs[0])
    for run in runs[1:]:
        if describe_encoder(run) != first:
            raise DataError(f"{run} and {runs[0]} hold different encoders: take runs of one architecture together")
    return first


def check_modality(source: DataSource, input: AnyInput) -> None:
    """Raise ``ConfigError`` where an encoder with this ``input`` cannot be fed what ``source`` has."""
    if not isinstance(input, INPUTS[source.modality]):
        other = next(name for name, kind in INPUTS.items() if isinstance(input, kind))
        raise ConfigError(f"the encoder takes {other}, and data.name={source.modality} has none: expected {other}")


def split_entries(
    entries: Sequence[Entry], test_share: float, limit: int, ask: Literal["test", "val"] = "test"
) -> tuple[Split, Split]:
    """Train and test parts, at most ``limit`` samples each.

    The data set's own test (or else validation) split where it has one; else a draw of ``test_share`` of the labelled
    videos that depends on their names alone. Without labels, or with the same for all, the first half of each video in
    time against its second half, to be told apart by which video they are from.

    ``ask="val"``: in place of the test part a validation part, and no sample of the test part in either. It is the data
    set's own where there is one beside a test split, else a draw of ``test_share`` of the training part.
    """
    if ask == "val":
        return _validation(entries, test_share, limit)
    if not any(len({e.labels.get(name) for e in entries} - {None}) > 1 for name in target_names(entries)):
        chosen = [replace(e, labels={INSTANCE: e.path}) for e in _limit(list(entries), limit)]
        return Split(chosen, (0.0, 0.5)), Split(chosen, (0.5, 1.0))
    by_split: dict[str, list[Entry]] = {}
    entries = [entry for entry in entries if entry.labels]
    for entry in entries:
        by_split.setdefault(entry.split, []).append(entry)
    test = by_split.get("test") or by_split.get("val")
    train = by_split.get("train", [])
    if not test or not train:
        drawn = [keyed_seed("test", e.name) % 1000 < 1000 * test_share for e in entries]
        test = [e for e, out in zip(entries, drawn, strict=True) if out]
        train = [e for e, out in zip(entries, drawn, strict=True) if not out]
    if not test or not train:
        raise DataError(
            f"{len(entries)} labelled samples are too few for a train and a test part, which is a share of "
            f"{test_share:g} (probe.test_share) drawn by their names: add some, or name a split `test`"
        )
    return Split(_limit(train, limit)), Split(_limit(test, limit))


def _validation(entries: Sequence[Entry], test_share: float, limit: int) -> tuple[Split, Split]:
    splits = {entry.split for entry in entries if entry.labels}
    if {"train", "val", "test"} <= splits:
        return split_entries([entry for entry in entries if entry.split != "test"], test_share, limit)
    train = split_entries(entries, test_share, len(entries))[0]
    if train.span != (0.0, 1.0):
        raise DataError("a validation part needs labels: without them samples are told apart by their halves")
    drawn = [keyed_seed("val", e.name) % 1000 < 1000 * test_share for e in train.entries]
    parts = ([e for e, out in zip(train.entries, drawn, strict=True) if out is asked] for asked in (False, True))
    shown, asked = (Split(_limit(part, limit)) for part in parts)
    if not shown.entries or not asked.entries:
        raise DataError(f"{len(train.entries)} training samples are too few for a validation part")
    return shown, asked


def describe_test_part(entries: Sequence[Entry], test_share: float) -> str:
    """In words, where ``split_entries`` takes the test part from."""
    if not any(len({e.labels.get(name) for e in entries} - {None}) > 1 for name in target_names(entries)):
        return "no labels: the second half of each sample, told apart by its first half"
    splits = {entry.split for entry in entries if entry.labels}
    if "train" in splits and "test" in splits:
        return "the split test of the data"
    if "train" in splits and "val" in splits:
        return "the split val of the data: it has no test split"
    missing = "train" if "train" not in splits else "test"
    return f"no {missing} split: {100 * test_share:g} % of the samples drawn by name"


def _limit(entries: list[Entry], limit: int) -> list[Entry]:
    if len(entries) <= limit:
        return entries
    return [entries[i] for i in sorted(keyed_rng("limit", len(entries)).permutation(len(entries))[:limit])]


def classes_of(train: Split, test: Split, values: Sequence[str] = ()) -> dict[str, list[str]]:
    """Each target's classes, in order (numbers by their value), but of those that are ``values``. A target with a
    single class in the training part, or without a label in the test part, says nothing and is left out."""
    result = {}
    for name in [name for name in target_names(train.entries) if name not in values]:
        known, asked = ({e.labels[name] for e in part.entries if name in e.labels} for part in (train, test))
        if len(known) > 1 and asked:
            result[name] = in_order(known | asked)
    return result


def collect_clips(
    source: DataSource,
    split: Split,
    classes: dict[str, list[str]],
    input: AnyInput,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
    num_clips: int = 1,
) -> ClipSet:
    """Decode ``num_clips`` clips of each video, evenly over its span (where exactly is a draw of ``seed``); a single
    one near its middle.

    Videos that cannot be used are left out and listed. Raises ``DataError`` where none is left.
    """
    views = source.evaluation(input, num_clips, split.span, jitter=0.5)
    used: list[int] = []
    parts: list[Any] = []
    metadata: list[np.ndarray] = []
    bad: list[BadSample] = []
    rows = range(len(split.entries))
    for row, batch in zip(rows, one_by_one(source, split.entries, rows, views, keyed_seed(seed, "probe")), strict=True):
        bad += batch.bad
        if batch.views:
            used.append(row)
            parts += [copied(view) for view in batch.views]
            metadata.append(batch.metadata.numpy().copy())
        progress(1)
    if not used:
        first = f"{bad[0].path}: {bad[0].reason}"
        raise DataError(f"none of {len(split.entries)} {source.items} can be read; the first: {first}")
    entries = [split.entries[i] for i in used]
    targets = {name: _encode([e.labels.get(name) for e in entries], values) for name, values in classes.items()}
    found = list(dict.fromkeys(bad))
    raw = parts[0].joined(parts[1:])
    return ClipSet(entries, views, raw, targets, np.concatenate(metadata), found, num_clips, np.array(used))


def one_by_one(
    source: DataSource, entries: Sequence[Entry], rows: Sequence[int], views: CutsViews, seed: int, ahead: int = 2
) -> Iterator[Batch]:
    """Those of ``entries`` at ``rows``, each as a batch of its own, so that a broken one takes no other with it: it has
    no views. What is drawn is a function of the row. Workers read ``ahead`` batches each."""
    dataset = source.dataset(entries, views, seed)
    keys = [[(0, row)] for row in rows]
    max_lost = source.max_bad(len(rows))  # where more than that hang, waiting for the rest is in vain
    workers, timeout = source.num_workers, source.sample_timeout
    for batch in build_loader(dataset, keys, collate, workers, prefetch=ahead, timeout=timeout, max_lost=max_lost):
        replaced = not batch.indices.equal(batch.wanted)
        yield replace(batch, views=[]) if replaced else batch


def _encode(labels: list[str | None], classes: list[str]) -> np.ndarray:
    number = {name: i for i, name in enumerate(classes)}
    return np.array([-1 if label is None else number[label] for label in labels])


def raw_features(source: DataSource, clips: ClipSet) -> dict[str, np.ndarray]:
    """The baselines of a kind of data by name, [N, k] each: the mean over a sample's views."""
    found = source.raw_features(clips.raw)
    return {name: rows.reshape(len(clips), clips.num_clips, -1).mean(1) for name, rows in found.items()}


def metadata_features(train: ClipSet, test: ClipSet) -> tuple[np.ndarray, np.ndarray]:
    """What the files say of themselves, as a baseline: float64 [N, 2k] of each part, from k columns of metadata.

    A column in standard scores z of the training files becomes the unit vector (z, 1) / √(1 + z²). So a file of average
    metadata has a direction too, also where a cosine is taken after the mean is. A column that is constant in the
    training part says nothing: z is 0 in both.
    """
    centre, scale = train.metadata.mean(0), train.metadata.std(0)
    varies = scale > 1e-9 * np.abs(centre)
    first, second = (
        np.where(varies, (part.metadata - centre) / np.where(varies, scale, 1), 0.0) for part in (train, test)
    )
    return _directions(first), _directions(second)


def _directions(scores: np.ndarray) -> np.ndarray:
    """Standard scores [N, k] as k unit vectors of two dimensions, [N, 2k]."""
    vectors = np.stack([scores, np.ones_like(scores)], -1) / np.sqrt(1 + scores**2)[..., None]
    return vectors.reshape(len(scores), -1)


def encode(
    encoder: Encoder, clips: ClipSet, batch_size: int, device: torch.device, local: bool = True
) -> tuple[Tensor, Tensor]:
    """Features of all videos, on the CPU: pooled ones float32 [N, D], the mean over a video's clips, and local ones
    float16 [N, L, D] (empty unless ``local``), those of all its clips."""
    pooled, tokens = encode_views(encoder, clips.views, clips.raw, batch_size, device, local)
    grouped = (len(clips), clips.num_clips)
    return pooled.unflatten(0, grouped).mean(1), tokens.unflatten(0, grouped).flatten(1, 2)


@torch.inference_mode()
def encoded(
    encoder: Encoder, views: CutsViews, raw: View, batch_size: int, device: torch.device
) -> Iterator[tuple[Features, View]]:
    """The features of what ``views`` had cut, a batch at a time, with the prepared view that they are of, on
    ``device``."""
    encoder = encoder.to(device).eval()
    for start in range(0, len(raw), batch_size):
        part = raw.part(start, min(start + batch_size, len(raw)))
        part = replace(part.map(lambda tensor: tensor.to(device)), params=part.params)
        (view,) = views.prepare([part])
        yield encoder(view.content), view


@torch.inference_mode()
def encode_views(
    encoder: Encoder, views: CutsViews, raw: View, batch_size: int, device: torch.device, local: bool
) -> tuple[Tensor, Tensor]:
    """Pooled features float32 [B, D] and local ones float16 [B, L, D] (L = 0 unless ``local``) of what ``views`` had
    cut, on the CPU."""
    pooled, tokens = [], []
    for features, view in encoded(encoder, views, raw, batch_size, device):
        pooled.append(features.pooled.float().cpu())
        there = local and (features.tokens is not None or features.map is not None)
        tokens.append(features.as_tokens().half().cpu() if there else torch.empty(len(view), 0, encoder.embed_dim))
    return torch.cat(pooled), torch.cat(tokens)


def copied(view: View) -> View:
    """A copy in plain memory. What comes from a worker holds on to a file descriptor for each of its tensors, and of
    these a process may often have no more than a thousand."""
    return view.map(lambda tensor: tensor.clone())
