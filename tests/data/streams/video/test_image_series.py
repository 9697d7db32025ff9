"""Which images of a folder are one video."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from st_ssl.core.errors import SampleError
from st_ssl.data.streams.video import open_video
from st_ssl.data.streams.video.image_series import is_series, names_of, rgb_of, series_of

Name = Callable[[int], str]


def many(name: Name, count: int = 12) -> list[str]:
    return [name(i) for i in range(count)]


CASES: dict[str, tuple[list[str], dict[str, int]]] = {
    "one": (many(lambda i: f"img_{i:05d}.jpg"), {"img_*": 12}),
    "beside stray files": ([*many(lambda i: f"{i}.png"), "cover.jpg", "n_frames", ".hidden_1.png"], {"*": 12}),
    "rgb and flow": (
        [name.format(i) for name in ("img_{:05d}.jpg", "flow_x_{:05d}.jpg", "flow_y_{:05d}.jpg") for i in range(9)],
        {"img_*": 9, "flow_x_*": 9, "flow_y_*": 9},
    ),
    "left and right": (
        [f"{i:04d}_{side}.png" for i in range(9) for side in ("left", "right")],
        {"*_left": 9, "*_right": 9},
    ),
    "videos of a class": (
        [f"Abuse{video:03d}_x264_{10 * i}.png" for video in range(3) for i in range(10)],
        {f"Abuse{video:03d}_x264_*": 10 for video in range(3)},
    ),
    "videos of one length": (
        [f"v{video}_{i:02d}.jpg" for video in range(3) for i in range(60)],
        {"v0_*": 60, "v1_*": 60, "v2_*": 60},
    ),
    "two extensions of one number": (
        [f"{i:04d}.{end}" for i in range(9) for end in ("jpg", "png")],
        {"*.jpg": 9, "*.png": 9},
    ),
    "two extensions, one after the other": (["1.jpg", "2.JPEG", "3.png", "4.png"], {"*": 4}),
    "time stamps": (many(lambda i: f"{1305031102 + i // 30}.{i % 30 * 33333:06d}.png", 100), {"*.*": 100}),
    "seconds": (many(lambda i: f"{i / 30:.3f}.png", 100), {"*.*": 100}),
    "clock": (many(lambda i: f"2020-01-01_12-{i // 60:02d}-{i % 60:02d}.jpg", 200), {"2020-01-01_12-*-*": 200}),
    "sizes in names": (many(lambda i: f"{i:04d}_640x480.png"), {"*_640x480": 12}),
    "few of many": (many(lambda i: f"{i:04d}_{i % 2}.png"), {"*_*": 12}),
    "words": (["a.jpg", "b.jpg", "sea.jpg"], {"**": 3}),
    "single": (["1.jpg"], {"**": 1}),
    "none": (["a.txt"], {}),
}


@pytest.mark.parametrize("case", CASES)
def test_series(case: str) -> None:
    names, expected = CASES[case]
    assert dict(series_of(names)) == dict(series_of(names[::-1])) == expected
    for series, count in expected.items():
        assert len(names_of(names, series)) == count


def test_a_series_has_its_own_images_alone_in_natural_order() -> None:
    names = ["img_10.JPG", "img_9.jpeg", "img_x_1.jpg", ".img_3.jpg", "img_1.jpg", "img_1.txt", "myimg_2.jpg"]
    assert names_of(names, "img_*") == ["img_1.jpg", "img_9.jpeg", "img_10.JPG"]
    assert names_of(["1.jpg", "2.png", "3.jpeg"], "*.jpg") == ["1.jpg", "3.jpeg"]


@pytest.mark.parametrize(
    ("series", "pictures"),
    [
        (["img_*", "flow_x_*", "flow_y_*"], "img_*"),
        (["*_depth", "*_rgb"], "*_rgb"),
        (["*", "depth_*"], "*"),
        (["left_*", "right_*"], None),
        (["*.jpg", "*.png"], None),
        (["rgb_left_*", "rgb_right_*"], None),
    ],
)
def test_which_are_pictures(series: list[str], pictures: str | None) -> None:
    assert rgb_of(series) == pictures


def write(folder: Path, **brightness: int) -> None:
    folder.mkdir(parents=True)
    for name, value in brightness.items():
        for i in range(1, 4):
            Image.new("RGB", (8, 6), (value,) * 3).save(folder / f"{name}_{i}.png")


def test_a_series_of_a_folder_is_a_video(tmp_path: Path) -> None:
    write(tmp_path / "clip", img=10, flow_x=200)
    (tmp_path / "clip" / "n_frames").write_text("3")
    for path, value in (("clip", 10), ("clip#img_*", 10), ("clip#flow_x_*", 200)):
        with open_video(tmp_path / path) as video:
            assert video.meta.num_frames == 3
            assert [image.mean() for _, image in video.read([0, 1, 2])] == [value] * 3
    assert is_series(str(tmp_path / "clip#img_*")) and not is_series(str(tmp_path / "clip"))


def test_what_is_no_series_is_named(tmp_path: Path) -> None:
    write(tmp_path / "clip", left=10, right=200)
    with pytest.raises(SampleError, match=r"its images are of 2 series, left_\*, right_\*: data.series names one"):
        open_video(tmp_path / "clip")
    with pytest.raises(SampleError, match=r"no frames: its images are left_\*, right_\*"):
        open_video(tmp_path / "clip#img_*")
    with pytest.raises(SampleError, match="file is missing"):
        open_video(tmp_path / "gone#img_*", "frames")
    write(tmp_path / "odd#name", img=10)  # a folder of that name is none of a series
    with open_video(tmp_path / "odd#name") as video:
        assert video.meta.num_frames == 3
