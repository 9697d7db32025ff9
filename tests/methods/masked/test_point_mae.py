from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from st_ssl.augment.point_masking import PointMaskConfig
from st_ssl.core.errors import ConfigError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.types import View
from st_ssl.encoders.base import ENCODERS
from st_ssl.encoders.point_vit import Patches
from st_ssl.ops.chamfer import chamfer
from tests.methods.clouds import NUM_POINTS, POINT_VIT, build_points, point_encoder, point_view
from tests.methods.steps import TINY_ENCODERS, tiny_encoder

SMALL: dict[str, Any] = {
    "encoder": {
        **{"name": "point_vit", "dim": 24, "depth": 3, "heads": 3, "num_groups": 10, "group_size": 6},
        **{"tokeniser": [8, 16, 32], "drop_path": 0.3, "attention_dropout": 0.1},
    },
    "method": {"decoder": {"depth": 1, "heads": 3}},
}
PLAIN: dict[str, Any] = {"decoder": {"depth": 2, "heads": 3, "drop_path": 0.0}}


def small(**settings: Any) -> Any:
    return build_points("point_mae", **(PLAIN | settings)).double()


def a_view(kind: Any = "random") -> View:
    return point_view(PointMaskConfig(kind=kind), dtype=torch.float64)


def changed(patches: Patches, index: Tensor) -> Patches:
    """``patches`` with noise in those at ``index`` [B, M]; their centres stay."""
    points = patches.points.clone()
    noise = torch.randn(points.shape, dtype=points.dtype, generator=torch.Generator().manual_seed(0))
    for cloud, row in enumerate(index):
        points[cloud, row] = noise[cloud, row]
    return replace(patches, points=points)


def slow_loss(method: Any, view: View, order: int) -> Tensor:
    """Cloud by cloud, patch by patch, point by point, as the paper says it."""
    patches, encoder, decoder = method.encoder.patches(view.points), method.encoder, method.decoder
    batch = torch.arange(len(view))[:, None]
    visible, centres = patches.points[batch, view.mask.keep], patches.centres
    x, at = encoder.tokeniser(visible), encoder.position(centres[batch, view.mask.keep])
    for block in encoder.blocks:
        x = block(x + at)
    x = encoder.norm(x)
    hidden = decoder.mask_token.expand(*view.mask.masked.shape, -1)
    x = torch.cat([x, hidden], 1)
    at = torch.cat(
        [method.position(centres[batch, view.mask.keep]), method.position(centres[batch, view.mask.masked])], 1
    )
    for block in decoder.blocks:
        x = block(x + at)
    predicted = decoder.head(decoder.norm(x))[:, view.mask.keep.shape[1] :]
    losses = []
    for cloud in range(len(view)):
        for number, patch in enumerate(view.mask.masked[cloud]):
            guess, truth = predicted[cloud, number].view(-1, 3), patches.points[cloud, patch]
            power = [[(g - t).square().sum() for t in truth] for g in guess]
            there = [min(row, key=Tensor.item) for row in power]
            back = [min(column, key=Tensor.item) for column in zip(*power, strict=True)]
            if order == 2:
                losses.append(torch.stack(there).mean() + torch.stack(back).mean())
            else:
                losses.append((torch.stack(there).sqrt().mean() + torch.stack(back).sqrt().mean()) / 2)
    return torch.stack(losses).mean()


@pytest.mark.parametrize(("chamfer", "order"), [("l2", 2), ("l1", 1)])
def test_loss_and_gradients_are_those_of_the_slow_reference(chamfer: str, order: int) -> None:
    method, view = small(chamfer=chamfer).eval(), a_view()
    result = method([view])
    assert list(result.scalars()) == ["loss"]
    parameters = dict(method.named_parameters())
    gradients = torch.autograd.grad(result["loss"], list(parameters.values()))
    expected = slow_loss(method, view, order)
    torch.testing.assert_close(result["loss"], expected)
    for name, found, truth in zip(
        parameters, gradients, torch.autograd.grad(expected, list(parameters.values())), strict=True
    ):
        torch.testing.assert_close(found, truth, msg=name)
        assert found.abs().sum() > 0, name


@pytest.mark.parametrize("training", [False, True])
def test_hidden_patches_reach_the_loss_alone(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    method, view = small().train(training), a_view()
    cut = method.encoder.patches(view.points)
    prediction, masked, visible = method._predict(view)
    assert prediction.shape == masked.points.shape == (4, 6, 6, 3)
    assert visible.points.shape == (4, 4, 6, 3)
    monkeypatch.setattr(method.encoder, "patches", lambda points: changed(cut, view.mask.masked))
    same, other, _ = method._predict(view)
    assert torch.equal(same, prediction)
    assert not torch.allclose(other.points, masked.points)
    monkeypatch.setattr(method.encoder, "patches", lambda points: changed(cut, view.mask.keep))
    other, same, _ = method._predict(view)
    assert not torch.allclose(other, prediction)
    assert torch.equal(same.points, masked.points)


def test_a_view_of_blocks_hides_the_share_that_is_asked_for() -> None:
    method, view = small(mask={"kind": "block", "ratio": 0.3}), a_view("block")
    prediction, masked, visible = method._predict(view)
    assert prediction.shape[1] == masked.points.shape[1] == 3
    assert visible.points.shape[1] == 7


def test_views_count_alike() -> None:
    method, views = small().eval(), [a_view(), point_view(PointMaskConfig(), seed=1, dtype=torch.float64)]
    errors = [method([view])["loss"] for view in views]
    torch.testing.assert_close(method(views)["loss"], torch.stack(errors).mean())


def test_pictures_are_the_patches_where_they_belong() -> None:
    method, view = small().eval(), a_view()
    with torch.no_grad():
        pictures = {one.caption: one.points for one in method.exhibits([view])}
    assert list(pictures) == ["input", "visible", "reconstruction"]
    assert torch.equal(pictures["input"].xyz, view.points.xyz)
    source, seen, restored = view.points.dense(), pictures["visible"].dense(), pictures["reconstruction"].dense()
    assert seen.shape == (4, 4 * 6, 3)
    assert restored.shape == (4, 10 * 6, 3)
    assert float(torch.cdist(seen, source).min(2).values.max()) < 1e-6
    assert torch.equal(restored[:, :24], seen)
    colour = pictures["reconstruction"].attributes["color"].view(4, 60, 3)
    assert len(colour[:, :24].unique()) == 1
    assert not (colour[:, 24:] == colour[0, 0]).all(2).any()
    prediction, masked, _ = method._predict(view)
    torch.testing.assert_close(restored[:, 24:].view(prediction.shape) - masked.centres[:, :, None], prediction)


def test_the_loss_of_one_batch_falls() -> None:
    method, view = build_points("point_mae", **PLAIN), point_view(PointMaskConfig())
    optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
    losses = []
    for _ in range(60):
        loss = method([view])["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0], losses


def test_encoders_and_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"point_mae needs an encoder .*: point_vit"):
        build_points("point_mae", tiny_encoder(TINY_ENCODERS[1]))
    with pytest.raises(ConfigError, match=r"method\.mask\.ratio=0\.04: of 10 patches it would hide none"):
        build_points("point_mae", point_encoder(), mask={"ratio": 0.04})


def test_in_time_it_predicts_when_points_are_too() -> None:
    encoder = ENCODERS.build(
        ENCODERS.config("point_vit").model_validate(POINT_VIT | {"time_scale": 0.5}),
        PointInputConfig(num_points=NUM_POINTS, attributes=("time",)),
    )
    method, view = build_points("point_mae", encoder, **PLAIN).double().eval(), a_view()
    view.points.attributes["time"] = torch.linspace(-1, 1, len(view.points.xyz), dtype=torch.float64)[:, None]
    prediction, masked, _ = method._predict(view)
    assert prediction.shape == masked.points.shape == (4, 6, 6, 4)
    expected = chamfer(prediction.flatten(0, 1), masked.points.flatten(0, 1)).mean()
    torch.testing.assert_close(method([view])["loss"], expected)
    found = {exhibit.caption: exhibit.points.xyz.shape[1] for exhibit in method.exhibits([view])}
    assert set(found.values()) == {3}
