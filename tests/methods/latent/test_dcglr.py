from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import normalize

from st_ssl.core.types import View
from st_ssl.methods.base import METHODS, Moment
from tests.methods.steps import TINY_ENCODERS, build, raw_views, recipe
from tests.methods.test_conformance import fixed

SMALL: dict[str, Any] = {
    "encoder": next(row for row in TINY_ENCODERS if row["name"] == "point_vit"),
    "method": {
        "local": {"number": 2, "num_points": 24},
        "categories": 12,
        "head_hidden_dim": 16,
        "bottleneck_dim": 8,
        "hidden_dim": 16,
        "output_dim": 8,
        "teacher_temperature": {"start": 0.05, "end": 0.05},
        "momentum": {"start": 0.9},
    },
}


def small(**settings: Any) -> Any:
    return build("dcglr", **settings)


def prepared(method: Any, batch: int = 4, first: int = 0) -> list[View]:
    views: list[View] = method.views.prepare(raw_views(method, batch, first))
    return views


def apart(method: Any) -> Any:
    """With a teacher and a centre of its own."""
    torch.manual_seed(3)
    with torch.no_grad():
        for p in method.teacher.parameters():
            p.add_(0.05 * torch.randn_like(p))
        method.centre.copy_(0.1 * torch.randn_like(method.centre))
    return method


def test_defaults_are_those_of_the_recipe() -> None:
    config: Any = METHODS.config("dcglr")()
    assert (config.distillation, config.contrast) == (1.0, 1.0)
    assert (config.local.number, config.local.crop_share, config.local.num_points) == (4, (0.2, 0.5), 256)
    assert (config.augment.crop, config.augment.crop_share, config.augment.rotation) == ("sphere", (0.6, 1.0), "z")
    assert (config.augment.scale, config.augment.jitter, config.augment.jitter_clip) == ((0.8, 1.2), 0.01, 0.05)
    assert (config.categories, config.head_hidden_dim, config.bottleneck_dim) == (4096, 2048, 256)
    assert (config.student_temperature, config.centre_momentum) == (0.1, 0.9)
    assert [config.teacher_temperature.at(step, 100) for step in (0, 15, 30, 99)] == pytest.approx(
        [0.04, 0.055, 0.07, 0.07]
    )
    assert (config.temperature, config.output_dim, config.projector_layers) == (0.2, 128, 2)
    assert (config.momentum.start, config.momentum.end, config.momentum.shape) == (0.996, 1.0, "cosine")
    assert METHODS.config("dcglr").model_validate(recipe("latent/dcglr")["method"]) == config


def test_the_views_are_two_global_crops_and_local_ones() -> None:
    method: Any = small(local={"number": 3, "num_points": 24, "crop_share": [0.2, 0.3]})
    views = raw_views(method, batch=2)
    assert [len(view.points.xyz) // 2 for view in views] == [48, 48, 24, 24, 24]
    shares = [spec.transforms[0].config.crop_share for spec in method.views.specs]
    assert shares == [(0.6, 1.0)] * 2 + [(0.2, 0.3)] * 3
    source = views[2].points.source
    assert source is not None
    local = np.unique(source[:24])
    assert len(local) <= round(0.3 * 96)  # of 96 points
    assert not torch.equal(views[0].params["seed"], views[1].params["seed"])


def slow(method: Any, views: list[View]) -> tuple[Tensor, Tensor]:
    """Both losses as the configuration says them, one cloud after the other."""

    def through(network: Any, heads: Any, own: list[View]) -> tuple[list[Tensor], list[Tensor]]:
        pooled = [network(view.points).pooled for view in own]
        return [heads.projector(x) for x in pooled[:2]], [heads.distillation(x) for x in pooled]

    queries, student = through(method.encoder, method.heads, views)
    keys, teacher = through(method.teacher.encoder, method.teacher.heads, views[:2])
    contrast, distillation = [], []
    for row in range(len(views[0])):
        for q, k in ((0, 1), (1, 0)):
            products = normalize(keys[k], dim=1).detach() @ normalize(queries[q][row], dim=0) / 0.3
            contrast.append(products.logsumexp(0) - products[row])
        for g in range(2):
            shares = ((teacher[g][row].detach() - method.centre) / method.teacher_temperature).softmax(0)
            for v, scores in enumerate(student):
                if v != g:
                    distillation.append(-(shares * (scores[row] / 0.1).log_softmax(0)).sum())
    return torch.stack(distillation).mean(), torch.stack(contrast).mean()


@pytest.mark.parametrize(("distillation", "contrast"), [(1.0, 1.0), (0.5, 2.0), (1.0, 0.0), (0.0, 1.0)])
def test_value_and_gradient_of_the_slow_reference(distillation: float, contrast: float) -> None:
    whole = apart(fixed(small(temperature=0.3)))
    views = prepared(whole)
    local = {} if distillation else {"local": {"number": 0}}
    method = fixed(small(temperature=0.3, distillation=distillation, contrast=contrast, **local))
    method.load_state_dict(whole.state_dict(), strict=False)
    terms = slow(whole, views)
    expected = distillation * terms[0] + contrast * terms[1]
    expected.backward()
    losses = method(views[: method.views.num_views])
    torch.testing.assert_close(losses.loss, expected, rtol=1e-9, atol=1e-10)
    losses.loss.backward()
    theirs = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None and p.grad.any()}
    ours = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys()
    assert not any(name.startswith("teacher") for name in ours)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-7, atol=1e-10, msg=name)
    assert ("distillation" in losses.logs, "contrast" in losses.logs) == (distillation > 0, contrast > 0)
    assert method.compares_samples() == (contrast > 0)
    assert any("heads.projector" in key for key in method.state_dict()) == (contrast > 0)
    assert any("heads.distillation" in key for key in method.state_dict()) == (distillation > 0)


def test_what_one_loss_needs_alone_is_left_out_with_it() -> None:
    assert small(distillation=0.0, local={"number": 0}).views.num_views == 2
    with pytest.warns(UserWarning, match="local.number=2 is ignored with distillation=0"):
        assert small(distillation=0.0).views.num_views == 2
    with pytest.raises(ValidationError, match="distillation=0 and contrast=0 leave no loss"):
        METHODS.config("dcglr").model_validate({"distillation": 0.0, "contrast": 0.0})
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        METHODS.config("dcglr").model_validate({"distillation": -1.0})


def test_state_follows_after_an_update() -> None:
    method = small(centre_momentum=0.8, momentum={"start": 0.5, "end": 0.5}, teacher_temperature={"end": 0.09})
    losses = method(prepared(method))
    assert (method.centre == 0).all()
    slow_weight = method.teacher.encoder.norm.weight.clone()
    assert torch.equal(slow_weight, method.encoder.norm.weight)
    with torch.no_grad():
        method.encoder.norm.weight.add_(1.0)
        method.heads.distillation.directions.add_(2.0)
    before = method.teacher.heads.distillation.directions.clone()
    teacher = method.outputs(prepared(method))["teacher"]
    torch.testing.assert_close(losses.kept["teacher"], teacher.mean(1), rtol=1e-3, atol=1e-4)
    method.after_update(Moment(0, 10), {"teacher": losses.kept["teacher"].detach()})
    torch.testing.assert_close(method.centre, 0.2 * losses.kept["teacher"].mean(0))
    torch.testing.assert_close(method.teacher.encoder.norm.weight, slow_weight + 0.5)
    torch.testing.assert_close(method.teacher.heads.distillation.directions, before + 1.0)
    assert method.teacher_temperature.item() == pytest.approx(0.05 + 0.04 / 3)  # a third of 0.3 of 10 updates
    assert {"centre", "teacher_temperature"} <= method.state_dict().keys()


def test_the_teacher_is_exported() -> None:
    method = small()
    assert method.exports() == {"encoder": method.teacher.encoder}
    assert not any(p.requires_grad for p in method.teacher.parameters())


def test_the_entropies_tell_of_both_collapses() -> None:
    method = small().eval()
    views = prepared(method)
    with torch.no_grad():
        method.teacher.heads.distillation.directions[1:] = -method.teacher.heads.distillation.directions[0]
        method.centre.zero_()
        won = method(views)
        assert abs(won["category_entropy"]) < math.log(12) + 1e-6
        method.teacher.heads.distillation.directions.copy_(torch.ones_like(method.heads.distillation.directions))
        flat = method(views)
    assert flat["teacher_entropy"].item() == pytest.approx(math.log(12), rel=1e-5)
    assert flat["category_entropy"].item() == pytest.approx(math.log(12), rel=1e-5)
    assert won["teacher_entropy"] < flat["teacher_entropy"]


@pytest.mark.parametrize("name", ["dgcnn", "sparse_unet"])
def test_any_encoder_of_clouds_will_do(name: str) -> None:
    method = small(encoder=next(row for row in TINY_ENCODERS if row["name"] == name))
    losses = method(prepared(method))
    losses.loss.backward()
    assert losses.loss.isfinite()
