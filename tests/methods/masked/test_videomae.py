from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from st_ssl.core.config import merge
from st_ssl.core.errors import ConfigError
from st_ssl.core.inputs import InputConfig
from st_ssl.core.types import View
from st_ssl.encoders.base import ENCODERS
from st_ssl.encoders.video_vit import VideoViT, tubelets, untubelets
from st_ssl.methods.base import METHODS
from st_ssl.objectives.reconstruction import normalised_pixels
from st_ssl.training.optim import OptimConfig, peak_lr
from st_ssl.training.schedule import ScheduleConfig, lr_at
from tests.methods.steps import TINY_ENCODERS, build, raw_views, recipe
from tests.weights.published import imported
from tests.weights.references import MAEST, randomise

SMALL: dict[str, Any] = {
    # drop path: half of the residual branches are dropped at random, from torch's global stream
    "encoder": {"name": "video_vit", "dim": 24, "depth": 2, "heads": 3, "patch": 4, "drop_path": 0.5},
    "method": {"mask": {"ratio": 0.75}, "decoder": {"dim": 16, "depth": 1, "heads": 2}},
}


def small(**settings: Any) -> Any:
    return build("videomae", **settings).eval()


def prepared(method: Any) -> list[View]:
    return method.views.prepare(raw_views(method))


def changed(view: View, index: Tensor, method: Any) -> View:
    """``view`` with noise in the tubelets ``index`` [B, K]."""
    patches = tubelets(view.clip, 2, 4)
    noise = torch.randn(*index.shape, patches.shape[-1], generator=torch.Generator().manual_seed(0))
    patches = patches.scatter(1, index[..., None].expand_as(noise), noise)
    return View(untubelets(patches, method.encoder.grid, 2, 4), view.at, masks=view.masks)


def test_hidden_pixels_do_not_reach_the_encoder_and_are_all_of_the_loss() -> None:
    method = small()
    (view,) = prepared(method)
    assert view.mask.keep.shape == (4, 2 * 4)
    assert view.mask.masked.shape == (4, 2 * 12)
    hidden, visible = changed(view, view.mask.masked, method), changed(view, view.mask.keep, method)

    def tokens(view: View) -> Tensor:
        return method.encoder(view.clip, view.mask.keep).tokens

    assert torch.equal(tokens(hidden), tokens(view))
    assert not torch.allclose(tokens(visible), tokens(view))
    (prediction, truth), (same, other) = method._predict(view), method._predict(hidden)
    assert torch.equal(same, prediction)
    assert not torch.allclose(other, truth)
    prediction, same = method._predict(visible)
    assert not torch.allclose(prediction, method._predict(view)[0])  # a prediction is of the visible ones,
    assert torch.equal(same, truth)  # a target of the hidden ones


def test_targets_are_unnormalised_pixels_and_the_loss_their_squared_error() -> None:
    method = small()
    raw = raw_views(method)
    (view,) = method.views.prepare(raw)
    prediction, pixels = method._predict(view)
    assert (view.clip < 0).any()  # normalised for the encoder,
    torch.testing.assert_close(pixels.min().clamp(max=0), torch.zeros(()), atol=1e-6, rtol=0)  # but not as a target
    clip = raw[0].clip.permute(0, 4, 1, 2, 3).float() / 255  # this augmentation ends with the crop
    patches = tubelets(clip, 2, 4)
    expected = patches.gather(1, view.mask.masked[..., None].expand(-1, -1, patches.shape[-1]))
    torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=0)
    error = (prediction - normalised_pixels(expected, 3, "channel")).square().mean((1, 2))
    torch.testing.assert_close(method([view])["loss"], error.mean(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("target", ["channel", "patch", "none"])
def test_a_perfect_prediction_has_no_loss_and_restores_the_clip(target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    method = small(target=target)
    (view,) = prepared(method)
    predict = method._predict

    def perfect(view: View) -> tuple[Tensor, Tensor]:
        _, pixels = predict(view)
        return normalised_pixels(pixels, 3, target), pixels

    monkeypatch.setattr(method, "_predict", perfect)
    assert float(method([view])["loss"]) == 0
    pictures = {one.caption: one.clip for one in method.exhibits([view])}
    assert list(pictures) == ["input", "visible", "reconstruction"]
    torch.testing.assert_close(pictures["reconstruction"], pictures["input"], atol=1e-4, rtol=0)
    grey = (tubelets(pictures["visible"], 2, 4) == 0.5).all(-1)
    assert (grey.sum(1) == 24).all()
    assert grey.gather(1, view.mask.masked).all()


@pytest.mark.parametrize("repeats", [1, 2])
def test_repeats_are_views_with_masks_of_their_own(repeats: int) -> None:
    method = small(repeats=repeats)
    views = prepared(method)
    assert len(views) == repeats
    errors = [method([view])["loss"] for view in views]
    torch.testing.assert_close(method(views)["loss"], torch.stack(errors).mean())
    if repeats == 2:
        assert not torch.equal(views[0].mask.keep, views[1].mask.keep)
        assert not torch.equal(errors[0], errors[1])


def test_the_mask_of_the_configuration_is_drawn() -> None:
    (view,) = prepared(small(mask={"kind": "frame", "ratio": 0.5}))
    assert all(row.tolist() in (list(range(16)), list(range(16, 32))) for row in view.mask.keep)
    (view,) = prepared(small())
    assert torch.equal(view.mask.keep[:, 4:], view.mask.keep[:, :4] + 16)  # a tube


def test_encoders_that_cannot_see_a_part_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"videomae needs an encoder .*: video_vit"):
        build("videomae", encoder=TINY_ENCODERS[0])


@pytest.mark.parametrize(("ratio", "said"), [(0.99, "would hide all"), (0.01, "would hide none")])
def test_masks_that_leave_nothing_are_refused(ratio: float, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"method\.mask\.ratio={ratio}: a tube mask over 16 units .*{said}"):
        build("videomae", mask={"ratio": ratio})


def test_the_recipe_has_the_rates_and_the_batch_of_the_script() -> None:
    told = recipe("masked/videomae")
    schedule, optim = ScheduleConfig.model_validate(told["schedule"]), OptimConfig.model_validate(told["optim"])
    batch, epochs = told["engine"]["batch_size"], told["engine"]["epochs"]
    assert (batch, epochs) == (2048, 801)
    peak, steps = peak_lr(optim, batch), 117
    rates = [lr_at(step, epochs * steps, steps, schedule, peak) for step in (0, 40 * steps, epochs * steps)]
    assert rates == pytest.approx([0, 1.2e-3, 8e-5], rel=1e-5)
    halved = [lr_at(step, epochs * steps, steps, schedule, peak / 2) for step in (0, 40 * steps, epochs * steps)]
    assert halved == pytest.approx([rate / 2 for rate in rates])
    augment: Any = METHODS.config("videomae").model_validate(told["method"]).augment  # type: ignore[attr-defined]
    assert (augment.crop, augment.scales, augment.positions) == ("multi_scale", (1.0, 0.875, 0.75, 0.66), 13)
    assert augment == METHODS.config("videomae")().augment  # type: ignore[attr-defined]
    assert InputConfig.model_validate(told["input"]).mean == (0.485, 0.456, 0.406)


def st_mae(**size: Any) -> tuple[Any, Any]:
    """The method and the encoder of the recipe of ST-MAE, with another ``size`` of clip or tubelet."""
    told = recipe("masked/st_mae")
    small = {"variant": "Ti", "dim": 24, "depth": 2, "heads": 3, "patch": 8}
    encoder = ENCODERS.config("video_vit").model_validate(told["encoder"] | small)
    built = ENCODERS.build(encoder, InputConfig.model_validate(told["input"] | size))
    changes = {"decoder": {"dim": 16, "depth": 1, "heads": 2}, "target_frames": 2}
    return METHODS.build(METHODS.config("videomae").model_validate(merge(told["method"], changes)), built), built


def test_the_recipe_of_st_mae_trains_the_network_that_is_imported() -> None:
    method, built = st_mae(num_frames=4, size=24)
    theirs = randomise(MAEST())
    ours = imported(theirs.state_dict(), "mae_st", "layout.heads=3", "layout.depth=2").encoder
    assert isinstance(ours, VideoViT)
    shapes = [{name: x.shape for name, x in encoder.state_dict().items()} for encoder in (built, ours)]
    assert shapes[0] == shapes[1]
    assert {"class_token", "pos_embed_time", "pos_embed_space"} <= shapes[0].keys()
    assert built.input == ours.input
    assert built.vit == ours.vit.model_copy(update={"variant": "Ti"})
    decoder = method.decoder.state_dict()
    assert {"class_token", "pos_embed_time", "pos_embed_space", "embed.bias"} <= decoder.keys()
    assert decoder["head.weight"].shape == (3 * 8 * 8, 16)  # one slice a tubelet, not two


def test_the_numbers_of_st_mae_are_those_of_the_released_line() -> None:
    told = recipe("masked/st_mae")
    shape = ENCODERS.config("video_vit").model_validate(told["encoder"]).shape  # type: ignore[attr-defined]
    config: Any = METHODS.config("videomae").model_validate(told["method"])
    assert shape == (1024, 24, 16)
    assert (config.decoder.dim, config.decoder.depth, config.decoder.heads) == (512, 4, 16)
    assert (config.target, config.target_frames, config.repeats) == ("patch", 8, 4)
    assert 8 * 14 * 14 - round(config.mask.ratio * 8 * 14 * 14) == 156  # int(1568 x 0.1) are seen
    assert told["input"]["mean"] == [0.45] * 3
    assert told["input"]["std"] == [0.225] * 3
    assert told["engine"]["batch_size"] * told["optim"]["lr"] / told["optim"]["lr_batch"] == pytest.approx(8e-4)


@pytest.mark.parametrize(("frames", "expected"), [(8, [0, 2, 4, 6, 8, 10, 12, 15]), (16, list(range(16)))])
def test_the_frames_that_are_predicted(frames: int, expected: list[int]) -> None:
    encoder = {"name": "video_vit", "dim": 24, "depth": 1, "heads": 3, "patch": 8}
    built = ENCODERS.build(ENCODERS.config("video_vit").model_validate(encoder), InputConfig(num_frames=16, size=32))
    method: Any = METHODS.build(METHODS.config("videomae").model_validate({"target_frames": frames}), built)
    assert method.target_frames == expected


def test_a_tubelet_predicts_its_slice() -> None:
    method = small(target_frames=2, mask={"kind": "random"}, decoder={"positions": "separable", "class_token": True})
    (view,) = prepared(method)
    prediction, pixels = method._predict(view)
    mean, std = (torch.tensor(x)[:, None, None] for x in (method.encoder.input.mean, method.encoder.input.std))
    errors = []
    for b in range(4):
        for place, token in enumerate(view.mask.masked[b].tolist()):
            time, row, column = token // 16, token // 4 % 4, token % 4
            frame = view.clip[b, :, (0, 3)[time]] * std + mean  # the last is the second of its tubelet
            patch = frame[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten()
            torch.testing.assert_close(pixels[b, place], patch, atol=1e-6, rtol=0)
            groups = patch.view(3, -1)
            target = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-6)
            errors.append((prediction[b, place] - target.flatten()).square().mean())
    loss, expected = method([view])["loss"], torch.stack(errors).mean()
    torch.testing.assert_close(loss, expected)
    weights = list(method.decoder.parameters())
    gradients = (torch.autograd.grad(x, weights, retain_graph=True) for x in (loss, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    assert all(one.clip.shape == (4, 3, 2, 16, 16) for one in method.exhibits([view]))


@pytest.mark.parametrize("frames", [3, 8])
def test_frames_that_tubelets_cannot_share_are_refused(frames: int) -> None:
    with pytest.raises(ConfigError, match=rf"method\.target_frames={frames}: .* a multiple of 2, at most 4"):
        build("videomae", target_frames=frames)
