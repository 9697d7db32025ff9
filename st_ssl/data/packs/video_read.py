"""Packs of videos: see ``st_ssl/data/packs/read_pack.py``."""

from __future__ import annotations

from st_ssl.data.packs import read_pack as pack
from st_ssl.data.packs.read_pack import Content
from st_ssl.data.streams.video import VideoReader
from st_ssl.data.streams.video.frame_table import FrameTable
from st_ssl.data.streams.video.pyav import PyAVReader


def _open(path: str, data: bytes, table: FrameTable) -> VideoReader:
    return PyAVReader(path, table, data)


def _decode(video: VideoReader) -> None:
    with video:
        for _ in video.read(range(video.meta.num_frames)):
            continue


VIDEOS = Content("videos", ".mp4", FrameTable.from_json, _open, _decode, "the decoder crashed on it")


class VideoPack(pack.Pack[FrameTable, VideoReader]):
    """A pack of videos to read from."""

    def __init__(self, root: str) -> None:
        super().__init__(root, VIDEOS)
