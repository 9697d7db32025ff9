"""The video data set: from a (pass, index) key to the views of one video, with broken files replaced by a rule."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from st_ssl.core.config import Config
from st_ssl.core.errors import DataError, SampleError
from st_ssl.core.inputs import InputConfig
from st_ssl.core.limits import default_workers
from st_ssl.core.random import Key, keyed_seed
from st_ssl.core.types import Entry, RawView, VideoMeta
from st_ssl.data.base import DATA, Batch, DataSource, warn_of_ignored
from st_ssl.data.loading.loader import TIMEOUT
from st_ssl.data.loading.sample_dataset import Sample, SampleDataset, batch_of
from st_ssl.data.packs.read_pack import is_pack
from st_ssl.data.packs.video_index import INDEX_FILE, Library, read_index
from st_ssl.data.packs.video_read import VideoPack
from st_ssl.data.sources.base import Format
from st_ssl.data.sources.video import SourceFormat, format_of, read_source
from st_ssl.data.streams.video import Backend, VideoReader, open_video
from st_ssl.data.streams.video.segment import segment_of
from st_ssl.data.synthetic.videos import FORMAT_VERSION, SyntheticVideoConfig, write_dataset
from st_ssl.data.video.views import CutView, VideoViews, centred_views, shrunken_pixels, stack_views


class VideoDataConfig(Config):
    """Videos: where the videos are and how they are read.

    ``root``: a folder of videos, a list of ``path label`` lines, or a pack (a folder or URL); nothing means the
    planted-factor videos, which are written on first use. ``list``: a list whose paths are relative to ``root``, or the
    folder of a data set's annotations. ``format``: what that is, where its looks do not tell (configs/README.md has the
    formats). ``split``: which of the official splits of UCF101 or HMDB51 (default: the first). ``series``:
    which images are a video where folders hold several series of them: ``img_`` (of ``img_*`` beside ``flow_x_*``),
    ``each`` for every series, ``all`` for every image (default: by the rule of ``sources/video/series.py``). ``index``:
    what ``prepare.py index`` wrote (default: the one in ``root``, if any), which spares going through each file before
    it is read. ``epoch_size``: how many videos make an epoch (default: all of them); a small folder is then gone
    through several times an epoch.
    ``sample_timeout``: seconds that a worker may spend on one video (on opening it and on each frame, where windows
    slide over whole videos); one that hangs or crashes its decoder is taken as broken. With ``num_workers=0`` nothing
    protects the run from such files.
    """

    name: Literal["video"] = "video"
    root: str | None = None
    list: str | None = None
    format: SourceFormat = "auto"
    split: int | None = Field(default=None, ge=1, le=3)
    series: str | None = None
    index: str | None = None
    reader: Backend = "auto"
    num_workers: int = Field(default_factory=default_workers, ge=0)
    epoch_size: int | None = Field(default=None, gt=0)
    max_bad_share: float = Field(default=0.1, ge=0, le=1)
    sample_timeout: float = Field(default=TIMEOUT, gt=0)
    synthetic: SyntheticVideoConfig = SyntheticVideoConfig()


class VideoDataset(SampleDataset[CutView, VideoMeta]):
    """Videos behind (pass, index) keys: see ``SampleDataset``."""

    def __init__(
        self,
        entries: Sequence[Entry],
        views: VideoViews,
        seed: Key = 0,
        open_video: Callable[[str], VideoReader] = open_video,
    ) -> None:
        super().__init__(entries, "videos", seed)
        self.views = views
        self.open_video = open_video

    def _cut(self, entry: Entry, key: tuple[Key, ...]) -> tuple[list[CutView], VideoMeta]:
        with segment_of(self.open_video(entry.path), entry) as reader:
            if reader.meta.num_frames < 2:
                raise SampleError(entry.path, "has a single frame: a clip needs at least 2")
            return self.views.cut(reader, key), reader.meta


@DATA.register(VideoDataConfig)
class VideoSource(DataSource):
    """A folder or list of videos; the planted-factor videos where no ``root`` is given."""

    def __init__(self, config: VideoDataConfig) -> None:
        super().__init__(config)
        self.video = config
        self.num_workers = config.num_workers
        self.epoch_size = config.epoch_size
        self.max_bad_share = config.max_bad_share
        self.sample_timeout = config.sample_timeout
        self.library = _library(config)

    def entries(self) -> Sequence[Entry]:
        """All videos of all splits, in a fixed order; the planted ones are written first if they are not there. Raises
        ``DataError`` or ``ConfigError`` where ``root`` and ``list`` cannot be used: see ``read_source``."""
        config = self.video
        if isinstance(self.library, VideoPack):
            return self.library.entries
        if (place := self._place()) is not None:
            self.listing = read_source(*place, config.format, config.split, config.series)
            return self.listing
        if config.format != "auto" or config.split is not None or config.series is not None:
            warnings.warn("data.format, data.split and data.series are ignored: there is no data.root", stacklevel=2)
        name = keyed_seed(FORMAT_VERSION, config.synthetic.model_dump_json())
        root = Path("data") / f"planted-videos-{name:016x}"
        self.listing = read_source(write_dataset(root, config.synthetic))
        return self.listing

    def format(self) -> Format | None:
        place = None if isinstance(self.library, VideoPack) else self._place()
        return format_of(*place, self.video.format) if place is not None else None

    def _place(self) -> tuple[Path, Path | None] | None:
        """``root`` and ``list`` as paths; None where neither is given."""
        root, listing = (Path(path).expanduser() if path else None for path in (self.video.root, self.video.list))
        root, listing = (listing, None) if root is None else (root, listing)
        return (root, listing) if root is not None else None

    def dataset(self, entries: Sequence[Entry], views: VideoViews, seed: Key = 0) -> VideoDataset:
        return VideoDataset(entries, views, seed, self.library.open)

    def collate(self, samples: list[Sample[CutView, VideoMeta]]) -> Batch:
        return collate(samples)

    def evaluation(
        self, input: InputConfig, num_views: int = 1, span: tuple[float, float] = (0.0, 1.0), jitter: float = 0.0
    ) -> VideoViews:
        return centred_views(input, num_views, span, jitter)

    def raw_features(self, view: RawView) -> dict[str, np.ndarray]:
        return {"raw": shrunken_pixels(view)}


def _library(config: VideoDataConfig) -> Library | VideoPack:
    if config.root is None:
        return Library(config.reader)
    place = os.path.expanduser(config.root)
    if is_pack(place):
        warn_of_ignored(config, ("list", "format", "split", "series", "index", "reader"))
        return VideoPack(place)
    root = Path(place)
    beside = root.parent if root.is_file() else root
    file = Path(config.index).expanduser() if config.index else beside / INDEX_FILE
    if config.index and not file.is_file():
        raise DataError(f"data.index: {file} does not exist; `python tools/prepare.py index {root}` writes one")
    return Library(config.reader, read_index(file) if file.is_file() else None)


def collate(samples: list[Sample[CutView, VideoMeta]]) -> Batch:
    """Samples to a batch; without views where one of them had no usable replacement."""
    return batch_of(samples, stack_views, lambda meta: (meta.width, meta.height, meta.fps, meta.num_frames))
