"""Real files that readers trip over, against FFmpeg's own program: read right by every reader, or refused by name."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from st_ssl.core.errors import SampleError
from st_ssl.data.streams.video import open_video
from tests.data.made import REAL, skip_without

pytest.importorskip("av")

# width and height as they are to be shown, number of frames, frames per second
EDGE = {
    "h264_10bits.mp4": (200, 200, 30, 30.0),
    "nasa_13013.mp4": (480, 270, 390, 29.97),  # two video streams and sound: the larger one is meant
    "nasa_13013_rotated.mp4": (270, 480, 17, 29.97),
    "test_non_zero_start.mp4": (200, 112, 12, 30.0),
    "testsrc2_odd_width_mpeg2.mp4": (121, 80, 10, 25.0),
    "testsrc2_vp8.webm": (1280, 720, 30, 30.0),
}
TEN_BITS = {"h264_10bits.mp4"}  # each library rounds to 8 bits and fills in the colour by its own filter
needs_data = pytest.mark.skipif(not (REAL / "edge").is_dir(), reason="no real data")
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg program")


def ffmpeg_frames(path: Path, width: int, height: int) -> np.ndarray:
    """All frames of the video stream that FFmpeg takes for the best, upright, uint8 [T, H, W, 3]."""
    raw = ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(
        ["ffmpeg", "-v", "error", "-threads", "1", "-i", str(path), *raw], capture_output=True, check=True
    )
    return np.frombuffer(done.stdout, dtype=np.uint8).reshape(-1, height, width, 3)


def assert_same(found: list[tuple[int, np.ndarray]], truth: np.ndarray, tolerance: float) -> None:
    """Each frame is within ``tolerance`` levels of its own true one, and nearer to it than to those beside it."""
    assert [index for index, _ in found] == list(range(len(truth)))
    small = truth[:, ::2, ::2].astype(np.int16)
    for index, image in found:
        assert image.shape == truth.shape[1:]
        beside = range(max(0, index - 2), min(len(truth), index + 3))
        away = {other: float(np.abs(image[::2, ::2] - small[other]).mean()) for other in beside}
        assert away[index] < tolerance, f"frame {index}"
        assert away[index] == min(away.values()), f"frame {index} is another one"


@needs_data
@needs_ffmpeg
@pytest.mark.parametrize("backend", ["pyav", "torchcodec", "decord"])
@pytest.mark.parametrize("name", EDGE)
def test_edge_files_are_read_right(made: Path, name: str, backend: str) -> None:
    skip_without(backend, made)
    width, height, count, fps = EDGE[name]
    with open_video(REAL / "edge" / name, backend) as reader:
        meta = reader.meta
        found = list(reader.read(range(meta.num_frames)))
    assert (meta.width, meta.height, meta.num_frames) == (width, height, count)
    assert meta.fps == pytest.approx(fps, abs=0.01)
    assert_same(found, ffmpeg_frames(REAL / "edge" / name, width, height), 6.0 if name in TEN_BITS else 1.0)


@needs_data
@needs_ffmpeg
@pytest.mark.parametrize("name", sorted(EDGE.keys() - {"nasa_13013.mp4"}))
def test_edge_files_as_folders_of_images(tmp_path: Path, name: str) -> None:
    truth = ffmpeg_frames(REAL / "edge" / name, *EDGE[name][:2])
    for index, image in enumerate(truth):
        Image.fromarray(image).save(tmp_path / f"{index + 1}.bmp")
    with open_video(tmp_path, "frames") as reader:
        assert reader.meta.num_frames == len(truth)
        for index, image in reader.read(range(len(truth))):
            np.testing.assert_array_equal(image, truth[index])


@needs_data
@pytest.mark.parametrize("name", EDGE)
def test_the_reader_of_images_refuses_a_file(name: str) -> None:
    with pytest.raises(SampleError, match=rf"{name}: not a folder of images"):
        open_video(REAL / "edge" / name, "frames")


@needs_data
def test_every_edge_file_has_its_line() -> None:
    assert {path.name for path in (REAL / "edge").iterdir()} == set(EDGE)
