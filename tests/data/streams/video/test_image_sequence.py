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
        for index, image in reader.read(range(12)):  # img_2 before img_10
            np.testing.assert_array_equal(image, barcode(index))


def test_folder_of_images_that_cannot_be_used(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "frames", 3)
    Image.fromarray(barcode(1, width=72)).save(folder / "img_2.png")
    (folder / "img_3.png").write_bytes((folder / "img_1.png").read_bytes()[:60])
    with open_video(folder) as reader:
        with pytest.raises(SampleError, match=r"frame 1 is 72x64, the first one 64x64"):
            list(reader.read([0, 1]))
        with pytest.raises(SampleError, match=r"frame 2 of 3 cannot be decoded: img_3\.png"):
            list(reader.read([2]))
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
        np.testing.assert_array_equal(next(reader.read([0]))[1], first)


RAMP = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)


def test_16_bit_grey_is_scaled_as_in_videos(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    (tmp_path / "images").mkdir()
    Image.fromarray(RAMP).save(tmp_path / "images" / "0.png")
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "gray16le"
        output.mux(stream.encode(av.VideoFrame.from_ndarray(RAMP, format="gray16le")))
        output.mux(stream.encode())
    (image, filmed) = (first_frame(tmp_path / name) for name in ("images", "a.mkv"))
    np.testing.assert_array_equal(image[:, :, 0], np.rint(RAMP / 257))
    assert np.abs(image.astype(int) - filmed).max() <= 1
    assert (image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all()


def first_frame(path: Path) -> np.ndarray:
    with open_video(path) as reader:
        return next(iter(reader.read([0])))[1]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_images_of_every_mode_are_what_they_show(tmp_path: Path, mode: str) -> None:
    colours = np.zeros((16, 16, 3), dtype=np.uint8)
    colours[:8], colours[8:] = (255, 255, 255) if mode in ("1", "L", "LA") else (200, 60, 20), 0
    image = Image.fromarray(colours)
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(128)
    image.save(tmp_path / ("0.jpg" if mode == "CMYK" else "0.png"))
    assert np.abs(first_frame(tmp_path).astype(int) - colours).max() <= 6


def test_numbers_that_are_no_grey_levels_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "frames", 1)
    for image, why in (
        (Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)), "mode F are not read"),
        (
            Image.fromarray(np.full((4, 4), 70000, dtype=np.int32)),
            "mode I are read as 16-bit grey.* from 70000 to 70000",
        ),
    ):
        monkeypatch.setattr(Image, "open", lambda *_, image=image, **__: image.copy())
        with pytest.raises(SampleError, match=rf"img_1\.png: images of {why}"):
            open_video(tmp_path / "frames")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((32, 64, 3), dtype=np.uint8)
    upright[:16, :32], upright[:16, 32:] = (220, 40, 40), (40, 220, 40)
    stored = {
        **{1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1]},
        **{5: upright.transpose(1, 0, 2), 6: np.rot90(upright, 1)},
        **{7: upright.transpose(1, 0, 2)[::-1, ::-1], 8: np.rot90(upright, -1)},
    }[orientation]
    tags = Image.Exif()
    tags[274] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "0.png", exif=tags)
    np.testing.assert_array_equal(first_frame(tmp_path), upright)
