from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from st_ssl.core.types import View
from st_ssl.methods.base import METHODS
from tests.methods.steps import TINY_ENCODERS, build, raw_views, recipe
from tests.methods.test_conformance import fixed

SMALL: dict[str, Any] = {
    "encoder": next(row for row in TINY_ENCODERS if row["name"] == "point_vit"),
    "method": {"hidden_dim": 32, "output_dim": 16},
}


def small(**settings: Any) -> Any:
    return build("simclr", **settings)


def prepared(method: Any, batch: int = 4, first: int = 0) -> list[View]:
    views: list[View] = method.views.prepare(raw_views(method, batch, first))
    return views


def test_defaults_are_those_of_the_paper_and_the_recipe() -> None:
    config: Any = METHODS.config("simclr")()
    assert (config.temperature, config.hidden_dim, config.output_dim, config.projector_layers) == (0.1, 2048, 128, 2)
    augment = config.augment
    assert (augment.rotation, augment.max_angle, augment.scale, augment.anisotropic) == ("z", 180, (0.8, 1.25), True)
    assert (augment.crop, augment.crop_share, augment.jitter, augment.flip) == ("sphere", (0.6, 1.0), 0.01, (0, 0, 0))
    told: Any = METHODS.config("simclr").model_validate(recipe("contrast/simclr")["method"])
    assert told == config.model_copy(update={"augment": augment.model_copy(update={"rotation": "y"})})


def slow(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Equation 1 of the paper: one view after the other."""
    rows = [x / x.square().sum().sqrt() for x in (*first, *second)]
    count, terms = len(first), []
    for i, row in enumerate(rows):
        positive = rows[(i + count) % (2 * count)]
        below = sum((torch.exp(torch.dot(row, x) / temperature) for k, x in enumerate(rows) if k != i), torch.zeros(()))
        terms.append(-torch.log(torch.exp(torch.dot(row, positive) / temperature) / below))
    return torch.stack(terms).mean()


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_value_and_gradient_of_the_slow_reference(temperature: float) -> None:
    method = fixed(small(temperature=temperature))
    views = prepared(method)
    first, second = (method.projector(method.encoder(view.points).pooled) for view in views)
    expected = slow(first, second, temperature)
    parameters = dict(method.named_parameters())
    theirs = torch.autograd.grad(expected, list(parameters.values()))
    losses = method(views)
    torch.testing.assert_close(losses.loss, expected, rtol=1e-10, atol=1e-12)
    ours = torch.autograd.grad(losses.loss, list(parameters.values()))
    for name, found, truth in zip(parameters, ours, theirs, strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-8, atol=1e-12, msg=name)


def test_swapped_views_have_the_same_loss_and_views_of_others_have_not() -> None:
    method = fixed(small())
    views, others = prepared(method), prepared(method, first=100)
    loss = method(views)["loss"]
    torch.testing.assert_close(method(views[::-1])["loss"], loss)
    assert abs(method([views[0], others[1]])["loss"].item() - loss.item()) > 1e-3


def test_the_two_views_are_drawn_apart_by_the_same_settings() -> None:
    method: Any = small(augment={"rotation": "z", "max_angle": 10.0, "crop_share": [0.3, 0.4]})
    first, second = raw_views(method, batch=3)
    assert not torch.equal(first.params["affine"], second.params["affine"])
    for view in (first, second):
        source = view.points.source
        assert source is not None
        shares = [len(np.unique(source[start : start + 48])) / 96 for start in (0, 48, 96)]
        assert max(shares) <= 0.41  # 48 points of at most 38 different ones
        affine = view.params["affine"]
        assert (affine[:, 2, :2] == 0).all() and (affine[:, 0, 0] > 0).all()


def test_the_projector_is_thrown_away() -> None:
    method = small(projector_layers=3)
    assert method.exports() == {"encoder": method.encoder}
    assert method.watched() == {"projection": method.projector}
    linear = [m for m in method.projector if isinstance(m, nn.Linear)]
    assert [m.out_features for m in linear] == [32, 32, 16]


@pytest.mark.parametrize("name", ["dgcnn", "sparse_unet"])
def test_any_encoder_of_clouds_will_do(name: str) -> None:
    method = small(encoder=next(row for row in TINY_ENCODERS if row["name"] == name))
    method(prepared(method)).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.projector.parameters())


def test_temperature_must_be_positive() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        small(temperature=0)
