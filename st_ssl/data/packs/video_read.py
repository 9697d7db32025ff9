"""Packs of videos: see ``st_ssl/data/packs/read_pack.py``."""

from __future__ import annotations

from st_ssl.data.packs.read_pack import Pack
from st_ssl.data.streams.video import VideoReader
from st_ssl.data.streams.video.frame_table import FrameTable
from st_ssl.data.streams.video.pyav import PyAVReader


class VideoPack(Pack[VideoReader]):
    """A pack of videos to read from."""

    items, suffix, crashed = "videos", ".mp4", "the decoder crashed on it"
    table = FrameTable

    def made(self, path: str, data: bytes, table: FrameTable) -> VideoReader:
        return PyAVReader(path, table, data)

    def decode(self, sample: VideoReader) -> None:
        with sample:
            for _ in sample.read(range(sample.meta.num_frames)):
                continue
