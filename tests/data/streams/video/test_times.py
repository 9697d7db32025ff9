"""When frames are shown: by time stamps, in all readers alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from st_ssl.core.types import Entry
from st_ssl.data.packs.video_write import PackConfig, VideoPacker
from st_ssl.data.streams.video import open_video
from st_ssl.data.streams.video.base import FALLBACK_FPS
from st_ssl.data.streams.video.frame_table import uneven
from st_ssl.data.streams.video.segment import segment_of
from tests.data.made import skip_without, write_images, write_video

pytest.importorskip("av")
pytestmark = pytest.mark.usefixtures("fresh_tables")

SLOWING = [*range(0, 2000, 40), *range(2000, 4000, 100)]  # milliseconds: 50 frames at 25 a second, then 20 at 10


@pytest.mark.parametrize("backend", ["pyav", "torchcodec", "decord"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_rate_and_times_are_those_of_time_stamps(made: Path, tmp_path: Path, name: str, backend: str) -> None:
    skip_without(backend, made)
    with open_video(write_video(tmp_path / name, 70, times=SLOWING, bf="2"), backend) as reader:
        assert reader.meta.fps == pytest.approx(69 / 3.9)
        np.testing.assert_allclose(reader.times(), np.array(SLOWING) / 1000, atol=1e-6)
        assert 3.9 < reader.duration() <= 4.0
        assert uneven(reader.times(), reader.meta.fps)


@pytest.mark.parametrize("name", ["b_frames.mp4", "late_start.ts", "vp9.webm", "b_frames.avi", "plain.mpg", "odd.webm"])
def test_a_constant_rate_is_told_as_the_file_tells_it(made: Path, name: str) -> None:
    with open_video(made / name) as reader:
        assert reader.meta.fps == pytest.approx(25, abs=1e-9)
        np.testing.assert_allclose(reader.times(), np.arange(64) / 25, atol=1e-3)
        assert reader.duration() == pytest.approx(64 / 25, abs=1e-3)
        assert not uneven(reader.times(), reader.meta.fps)


def test_times_of_folders_and_of_parts(tmp_path: Path) -> None:
    with open_video(write_images(tmp_path / "images", 5)) as reader:
        assert reader.times().tolist() == [i / FALLBACK_FPS for i in range(5)]
        assert reader.duration() == 5 / FALLBACK_FPS
    path = str(write_video(tmp_path / "a.mkv", 70, times=SLOWING))
    with segment_of(open_video(path), Entry(path, start=50, num_frames=10)) as part:
        assert part.meta.fps == pytest.approx(10)
        np.testing.assert_allclose(part.times(), np.arange(10) / 10, atol=1e-9)
        assert part.duration() == pytest.approx(1.0)
    with segment_of(open_video(path), Entry(path, start=60)) as part:
        assert 0.9 < part.duration() <= 1.0


def test_packs_keep_uneven_times(tmp_path: Path) -> None:
    path = str(write_video(tmp_path / "a.mkv", 70, times=SLOWING))
    _, table = VideoPacker(PackConfig()).make(Entry(path), "a")
    np.testing.assert_allclose(table.times(), np.array(SLOWING) / 1000, atol=1e-4)
    assert table.meta.fps == pytest.approx(69 / 3.9)
