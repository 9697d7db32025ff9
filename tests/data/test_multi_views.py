"""Several clips × several crops of one video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from st_ssl.augment.video import VideoAugment
from st_ssl.core.inputs import InputConfig
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import VideoMeta
from st_ssl.data.clip_plans import EvenClips
from st_ssl.data.streams.base import Recording
from st_ssl.data.video.views import centred_views, multi_views
from st_ssl.data.views import CutView, stack

INPUT = InputConfig(num_frames=4, stride=3, size=16)


class Frames:
    """A video in memory; ``asked`` notes what was decoded."""

    def __init__(self, width: int, height: int, num_frames: int = 30) -> None:
        self.meta = VideoMeta(num_frames, 25.0, width, height)
        self.images = keyed_rng("frames").integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
        self.asked: list[int] = []

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for index in indices:
            self.asked.append(index)
            yield index, self.images[index]

    def times(self) -> np.ndarray:
        return np.arange(self.meta.num_frames) / self.meta.fps

    def close(self) -> None:
        """Nothing is open."""


def cut(video: Frames, clips: int, crops: Any) -> list[CutView]:
    return multi_views(INPUT, clips, crops).cut(Recording.of(video), (0,))


def expected(video: Frames, index: np.ndarray, top: int, left: int) -> np.ndarray:
    """The square at that place, of each frame: uint8 [T, S, S, 3]."""
    side = min(video.meta.height, video.meta.width)
    square = torch.from_numpy(video.images[index, top : top + side, left : left + side]).permute(0, 3, 1, 2)
    small = interpolate(square, (INPUT.size, INPUT.size), mode="bilinear", antialias=True)
    return small.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    ("size", "corners"),
    [((50, 31), [(0, 9), (0, 0), (0, 19)]), ((31, 50), [(9, 0), (0, 0), (19, 0)]), ((31, 31), [(0, 0)] * 3)],
)
def test_three_squares_along_the_longer_side(size: tuple[int, int], corners: list[tuple[int, int]]) -> None:
    video = Frames(*size)
    views = cut(video, 1, 3)
    (draw,) = EvenClips(4, 3).draw(keyed_rng(0), video)
    assert len(views) == multi_views(INPUT, 1, 3).num_views == 3
    for view, (top, left) in zip(views, corners, strict=True):
        assert view.params["box"].tolist() == [[top, left, 31, 31]]
        np.testing.assert_array_equal(view.at, draw.at)
        np.testing.assert_array_equal(view.content, expected(video, draw.at, top, left))


@pytest.mark.parametrize(("clips", "order"), [(1, [0]), (2, [0, 1]), (4, [1, 2, 0, 3]), (5, [2, 1, 3, 0, 4])])
def test_views_go_from_the_middle_outwards(clips: int, order: list[int]) -> None:
    video = Frames(50, 31, 90)
    even = EvenClips(4, 3, clips).draw(keyed_rng(0), video)
    views = cut(video, clips, 3)
    assert len(views) == 3 * clips
    for place, clip in enumerate(order):
        for view in views[3 * place : 3 * place + 3]:
            np.testing.assert_array_equal(view.at, even[clip].at)


def test_the_first_view_is_the_one_of_a_test_with_one_clip() -> None:
    video = Frames(50, 31)
    (alone,) = centred_views(INPUT).cut(Recording.of(video), (0,))
    first = cut(video, 5, 3)[0]
    np.testing.assert_array_equal(first.content, alone.content)
    np.testing.assert_array_equal(first.at, alone.at)
    assert first.params.keys() == alone.params.keys()
    assert all(np.array_equal(first.params[name], alone.params[name]) for name in alone.params)


@pytest.mark.parametrize(("size", "squares"), [((50, 31), 3), ((31, 31), 1)])
def test_a_frame_is_decoded_once_and_resized_once_for_each_square(
    size: tuple[int, int], squares: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resized = []
    plain = VideoAugment._resize

    def noted(self: VideoAugment, crops: np.ndarray) -> np.ndarray:
        resized.append(len(crops))
        return plain(self, crops)

    monkeypatch.setattr(VideoAugment, "_resize", noted)
    video = Frames(*size)
    views = cut(video, 10, 3)  # 40 places of clips, that overlap in 30 frames
    used = sorted({int(i) for view in views for i in view.at})
    assert len(used) < 40
    assert video.asked == used
    assert sum(resized) == squares * len(used)


def test_a_batch_of_all_views() -> None:
    views = multi_views(INPUT, 2, 3)
    samples = [cut(Frames(50, 31), 2, 3), cut(Frames(31, 50), 2, 3)]
    shown = views.prepare(stack(samples))
    assert [tuple(view.clip.shape) for view in shown] == [(2, 3, 4, 16, 16)] * 6
    mean, std = (torch.tensor(value).view(3, 1, 1, 1) for value in (INPUT.mean, INPUT.std))
    pixels = torch.from_numpy(samples[1][4].content).permute(3, 0, 1, 2) / 255
    torch.testing.assert_close(shown[4].clip[1], (pixels - mean) / std)
