from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import normalize

from st_ssl.core.types import View
from st_ssl.data.clip_plans import ClipPair
from st_ssl.methods.base import METHODS, Moment, Outputs
from tests.methods.steps import build, raw_views

SMALL: dict[str, Any] = {
    "encoder": {"name": "r3d", "depth": 10, "width": 4},
    # The covariance begins at 0. With the paper's rho and beta the loss of four samples would rise while it fills.
    "method": {"hidden_dim": 32, "output_dim": 16, "rho": 1.0, "beta": 0.5, "momentum": {"start": 0.9}},
}


def small(**settings: Any) -> Any:
    return build("tico", **({"rho": 8.0} | settings))


def prepared(method: Any, first: int = 0) -> list[View]:
    views: list[View] = method.views.prepare(raw_views(method, first=first))
    return views


def test_defaults_are_those_of_the_paper() -> None:
    config: Any = METHODS.config("tico")()
    assert (config.hidden_dim, config.output_dim, config.projector_layers) == (4096, 256, 2)
    assert (config.rho, config.beta, config.batch_gradient) == (8.0, 0.9, True)
    assert (config.momentum.at(0, 10), config.momentum.at(10, 10)) == (0.99, 1.0)
    augment = config.augment
    assert (augment.area, augment.flip, augment.jitter) == ((0.08, 1.0), 0.5, 0.8)
    assert (augment.brightness, augment.contrast, augment.saturation, augment.hue) == (0.4, 0.4, 0.2, 0.1)
    assert (augment.grayscale, augment.blur, augment.per_frame) == (0.2, 0.5, False)


def test_views_are_two_clips_at_a_uniform_distance() -> None:
    assert [spec.plan for spec in small().views.specs] == [ClipPair(4, 2, "uniform")] * 2


def test_three_updates_are_those_of_the_slow_reference() -> None:
    """Also the covariance, which the method updates after the loss and the reference before it."""
    method = small(rho=3.0, beta=0.8).double()
    past = torch.zeros(16, 16, dtype=torch.float64)
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        first, second = torch.randn(2, 6, 16, dtype=torch.float64, generator=generator)
        ours, theirs = first.clone().requires_grad_(), first.clone().requires_grad_()
        losses = method.losses(Outputs({"first": ours}, {"second": second}))
        losses.loss.backward()

        rows = [row / row.square().sum().sqrt() for row in theirs]
        targets = [row / row.square().sum().sqrt() for row in second]
        covariance = 0.8 * past + 0.2 * torch.stack([torch.outer(row, row) for row in rows]).mean(0)
        terms = [1 - row @ target + 3.0 * (row @ covariance @ row) for row, target in zip(rows, targets, strict=True)]
        expected = torch.stack(terms).mean()
        expected.backward()
        past = covariance.detach()

        torch.testing.assert_close(losses.loss, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)
        method.after_update(Moment(step, 10), {name: value.detach() for name, value in losses.kept.items()})
        torch.testing.assert_close(method.covariance, past, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(method.covariance.trace(), torch.tensor(1 - 0.8 ** (step + 1)).double())


def test_the_loss_is_that_of_both_networks() -> None:
    method = small().eval()
    views = prepared(method)
    with torch.no_grad():
        for p in method.momentum.parameters():
            p.mul_(1.2)
    outputs = method.outputs(views)
    expected = method.projector(method.encoder(views[0].clip).pooled)
    torch.testing.assert_close(outputs["first"], expected)
    slow = method.momentum.projector(method.momentum.encoder(views[1].clip).pooled)
    torch.testing.assert_close(outputs["second"], slow)
    losses = method(views)
    distance = 1 - (normalize(expected, dim=1) * normalize(slow, dim=1)).sum(1).mean()
    torch.testing.assert_close(losses["distance"], distance)
    torch.testing.assert_close(losses.loss, distance + 8 * losses["covariance_contrast"])


def test_the_gradient_of_the_covariance_is_a_setting() -> None:
    def gradient(batch_gradient: bool) -> tuple[Tensor, Tensor]:
        method = small(batch_gradient=batch_gradient, beta=0.0)
        first = torch.randn(5, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        losses = method.losses(Outputs({"first": first}, {"second": first.detach()}))
        (found,) = torch.autograd.grad(losses.loss, first)
        return losses.loss, found

    (loss, whole), (same, stopped) = gradient(True), gradient(False)
    torch.testing.assert_close(loss, same)
    # Row and target are the same, so all of the gradient is of the contrast: half of it comes by way of the covariance.
    torch.testing.assert_close(whole, 2 * stopped, rtol=1e-4, atol=1e-7)


def test_total_collapse_costs_rho() -> None:
    method = small(beta=0.5)
    row = torch.randn(1, 16).expand(4, -1)
    for step in range(30):
        losses = method.losses(Outputs({"first": row}, {"second": row}))
        method.after_update(Moment(step, 30), losses.kept)
    torch.testing.assert_close(losses.loss, torch.tensor(8.0))
    spread = 3 * torch.eye(16)
    for step in range(30):
        losses = method.losses(Outputs({"first": spread}, {"second": spread}))
        method.after_update(Moment(step, 30), losses.kept)
    torch.testing.assert_close(losses.loss, torch.tensor(8.0 / 16))


def test_the_momentum_encoder_follows_by_the_schedule_and_has_no_gradient() -> None:
    method = small(momentum={"start": 0.5, "end": 1.0})
    losses = method(prepared(method))
    losses.loss.backward()
    assert all(p.grad is None for p in method.momentum.parameters())
    slow, live = method.momentum.encoder.stem[0].weight, method.encoder.stem[0].weight
    start = slow.clone()
    with torch.no_grad():
        live.add_(1.0)
    method.after_update(Moment(0, 10), losses.kept)
    torch.testing.assert_close(slow, start + 0.5)
    assert method.exports() == {"encoder": method.encoder}


def test_what_is_wrong_is_refused() -> None:
    with pytest.raises(ValidationError, match="less than 1"):
        small(beta=1.0)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        small(rho=-1.0)
