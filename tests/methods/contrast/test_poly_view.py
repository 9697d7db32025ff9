from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from st_ssl.data.clip_plans import RandomClips
from st_ssl.methods.base import METHODS
from st_ssl.objectives.contrastive import info_nce
from st_ssl.objectives.multi_view import poly_view
from tests.methods.steps import build, raw_views

SMALL: dict[str, Any] = {
    "encoder": {"name": "r3d", "depth": 10, "width": 4},
    "method": {"num_views": 3, "hidden_dim": 32, "output_dim": 16},
}


def small(**settings: Any) -> Any:
    return build("poly_view", **settings)


def test_defaults_are_those_of_the_paper_as_we_read_it() -> None:
    config: Any = METHODS.config("poly_view")()
    assert (config.num_views, config.aggregate, config.unit_mean) == (4, "geometric", False)
    assert (config.temperature, config.hidden_dim, config.output_dim, config.projector_layers) == (0.1, 2048, 128, 2)
    augment = config.augment
    assert (augment.area, augment.flip, augment.jitter, augment.grayscale) == ((0.08, 1.0), 0.5, 0.8, 0.2)
    assert (augment.brightness, augment.contrast, augment.saturation, augment.hue) == (0.8, 0.8, 0.8, 0.2)
    assert (augment.blur, augment.per_frame) == (0.5, False)


@pytest.mark.parametrize("count", [2, 5])
def test_the_views_are_independent_clips(count: int) -> None:
    method = small(num_views=count)
    assert {spec.plan for spec in method.views.specs} == {RandomClips(4, 2, count)}
    raw = raw_views(method, batch=8)
    assert len(raw) == count
    starts = torch.stack([view.at[:, 0] for view in raw], 1)
    assert (starts != starts[:, :1]).any(1).all()


@pytest.mark.parametrize("aggregate", ["geometric", "arithmetic", "sufficient_statistics"])
def test_the_loss_is_poly_view_of_the_projections(aggregate: Any) -> None:
    method = small(aggregate=aggregate, temperature=0.3).eval()
    views = method.views.prepare(raw_views(method))
    clips = method.outputs(views)["clips"]
    assert clips.shape == (4, 3, 16)
    torch.testing.assert_close(clips[:, 2], method.projector(method.encoder(views[2].clip).pooled))
    loss, accuracy = poly_view(clips, 0.3, aggregate)
    losses = method(views)
    torch.testing.assert_close(losses["loss"], loss)
    assert losses["contrast_accuracy"] == accuracy


def test_with_two_views_it_is_info_nce() -> None:
    method = small(num_views=2).eval()
    views = method.views.prepare(raw_views(method))
    first, second = (method.projector(method.encoder(view.clip).pooled) for view in views)
    torch.testing.assert_close(method(views)["loss"], info_nce(first, second, 0.1)[0])


def test_refusals() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        small(num_views=1)
    with pytest.raises(ValidationError, match="greater than 0"):
        small(temperature=0)
    with pytest.warns(UserWarning, match="unit_mean is ignored: aggregate is arithmetic"):
        small(aggregate="arithmetic", unit_mean=True)
