"""Windows that slide over whole videos, cut in workers, a batch at a time.

A video is decoded once, from its beginning to its end, by one worker; what is in memory of it are the frames of one
window and those of a few batches, however long it is. One that hangs or crashes its decoder is broken: only its worker
is replaced (see ``data/loader.py``), and the windows of all others are what they would have been.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from st_ssl.core.errors import SampleError, sample_fault
from st_ssl.core.inputs import InputConfig
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import Entry, VideoMeta, View
from st_ssl.data.clip_plans import clip_indices
from st_ssl.data.loading.loader import build_loader
from st_ssl.data.loading.worker_heartbeat import Watched
from st_ssl.data.streams.video import VideoReader
from st_ssl.data.streams.video.frame_table import uneven
from st_ssl.data.streams.video.segment import segment_of
from st_ssl.data.video.dataset import VideoSource
from st_ssl.data.video.views import centred_views
from st_ssl.data.views import CutView, Views, stack


@dataclass(frozen=True)
class Whole:
    """What a video is. ``times``: the second at the middle of each of its windows; ``duration`` in seconds;
    ``variable``: whether its frames do not come at a constant rate."""

    meta: VideoMeta
    times: list[float]
    duration: float
    variable: bool


Content = View | Whole | str
"""A batch of windows; behind the last one of a video what it is; or, as soon as it turns out to be broken, why."""


@dataclass(frozen=True)
class Piece:
    """``content`` number ``number`` of a video."""

    video: int
    number: int
    content: Content


class Windows(Watched, Dataset[Piece | None]):
    """The windows of videos, [B] of ``batch_size`` at a time and ``stride`` frames apart, as clips of ``input``.

    A key is the videos that a worker goes through, one after the other, and what there is behind it is the next piece
    of them; None behind the last one. A worker knows how far it is. A new one in place of another begins the first
    video of its key once more, and makes the same pieces of it.
    """

    def __init__(
        self, source: VideoSource, entries: Sequence[Entry], input: InputConfig, batch_size: int, stride: int
    ) -> None:
        self.source, self.entries, self.input = source, entries, input
        self.batch_size, self.stride = batch_size, stride
        self.views: Views = centred_views(input)
        self.rewind()

    def rewind(self) -> None:
        """Be in no video, as at the beginning."""
        self._video: int | None = None
        self._pieces: Iterator[Piece] = iter(())

    def __getitem__(self, key: tuple[int, ...]) -> Piece | None:
        for video in key[key.index(self._video) :] if self._video in key else key:
            if video != self._video:
                self._video, self._pieces = video, self._read(video)
            if (piece := self._next(video)) is not None:
                return piece
        return None

    def _next(self, video: int) -> Piece | None:
        try:
            with self.working_on(video), sample_fault(self.entries[video].path):
                return next(self._pieces, None)
        except SampleError as error:
            self._pieces = iter(())
            return Piece(video, 0, error.reason)

    def _read(self, video: int) -> Iterator[Piece]:
        entry, number = self.entries[video], 0
        with segment_of(self.source.library.open(entry.path), entry) as reader:
            for views in self._batches(video, reader):
                yield Piece(video, number, views)
                number += 1
            extent = (self.input.num_frames - 1) * self.input.stride + 1
            yield Piece(video, number, whole(reader, extent, self.stride))

    def _batches(self, video: int, reader: VideoReader) -> Iterator[View]:
        (augment,) = self.views.specs[0].transforms
        params = augment.sample(keyed_rng("windows"), reader.meta, 1)  # those of a crop at the centre, always the same

        def shrink(frame: np.ndarray) -> np.ndarray:
            self._live(video)
            return augment.cut([frame], params)[0]

        batch: list[CutView] = []
        for index, frames in cut_windows(reader, self.input.num_frames, self.input.stride, self.stride, shrink):
            batch.append(CutView(frames, index, {}, params))
            if len(batch) == self.batch_size:
                yield stack([[view] for view in batch])[0]
                batch = []
        if batch:
            yield stack([[view] for view in batch])[0]

    def _live(self, video: int) -> None:
        """Tell that ``video`` goes on: time is limited for each frame of it, not for all those of a batch."""
        if self._board is not None:
            self._board.move(self._worker, video)


def whole(reader: VideoReader, extent: int, window_stride: int) -> Whole:
    """What there is to tell of a video whose windows are ``extent`` frames long and ``window_stride`` frames apart."""
    meta, times, duration = reader.meta, reader.times(), reader.duration()
    first = np.asarray(_starts(meta.num_frames, extent, window_stride))
    bounds = np.append(times, duration)  # of frames
    middle = (bounds[first] + bounds[np.minimum(first + extent, meta.num_frames)]) / 2
    return Whole(meta, np.round(middle, 4).tolist(), round(duration, 6), uneven(times, meta.fps))


def _starts(num_frames: int, extent: int, window_stride: int) -> range:
    return range(0, max(1, num_frames - extent + 1), window_stride)


def cut_windows(
    reader: VideoReader,
    num_frames: int,
    frame_stride: int,
    window_stride: int,
    shrink: Callable[[np.ndarray], np.ndarray] = lambda frame: frame,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each window over a video: its frame indices int64 [T], and its frames uint8 [T, ...] as ``shrink`` makes them of
    uint8 [H, W, 3]. Frames are read once, in order, and those that are behind are let go."""
    total, extent = reader.meta.num_frames, (num_frames - 1) * frame_stride + 1
    starts = _starts(total, extent, window_stride)
    needed = np.zeros(total, dtype=bool)
    for offset in range(num_frames):
        needed[(np.asarray(starts) + offset * frame_stride) % total] = True
    kept: dict[int, np.ndarray] = {}
    at = 0
    for number, frame in reader.read(np.flatnonzero(needed).tolist()):
        kept[number] = shrink(frame)
        while at < len(starts):
            index = clip_indices(starts[at], num_frames, frame_stride, total)
            if index.max() > number:
                break
            yield index, np.stack([kept[i] for i in index.tolist()])
            at += 1
            for gone in [i for i in kept if at < len(starts) and i < starts[at]]:
                del kept[gone]


def stream(windows: Windows, videos: Sequence[int]) -> Iterator[tuple[int, Content]]:
    """(video, content) for all pieces of ``videos``: those of one in order, none twice, whatever becomes of workers.

    Raises ``DataError`` where too many videos hang or crash their decoder: see ``build_loader``.
    """
    source = windows.source
    workers = min(source.num_workers, len(videos))
    windows.rewind()
    turns = _Turns(videos, max(1, workers))
    timeout, max_lost = source.sample_timeout, source.max_bad(len(windows.entries))
    found: Iterable[Any] = build_loader(
        windows, turns, itemgetter(0), workers, timeout=timeout, max_lost=max_lost, in_turn=True
    )
    for piece in found:
        if piece is not None and turns.take(piece):
            yield piece.video, piece.content


_AT_ONCE = 2
"""Videos that a worker is given: one, and one to go on with before anybody has seen that the first one ended."""


class _Turns:
    """Who goes through which video, and how far it is. What it gives are the keys of ``Windows``, for each worker in
    turn, until all videos have ended."""

    def __init__(self, videos: Sequence[int], num_workers: int) -> None:
        self._given = [[video] for video in videos[:num_workers]]
        self._waiting = deque(videos[num_workers:])
        self._come: dict[int, int] = {}

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        while self._waiting or any(self._given):
            for given in self._given:
                while self._waiting and len(given) < _AT_ONCE:
                    given.append(self._waiting.popleft())
                yield [tuple(given)]

    def take(self, piece: Piece) -> bool:
        """Whether ``piece`` is the next one of its video, and not one that has come before."""
        given = next((given for given in self._given if piece.video in given), None)
        come = self._come.get(piece.video, 0)
        broken = isinstance(piece.content, str)
        if given is None or not (broken or piece.number == come):
            return False
        self._come[piece.video] = come + 1
        if not isinstance(piece.content, View):
            given.remove(piece.video)
            del self._come[piece.video]
        return True
