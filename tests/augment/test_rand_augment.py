"""RandAugment of clips: what is drawn, and what it does to pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from pydantic import ValidationError
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from st_ssl.augment.finetune import FinetuneAugment, FinetuneAugmentConfig
from st_ssl.augment.rand_augment import OPERATIONS, RandAugmentConfig, draw, operate, rand_augment
from st_ssl.augment.video import VideoAugment, VideoAugmentConfig
from st_ssl.core.random import keyed_rng
from tests.augment.video import META, batch_params, pixels

FILL = [10, 100, 200]
BILINEAR = InterpolationMode.BILINEAR
IN_PIL: dict[str, tuple[float, Callable[[Any], Any], int]] = {  # amount, the same in Pillow, largest difference
    "autocontrast": (0, ImageOps.autocontrast, 1),
    "equalize": (0, ImageOps.equalize, 1),
    "invert": (0, ImageOps.invert, 0),
    "posterize": (2, lambda image: ImageOps.posterize(image, 2), 0),
    "solarize": (77, lambda image: ImageOps.solarize(image, 77), 0),
    "colour": (1.63, lambda image: ImageEnhance.Color(image).enhance(1.63), 1),
    "contrast": (0.37, lambda image: ImageEnhance.Contrast(image).enhance(0.37), 1),
    "brightness": (1.63, lambda image: ImageEnhance.Brightness(image).enhance(1.63), 1),
    "sharpness": (0.37, lambda image: ImageEnhance.Sharpness(image).enhance(0.37), 1),
}
IN_TORCHVISION: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "autocontrast": (0, F.autocontrast),
    "equalize": (0, F.equalize),
    "invert": (0, F.invert),
    "posterize": (3, lambda image: F.posterize(image, 3)),
    "solarize": (120, lambda image: F.solarize(image, 120)),
    "solarize_add": (60, lambda image: torch.where(image < 128, (image.int() + 60).clamp(max=255), image).byte()),
    "colour": (0.4, lambda image: F.adjust_saturation(image, 0.4)),
    "contrast": (1.7, lambda image: F.adjust_contrast(image, 1.7)),
    "brightness": (0.4, lambda image: F.adjust_brightness(image, 0.4)),
    "sharpness": (1.7, lambda image: F.adjust_sharpness(image, 1.7)),
    "rotate": (21, lambda image: F.rotate(image, -21, BILINEAR, fill=FILL)),
    "shear_x": (0.2, lambda image: sheared(image, 0.2, 0)),
    "shear_y": (-0.2, lambda image: sheared(image, 0, -0.2)),
    "translate_x": (0.25, lambda image: moved(image, 8, 0)),
    "translate_y": (-0.25, lambda image: moved(image, 0, -6)),
}


def sheared(image: Tensor, x: float, y: float) -> Tensor:
    degrees = np.degrees(np.arctan([x, y])).tolist()
    return F.affine(image, 0.0, [0, 0], 1.0, degrees, BILINEAR, fill=FILL, center=[0.0, 0.0])


def moved(image: Tensor, x: int, y: int) -> Tensor:
    """By whole pixels, without any interpolation."""
    height, width = image.shape[-2:]
    out = torch.tensor(FILL, dtype=torch.uint8)[:, None, None].expand_as(image).clone()
    out[:, max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)] = image[
        :, max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)
    ]
    return out


def smooth(*shape: int, key: str = "smooth") -> Tensor:
    """Frames that differ in contrast, uint8 [T, 3, H, W]."""
    t, _, height, width = shape
    noise = keyed_rng(key).normal(size=shape)
    ramp = np.linspace(60, 190, height * width).reshape(height, width)
    return torch.from_numpy(np.clip(ramp + noise * np.arange(5, 5 + 6 * t, 6).reshape(t, 1, 1, 1), 0, 255)).byte()


def test_every_operation_is_compared() -> None:
    assert set(IN_TORCHVISION) == set(OPERATIONS)
    assert len(OPERATIONS) == 15


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_on_a_clip_is_that_of_torchvision_on_each_frame(name: str) -> None:
    clip = smooth(3, 3, 24, 32)
    amount, reference = IN_TORCHVISION[name]
    found = operate(clip, name, amount, FILL)
    assert found.dtype == torch.uint8
    assert not torch.equal(found, clip)
    for ours, frame in zip(found, clip, strict=True):
        torch.testing.assert_close(ours, reference(frame), atol=0, rtol=0)


@pytest.mark.parametrize("name", sorted(IN_PIL))
def test_an_operation_is_that_of_pillow(name: str) -> None:
    clip = smooth(2, 3, 24, 32)
    amount, reference, most = IN_PIL[name]
    for ours, frame in zip(operate(clip, name, amount, FILL), clip, strict=True):
        theirs = np.asarray(reference(Image.fromarray(frame.permute(1, 2, 0).numpy())))
        assert np.abs(ours.permute(1, 2, 0).numpy().astype(int) - theirs).max() <= most


# --- what is drawn ------------------------------------------------------------------------------------------------


def drawn(count: int = 3000, **settings: Any) -> dict[str, np.ndarray]:
    config = RandAugmentConfig(**settings)
    found = [draw(config, keyed_rng("draw", i)) for i in range(count)]
    return {name: np.concatenate([one[name] for one in found]) for name in found[0]}


def test_operations_are_drawn_evenly_each_by_its_probability() -> None:
    params = drawn(num_ops=4, probability=0.5)
    assert params["ops"].shape == params["op_amounts"].shape == (3000, 4)
    applied = params["ops"] >= 0
    assert abs(applied.mean() - 0.5) < 4 * np.sqrt(0.25 / 12000)
    counts = np.bincount(params["ops"][applied], minlength=15)
    expected = applied.sum() / 15
    assert len(counts) == 15 and ((counts - expected) ** 2 / expected).sum() < 42.6  # 14 degrees of freedom, p = 1e-4
    assert (drawn(50, probability=1.0)["ops"] >= 0).all()
    assert (drawn(50, probability=0.0)["ops"] == -1).all()


@pytest.mark.parametrize(
    ("name", "magnitude", "increasing", "amounts"),
    [
        ("rotate", 7, True, {-21.0, 21.0}),
        ("shear_x", 5, True, {-0.15, 0.15}),
        ("translate_y", 10, True, {-0.45, 0.45}),
        ("solarize_add", 7, True, {77.0}),
        ("solarize", 7, True, {256.0 - 179}),
        ("solarize", 7, False, {179.0}),
        ("posterize", 7, True, {2.0}),
        ("posterize", 10, True, {1.0}),
        ("posterize", 10, False, {4.0}),
        ("posterize", 0, False, {1.0}),
        ("colour", 7, True, {0.37, 1.63}),
        ("sharpness", 10, True, {0.1, 1.9}),
        ("brightness", 7, False, {1.36}),
        ("contrast", 0, False, {0.1}),
        ("equalize", 7, True, {0.0}),
    ],
)
def test_amounts_of_a_magnitude(name: str, magnitude: float, increasing: bool, amounts: set[float]) -> None:
    params = drawn(200, magnitude=magnitude, std=0, increasing=increasing)
    found = params["op_amounts"][params["ops"] == OPERATIONS.index(name)]
    np.testing.assert_allclose(np.unique(np.round(found, 5)), sorted(amounts), rtol=1e-5)


def test_strengths_are_normal_about_the_magnitude_and_stay_in_range() -> None:
    params = drawn(magnitude=7, std=0.5, probability=1.0)
    level = np.abs(params["op_amounts"][params["ops"] == OPERATIONS.index("rotate")]) / 3
    assert level.mean() == pytest.approx(7, abs=0.1)
    assert level.std() == pytest.approx(0.5, abs=0.07)
    wide = drawn(magnitude=9, std=5, probability=1.0)
    level = np.abs(wide["op_amounts"][wide["ops"] == OPERATIONS.index("rotate")]) / 3
    assert level.max() == pytest.approx(10) and level.min() == 0


# --- clips ---------------------------------------------------------------------------------------------------------


def finetuning(**settings: Any) -> FinetuneAugment:
    return FinetuneAugment(FinetuneAugmentConfig(**settings), 24, mean=(0.1, 0.4, 0.6), std=(0.5, 0.5, 0.5))


def test_operations_follow_each_other_and_clips_are_apart() -> None:
    frames = smooth(6, 3, 24, 24).permute(0, 2, 3, 1).reshape(2, 3, 24, 24, 3)
    number = OPERATIONS.index
    params = {
        "ops": torch.tensor([[[number("rotate"), -1, number("invert")]], [[-1, number("posterize"), -1]]]),
        "op_amounts": torch.tensor([[[30.0, 0, 0]], [[0, 2.0, 0]]]),
    }
    before = frames.clone()
    found = rand_augment(frames, params, (0.1, 0.4, 0.6))
    assert torch.equal(frames, before)  # what is cut may be used again
    turned = F.rotate(frames[0].permute(0, 3, 1, 2), -30, BILINEAR, fill=[26, 102, 153])
    assert torch.equal(found[0], 255 - turned.permute(0, 2, 3, 1))
    assert torch.equal(found[1], frames[1] & 0b11000000)


def test_all_frames_of_a_clip_get_the_same() -> None:
    a = finetuning(rand_augment={"num_ops": 8, "probability": 1.0})
    still = torch.from_numpy(pixels(4, 1, 24, 24, 3)).repeat(1, 5, 1, 1, 1)
    out = a.apply(still, batch_params(a, 4, 5))
    assert all(torch.equal(out[:, :, 0], out[:, :, t]) for t in range(5))
    plain = VideoAugment(VideoAugmentConfig(), 24, a.mean, a.std)
    assert not torch.allclose(out, plain.apply(still, batch_params(plain, 4, 5)))


def test_without_the_new_parts_it_is_the_augmentation_of_pretraining_to_the_bit() -> None:
    ours, theirs = finetuning(), VideoAugment(VideoAugmentConfig(), 24, mean=(0.1, 0.4, 0.6), std=(0.5, 0.5, 0.5))
    frames = torch.from_numpy(pixels(3, 4, 24, 24, 3))
    params = batch_params(ours, 3, 4)
    assert torch.equal(ours.apply(frames, params), theirs.apply(frames, batch_params(theirs, 3, 4)))
    assert params.keys() == batch_params(theirs, 3, 4).keys()


@pytest.mark.parametrize("part", ["rand_augment", "erase"])
def test_a_part_does_not_shift_the_draws_of_the_others(part: str) -> None:
    both: dict[str, Any] = {"rand_augment": {}, "erase": {"probability": 1.0}}
    of_part = {"rand_augment": {"ops", "op_amounts"}, "erase": {"erase", "erase_seed"}}[part]
    fewer, none = finetuning(**{k: v for k, v in both.items() if k != part}), finetuning()
    for i in range(10):
        whole = finetuning(**both).sample(keyed_rng(i), META, 8)
        assert whole.keys() - fewer.sample(keyed_rng(i), META, 8).keys() == of_part
        for other in (fewer, none):
            for name, value in other.sample(keyed_rng(i), META, 8).items():
                np.testing.assert_array_equal(whole[name], value)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"rand_augment": {"magnitude": 11}}, "less than or equal to 10"),
        ({"rand_augment": {"num_op": 2}}, "Extra inputs are not permitted"),
        ({"erase": {"area": (0.5, 1.0)}}, "0 < low <= high < 1"),
        ({"erase": {"aspect": (2.0, 1.0)}}, "0 < low <= high"),
        ({"erase": {"mode": "rand"}}, "'pixel' or 'const'"),
        ({"erase": {}, "per_frame": True}, "per_frame is not for rand_augment and erase"),
    ],
)
def test_bad_settings_are_refused_with_the_reason(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FinetuneAugmentConfig(**bad)
