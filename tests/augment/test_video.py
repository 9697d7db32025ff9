"""The parameters of augmentation, the cutting of frames, and settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from st_ssl.augment.video import VideoAugmentConfig, centre_crop
from st_ssl.core.errors import SampleError
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import VideoMeta
from tests.augment.video import CROPS, META, NEUTRAL, augment, pixels

# --- parameters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("crop", CROPS)
def test_parameters_have_the_declared_shapes_types_and_ranges(crop: str, per_frame: bool) -> None:
    a = augment(crop=crop, per_frame=per_frame)
    for i in range(50):
        params = a.sample(keyed_rng(i), META, 6)
        assert params.keys() == {"box", "colour_order", *NEUTRAL}
        rows = 6 if per_frame else 1
        assert params["box"].shape == (rows, 4)
        assert params["box"].dtype == np.int64
        for name in NEUTRAL:
            assert params[name].shape == (rows, 1)
            assert params[name].dtype == np.float32
        for name in ("brightness", "contrast", "saturation"):
            assert ((params[name] >= 0.6 - 1e-6) & (params[name] <= 1.4 + 1e-6)).all()
        assert (abs(params["hue"]) <= 0.1 + 1e-6).all()
        assert set(np.unique(params["flip"])) | set(np.unique(params["grayscale"])) <= {0.0, 1.0}
        assert ((params["blur"] == 0) | ((params["blur"] >= 0.1) & (params["blur"] <= 2.0))).all()


def test_sampling_is_a_function_of_the_key_alone() -> None:
    a, b = augment(), augment()
    a.sample(keyed_rng(1), META, 8)
    first, second = a.sample(keyed_rng(0, "s", 3), META, 8), b.sample(keyed_rng(0, "s", 3), META, 8)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    other = a.sample(keyed_rng(0, "s", 4), META, 8)
    assert not np.array_equal(first["box"], other["box"])


@pytest.mark.parametrize(
    ("changed", "affected"),
    [
        ({"flip": 0.0}, {"flip"}),
        ({"jitter": 0.0}, {"brightness", "contrast", "saturation", "hue"}),
        ({"hue": 0.0}, {"hue"}),
        ({"brightness": 0.1}, {"brightness"}),
        ({"grayscale": 1.0}, {"grayscale"}),
        ({"blur": 0.0}, {"blur"}),
        ({"solarize": 0.5}, {"solarize"}),
        ({"jitter_order": "random"}, {"colour_order"}),
        ({"crop": "centre"}, {"box"}),
        ({"crop": "multi_scale"}, {"box"}),
    ],
)
def test_a_setting_does_not_shift_the_draws_of_the_others(changed: dict[str, Any], affected: set[str]) -> None:
    seen = set()
    for i in range(20):
        before, after = augment().sample(keyed_rng(i), META, 8), augment(**changed).sample(keyed_rng(i), META, 8)
        seen |= {name for name in before if not np.array_equal(before[name], after[name])}
    assert seen == affected


def test_every_setting_takes_the_same_number_of_draws() -> None:
    generators = [keyed_rng("draws") for _ in CROPS]
    for crop, rng in zip(CROPS, generators, strict=True):
        augment(crop=crop, jitter=0.0 if crop == "centre" else 1.0).sample(rng, META, 8)
    assert len({float(rng.random()) for rng in generators}) == 1


def test_first_frame_of_per_frame_has_the_consistent_parameters() -> None:
    consistent = augment().sample(keyed_rng(5), META, 8)
    broken = augment(per_frame=True).sample(keyed_rng(5), META, 8)
    assert all(np.array_equal(consistent[name][0], broken[name][0]) for name in consistent)
    assert len(np.unique(broken["box"], axis=0)) > 1


def test_rates_and_ranges_match_the_settings() -> None:
    a = augment(flip=0.3, area=(0.2, 0.8), solarize=0.3, jitter_order="random", per_frame=True)
    meta = VideoMeta(1, 25.0, 1000, 800)
    params = a.sample(keyed_rng("rates"), meta, 4000)
    assert params["colour_order"].dtype == np.int64
    assert abs(np.bincount(params["colour_order"][:, 0], minlength=24) - 4000 / 24).max() < 60  # all orders alike
    for name, rate in (("flip", 0.3), ("solarize", 0.3), ("grayscale", 0.2), ("blur", 0.5), ("brightness", 0.8)):
        assert abs((params[name] != NEUTRAL[name]).mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / 4000), name
    height, width = params["box"][:, 2], params["box"][:, 3]
    share, aspect = height * width / (1000 * 800), width / height
    assert share.min() > 0.198
    assert share.max() < 0.802
    assert aspect.min() > 0.745
    assert aspect.max() < 1.34
    assert abs(np.log(aspect).mean()) < 0.02  # log-uniform and symmetric
    assert share.mean() == pytest.approx(0.5, abs=0.02)
    room = params["box"][:, 0] / np.maximum(800 - height, 1)
    assert room.mean() == pytest.approx(0.5, abs=0.02)


def test_random_resized_falls_back_to_a_centred_crop_of_allowed_aspect() -> None:
    a = augment(area=(1.0, 1.0), aspect=(0.5, 2.0))
    wide = a.sample(keyed_rng(0), VideoMeta(1, 25.0, 1000, 100), 1)["box"][0]
    tall = a.sample(keyed_rng(0), VideoMeta(1, 25.0, 100, 1000), 1)["box"][0]
    assert wide.tolist() == [0, 400, 100, 200]
    assert tall.tolist() == [400, 0, 200, 100]


@pytest.mark.parametrize("positions", [5, 13])
def test_multi_scale_uses_fixed_positions_and_neighbouring_scales(positions: int) -> None:
    a = augment(crop="multi_scale", scales=(1.0, 0.5, 0.25), positions=positions, per_frame=True)
    boxes = np.unique(a.sample(keyed_rng(1), META, 4000)["box"], axis=0)
    assert {tuple(size) for size in boxes[:, 2:]} == {(h, w) for h in (240, 120, 60) for w in (240, 120, 60)} - {
        (240, 60),
        (60, 240),
    }
    half = boxes[(boxes[:, 2] == 120) & (boxes[:, 3] == 120)]
    assert len(half) == positions
    corners = {(0, 0), (0, 200), (120, 0), (120, 200), (60, 100)}
    assert corners <= {tuple(corner) for corner in half[:, :2]}


@settings(max_examples=300)
@given(
    crop=st.sampled_from(CROPS),
    width=st.one_of(st.integers(1, 12), st.integers(1, 5000)),
    height=st.one_of(st.integers(1, 12), st.integers(1, 5000)),
    low=st.floats(1e-3, 1.0),
    key=st.integers(0, 2**32),
)
def test_box_is_inside_the_frame_and_holds_a_pixel(crop: str, width: int, height: int, low: float, key: int) -> None:
    only: dict[str, Any] = {"random_resized": {"area": (low, 1.0)}, "multi_scale": {"scales": (low,)}, "centre": {}}
    a = augment(crop=crop, per_frame=True, **only[crop])
    top, left, h, w = a.sample(keyed_rng(key), VideoMeta(1, 25.0, width, height), 8)["box"].T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()


# --- cutting ------------------------------------------------------------------------------------------------------


def test_cut_is_crop_then_antialiased_bilinear() -> None:
    from torchvision.transforms.v2 import functional as tv

    a = augment(size=56)
    frames = pixels(5, 240, 320, 3)
    box = [13, 40, 180, 200]
    cut = a.cut(list(frames), {"box": np.array([box])})
    assert cut.shape == (5, 56, 56, 3)
    assert cut.dtype == np.uint8
    assert cut.flags["C_CONTIGUOUS"]
    source = torch.from_numpy(frames).permute(0, 3, 1, 2)
    expected = tv.resized_crop(source, *box, size=[56, 56], antialias=True).permute(0, 2, 3, 1)
    assert (torch.from_numpy(cut).int() - expected.int()).abs().max() <= 1


def test_cut_never_makes_a_full_size_float_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    resize = torch.nn.functional.interpolate

    def spy(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(x.dtype)
        return resize(x, *args, **kwargs)

    monkeypatch.setattr("st_ssl.augment.video.F.interpolate", spy)
    a = augment(size=16)
    a.cut(list(pixels(4, 60, 80, 3)), a.sample(keyed_rng(0), VideoMeta(4, 25.0, 80, 60), 4))
    assert seen == [torch.uint8]  # one call for all frames


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1), (2, 3)])
@pytest.mark.parametrize("crop", CROPS)
def test_tiny_and_extreme_frames_can_be_cut(height: int, width: int, crop: str) -> None:
    a = augment(size=8, crop=crop, per_frame=True)
    frames = pixels(3, height, width, 3)
    cut = a.cut(list(frames), a.sample(keyed_rng(0), VideoMeta(3, 25.0, width, height), 3))
    assert cut.shape == (3, 8, 8, 3)
    if height == width == 1:
        assert (cut == frames[:, :1, :1]).all()


def test_cut_takes_one_box_per_frame_and_read_only_frames() -> None:
    frame = pixels(40, 50, 3)
    frame.setflags(write=False)
    a = augment(size=10)
    cut = a.cut([frame, frame], {"box": np.array([[0, 0, 10, 10], [30, 40, 10, 10]])})
    assert np.array_equal(cut[0], frame[:10, :10])
    assert np.array_equal(cut[1], frame[30:, 40:])


def test_a_frame_smaller_than_the_metadata_is_named() -> None:
    with pytest.raises(SampleError, match="20 x 10 pixels"):
        augment().cut([pixels(10, 20, 3)], {"box": np.array([[0, 0, 20, 10]])})


# --- evaluation and settings --------------------------------------------------------------------------------------


def test_centre_crop_is_the_largest_centred_square_and_draws_nothing() -> None:
    a = centre_crop(16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    for key in range(5):
        params = a.sample(keyed_rng(key), VideoMeta(4, 25.0, 50, 31), 4)
        assert params["box"].tolist() == [[0, 9, 31, 31]]
        assert all(params[name].item() == neutral for name, neutral in NEUTRAL.items())
    frames = np.full((4, 31, 50, 3), 255, dtype=np.uint8)
    cut = torch.from_numpy(a.cut(list(frames), params))[None]
    out = a.apply(cut, {name: torch.from_numpy(value)[None] for name, value in params.items()})
    assert torch.equal(out, torch.ones(1, 3, 4, 16, 16))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"area": (0.5, 1.2)}, "0 < low <= high <= 1"),
        ({"area": (0.9, 0.3)}, "0 < low <= high <= 1"),
        ({"area": (0.0, 0.3)}, "0 < low <= high <= 1"),
        ({"aspect": (2.0, 0.5)}, "0 < low <= high"),
        ({"aspect": (float("nan"), 0.5)}, "finite number"),
        ({"blur_sigma": (2.0, 0.1)}, "0 < low <= high"),
        ({"scales": ()}, "one or more"),
        ({"scales": (1.0, 1.5)}, "0 < scale <= 1"),
        ({"flip": 1.5}, "less than or equal to 1"),
        ({"jitter": -0.1}, "greater than or equal to 0"),
        ({"hue": 0.6}, "less than or equal to 0.5"),
        ({"brightness": -1.0}, "greater than or equal to 0"),
        ({"crop": "center"}, "'random_resized', 'multi_scale' or 'centre'"),
        ({"colour": 1.0}, "Extra inputs are not permitted"),
    ],
)
def test_bad_settings_are_refused_with_the_reason(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        VideoAugmentConfig(**bad)
    assert next(iter(bad)) in str(caught.value)


def test_a_setting_that_the_crop_ignores_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="area is ignored with crop: centre"):
        VideoAugmentConfig(crop="centre", area=(0.5, 1.0))
