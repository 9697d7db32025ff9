from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from st_ssl.augment import colour
from st_ssl.augment.video import VideoAugment, VideoAugmentConfig, centre_crop, undo_normalise
from st_ssl.errors import SampleError
from st_ssl.random import keyed_rng
from st_ssl.types import VideoMeta

META = VideoMeta(num_frames=100, fps=25.0, width=320, height=240)
NEUTRAL = {"flip": 0.0, "brightness": 1.0, "contrast": 1.0, "saturation": 1.0}
NEUTRAL |= {"hue": 0.0, "grayscale": 0.0, "blur": 0.0}
CROPS = ("random_resized", "multi_scale", "centre")


def augment(**settings_: Any) -> VideoAugment:
    clip = {name: settings_.pop(name) for name in ("size", "mean", "std") if name in settings_}
    return VideoAugment(VideoAugmentConfig(**settings_), **clip)


def pixels(*shape: int, key: str = "pixels") -> np.ndarray:
    return keyed_rng(key).integers(0, 256, shape, dtype=np.uint8)


def batch_params(a: VideoAugment, batch: int, num_frames: int, key: str = "p") -> dict[str, Tensor]:
    drawn = [a.sample(keyed_rng(key, i), META, num_frames) for i in range(batch)]
    return {name: torch.from_numpy(np.stack([d[name] for d in drawn])) for name in drawn[0]}


def set_params(batch: int, values: dict[str, float], rows: int = 1) -> dict[str, Tensor]:
    return {name: torch.full((batch, rows, 1), value) for name, value in (NEUTRAL | values).items()}


def rgb(a: VideoAugment, frames: np.ndarray | Tensor, params: dict[str, Tensor]) -> Tensor:
    return undo_normalise(a.apply(torch.as_tensor(frames), params), a.mean, a.std)


# --- parameters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("crop", CROPS)
def test_parameters_have_the_declared_shapes_types_and_ranges(crop: str, per_frame: bool) -> None:
    a = augment(crop=crop, per_frame=per_frame)
    for i in range(50):
        params = a.sample(keyed_rng(i), META, 6)
        assert params.keys() == {"box", *NEUTRAL}
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
    a = augment(flip=0.3, area=(0.2, 0.8), per_frame=True)
    meta = VideoMeta(1, 25.0, 1000, 800)
    params = a.sample(keyed_rng("rates"), meta, 4000)
    for name, rate in (("flip", 0.3), ("grayscale", 0.2), ("blur", 0.5), ("brightness", 0.8)):
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


@settings(max_examples=300, deadline=None)
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


# --- pixels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [33, 64])
@pytest.mark.parametrize("batch", [1, 6])
def test_frames_of_a_still_clip_stay_identical_to_the_bit(size: int, batch: int) -> None:
    a = augment(size=size, jitter=1.0, blur=1.0, grayscale=0.3)
    still = torch.from_numpy(pixels(batch, 1, size, size, 3)).repeat(1, 7, 1, 1, 1)
    out = a.apply(still, batch_params(a, batch, 7))
    assert out.shape == (batch, 3, 7, size, size)
    assert out.dtype == torch.float32
    assert out.is_contiguous()
    assert all(torch.equal(out[:, :, 0], out[:, :, t]) for t in range(7))


def test_per_frame_breaks_the_consistency_and_treats_each_frame_as_its_own_clip() -> None:
    a = augment(size=32, per_frame=True)
    still = torch.from_numpy(pixels(4, 1, 32, 32, 3)).repeat(1, 5, 1, 1, 1)
    params = batch_params(a, 4, 5)
    out = a.apply(still, params)
    assert out.shape == (4, 3, 5, 32, 32)
    assert out.is_contiguous()
    assert all(not torch.equal(out[b, :, 0], out[b, :, t]) for b in range(4) for t in range(1, 5))
    for t in range(5):
        alone = a.apply(still[:, t : t + 1], {name: value[:, t : t + 1] for name, value in params.items()})
        assert torch.allclose(out[:, :, t : t + 1], alone, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 9])
def test_a_clip_does_not_depend_on_its_neighbours_in_the_batch(batch: int) -> None:
    a = augment(size=48)
    frames, params = torch.from_numpy(pixels(batch, 4, 48, 48, 3)), batch_params(a, batch, 4)
    together = a.apply(frames, params)
    for i in range(batch):
        alone = a.apply(frames[i : i + 1], {name: value[i : i + 1] for name, value in params.items()})
        assert torch.allclose(together[i : i + 1], alone, atol=1e-6)


def test_neutral_parameters_only_normalise_and_the_input_is_left_alone() -> None:
    a = augment(size=20, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2))
    frames = torch.from_numpy(pixels(2, 3, 20, 20, 3))
    before = frames.clone()
    out = a.apply(frames, set_params(2, {}))
    expected = (frames.double() / 255 - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.5, 0.25, 0.2])
    assert torch.allclose(out.double(), expected.permute(0, 4, 1, 2, 3), atol=1e-6)
    assert torch.allclose(undo_normalise(out, a.mean, a.std), frames.permute(0, 4, 1, 2, 3) / 255, atol=1e-6)
    a.apply(frames, set_params(2, {"flip": 1.0, "brightness": 1.3, "blur": 1.0}))
    assert torch.equal(frames, before)


def _reference() -> dict[str, Callable[[Tensor, float], Tensor]]:
    from torchvision.transforms.v2 import functional as tv

    def blur(image: Tensor, sigma: float) -> Tensor:
        kernel = 2 * colour.blur_radius(image.shape[-1]) + 1
        return tv.gaussian_blur(image, [kernel, kernel], [sigma, sigma])

    return {
        "flip": lambda image, _: tv.horizontal_flip(image),
        "brightness": tv.adjust_brightness,
        "contrast": tv.adjust_contrast,
        "saturation": tv.adjust_saturation,
        "hue": tv.adjust_hue,
        "grayscale": lambda image, _: tv.rgb_to_grayscale(image, num_output_channels=3),
        "blur": blur,
    }


@pytest.mark.parametrize("content", ["noise", "grey", "black and white", "primary"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flip", 1.0),
        *[(name, value) for name in ("brightness", "contrast", "saturation") for value in (0.0, 0.6, 0.95, 1.7)],
        *[("hue", value) for value in (-0.5, -0.31, -0.05, 0.1, 0.25, 0.5)],
        ("grayscale", 1.0),
        *[("blur", value) for value in (0.1, 0.7, 2.0, 5.0)],
    ],
)
def test_each_operation_agrees_with_torchvision(name: str, value: float, content: str) -> None:
    frames = torch.from_numpy(pixels(2, 1, 64, 64, 3))
    if content == "grey":
        frames = frames[..., :1].repeat(1, 1, 1, 1, 3)
    elif content == "black and white":
        frames = (frames[..., :1] > 127).byte().mul(255).repeat(1, 1, 1, 1, 3)
    elif content == "primary":
        frames = (frames > 127).byte() * 255
    out = rgb(augment(size=64), frames, set_params(2, {name: value}))
    expected = _reference()[name](frames[:, 0].permute(0, 3, 1, 2) / 255, value)
    assert torch.allclose(out[:, :, 0], expected, atol=3e-6)


@pytest.mark.parametrize("size", [1, 2, 3, 16, 30, 112])
def test_blur_keeps_the_mean_of_a_flat_frame_at_any_size(size: int) -> None:
    frames = torch.full((1, 2, size, size, 3), 77, dtype=torch.uint8)
    out = rgb(augment(size=size), frames, set_params(1, {"blur": 1.5}))
    assert torch.allclose(out, torch.full_like(out, 77 / 255), atol=1e-6)


def test_all_operations_in_order_agree_with_torchvision_for_a_mixed_batch() -> None:
    a = augment(size=40, flip=0.5, grayscale=0.4)
    frames, params = torch.from_numpy(pixels(12, 1, 40, 40, 3)), batch_params(a, 12, 1)
    out = rgb(a, frames, params)
    assert all(0 < (params[name] == NEUTRAL[name]).sum() < 12 for name in NEUTRAL)
    for i in range(12):
        image = frames[i, 0].permute(2, 0, 1) / 255
        for name, operation in _reference().items():
            if params[name][i] != NEUTRAL[name]:
                image = operation(image, params[name][i].item())
        assert torch.allclose(out[i, :, 0], image, atol=1e-5)


def test_contrast_is_about_the_mean_of_the_clip_or_of_the_frame() -> None:
    frames = torch.zeros(1, 2, 8, 8, 3, dtype=torch.uint8)
    frames[:, 1] = 200
    clip = rgb(augment(size=8), frames, set_params(1, {"contrast": 0.5}))[0, 0, :, 0, 0] * 255
    each = rgb(augment(size=8), frames, set_params(1, {"contrast": 0.5}, rows=2))[0, 0, :, 0, 0] * 255
    assert clip.tolist() == pytest.approx([50.0, 150.0], abs=0.1)
    assert each.tolist() == pytest.approx([0.0, 200.0], abs=0.1)


def test_apply_ignores_autocast_and_records_no_gradient() -> None:
    a = augment(size=24)
    frames, params = torch.from_numpy(pixels(3, 2, 24, 24, 3)), batch_params(a, 3, 2)
    plain = a.apply(frames, params)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = a.apply(frames, params)
    assert torch.equal(plain, mixed)
    assert not plain.requires_grad


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("per_frame", [False, True])
def test_cpu_and_cuda_agree(per_frame: bool) -> None:
    a = augment(size=64, per_frame=per_frame)
    frames, params = torch.from_numpy(pixels(16, 8, 64, 64, 3)), batch_params(a, 16, 8)
    cpu = a.apply(frames, params)
    on_device = a.apply(frames.cuda(), params)
    assert on_device.is_cuda
    std = min(a.std)
    assert (cpu - on_device.cpu()).abs().max().item() * std < 1e-5
    everything = {name: value.cuda() for name, value in params.items()}
    assert torch.equal(on_device, a.apply(frames.cuda(), everything))


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
