"""Folders of images: what in them is a video, what is left out, and which of several series is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.data.sources.base import Listing
from st_ssl.data.sources.video import read_source
from tests.data.sources.video.test_sources import seen, touch

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def frames(root: Path, folder: str, *names: str, count: int = 4) -> None:
    """``count`` images of each of ``names`` (``img_{}.jpg``) in a folder."""
    touch(root, *(f"{folder}/{name.format(i)}" for name in names for i in range(count)))


def told(listing: Listing, text: str) -> bool:
    assert sum(text in line for line in listing.told) <= 1, listing.told
    return any(text in line for line in listing.told)


@pytest.mark.parametrize("stray", ["n_frames", "Thumbs.db", ".DS_Store", "desktop.ini", "notes.txt", "boxes.xml"])
def test_a_stray_file_leaves_the_folder_a_video(tmp_path: Path, stray: str) -> None:
    for clip in ("run/a", "run/b", "jump/c"):
        frames(tmp_path, clip, "image_{:05d}.jpg")
    touch(tmp_path, f"run/a/{stray}", f"run/b/{stray}")
    with pytest.warns(UserWarning, match="left out: 2 "):
        listing = read_source(tmp_path)
    assert seen(tmp_path, listing) == [
        ("jump/c", "train", "jump"),
        ("run/a", "train", "run"),
        ("run/b", "train", "run"),
    ]
    assert sum("left out" in line for line in listing.told) == 1


def test_what_is_left_out_is_counted_in_one_line(tmp_path: Path) -> None:
    frames(tmp_path, "run/a", "{}.jpg")
    touch(tmp_path, "run/b.mp4", "run/b.json", "run/c.json", "notes/x.txt", "st_ssl_index.jsonl", "synthetic.json")
    (tmp_path / "jump/deep").mkdir(parents=True)
    line = f"{tmp_path}: left out: 2 .json; 1 .txt; 2 folders without a video: jump, notes"
    assert line in read_source(tmp_path).told


def test_folders_within_folders_of_images(tmp_path: Path) -> None:
    frames(tmp_path, "run/a", "{}.jpg")
    frames(tmp_path, "run/a/flow", "flow_x_{}.jpg")
    frames(tmp_path, "run/b", "{}.jpg")
    touch(tmp_path, "run/b/boxes/1.xml", "jump/cover.jpg", "jump/cover2.jpg")
    frames(tmp_path, "jump/c", "{}.jpg")
    frames(tmp_path, "jump/d", "{}.jpg")
    touch(tmp_path, "jump/d/d.mp4")
    listing = read_source(tmp_path)
    assert [name for name, *_ in seen(tmp_path, listing)] == ["jump/c", "jump/d/d.mp4", "run/a", "run/b"]
    assert told(listing, "left out: 6 .jpg; 1 × the folder flow; 1 × the folder boxes")


def test_folders_of_one_video_in_several_ways(tmp_path: Path) -> None:
    for clip in ("run/a", "jump/b"):
        frames(tmp_path, f"{clip}/rgb", "{}.jpg")
        frames(tmp_path, f"{clip}/depth", "{}.png")
    frames(tmp_path, "jump/c/depth", "{}.png")  # nothing else there is
    listing = read_source(tmp_path)
    assert [name for name, *_ in seen(tmp_path, listing)] == ["jump/b/rgb", "jump/c/depth", "run/a/rgb"]
    assert told(listing, "left out: 2 × the folder depth")


def flowset(root: Path) -> None:
    for clip in ("run/v_run_g00", "run/v_run_g01", "jump/v_jump_g00"):
        frames(root, clip, "img_{:05d}.jpg", count=12)
        frames(root, clip, "flow_x_{:05d}.jpg", "flow_y_{:05d}.jpg", count=11)


def test_of_rgb_and_flow_it_is_rgb(tmp_path: Path) -> None:
    flowset(tmp_path)
    listing = read_source(tmp_path)
    assert seen(tmp_path, listing) == [
        ("jump/v_jump_g00#img_*", "train", "jump"),
        ("run/v_run_g00#img_*", "train", "run"),
        ("run/v_run_g01#img_*", "train", "run"),
    ]
    assert told(listing, "3 of 3 folders of images hold several series (flow_x_*, flow_y_*, img_*): img_* is taken")
    assert listing.summary()["frames"] == [12, 12, 12]


def test_lists_of_folders_name_the_same_series(tmp_path: Path) -> None:
    flowset(tmp_path)
    (tmp_path / "list.txt").write_text("run/v_run_g00 12 0\nrun/v_run_g01 12 0\njump/v_jump_g00 12 1\n")
    listing = read_source(tmp_path, tmp_path / "list.txt")
    assert [(Path(e.path).name, e.num_frames) for e in listing] == [
        ("v_run_g00#img_*", 12),
        ("v_run_g01#img_*", 12),
        ("v_jump_g00#img_*", 12),
    ]
    assert told(listing, "img_* is taken")
    flow = read_source(tmp_path, tmp_path / "list.txt", series="flow_x_")
    assert {entry.path.partition("#")[2] for entry in flow} == {"flow_x_*"}


@pytest.mark.parametrize("series", ["flow_x_", "flow_x_*", "flow_x", "FLOW_X"])
def test_the_key_names_another(tmp_path: Path, series: str) -> None:
    flowset(tmp_path)
    assert {entry.path.partition("#")[2] for entry in read_source(tmp_path, series=series)} == {"flow_x_*"}


def test_all_images_of_a_folder(tmp_path: Path) -> None:
    flowset(tmp_path)
    listing = read_source(tmp_path, series="all")
    assert len(listing) == 3 and listing.summary()["frames"] == [34, 34, 34]


@pytest.mark.parametrize("series", ["depth", "flow"])
def test_a_series_that_is_not_there(tmp_path: Path, series: str) -> None:
    flowset(tmp_path)
    with pytest.raises(ConfigError, match=rf"data.series={series}: no such series; there are flow_x_\*, flow_y"):
        read_source(tmp_path, series=series)
    touch(tmp_path, "other/a.mp4")
    assert told(read_source(tmp_path / "other", series=series), f"data.series={series} is ignored")


def test_videos_of_a_class_in_one_folder(tmp_path: Path) -> None:
    for name in ("Abuse", "Arson"):
        for number in (1, 2, 3):
            frames(tmp_path, f"Train/{name}", f"{name}{number:03d}_x264_{{}}.png", count=10)
    frames(tmp_path, "Test/Arson", "Arson009_x264_{}.png", count=10)
    listing = read_source(tmp_path)
    assert len(listing) == 7
    assert seen(tmp_path, listing)[:2] == [
        ("Test/Arson#Arson009_x264_*", "test", "Arson"),
        ("Train/Abuse#Abuse001_x264_*", "train", "Abuse"),
    ]
    assert told(listing, "each is a video, 7 in all, labelled by its folder")


def test_names_of_folders_in_names_of_series(tmp_path: Path) -> None:
    for clip in ("run/v0", "run/v1", "jump/v2"):
        name = clip.partition("/")[2]
        frames(tmp_path, clip, f"{name}_rgb_{{}}.jpg", f"{name}_depth_{{}}.png")
    assert [name for name, *_ in seen(tmp_path, read_source(tmp_path))] == [
        "jump/v2#v2_rgb_*",
        "run/v0#v0_rgb_*",
        "run/v1#v1_rgb_*",
    ]


@pytest.mark.parametrize(
    ("first", "second", "ends"),
    [
        ("left_*", "right_*", (".png", ".png")),
        ("*.jpg", "*.png", ("", "")),
        ("cam1_*", "cam2_*", (".png", ".png")),
        ("u_*", "v_*", (".png", ".png")),
    ],
)
def test_two_readings_are_an_error_that_names_the_key(
    tmp_path: Path, first: str, second: str, ends: tuple[str, str]
) -> None:
    files = [name.replace("*", "{}") + end for name, end in zip((first, second), ends, strict=True)]
    for clip in ("run/a", "run/b", "jump/c"):
        frames(tmp_path, clip, *files)
    names = f"{first}, {second}".replace("*", r"\*")
    with pytest.raises(DataError, match=rf"3 of 3 folders .* \({names}\), which can be meant in several ways: data."):
        read_source(tmp_path)
    assert {entry.path.partition("#")[2] for entry in read_source(tmp_path, series=second)} == {second}
    assert len(read_source(tmp_path, series="each")) == 6
    (tmp_path / "list.txt").write_text("run/a 0\nrun/b 0\njump/c 1\n")
    with pytest.raises(DataError, match=r"data.series"):
        read_source(tmp_path, tmp_path / "list.txt")
    listing = read_source(tmp_path, tmp_path / "list.txt", series="each")
    assert [entry.labels["label"] for entry in listing] == ["0", "0", "0", "0", "1", "1"]


def test_a_list_may_name_a_series(tmp_path: Path) -> None:
    frames(tmp_path, "Abuse", "Abuse001_x264_{}.png", "Abuse002_x264_{}.png")
    (tmp_path / "list.txt").write_text("Abuse#Abuse001_x264_* 0\nAbuse#Abuse002_x264_* 1\n")
    listing = read_source(tmp_path, tmp_path / "list.txt")
    assert [(Path(e.path).name, e.labels["label"]) for e in listing] == [
        ("Abuse#Abuse001_x264_*", "0"),
        ("Abuse#Abuse002_x264_*", "1"),
    ]
    (tmp_path / "list.txt").write_text("Abuse 0\n")
    with pytest.raises(DataError, match=r"folders that it lists hold several series .*folder#Abuse001_x264_\*.*=each"):
        read_source(tmp_path, tmp_path / "list.txt")


def test_a_folder_that_disagrees_is_left_to_the_reader(tmp_path: Path) -> None:
    for number in range(30):
        frames(tmp_path, f"run/{number}", "img_{}.jpg", "flow_{}.jpg")
    frames(tmp_path, "run/odd", "picture_{}.jpg", "flow_{}.jpg")
    paths = [entry.path for entry in read_source(tmp_path)]
    assert len(paths) == 31 and all(path.endswith("#img_*") for path in paths)
