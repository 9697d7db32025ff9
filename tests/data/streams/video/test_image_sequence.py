"""Folders of images as videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from st_ssl.core.errors import SampleError
from st_ssl.data.streams.video import base, open_video
from tests.data.made import (
    REAL,
    SIZE,
    barcode,
    write_images,
)


def test_folder_of_images(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "frames", 12)
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("not a frame")
    with open_video(folder) as reader:
        assert (reader.meta.num_frames, reader.meta.fps) == (12, base.FALLBACK_FPS)
        assert (reader.meta.width, reader.meta.height) == (SIZE, SIZE)
        for index, image in reader.frames(range(12)):  # img_2 before img_10
            np.testing.assert_array_equal(image, barcode(index))


def test_folder_of_images_that_cannot_be_used(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "frames", 3)
    Image.fromarray(barcode(1, width=72)).save(folder / "img_2.png")
    (folder / "img_3.png").write_bytes((folder / "img_1.png").read_bytes()[:60])
    with open_video(folder) as reader:
        with pytest.raises(SampleError, match=r"frame 1 is 72x64, the first one 64x64"):
            list(reader.frames([0, 1]))
        with pytest.raises(SampleError, match=r"frame 2 of 3 cannot be decoded: img_3\.png"):
            list(reader.frames([2]))
    (tmp_path / "none").mkdir()
    with pytest.raises(SampleError, match="no frames"):
        open_video(tmp_path / "none")
    with pytest.raises(SampleError, match="file is missing"):
        open_video(tmp_path / "nowhere", "frames")
    with pytest.raises(SampleError, match="not a folder"):
        open_video(folder / "img_1.png", "frames")


def test_real_folder_of_images() -> None:
    folder = REAL / "frames/clip0"
    if not folder.is_dir():
        pytest.skip("no real data")
    with open_video(folder) as reader:
        assert reader.meta.num_frames == 10
        first = np.asarray(Image.open(folder / "img_00001.jpg"))
        np.testing.assert_array_equal(next(reader.frames([0]))[1], first)
