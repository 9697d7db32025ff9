from __future__ import annotations

import numpy as np
import torch

from st_ssl.core.types import View
from st_ssl.data.video.views import frame_differences, pooled_frames


def view_of(frames: np.ndarray) -> View:
    """Clips of ``frames`` uint8 [B, T, H, W, 3]."""
    return View(torch.from_numpy(frames), torch.arange(frames.shape[1]).expand(len(frames), -1))


def noise(clips: int, frames: int = 4, side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (clips, frames, side, side, 3), dtype=np.uint8)


def moving_square() -> np.ndarray:
    """A red square of 4 × 4 pixels that goes one cell of four to the right with each of three frames."""
    clip = np.zeros((1, 3, 32, 32, 3), np.uint8)
    for time in range(3):
        clip[0, time, 8:12, 4 * time : 4 * time + 4, 0] = 255
    return clip


def test_pooled_frames_are_means_over_time_and_cells() -> None:
    clips = noise(20)
    expected = clips.astype(np.float64).reshape(20, 4, 16, 2, 16, 2, 3).mean((1, 3, 5)).transpose(0, 3, 1, 2) / 255
    found = pooled_frames(view_of(clips))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.reshape(20, -1), atol=1e-6)


def test_frame_differences_are_means_over_time_and_cells() -> None:
    clips = noise(20)
    frames = clips.astype(np.float64)
    both = np.stack([np.abs(np.diff(frames, axis=1)).mean(1), frames[:, -1] - frames[:, 0]], 1)
    expected = both.reshape(20, 2, 8, 4, 8, 4, 3).mean((3, 5)).transpose(0, 1, 4, 2, 3) / 255
    found = frame_differences(view_of(clips))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.reshape(20, -1), atol=1e-6)


def test_differences_show_where_a_square_moves() -> None:
    moved, change = frame_differences(view_of(moving_square())).reshape(2, 3, 8, 8)
    assert moved[0, 2, :3].tolist() == [0.5, 1, 0.5]  # it leaves the first, crosses the second and ends in the third
    assert change[0, 2, :3].tolist() == [-1, 0, 1]
    moved[0, 2, :3] = change[0, 2, :3] = 0
    assert not moved.any() and not change.any()


def test_what_stands_still_has_no_differences() -> None:
    still = np.repeat(noise(2, 1), 4, axis=1)
    assert not frame_differences(view_of(still)).any()
    assert not frame_differences(view_of(still[:, :1])).any()


def test_the_order_of_frames_is_seen_in_differences_alone() -> None:
    clips = noise(3)
    shuffled = view_of(clips[:, [2, 0, 3, 1]])
    np.testing.assert_array_equal(pooled_frames(shuffled), pooled_frames(view_of(clips)))
    assert np.abs(frame_differences(shuffled) - frame_differences(view_of(clips))).max() > 0.05
