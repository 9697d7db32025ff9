from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from st_ssl.augment.point_masking import PointMaskConfig
from st_ssl.augment.points import PointAugment
from st_ssl.core.errors import ConfigError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.types import View
from st_ssl.data.views import stack
from st_ssl.encoders.base import ENCODERS
from st_ssl.encoders.point_vit import Patches
from st_ssl.methods.base import METHODS, Moment
from st_ssl.methods.latent.point2vec import Point2VecConfig
from tests.methods.clouds import build_points, point_encoder, point_view
from tests.methods.steps import TINY_ENCODERS, noise_cloud, noise_recording, recipe, tiny_encoder
from tests.runs import tiny, train, weights

SMALL: dict[str, Any] = {
    "encoder": {
        **{"name": "point_vit", "dim": 24, "depth": 3, "heads": 3, "num_groups": 10, "group_size": 6},
        **{"tokeniser": [8, 16, 32], "drop_path": 0.3, "attention_dropout": 0.1},
    },
    "method": {"target_layers": 2, "momentum": {"start": 0.5}, "decoder": {"depth": 1, "heads": 3}},
}
PLAIN: dict[str, Any] = {
    "decoder": {"depth": 2, "heads": 3, "drop_path": 0.0, "attention_dropout": 0.0},
    "target_layers": 2,
}


def small(**settings: Any) -> Any:
    return build_points("point2vec", **(PLAIN | settings)).double()


def a_view(seed: int = 0) -> View:
    return point_view(PointMaskConfig(ratio=0.6), seed=seed, dtype=torch.float64)


def apart(method: Any) -> Any:
    """``method`` with a teacher that is not its student."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return method


def standardised(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def slow(method: Any, view: View, leak: bool) -> tuple[Tensor, Tensor]:
    """Predictions and targets as the paper says it, cloud by cloud."""
    encoder, rows = method.encoder, []
    patches = encoder.patches(view.points)
    tokens, positions = encoder.tokeniser(patches.points), encoder.position(patches.centres)
    for cloud in range(len(view)):
        keep, masked, at = view.mask.keep[cloud], view.mask.masked[cloud], positions[cloud]
        taught, layers = tokens[cloud], []
        for block in method.teacher:
            taught = block((taught + at)[None])[0]
            layers.append(standardised(taught))
        target = standardised((layers[-1] + layers[-2]) / 2)[masked].detach()
        if leak:
            x = tokens[cloud].clone()
            x[masked] = method.mask_token
            for block in encoder.blocks:
                x = block((x + at)[None])[0]
            predicted = method.regressor(encoder.norm(x)[masked])
        else:
            x = tokens[cloud][keep]
            for block in encoder.blocks:
                x = block((x + at[keep])[None])[0]
            x = torch.cat([encoder.norm(x), method.decoder.mask_token.expand(len(masked), -1)])
            for block in method.decoder.blocks:
                x = block((x + torch.cat([at[keep], at[masked]]))[None])[0]
            predicted = method.decoder.head(method.decoder.norm(x[len(keep) :]))
        rows.append((predicted, target))
    return torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])


@pytest.mark.parametrize("leak", [False, True])
@pytest.mark.parametrize("loss", ["smooth_l1", "mse"])
def test_loss_and_gradients_are_those_of_the_slow_reference(leak: bool, loss: str) -> None:
    method, view = apart(small(position_leak=leak, loss=loss, beta=0.5)).eval(), a_view()
    result = method([view])
    parameters = {name: p for name, p in method.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(result["loss"], list(parameters.values()))
    predicted, target = slow(method, view, leak)
    for found, expected in zip(method.compared([view]), (predicted, target), strict=True):
        torch.testing.assert_close(found, expected)
    gap = predicted - target
    squared = gap.square()
    if loss == "smooth_l1":  # beta 0.5
        assert (gap.abs() < 0.5).any()
        assert (gap.abs() > 0.5).any()
        squared = torch.where(gap.abs() < 0.5, squared, gap.abs() - 0.25)
    expected = squared.mean()
    torch.testing.assert_close(result["loss"], expected)
    for name, found, truth in zip(
        parameters, gradients, torch.autograd.grad(expected, list(parameters.values())), strict=True
    ):
        torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-9, msg=name)
        assert found.abs().sum() > 0, name


def test_targets_are_of_the_last_blocks_that_are_asked_for() -> None:
    view = a_view()
    methods = [apart(small(target_layers=count)).eval() for count in (1, 3)]
    one, three = (method.compared([view])[1] for method in methods)
    assert one.shape == (4, 6, 24)
    assert not torch.allclose(one, three)
    for target in (one, three):
        torch.testing.assert_close(target.mean(-1), torch.zeros(4, 6, dtype=torch.float64), rtol=0, atol=1e-5)
        torch.testing.assert_close(
            target.std(-1, correction=0), torch.ones(4, 6, dtype=torch.float64), rtol=0, atol=1e-3
        )


def test_the_teacher_starts_as_the_student_and_follows_by_hand() -> None:
    method = small(momentum={"shape": "linear", "start": 0.5, "end": 0.9, "share": 0.5})
    name = "0.attn.proj.weight"
    slow_weight = method.teacher.state_dict()[name].clone()
    assert torch.equal(slow_weight, method.encoder.blocks.state_dict()[name])
    for step, momentum in [(0, 0.5), (1, 0.7), (2, 0.9), (3, 0.9)]:
        with torch.no_grad():
            method.encoder.blocks[0].attn.proj.weight.add_(1.0)
        method.after_update(Moment(step, 4), {})
        slow_weight = momentum * slow_weight + (1 - momentum) * method.encoder.blocks[0].attn.proj.weight.detach()
        torch.testing.assert_close(method.teacher.state_dict()[name], slow_weight)
    assert any(key.startswith("teacher.") for key in method.state_dict())


def test_nothing_is_learned_through_the_teacher_and_it_drops_nothing() -> None:
    encoder = point_encoder(drop_path=0.9)
    method, view = build_points("point2vec", encoder, **PLAIN).train(), point_view(PointMaskConfig(ratio=0.6))
    assert not any(p.requires_grad for p in method.teacher.parameters())
    assert not method.teacher.training
    assert method.encoder.training
    patches = encoder.patches(view.points)  # type: ignore[operator]
    patches = replace(patches, tokens=torch.randn(4, 10, 24, requires_grad=True))
    targets = method.targets(patches)
    assert not targets.requires_grad
    assert torch.equal(method.targets(patches), targets)
    method([view])["loss"].backward()
    assert all(p.grad is None for p in method.teacher.parameters())


def with_other_masked(method: Any, view: View, points: bool, centres: bool) -> Patches:
    """The view's patches, the masked ones with other points or at other places."""
    patches: Patches = method.encoder.patches(view.points)
    noise = torch.randn(patches.points.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    hidden = torch.zeros(patches.centres.shape[:2], dtype=torch.bool).scatter(1, view.mask.masked, True)[..., None]
    return Patches(
        torch.where(hidden[..., None], noise, patches.points) if points else patches.points,
        torch.where(hidden, noise[:, :, 0], patches.centres) if centres else patches.centres,
    )


@pytest.mark.parametrize("leak", [False, True])
def test_only_the_leak_tells_the_student_where_masked_patches_are(leak: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    method, view = small(position_leak=leak).eval(), a_view()
    seen: list[Tensor] = []
    method.encoder.register_forward_hook(lambda module, args, output: seen.append(output.tokens))

    def run(**changes: bool) -> tuple[Tensor, Tensor]:
        patches = with_other_masked(method, view, **changes)
        monkeypatch.setattr(method.encoder, "patches", lambda points: patches)
        prediction = method.compared([view])[0]
        monkeypatch.undo()
        return seen.pop(), prediction

    tokens, prediction = run(points=False, centres=False)
    assert tokens.shape[1] == (10 if leak else 4)
    visible = view.mask.keep if leak else torch.arange(4).expand(4, -1)
    batch = torch.arange(4)[:, None]
    same, same_prediction = run(points=True, centres=False)
    torch.testing.assert_close(same, tokens)  # what a masked patch looks like is known to neither
    torch.testing.assert_close(same_prediction, prediction)
    moved, other_prediction = run(points=False, centres=True)
    assert torch.allclose(moved[batch, visible], tokens[batch, visible]) != leak
    assert not torch.allclose(other_prediction, prediction)


@pytest.mark.parametrize("leak", [False, True])
def test_the_loss_of_one_batch_falls(leak: bool) -> None:
    method = build_points("point2vec", **PLAIN, position_leak=leak, momentum={"start": 0.99})
    view = point_view(PointMaskConfig(ratio=0.6))
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=2e-3)
    losses, result = [], {}
    for step in range(60):
        result = method([view])
        optimizer.zero_grad()
        result["loss"].backward()
        optimizer.step()
        method.after_update(Moment(step, 60), {})
        losses.append(result["loss"].item())
    assert losses[-1] < 0.7 * losses[0], losses
    assert result["target_std"] > 0.1


def test_the_teacher_trails_the_student_which_is_exported(clouds: Path, tmp_path: Path) -> None:
    trainer = train(tiny(clouds, tmp_path / "run", "point2vec", engine={"epochs": 1}))
    saved = weights(tmp_path / "run")
    teacher, student = "model/teacher.0.mlp.0.weight", "model/encoder.blocks.0.mlp.0.weight"
    assert not torch.equal(saved[teacher], saved[student])
    assert torch.equal(saved["encoder/blocks.0.mlp.0.weight"], trainer.method.encoder.blocks[0].mlp[0].weight)  # type: ignore[union-attr,index]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"point2vec needs an encoder .*: point_vit"):
        build_points("point2vec", tiny_encoder(TINY_ENCODERS[1]))
    with pytest.raises(ConfigError, match=r"method\.target_layers=4: the encoder has 3 blocks"):
        build_points("point2vec", target_layers=4)


def test_the_cloud_is_scaled_before_it_is_brought_to_the_unit_sphere() -> None:
    config = Point2VecConfig()
    assert (config.augment.scale, config.augment.anisotropic, config.augment.scale_first) == ((0.8, 1.2), True, True)
    first, last = (build_points("point2vec", target_layers=2, augment={"scale_first": on}) for on in (True, False))
    radii, ratios = [], []
    for seed in range(20):
        views = []
        for method in (first, last):
            recording, key = noise_recording("points", seed), (0, 0, seed)
            views.append(method.views.prepare(stack([method.views.cut(recording, key)]))[0])
        cloud = noise_cloud(seed).xyz[views[0].points.source].astype(np.float64)
        scaled = (
            cloud @ views[0].params["affine"][0, :3, :3].double().numpy().T
        )  # scaled and turned: the norms of scaled
        scaled -= scaled.mean(0)
        np.testing.assert_allclose(views[0].points.xyz, scaled / np.linalg.norm(scaled, axis=1).max(), atol=1e-5)
        radii.append([view.points.xyz.norm(dim=1).max().item() for view in views])
        ratios.append((views[1].points.xyz / views[0].points.xyz).std().item())
    assert np.allclose([row[0] for row in radii], 1, atol=1e-5)
    assert np.ptp([row[1] for row in radii]) > 0.1  # the other way round, as before
    assert max(ratios) < 1e-3  # which differs by one factor a cloud
    with pytest.warns(UserWarning, match=r"scale_first is ignored: input\.unit_sphere is false"):
        PointAugment(config.augment, None, unit_sphere=False)


def test_the_recipe_begins_with_the_weights_that_torch_draws() -> None:
    told = recipe("latent/point2vec")
    assert told["encoder"]["init"] == "torch"
    config: Any = METHODS.config("point2vec").model_validate(told["method"])
    assert config.augment.scale_first
    assert config.decoder == Point2VecConfig().decoder
    torch.manual_seed(0)
    small = {"dim": 96, "depth": 2, "heads": 3, "num_groups": 10, "group_size": 6}
    encoder = ENCODERS.build(ENCODERS.config("point_vit").model_validate(told["encoder"] | small), PointInputConfig())
    method: Any = METHODS.build(config.model_copy(update={"target_layers": 2}), encoder)
    linear = [m for m in method.modules() if isinstance(m, torch.nn.Linear)]
    assert len(linear) > 20
    for layer in linear:  # Kaiming with a = sqrt 5: uniform within one over the root of what comes in
        bound = layer.in_features**-0.5
        for values in (layer.weight, layer.bias):
            assert 0.8 * bound < values.abs().max() <= bound
            assert abs(values.std() * 3**0.5 / bound - 1) < 0.25
    assert (method.decoder.mask_token.abs() <= 0.02).all()  # at one deviation
    assert 0.008 < method.decoder.mask_token.std() < 0.014
    leak: Any = METHODS.build(config.model_copy(update={"target_layers": 2, "position_leak": True}), encoder)
    assert (leak.mask_token.abs() <= 0.02).all()
    assert leak.regressor[0].bias.abs().max() > 0


@pytest.mark.parametrize("name", ["point2vec", "point_mae"])
def test_layer_norms_have_the_eps_of_both_papers(name: str) -> None:
    encoder = ENCODERS.build(ENCODERS.config("point_vit")(), PointInputConfig())
    method = METHODS.build(METHODS.config(name)(), encoder)
    norms = [m for m in method.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(norms) >= 2 * 12 + 1 + 2 * 4 + 1
    assert {norm.eps for norm in norms} == {1e-5}
