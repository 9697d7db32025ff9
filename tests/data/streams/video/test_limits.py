"""Hostile and damaged files: named, and neither run, nor waited for, nor given room."""

from __future__ import annotations

import json
import os
import socket
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from st_ssl.core.errors import SampleError
from st_ssl.core.types import VideoMeta
from st_ssl.data.packs.video_index import Library, probe
from st_ssl.data.streams.video import MAX_PIXELS, open_video
from st_ssl.data.streams.video.frame_table import MOST_FRAMES, FrameTable
from st_ssl.data.video.dataset import VideoDataConfig, VideoSource
from tests.data.made import write_images, write_video

av = pytest.importorskip("av")


def gif(width: int, height: int) -> bytes:
    frame = b"!\xf9\x04\0\x05\0\0\0," + struct.pack("<4H", 0, 0, width, height) + b"\0\x02\x02\x44\x01\0"
    return b"GIF89a" + struct.pack("<2H", width, height) + b"\x80\0\0\0\0\0\xff\xff\xff" + 2 * frame + b";"


def png(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


IVF = struct.pack("<4s2H4s2H4I", b"DKIF", 0, 32, b"VP80", 16000, 16000, 25, 1, 2, 0)
VP8 = b"\x10\x20\0\x9d\x01\x2a" + struct.pack("<2H", 16000, 16000) + bytes(990)
LARGE = {
    "a.gif": gif(65535, 65535),
    "gif.mp4": gif(16000, 16000),
    "a.y4m": b"YUV4MPEG2 W16000 H16000 F25:1 Ip A1:1 C420jpeg\nFRAME\n" + bytes(999),
    "a.ivf": IVF + struct.pack("<IQ", len(VP8), 0) + VP8,
}


@pytest.mark.parametrize("name", LARGE)
def test_frames_that_are_too_large_get_no_room(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(LARGE[name])
    with pytest.raises(SampleError, match=rf"is over the limit of {MAX_PIXELS} pixels a frame \(data\.max_pixels\)"):
        open_video(tmp_path / name)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(170_000_000, 1), (9000, 9000), (2**31 - 1, 2**31 - 1)])
def test_images_that_are_too_large_get_no_room(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "0.png").write_bytes(png(*size))
    with pytest.raises(SampleError, match=r"frame 0 of 1 cannot be decoded: 0\.png: .*(over the limit|exceeds limit)"):
        open_video(tmp_path)


def test_the_limit_is_a_key(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 4)
    write_images(tmp_path / "b", 4)
    for max_pixels, fits in ((64 * 64, True), (64 * 64 - 1, False)):
        library = VideoSource(VideoDataConfig(root=str(tmp_path), max_pixels=max_pixels)).library
        assert isinstance(library, Library)
        for name in ("a.mp4", "b"):
            if fits:
                with library.open(str(tmp_path / name)) as reader:
                    assert len(list(reader.read(range(4)))) == 4
            else:
                with pytest.raises(SampleError, match="64x64 is over the limit of 4095 pixels a frame"):
                    library.open(str(tmp_path / name))


def test_an_image_is_what_we_read_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    (tmp_path / "0.jpg").write_bytes(eps)
    with pytest.raises(SampleError, match=r"0\.jpg: not an image: JPEG, PNG, WEBP, BMP are read"):
        open_video(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "0.jpg", format="TIFF")
    with pytest.raises(SampleError, match=r"0\.jpg: not an image"):
        open_video(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("backend", ["auto", "pyav", "decord", "torchcodec"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, backend: Any) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    (tmp_path / "images").mkdir()
    os.mkfifo(tmp_path / "images" / "0.jpg")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "b.mp4"))  # such a path may be no longer than 107 bytes
        for path in (tmp_path / "a.mp4", tmp_path / "b.mp4", Path("/dev/zero")):
            with pytest.raises(SampleError, match="not a regular file"):
                open_video(path, backend)
    with pytest.raises(SampleError, match=r"0\.jpg: not a regular file"):
        open_video(tmp_path / "images")


def test_a_path_with_nul_is_none() -> None:
    for backend in ("auto", "pyav", "frames"):
        with pytest.raises(SampleError, match="not a path: it holds a NUL character"):
            open_video("a\0.mp4", backend)
    assert probe("auto", "a\0.mp4").error == "not a path: it holds a NUL character"


TABLE = FrameTable(VideoMeta(3, 25.0, 64, 48), [0, 1, 5], {0: (0, None)}).to_json()
DEEP: Any = [[] for _ in range(2)]
for _ in range(300):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "change",
    [
        {"num_frames": 0},
        {"num_frames": -3},
        {"num_frames": 2**63},
        {"num_frames": MOST_FRAMES + 1},
        {"num_frames": 3.0},
        {"num_frames": True},
        {"num_frames": DEEP},
        {"fps": float("inf")},
        {"fps": float("nan")},
        {"fps": 0},
        {"fps": "25"},
        {"width": -1},
        {"height": None},
        {"pts": [0, 5, 1]},
        {"pts": [0, 1, 2**63]},
        {"pts": [0, 1, float("inf")]},
        {"pts": DEEP},
        {"pts": "012"},
        {"pts": []},
        {"pts": {"start": 0, "stop": 2**61, "step": 1}},
        {"pts": {"start": -(2**61), "stop": 2**61, "step": 1}},
        {"pts": {"start": 0, "stop": 3, "step": 0}},
        {"pts": {"start": 0, "stop": 3}},
        {"keys": {}},
        {"keys": [[0, 1]]},
        {"keys": [[-1, 0, 0]]},
        {"keys": [[0, "0", 0]]},
        {"keys": [[0, 0, 2**64]]},
        {"keys": [DEEP]},
        {"turns": 4},
        {"mirrored": 1},
        {"aspect": [1, 0]},
        {"aspect": 1.5},
        {"tick": [0, 1]},
        {"tick": [1, float("inf")]},
        {"last": -1},
        {"format": "2"},
    ],
)
def test_a_table_is_believed_if_it_can_be_meant(change: dict[str, Any]) -> None:
    assert FrameTable.from_json(json.loads(json.dumps(TABLE))).meta.num_frames == 3
    with pytest.raises(ValueError, match=next(iter(change)).split("_")[0]):
        FrameTable.from_json(json.loads(json.dumps(TABLE | change)))


def test_a_table_is_a_mapping() -> None:
    data: Any
    for data in ([], None, "a", 3):
        with pytest.raises(ValueError, match="a table is a mapping"):
            FrameTable.from_json(data)
    with pytest.raises(ValueError, match="pts: 3 time stamps of 2 frames"):
        FrameTable.from_json(TABLE | {"num_frames": 2})
