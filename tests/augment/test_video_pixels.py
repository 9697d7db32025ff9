"""What augmentation does to pixels, on the training device."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from torch import Tensor

from st_ssl.augment import colour
from st_ssl.augment.video import undo_normalise
from tests.augment.video import NEUTRAL, augment, batch_params, pixels, rgb, set_params


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
        "solarize": lambda image, _: tv.solarize(image, 0.5),
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
        ("solarize", 1.0),
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
    a = augment(size=40, flip=0.5, grayscale=0.4, solarize=0.5)
    frames, params = torch.from_numpy(pixels(12, 1, 40, 40, 3)), batch_params(a, 12, 1)
    out = rgb(a, frames, params)
    assert all(0 < (params[name] == NEUTRAL[name]).sum() < 12 for name in NEUTRAL)
    for i in range(12):
        image = frames[i, 0].permute(2, 0, 1) / 255
        for name, operation in _reference().items():
            if params[name][i] != NEUTRAL[name]:
                image = operation(image, params[name][i].item())
        assert torch.allclose(out[i, :, 0], image, atol=1e-5)


def test_colours_change_in_the_order_that_is_drawn() -> None:
    a = augment(size=12, jitter=1.0, flip=0.0, grayscale=0.0, blur=0.0, jitter_order="random")
    frames, params = torch.from_numpy(pixels(40, 1, 12, 12, 3)), batch_params(a, 40, 1)
    out = rgb(a, frames, params)
    names = list(permutations(("brightness", "contrast", "saturation", "hue")))
    assert len({int(number) for number in params["colour_order"].flatten()}) > 12
    others = 0
    for i in range(40):
        image, fixed = (frames[i, 0].permute(2, 0, 1) / 255 for _ in range(2))
        for name, other in zip(names[int(params["colour_order"][i])], names[0], strict=True):
            image = _reference()[name](image, params[name][i].item())
            fixed = _reference()[other](fixed, params[other][i].item())
        assert torch.allclose(out[i, :, 0], image, atol=1e-5)
        others += not torch.allclose(image, fixed, atol=1e-3)
    assert others > 20


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
