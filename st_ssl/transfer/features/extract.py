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
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field, create_model

from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.files import claim_folder
from st_ssl.core.types import Entry, PointBatch, View
from st_ssl.data.base import DATA, CutsViews, DataSource, too_many
from st_ssl.encoders.base import Encoder, describe_encoder, load_encoder, serve
from st_ssl.training import distributed
from st_ssl.transfer.features.array_shards import Part, PartFolder, Stream, write_npy, write_rows, write_safetensors
from st_ssl.transfer.features.cloud_tokens import (
    PACKED,
    TOKENS,
    encode_clouds,
    packed_tokens,
    tokens_name,
    unpacked_tokens,
    write_tokens,
)
from st_ssl.transfer.features.features import check_modality, copied, encode_views, one_by_one

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


_Config = TypeVar("_Config", bound=Config)


def with_data(model: type[_Config], **fields: Any) -> type[_Config]:
    """``model`` with the registered kinds of data as the type of ``data``, and the types of other ``fields``, as
    pydantic's ``create_model`` takes them."""
    fields["data"] = (DATA.union(), ...)
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, **fields)


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
    source = serve(DATA.build(config.data), run)
    check_modality(source, describe_encoder(run)[1])
    entries = claimed_entries(source, run, config, output)
    parts = PartFolder(output / PARTS, len(entries), max(1, _part(config) // config.clips))
    _Clips(source, entries, output, parts, device, progress, config).carry_out(run)


def claimed_entries(source: DataSource, run: Path, config: FeatureConfig, output: Path) -> Sequence[Entry]:
    """The samples of ``source``, for whose features ``output`` is the folder; raises ``OutputError`` where that is
    something else. All processes call it; the main one goes first, since it may have to write the data."""
    if distributed.rank() > 0:
        distributed.barrier()
        return source.entries()
    entries = source.entries()
    distributed.barrier()
    new = not (output / "extract.json").is_file()
    claim_folder(output, "extract.json", settings_of(run, config, entries), "set of features")
    if new:
        shutil.rmtree(output / PARTS, ignore_errors=True)  # whose they are was in the file that is gone
    return entries


@dataclass
class Extraction(ABC):
    """The features of ``entries`` on their way to ``output``, part by part; ``index.jsonl`` is there once all are."""

    source: DataSource
    entries: Sequence[Entry]
    output: Path
    parts: PartFolder
    device: torch.device
    progress: Progress

    def carry_out(self, run: Path) -> None:
        """Do with the encoder in the folder ``run`` what is not done yet. All processes call it."""
        is_main, index = distributed.rank() == 0, self.output / "index.jsonl"
        pending = distributed.gather_objects(self._pending() if is_main and not index.is_file() else [])[0]
        if mine := pending[distributed.rank() :: distributed.world_size()]:
            self.progress(self.parts.count(), len(self.entries))
            self.work(load_encoder(run), mine)
        if is_main and not index.is_file():
            # Not a barrier: these give up after minutes, by which the others may well be behind.
            self.parts.wait(self.progress)
            self.assemble(run)
        if is_main:
            self.parts.remove()

    def _pending(self) -> list[int]:
        done = self.parts.tidy()
        for part in self.worthless(done):
            self.parts.discard(part)
            del done[part]
        return [part for part in range(len(self.parts)) if part not in done]

    @abstractmethod
    def worthless(self, done: Mapping[int, int]) -> list[int]:
        """Those of the parts that are ``done``, each with its number of broken samples, that are to be done again."""

    @abstractmethod
    def work(self, encoder: Encoder, mine: list[int]) -> None:
        """Do the parts ``mine``."""

    @abstractmethod
    def assemble(self, run: Path) -> None:
        """Write the final files from the finished parts. The index comes last."""

    def check_broken(self, lost: Sequence[str]) -> None:
        """Raise ``DataError`` where too many of the samples are broken; ``lost`` has a line for each that is."""
        if self.too_many(len(lost)):
            shown = "\n".join(f"  {line}" for line in lost[:5])
            raise DataError(
                f"{len(lost)} of {len(self.entries)} {self.source.items} are broken, more than data.max_bad_share="
                f"{self.source.max_bad_share:g} allows; the same command tries them again. The first:\n{shown}"
            )

    def too_many(self, broken: int) -> bool:
        """Whether more samples are ``broken`` than the data may have."""
        count = len(self.entries)
        return broken == count or too_many(broken, count, self.source.max_bad_share)


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


@dataclass
class _Clips(Extraction):
    """Of each sample ``config.clips`` clips at even distances, or views of a cloud."""

    config: ExtractConfig

    def worthless(self, done: Mapping[int, int]) -> list[int]:
        """Where too many samples were broken those with broken ones: what was wrong may be mended."""
        return [part for part, broken in done.items() if broken] if self.too_many(sum(done.values())) else []

    def work(self, encoder: Encoder, mine: list[int]) -> None:
        """Do the parts one after the other, while the workers already decode the next."""
        source, parts, total = self.source, self.parts, len(self.entries)
        views = source.evaluation(encoder.input, self.config.clips)
        rows = [index for part in mine for index in parts.samples(part)]
        ahead = max(2, math.ceil(parts.size / max(1, source.num_workers)))
        batches = one_by_one(source, self.entries, rows, views, 0, ahead)
        lost: list[str] = []
        for part in mine:
            before, usable, bad = parts.count(), [], []
            for done, index in enumerate(parts.samples(part)):
                batch = next(batches)
                if batch.views:
                    usable.append((index, [copied(view) for view in batch.views]))
                else:
                    bad.append((index, batch.bad[0].reason))
                self.progress(before + done, total)
            parts.save(part, self._encode(encoder, views, usable, bad))
            self.progress(parts.count(), total)
            lost += [f"{self.entries[index].shown}: {reason}" for index, reason in bad]
            self.check_broken(lost)

    def assemble(self, run: Path) -> None:
        config, output, parts = self.config, self.output, self.parts
        done = [parts.load(part, ()) for part in range(len(parts))]
        bad = [(self.entries[index].shown, reason) for part in done for index, reason in part.bad]
        self.check_broken([f"{path}: {reason}" for path, reason in bad])
        full = [number for number, part in enumerate(done) if part.indices]
        num_rows = sum(len(part.indices) for part in done)

        def stream(name: str) -> Stream:
            def rows() -> Iterator[np.ndarray]:
                for part in full:
                    array = parts.load(part, (name,)).arrays[name]
                    yield array if config.clips > 1 else array[:, 0]

            first = next(rows())
            return Stream(first.dtype, (num_rows, *first.shape[1:]), rows())

        of_clouds = config.tokens and self.source.modality == "points"
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
            write_rows(listed, ({"path": path, "reason": reason} for path, reason in bad))
        names = ("frames",) if self.source.modality == "video" else ()
        write_rows(output / "index.jsonl", self._index(full, names, config.format if of_clouds else None))

    def _encode(
        self, encoder: Encoder, views: CutsViews, usable: list[tuple[int, list[View]]], bad: list[tuple[int, str]]
    ) -> Part:
        """The features of the videos of a part."""
        config, device = self.config, self.device
        if not usable:
            return Part([], bad)
        first, *others = [view for _, cut in usable for view in cut]
        raw = first.joined(others)
        of_clouds = isinstance(raw.content, PointBatch)
        if config.tokens and of_clouds:
            pooled, clouds = encode_clouds(encoder, views, raw, config.batch_size, device)
            arrays, more = {"features": pooled}, packed_tokens(clouds)
        else:
            pooled, tokens = encode_views(encoder, views, raw, config.batch_size, device, config.tokens)
            if config.tokens and not tokens.shape[1]:
                raise ConfigError("tokens: this encoder gives features of whole clips alone, no local ones")
            arrays = {"features": pooled} | ({"tokens": tokens} if config.tokens else {})
            arrays |= {} if of_clouds else {"frames": raw.at}
            more = {}
        grouped = {name: tensor.unflatten(0, (-1, config.clips)).numpy() for name, tensor in arrays.items()}
        return Part([index for index, _ in usable], bad, grouped | more)

    def _index(self, full: list[int], names: tuple[str, ...], tokens: str | None) -> Iterator[dict[str, Any]]:
        """One line of the index for each row of the features. ``names``: the arrays that a line has ("frames" for
        videos). ``tokens``: the format of the files of tokens, if each row has one."""
        row = 0
        for number in full:
            part = self.parts.load(number, names)
            for place, index in enumerate(part.indices):
                entry = self.entries[index]
                about: dict[str, Any] = {"row": row, "path": entry.path, "split": entry.split, "labels": entry.labels}
                if entry.tags:
                    about["tags"] = entry.tags
                if entry.source:
                    about["source"] = entry.source
                if (entry.start, entry.num_frames) != (0, None):
                    about |= {"start": entry.start, "num_frames": entry.num_frames}
                for name in names:
                    about[name] = (part.arrays[name][place] + entry.start).tolist()
                if tokens is not None:
                    about["tokens"] = f"{TOKENS}/{tokens_name(row, tokens)}"
                yield about
                row += 1
