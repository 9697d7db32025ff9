"""Extraction: the features of a whole data set, as one array and an index of its rows.

The work is cut into parts of ``PART`` clips, whatever the number of processes. A part that is done is one file, written
under a hidden name and renamed: killed at any moment, the work goes on from there with any number of processes, and
what comes out is the same to the last byte.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field, create_model

from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.files import claim_folder
from st_ssl.core.types import Entry, PointBatch
from st_ssl.data.base import DATA, Batch, CutsViews, DataSource, too_many
from st_ssl.data.loading.loader import build_loader
from st_ssl.data.loading.sample_dataset import collate
from st_ssl.encoders.base import Encoder, describe_encoder, load_encoder, serve
from st_ssl.training import distributed
from st_ssl.transfer.features.array_shards import (
    Part,
    PartFolder,
    Stream,
    write_npy,
    write_safetensors,
    write_text,
)
from st_ssl.transfer.features.cloud_tokens import (
    PACKED,
    TOKENS,
    encode_clouds,
    packed_tokens,
    tokens_name,
    unpacked_tokens,
    write_tokens,
)
from st_ssl.transfer.features.features import check_modality, copied, encode_views

PART = 64
"""Clips of a part (of one video at least): what is in memory at once, and the most that a killed process loses."""

CLOUDS = 8
"""As ``PART``, of clouds with tokens: a scene may have a million."""

PARTS = ".parts"
"""The folder of the parts within that of the extraction."""

Progress = Callable[[int, int], None]
"""Told how many videos are done, and of how many."""


class FeatureConfig(Config):
    """Where features come from. ``batch_size``: clips that the encoder is given at once."""

    batch_size: int = Field(default=32, gt=0)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    # What the registry holds is known only once it is searched: see ``with_data``.
    data: Any


class ExtractConfig(FeatureConfig):
    """What is extracted and how. ``clips``: how many clips of a video, evenly spaced, each with features of its own;
    ``tokens``: local features too."""

    clips: int = Field(default=1, gt=0)
    tokens: bool = False
    format: Literal["npy", "safetensors"] = "npy"


_Config = TypeVar("_Config", bound=FeatureConfig)


def with_data(model: type[_Config]) -> type[_Config]:
    """``model`` with the registered kinds of data as the type of ``data``."""
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, data=(DATA.union(), ...))


@lru_cache(maxsize=1)
def extract_model() -> type[ExtractConfig]:
    """``ExtractConfig`` with the registered kinds of data."""
    return with_data(ExtractConfig)


def extract(
    run: Path, config: ExtractConfig, output: Path, device: torch.device, progress: Progress = lambda *_: None
) -> None:
    """Write the features that the encoder in the folder ``run`` gives for all videos of ``config.data`` to ``output``.

    - ``features.npy`` float32 [N, D], for several clips [N, clips, D]: pooled features, in the order of the data set
    - ``tokens.npy`` float16 [N, L, D] or [N, clips, L, D]: local features of videos, where asked for
      (with ``format: safetensors`` both are tensors in ``features.safetensors``)
    - ``tokens/000000.npz`` (or ``.safetensors``) … of row 0 …, for clouds: ``features`` float16 [L, D] of its points or
      patches, and where these are, ``xyz`` float64 [L, 3] in the frame of the file; of several views one after the
      other, with the number ``view`` int64 [L] of each
    - ``index.jsonl`` a line for each row: row, path, split, labels, and of videos the frames [clips][T] looked at;
      for a part of a video also its start and num_frames (null: up to the end), for one of several labels its tags,
      for one of a pack its source, the file that was packed
    - ``bad_samples.jsonl`` the videos that could not be used and have no row, if any
    - ``extract.json`` the settings: with other ones the work is not gone on with

    Every process of a group calls this and does its share; ``progress`` is told what all of them have done.
    Where ``index.jsonl`` is, everything is: it comes last. Raises ``OutputError`` where ``output`` holds something
    else, ``DataError`` where too many videos are broken. Two extractions at a time need a folder each.
    """
    is_main = distributed.rank() == 0
    source = serve(DATA.build(config.data), run)
    check_modality(source, describe_encoder(run)[1])
    if not is_main:
        distributed.barrier()  # the main process goes first, since it may have to write the data
    entries = source.entries()
    if is_main:
        distributed.barrier()
    if is_main:
        claim(output, settings_of(run, config, entries))
    parts = PartFolder(output / PARTS, len(entries), max(1, _part(config) // config.clips))
    pending = distributed.gather_objects(_pending(parts, output, source) if is_main else None)[0]
    mine = pending[distributed.rank() :: distributed.world_size()]
    if mine:
        _work(load_encoder(run), source, entries, parts, mine, config, device, progress)
    if is_main and not (output / "index.jsonl").is_file():
        # Not a barrier: these give up after minutes, by which the others may well be behind.
        parts.wait(lambda done: progress(done, len(entries)))
        _assemble(parts, entries, config, output, source)
    if is_main:
        parts.remove()


def _part(config: FeatureConfig) -> int:
    """Clips or views of clouds in a part."""
    of_clouds = DATA.registered(config.data.name).modality == "points"
    return CLOUDS if of_clouds and getattr(config, "tokens", False) else PART


def settings_of(run: Path, config: FeatureConfig, entries: Sequence[Entry]) -> dict[str, Any]:
    """All that features depend on: what goes to ``extract.json``."""
    encoder, input = describe_encoder(run)
    weights = run / "encoder.safetensors"
    listed = json.dumps([vars(entry) for entry in entries])
    data = config.data.model_dump(mode="json")
    return {
        "encoder": encoder.model_dump(mode="json"),
        "input": input.model_dump(mode="json"),
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else None,
        "data": {key: value for key, value in data.items() if key not in ("num_workers", "max_bad_share")},
        "videos": len(entries),
        "part": _part(config),
        "list": hashlib.sha256(listed.encode()).hexdigest(),
        **config.model_dump(mode="json", exclude={"data", "device"}),
    }


def claim(output: Path, settings: dict[str, Any]) -> None:
    """Make ``output`` the folder of this extraction; raises ``OutputError`` where it is something else."""
    new = not (output / "extract.json").is_file()
    claim_folder(output, "extract.json", settings, "set of features")
    if new:
        shutil.rmtree(output / PARTS, ignore_errors=True)  # whose they are was in the file that is gone


def _pending(parts: PartFolder, output: Path, source: DataSource) -> list[int]:
    """The parts still to do. Where too many videos were broken their parts are done again: what was wrong may be
    mended."""
    if (output / "index.jsonl").is_file():
        return []
    done = parts.tidy()
    if _too_many(sum(done.values()), parts.num_samples, source.max_bad_share):
        for part in [part for part, num_bad in done.items() if num_bad]:
            parts.discard(part)
            del done[part]
    return [part for part in range(len(parts)) if part not in done]


def _work(
    encoder: Encoder,
    source: DataSource,
    entries: Sequence[Entry],
    parts: PartFolder,
    mine: list[int],
    config: ExtractConfig,
    device: torch.device,
    progress: Progress,
) -> None:
    """Do the parts ``mine``, one after the other, while the workers already decode the next."""
    views = source.evaluation(encoder.input, config.clips)
    dataset = source.dataset(entries, views)
    keys = [[(0, i)] for part in mine for i in parts.samples(part)]  # one by one: a broken video takes no other with it
    ahead = max(2, math.ceil(parts.size / max(1, source.num_workers)))
    timeout, max_lost = source.sample_timeout, source.max_bad(len(entries))
    workers = source.num_workers
    loader = build_loader(dataset, keys, collate, workers, prefetch=ahead, timeout=timeout, max_lost=max_lost)
    batches = iter(loader)
    lost: list[str] = []
    progress(parts.count(), len(entries))
    for part in mine:
        before, usable, bad = parts.count(), [], []
        for done, index in enumerate(parts.samples(part)):
            batch: Batch = next(batches)
            if batch.views and batch.indices.equal(batch.wanted):
                usable.append((index, [copied(view) for view in batch.views]))
            else:
                bad.append((index, batch.bad[0].reason))
            progress(before + done, len(entries))
        parts.save(part, _encode(encoder, views, usable, bad, config, device))
        progress(parts.count(), len(entries))
        lost += [f"{entries[index].shown}: {reason}" for index, reason in bad]
        check_broken(lost, len(entries), source)


def _encode(
    encoder: Encoder,
    views: CutsViews,
    usable: list[tuple[int, list[Any]]],
    bad: list[tuple[int, str]],
    config: ExtractConfig,
    device: torch.device,
) -> Part:
    """The features of the videos of a part."""
    if not usable:
        return Part([], bad, {})
    first, *others = [view for _, cut in usable for view in cut]
    raw = first.joined(others)
    indices = [index for index, _ in usable]
    if config.tokens and isinstance(raw.content, PointBatch):
        pooled, clouds = encode_clouds(encoder, views, raw, config.batch_size, device)
        features = pooled.unflatten(0, (-1, config.clips)).numpy()
        return Part(indices, bad, {"features": features} | packed_tokens(clouds))
    pooled, tokens = encode_views(encoder, views, raw, config.batch_size, device, config.tokens)
    if config.tokens and not tokens.shape[1]:
        raise ConfigError("tokens: this encoder gives features of whole clips alone, no local ones")
    arrays = {"features": pooled} | ({"tokens": tokens} if config.tokens else {})
    if not isinstance(raw.content, PointBatch):
        arrays["frames"] = raw.at
    grouped = {name: tensor.unflatten(0, (-1, config.clips)).numpy() for name, tensor in arrays.items()}
    return Part(indices, bad, grouped)


def _too_many(num_bad: int, num_videos: int, max_share: float) -> bool:
    return num_bad == num_videos or too_many(num_bad, num_videos, max_share)


def check_broken(lost: list[str], count: int, source: DataSource) -> None:
    """Raise ``DataError`` where too many of the samples are broken; ``lost`` has a line for each that is."""
    if _too_many(len(lost), count, source.max_bad_share):
        shown = "\n".join(f"  {line}" for line in lost[:5])
        raise DataError(
            f"{len(lost)} of {count} {source.items} are broken, more than data.max_bad_share="
            f"{source.max_bad_share:g} allows; the same command tries them again. The first:\n{shown}"
        )


def _assemble(
    parts: PartFolder, entries: Sequence[Entry], config: ExtractConfig, output: Path, source: DataSource
) -> None:
    """Put the parts together, the index last."""
    done = [parts.load(part, ()) for part in range(len(parts))]
    bad = [(entries[index].shown, reason) for part in done for index, reason in part.bad]
    check_broken([f"{path}: {reason}" for path, reason in bad], len(entries), source)
    full = [number for number, part in enumerate(done) if part.indices]
    num_rows = sum(len(part.indices) for part in done)

    def stream(name: str) -> Stream:
        def rows() -> Iterator[np.ndarray]:
            for part in full:
                array = parts.load(part, (name,)).arrays[name]
                yield array if config.clips > 1 else array[:, 0]

        first = next(rows())
        return Stream(first.dtype, (num_rows, *first.shape[1:]), rows())

    of_clouds = config.tokens and source.modality == "points"
    streams = {name: stream(name) for name in ("features", "tokens")[: 1 + (config.tokens and not of_clouds)]}
    if config.format == "npy":
        for name, array in streams.items():
            write_npy(output / f"{name}.npy", array)
    else:
        write_safetensors(output / "features.safetensors", streams)
    if of_clouds:
        clouds = (tokens for part in full for tokens in unpacked_tokens(parts.load(part, PACKED), config.clips))
        write_tokens(output / TOKENS, clouds, config.format)
    listed = output / "bad_samples.jsonl"
    listed.unlink(missing_ok=True)
    if bad:
        write_text(listed, (_line({"path": path, "reason": reason}) for path, reason in bad))
    names = ("frames",) if source.modality == "video" else ()
    write_text(output / "index.jsonl", _index(parts, full, entries, names, config.format if of_clouds else None))


def _index(
    parts: PartFolder, full: list[int], entries: Sequence[Entry], names: tuple[str, ...], tokens: str | None
) -> Iterator[str]:
    """A line for each row of the features; ``names`` are the arrays that belong into it: "frames" for videos, and
    ``tokens`` is the format of the files of tokens, where each row has one."""
    row = 0
    for number in full:
        part = parts.load(number, names)
        for place, index in enumerate(part.indices):
            entry = entries[index]
            whole = (entry.start, entry.num_frames) == (0, None)
            about: dict[str, Any] = {"row": row, "path": entry.path, "split": entry.split, "labels": entry.labels}
            if entry.tags:
                about["tags"] = entry.tags
            if entry.source:
                about["source"] = entry.source
            if not whole:
                about |= {"start": entry.start, "num_frames": entry.num_frames}
            for name in names:
                about[name] = (part.arrays[name][place] + entry.start).tolist()
            if tokens is not None:
                about["tokens"] = f"{TOKENS}/{tokens_name(row, tokens)}"
            yield _line(about)
            row += 1


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"
