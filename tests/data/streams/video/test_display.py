"""Frames as players show them: turned and mirrored by the display matrix, with square pixels."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.core.errors import SampleError
from st_ssl.core.types import Entry
from st_ssl.data.packs.video_index import INDEX_FILE, Library, survey
from st_ssl.data.packs.video_write import PackConfig, VideoPacker
from st_ssl.data.streams.video import open_video
from st_ssl.data.streams.video.pyav import PyAVReader
from tests.data.made import skip_without

av = pytest.importorskip("av")
pytestmark = pytest.mark.usefixtures("fresh_tables")

CORNERS = np.zeros((64, 128, 3), dtype=np.uint8)
CORNERS[:32, :64], CORNERS[:32, 64:], CORNERS[32:, :64] = (220, 40, 40), (40, 220, 40), (40, 40, 220)

# a, b, c, d of the display matrix: what is stored at (x, y) is shown at (a x + c y, b x + d y), y downwards
SHOWN: dict[tuple[int, ...], np.ndarray] = {
    (1, 0, 0, 1): CORNERS,
    (-1, 0, 0, 1): CORNERS[:, ::-1],
    (1, 0, 0, -1): CORNERS[::-1],
    (-1, 0, 0, -1): CORNERS[::-1, ::-1],
    (0, 1, 1, 0): CORNERS.transpose(1, 0, 2),
    (0, 1, -1, 0): CORNERS.transpose(1, 0, 2)[:, ::-1],
    (0, -1, 1, 0): CORNERS.transpose(1, 0, 2)[::-1],
    (0, -1, -1, 0): CORNERS.transpose(1, 0, 2)[::-1, ::-1],
}


def with_matrix(path: Path, matrix: tuple[float, ...], **options: Any) -> Path:
    """A video of ``CORNERS`` with a, b, c, d of a display matrix in its header."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "10", **options})
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuv420p"
        for _ in range(4):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(CORNERS, format="rgb24")))
        output.mux(stream.encode())
    data = path.read_bytes()
    plain = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    at = data.index(plain, data.index(b"tkhd"))
    a, b, c, d = (round(value * 65536) for value in matrix)
    path.write_bytes(data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :])
    return path


def assert_near(found: np.ndarray, truth: np.ndarray) -> None:
    assert found.shape == truth.shape
    assert np.abs(found.astype(int) - truth).mean() < 6


@pytest.mark.parametrize("matrix", SHOWN)
def test_frames_are_turned_and_mirrored_as_ffmpeg_does_it(tmp_path: Path, matrix: tuple[int, ...]) -> None:
    path, truth = with_matrix(tmp_path / "a.mp4", matrix), SHOWN[matrix]
    with open_video(path) as reader:
        assert (reader.meta.width, reader.meta.height) == truth.shape[1::-1]
        for _, image in reader.read(range(4)):
            assert_near(image, truth)
    survey([Entry(str(path))], tmp_path / INDEX_FILE, progress=False)
    with Library(records=survey([Entry(str(path))], tmp_path / INDEX_FILE, progress=False)).open(str(path)) as reader:
        assert_near(next(iter(reader.read([2])))[1], truth)


@pytest.mark.parametrize("backend", ["torchcodec", "decord"])
@pytest.mark.parametrize("matrix", SHOWN)
def test_other_readers_show_the_same_or_refuse(
    made: Path, tmp_path: Path, matrix: tuple[int, ...], backend: str
) -> None:
    skip_without(backend, made)
    path, truth = with_matrix(tmp_path / "a.mp4", matrix), SHOWN[matrix]
    a, b, c, d = matrix
    if a * d - b * c < 0:
        with pytest.raises(SampleError, match=rf"{backend} does not mirror frames.*data\.reader=pyav does"):
            open_video(path, backend)
        return
    with open_video(path, backend) as reader:
        assert_near(next(iter(reader.read([2])))[1], truth)


def test_a_slanted_display_matrix_is_named(tmp_path: Path) -> None:
    path = with_matrix(tmp_path / "a.mp4", (0.8, 0.6, -0.6, 0.8))
    with pytest.raises(SampleError, match="turned by an angle that is no quarter turn"):
        open_video(path)


@pytest.mark.parametrize("backend", ["pyav", "torchcodec", "decord"])
@pytest.mark.parametrize(
    ("aspect", "matrix", "size"),
    [
        ("2/1", (1, 0, 0, 1), (256, 64)),
        ("8/9", (1, 0, 0, 1), (114, 64)),
        ("2/1", (0, 1, -1, 0), (64, 256)),
        ("2/1", (-1, 0, 0, 1), (256, 64)),
        ("201/200", (1, 0, 0, 1), (128, 64)),
    ],
)
def test_pixels_are_square(
    made: Path, tmp_path: Path, backend: str, aspect: str, matrix: tuple[int, ...], size: tuple[int, int]
) -> None:
    skip_without(backend, made)
    if backend != "pyav" and matrix[0] < 0:
        pytest.skip("it refuses to mirror frames")
    path = with_matrix(tmp_path / "a.mp4", matrix, **{"x264-params": f"sar={aspect}"})
    with open_video(path, backend) as reader:
        assert (reader.meta.width, reader.meta.height) == size
        _, image = next(iter(reader.read([1])))
    assert image.shape == (size[1], size[0], 3)
    truth = SHOWN[matrix]
    for y in (0.2, 0.8):
        for x in (0.2, 0.8):
            there, here = (part[int(y * len(part)), int(x * part.shape[1])].astype(int) for part in (image, truth))
            assert np.abs(there - here).max() < 40


def test_what_is_packed_has_square_pixels(tmp_path: Path) -> None:
    path = with_matrix(tmp_path / "a.mp4", (1, 0, 0, 1), **{"x264-params": "sar=2/1"})
    content, table = VideoPacker(PackConfig()).make(Entry(str(path)), "a")
    assert (table.meta.width, table.meta.height, table.aspect) == (256, 64, Fraction(1))
    with PyAVReader("a", table, content) as reader:
        (image,) = (image for _, image in reader.read([2]))
    assert np.abs(image[::2, ::4].astype(int) - CORNERS[::2, ::2]).mean() < 6
