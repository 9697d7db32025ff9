from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import normalize

from st_ssl.data.clip_plans import RandomClips
from st_ssl.methods.base import METHODS
from st_ssl.objectives.alignment import alignment, uniformity
from tests.methods.steps import build, raw_views

SMALL: dict[str, Any] = {
    "encoder": {"name": "r3d", "depth": 10, "width": 4},
    "method": {"hidden_dim": 32, "output_dim": 16},
}


def small(**settings: Any) -> Any:
    return build("align_uniform", **settings)


def test_defaults_are_those_of_the_paper() -> None:
    config: Any = METHODS.config("align_uniform")()
    assert (config.align_weight, config.uniform_weight, config.alpha, config.t, config.normalise) == (1, 1, 2, 2, True)
    assert (config.hidden_dim, config.output_dim, config.projector_layers) == (4096, 128, 3)
    augment = config.augment
    assert (augment.area, augment.flip, augment.jitter, augment.grayscale) == ((0.08, 1.0), 0.5, 1.0, 0.2)
    assert (augment.brightness, augment.contrast, augment.saturation, augment.hue) == (0.4, 0.4, 0.4, 0.4)
    assert (augment.blur, augment.per_frame) == (0.0, False)
    assert {spec.plan for spec in small().views.specs} == {RandomClips(4, 2, 2)}


@pytest.mark.parametrize("normalised", [True, False])
def test_the_loss_is_the_two_measures_by_their_weights(normalised: bool) -> None:
    method = small(align_weight=3, uniform_weight=0.5, alpha=1.5, t=3, normalise=normalised).eval()
    views = method.views.prepare(raw_views(method))
    outputs = method.outputs(views)
    torch.testing.assert_close(outputs["second"], method.projector(method.encoder(views[1].clip).pooled))
    first, second = outputs["first"], outputs["second"]
    if normalised:
        first, second = normalize(first), normalize(second)
    near, spread = alignment(first, second, 1.5), (uniformity(first, 3) + uniformity(second, 3)) / 2
    losses = method(views)
    torch.testing.assert_close(losses["loss"], 3 * near + 0.5 * spread)
    torch.testing.assert_close(losses["alignment"], near)
    torch.testing.assert_close(losses["uniformity"], spread)


def test_a_weight_of_zero_leaves_the_measure_in_the_log() -> None:
    method = small(uniform_weight=0).eval()
    losses = method(method.views.prepare(raw_views(method)))
    assert losses["loss"] == losses["alignment"]
    assert losses["uniformity"] < 0


@pytest.mark.parametrize("weights", [(1, 0), (0, 1)])
def test_alignment_alone_collapses_and_uniformity_alone_spreads(weights: tuple[float, float]) -> None:
    method = small(align_weight=weights[0], uniform_weight=weights[1])
    views = method.views.prepare(raw_views(method))
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    found = []
    for _ in range(25):
        losses = method(views)
        optimizer.zero_grad()
        losses.loss.backward()
        optimizer.step()
        found.append(losses["uniformity"].item())
    assert (found[-1] > found[0]) == (weights[0] > 0)


def test_refusals() -> None:
    with pytest.raises(ValidationError, match="both 0"):
        small(align_weight=0, uniform_weight=0)
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        small(alpha=0.5)
    with pytest.raises(ValidationError, match="greater than 0"):
        small(t=0)
