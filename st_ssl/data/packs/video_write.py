"""What is packed of a video: H.264 of a small size that is quick to cut clips from."""

from __future__ import annotations

import io

from pydantic import Field

from st_ssl.core.types import Entry
from st_ssl.data.packs.video_encoding import encode
from st_ssl.data.packs.video_read import VideoPack
from st_ssl.data.packs.write_pack import Packer, ShardConfig
from st_ssl.data.streams.video import MAX_PIXELS, open_video
from st_ssl.data.streams.video.frame_table import FrameTable, uneven
from st_ssl.data.streams.video.pyav import PyAVReader
from st_ssl.data.streams.video.segment import segment_of


class PackConfig(ShardConfig):
    """How videos are packed. ``short_side`` in pixels (smaller videos keep their size); ``crf``: quality of H.264, less
    is better; ``keyframes``: frames from one key frame to the next; ``shard_size``: videos in a shard."""

    short_side: int = Field(default=256, ge=16)
    crf: int = Field(default=20, ge=0, le=51)
    keyframes: int = Field(default=32, gt=0)


class VideoPacker(Packer):
    """Videos as ``reader`` reads them, with up to ``max_pixels`` a frame, made small."""

    pack = VideoPack

    def __init__(self, config: PackConfig, reader: str = "auto", max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(config)
        self.how, self.reader, self.max_pixels = config, reader, max_pixels

    def make(self, entry: Entry, name: str) -> tuple[bytes, FrameTable]:
        content = self.shrunken(entry)
        return content, PyAVReader(name, data=content).table

    def shrunken(self, entry: Entry) -> bytes:
        """The video as MP4; ``SampleError`` where it cannot be read."""
        with segment_of(open_video(entry.path, self.reader, max_pixels=self.max_pixels), entry) as video:
            meta = video.meta
            scale = min(1.0, self.how.short_side / min(meta.width, meta.height))
            size = tuple(max(2, 2 * round(side * scale / 2)) for side in (meta.width, meta.height))
            frames = (frame for _, frame in video.read(range(meta.num_frames)))
            file = io.BytesIO()
            times = video.times()
            clock = times if uneven(times, meta.fps) else None
            encode(file, frames, meta.fps, (size[0], size[1]), self.how.crf, self.how.keyframes, times=clock)
        return file.getvalue()
