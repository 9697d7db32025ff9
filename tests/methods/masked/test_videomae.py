from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from st_ssl.core.errors import ConfigError
from st_ssl.core.types import View
from st_ssl.encoders.video_vit import tubelets, untubelets
from st_ssl.objectives.reconstruction import normalised_pixels
from tests.methods.steps import TINY_ENCODERS, build, raw_views

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
