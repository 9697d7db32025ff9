from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from st_ssl.core.types import Features, View
from st_ssl.data.clip_plans import ClipPair
from st_ssl.engine.gauge import CollapseGauge
from st_ssl.methods.base import METHODS
from tests.methods.steps import build, raw_views

SMALL: dict[str, Any] = {
    "encoder": {"name": "r3d", "depth": 10, "width": 4},
    "method": {"hidden_dim": 32, "output_dim": 32, "predictor_dim": 8},
}


def small(**settings: Any) -> Any:
    return build("simsiam", **settings)


def prepared(method: Any, batch: int = 4, first: int = 0) -> list[View]:
    views: list[View] = method.views.prepare(raw_views(method, batch, first))
    return views


def test_defaults_are_those_of_the_paper() -> None:
    config: Any = METHODS.config("simsiam")()
    assert (config.hidden_dim, config.output_dim, config.projector_layers) == (2048, 2048, 3)
    assert (config.predictor_dim, config.stop_gradient) == (512, True)
    augment = config.augment
    assert (augment.area, augment.flip, augment.jitter) == ((0.2, 1.0), 0.5, 0.8)
    assert (augment.brightness, augment.contrast, augment.saturation, augment.hue) == (0.4, 0.4, 0.4, 0.1)
    assert (augment.grayscale, augment.blur, augment.blur_sigma, augment.per_frame) == (0.2, 0.5, (0.1, 2.0), False)


def test_views_are_two_clips_at_a_uniform_distance() -> None:
    assert [spec.plan for spec in small().views.specs] == [ClipPair(4, 2, "uniform")] * 2


def test_the_heads_are_those_of_the_paper() -> None:
    method = small()
    names = [type(m).__name__ for m in method.projector]
    assert names == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear", "BatchNorm1d"]
    assert [(m.in_features, m.out_features, m.bias is None) for m in method.projector if isinstance(m, nn.Linear)] == [
        (method.encoder.embed_dim, 32, True),
        (32, 32, True),
        (32, 32, False),
    ]
    assert [m.affine for m in method.projector if isinstance(m, nn.BatchNorm1d)] == [True, True, False]
    assert [name for name, p in method.named_parameters() if not p.requires_grad] == ["projector.6.bias"]
    assert [type(m).__name__ for m in method.predictor] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert [m.out_features for m in method.predictor if isinstance(m, nn.Linear)] == [8, 32]
    assert method.predictor[3].bias is not None


def slow_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    lengths = prediction.square().sum(1).sqrt() * target.square().sum(1).sqrt()
    return ((prediction * target).sum(1) / lengths).mean()


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_value_and_gradient_of_the_slow_reference(stop_gradient: bool) -> None:
    method = small(stop_gradient=stop_gradient).double().eval()
    views = [view.map(lambda t: t.double() if t.is_floating_point() else t) for view in prepared(method)]
    z1, z2 = (method.projector(method.encoder(view.clip).pooled) for view in views)
    targets = [z.detach() if stop_gradient else z for z in (z1, z2)]
    p1, p2 = method.predictor(z1), method.predictor(z2)
    expected = -0.5 * (slow_cosine(p1, targets[1]) + slow_cosine(p2, targets[0]))
    expected.backward()
    theirs = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    losses = method(views)
    losses.loss.backward()
    torch.testing.assert_close(losses.loss, expected, rtol=1e-12, atol=1e-12)
    for name, gradient in theirs.items():
        torch.testing.assert_close(method.get_parameter(name).grad, gradient, rtol=1e-8, atol=1e-12)


def test_swapped_views_have_the_same_loss() -> None:
    method = small().eval()
    views = prepared(method)
    loss = method(views)["loss"]
    torch.testing.assert_close(method(views[::-1])["loss"], loss)
    assert abs(method([views[0], prepared(method, first=100)[1]])["loss"] - loss) > 1e-3


def test_spread_of_projections_by_hand() -> None:
    method = small(output_dim=2)
    method.projector = nn.Sequential(nn.Linear(method.encoder.embed_dim, 2))
    nn.init.zeros_(method.projector[0].weight)
    assert method(prepared(method))["projection_spread"] == 0  # the bias alone: all the same
    method.projector = Cross()
    torch.testing.assert_close(method(prepared(method))["projection_spread"], torch.tensor(1.0))


class Cross(nn.Module):
    """Four rows to both directions of both axes, of any length."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.cat([torch.eye(2), -torch.eye(2)]) + 0 * x[:, :2]


class Projections(nn.Module):
    """The projections as the features of an encoder: where the paper, and so the gauge here, looks for collapse."""

    def __init__(self, method: Any) -> None:
        super().__init__()
        self.method = method

    def forward(self, clip: Tensor) -> Features:
        return Features(pooled=self.method.projector(self.method.encoder(clip).pooled))


def train(stop_gradient: bool) -> tuple[list[str], float]:
    """The warnings of the gauge over 100 updates of 16 of 64 videos, and the last effective rank of the features before
    the projector."""
    method = small(stop_gradient=stop_gradient)
    batches = [prepared(method, 16, 1000 * number) for number in range(4)]
    projections = Projections(method)
    gauge, before = CollapseGauge(projections), CollapseGauge(method.encoder)
    parameters = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)
    warnings = []
    for step in range(100):
        views = batches[step % len(batches)]
        loss = method(views).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 5 == 0:
            with torch.no_grad():
                projections(views[0].clip)
            warnings.append(gauge.read()[1])
    return [text for text in warnings if text is not None], before.read()[0]["effective_rank"]


def test_without_the_stop_gradient_it_collapses_and_the_gauge_says_so() -> None:
    """Projections end on a line. Those of a batch cannot all be the same, for the last batch norm centres them."""
    warnings, rank = train(stop_gradient=False)
    assert len(warnings) == 1
    assert warnings[0].startswith("features look collapsed")
    none, healthy = train(stop_gradient=True)
    assert none == []
    assert rank < 0.7 * healthy


def test_what_is_wrong_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        small(predictor_dim=0)
