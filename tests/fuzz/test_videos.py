"""Videos and images made to run a program, to block, to take memory or to read other files: one broken sample each."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from st_ssl.core.errors import SampleError, sample_fault
from st_ssl.data.streams.video import open_video
from tests.data.made import write_video
from tests.fuzz.child import outcome

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"
EPS_IN_PARTS = b"\xc5\xd0\xd3\xc6" + struct.pack("<6I", 30, len(EPS), 0, 0, 0, 0) + b"\xff\xff" + EPS
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"


def play(path: Path) -> int:
    """As a data set reads it."""
    with sample_fault(str(path)), open_video(path) as video:
        return sum(1 for _ in video.read(range(video.meta.num_frames)))


def png(width: int, height: int) -> bytes:
    """A header that announces so many pixels, and a few bytes of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def gif(width: int, height: int) -> bytes:
    """One frame on a screen of so many pixels."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0;"
    return head + frame


def image(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, kind)
    return out.getvalue()


@pytest.fixture
def gs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Ghostscript first on the path that leaves a file where it is started."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("gs", "gswin32c", "gswin64c"):
        (folder / name).write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path / "started"


IMAGES: dict[str, Callable[[], bytes]] = {
    "a program": lambda: EPS,
    "a program in TIFF's place": lambda: (
        b"\xc5\xd0\xd3\xc6" + struct.pack("<6I", 30, len(EPS), 0, 0, 0, 0) + b"\xff\xff" + EPS
    ),
    "a wide one": lambda: png(170_000_000, 1),
    "a large one": lambda: png(60_000, 60_000),
    "cut": lambda: image("PNG")[:50],
    "another kind": lambda: b"\0\0\1\0" + bytes(60),
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("case", IMAGES)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_an_image_is_one_broken_sample(tmp_path: Path, gs: Path, case: str, suffix: str) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}{suffix}").write_bytes(IMAGES[case]())
    message = outcome(lambda: play(folder))
    assert message.startswith(f"{folder}"), message
    assert not gs.exists()


@pytest.mark.parametrize("name", ["a.gif", "a.mp4"])
def test_a_large_screen_of_a_small_gif(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gif(30_000, 30_000))
    assert outcome(lambda: play(tmp_path / name)).startswith(f"{tmp_path / name}: ")


@pytest.mark.parametrize("backend", ["auto", "pyav"])
def test_a_pipe_does_not_block(tmp_path: Path, backend: str) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    message = outcome(lambda: open_video(tmp_path / "a.mp4", backend))
    assert message.startswith(f"{tmp_path / 'a.mp4'}: ")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.gif"])
def test_a_playlist_in_disguise_reads_no_other_file(tmp_path: Path, name: str) -> None:
    other = write_video(tmp_path / "secret.ts", 8, size=(32, 32))
    (tmp_path / name).write_text(PLAYLIST.format(other))
    with pytest.raises(SampleError):
        play(tmp_path / name)


def test_a_name_that_no_file_has(tmp_path: Path) -> None:
    with pytest.raises(SampleError):
        play(Path(f"{tmp_path}/a\0b.mp4"))


def test_valid_neighbours_are_read(tmp_path: Path) -> None:
    """What is refused above is refused for what it is."""
    (tmp_path / "frames").mkdir()
    for number in range(3):
        Image.fromarray(np.full((16, 16, 3), number, dtype=np.uint8)).save(tmp_path / "frames" / f"{number}.png")
    assert play(tmp_path / "frames") == 3
    assert play(write_video(tmp_path / "a.gif", 8, size=(32, 32), codec="gif")) == 8
