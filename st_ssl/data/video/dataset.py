"""The video data set: from a (pass, index) key to the views of one video, with broken files replaced by a rule."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from st_ssl.core.errors import DataError, SampleError
from st_ssl.core.inputs import InputConfig
from st_ssl.core.random import Key, keyed_seed
from st_ssl.core.types import Entry, View
from st_ssl.data.base import DATA, CutsViews, DataSource, warn_of_ignored
from st_ssl.data.loading.sample_dataset import SampleDataset
from st_ssl.data.packs.read_pack import is_pack
from st_ssl.data.packs.video_index import INDEX_FILE, Library, read_index
from st_ssl.data.packs.video_read import VideoPack
from st_ssl.data.sources.base import Format
from st_ssl.data.sources.video import FORMATS, read_source
from st_ssl.data.streams.base import Recording
from st_ssl.data.streams.video import VideoReader, open_video
from st_ssl.data.streams.video.segment import segment_of
from st_ssl.data.synthetic.videos import FORMAT_VERSION, write_dataset
from st_ssl.data.video.config import VideoDataConfig
from st_ssl.data.video.views import centred_views, frame_differences, pooled_frames, shrunken_pixels
from st_ssl.data.views import WHOLE, Span, Views


def video_dataset(
    entries: Sequence[Entry], views: CutsViews, seed: Key = 0, open_video: Callable[[str], VideoReader] = open_video
) -> SampleDataset:
    """Videos behind (pass, index) keys: see ``SampleDataset``."""
    return SampleDataset(entries, views, partial(_recording, open_video), "videos", seed, facts=_facts)


def _recording(open_video: Callable[[str], VideoReader], entry: Entry) -> Recording:
    return Recording({"video": partial(_opened, open_video, entry)})


def _opened(open_video: Callable[[str], VideoReader], entry: Entry) -> VideoReader:
    reader = segment_of(open_video(entry.path), entry)
    if reader.meta.num_frames < 2:
        reader.close()
        raise SampleError(entry.path, "has a single frame: a clip needs at least 2")
    return reader


def _facts(recording: Recording) -> tuple[float, ...]:
    """What the file of a video says of it."""
    meta = recording.stream().meta
    return (meta.width, meta.height, meta.fps, meta.num_frames)


@DATA.register(VideoDataConfig)
class VideoSource(DataSource):
    """A folder or list of videos; the planted-factor videos where no ``root`` is given."""

    def __init__(self, config: VideoDataConfig) -> None:
        super().__init__(config)
        self.video = config
        self.library = _library(config)
        self.packed = isinstance(self.library, VideoPack)

    def entries(self) -> Sequence[Entry]:
        """All videos of all splits, in a fixed order; the planted ones are written first if they are not there. Raises
        ``DataError`` or ``ConfigError`` where ``root`` and ``list`` cannot be used: see ``read_source``."""
        if isinstance(self.library, VideoPack):
            return self.library.entries
        self.listing = self.video.listing() or read_source(self._planted())
        return self.listing

    def _planted(self) -> Path:
        """The folder of the planted videos, written if need be."""
        config = self.video
        if config.format != "auto" or config.split is not None or config.series is not None:
            warnings.warn("data.format, data.split and data.series are ignored: there is no data.root", stacklevel=2)
        name = keyed_seed(FORMAT_VERSION, config.synthetic.model_dump_json())
        return write_dataset(Path("data") / f"planted-videos-{name:016x}", config.synthetic)

    def format(self) -> Format | None:
        place = None if isinstance(self.library, VideoPack) else self.video.place
        return FORMATS.find(*place, self.video.format)[0] if place is not None else None

    def dataset(self, entries: Sequence[Entry], views: CutsViews, seed: Key = 0) -> SampleDataset:
        return video_dataset(entries, views, seed, self.library.open)

    def evaluation(self, input: InputConfig, num_views: int = 1, span: Span = WHOLE, jitter: float = 0.0) -> Views:
        return centred_views(input, num_views, span, jitter)

    def raw_features(self, view: View) -> dict[str, np.ndarray]:
        return {"raw": shrunken_pixels(view), "frames": pooled_frames(view), "differences": frame_differences(view)}


def _library(config: VideoDataConfig) -> Library | VideoPack:
    if config.root is None:
        return Library(config.reader, max_pixels=config.max_pixels)
    place = os.path.expanduser(config.root)
    if is_pack(place):
        warn_of_ignored(config, ("list", "format", "split", "series", "index", "reader", "max_pixels"))
        return VideoPack(place)
    root = Path(place)
    beside = root.parent if root.is_file() else root
    file = Path(config.index).expanduser() if config.index else beside / INDEX_FILE
    if config.index and not file.is_file():
        raise DataError(f"data.index: {file} does not exist; `st-ssl prepare index {root}` writes one")
    return Library(config.reader, read_index(file) if file.is_file() else None, config.max_pixels)
