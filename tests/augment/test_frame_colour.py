from __future__ import annotations

from typing import Any

import numpy as np
import torch

from st_ssl.augment.frame_colour import FrameColour, FrameColourConfig
from st_ssl.core.random import keyed_rng
from tests.augment.video import META, augment, batch_params, pixels

COLOUR = ("brightness", "contrast", "saturation", "hue", "grayscale", "blur", "solarize", "colour_order")


def frame_colour(**settings: Any) -> FrameColour:
    return FrameColour(FrameColourConfig(**settings), size=32)


def test_one_crop_and_a_colour_for_each_frame() -> None:
    params = frame_colour().sample(keyed_rng(0), META, 6)
    assert {name: len(value) for name, value in params.items()} == {"box": 1, "flip": 1} | dict.fromkeys(COLOUR, 6)
    assert len(np.unique(params["brightness"])) > 1
    clip = augment(size=32).sample(keyed_rng(0), META, 6)
    assert all(np.array_equal(clip[name][0], value[0]) for name, value in params.items())


def test_pixels_of_a_still_differ_in_colour_alone() -> None:
    a = frame_colour(jitter=1.0, grayscale=0.0, blur=0.0)
    params = batch_params(a, 2, 4)
    still = pixels(1, 1, 32, 32, 3).repeat(2, 0).repeat(4, 1)
    clips = a.apply(torch.from_numpy(still), params)
    assert clips.shape == (2, 3, 4, 32, 32)
    assert not torch.allclose(clips[:, :, 0], clips[:, :, 1])
    for frame in range(4):  # each frame as a clip of its own with its parameters
        own = {name: value[:, frame : frame + 1] if value.shape[1] > 1 else value for name, value in params.items()}
        alone = a.apply(torch.from_numpy(still[:, frame : frame + 1]), own)
        torch.testing.assert_close(clips[:, :, frame : frame + 1], alone)


def test_without_it_and_with_per_frame_it_is_video_augment() -> None:
    for settings in ({"colour_per_frame": False}, {"per_frame": True}, {"per_frame": True, "colour_per_frame": False}):
        found = frame_colour(**settings).sample(keyed_rng(1), META, 5)
        expected = augment(size=32, per_frame=settings.get("per_frame", False)).sample(keyed_rng(1), META, 5)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], value) for name, value in expected.items())
