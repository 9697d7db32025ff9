from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from st_ssl.core.errors import ConfigError
from st_ssl.data.video.tempo_plans import NO_SPEED, TemporalTransformations
from st_ssl.methods.base import METHODS
from tests.methods.steps import build, raw_views, tiny_encoder

SMALL: dict[str, Any] = {
    "encoder": {"name": "r3d", "depth": 10, "width": 4},
    "method": {"speeds": [1, 2]},  # 20 frames, clips of 4 with stride 2
}


def small(**settings: Any) -> Any:
    return build("temporal_transformations", **settings)


def test_defaults_are_those_of_the_paper() -> None:
    config: Any = METHODS.config("temporal_transformations")()
    assert config.transformations == ("original", "forward_backward", "shuffled", "random_skips")
    assert (config.speeds, config.speed_weight) == ((1, 2, 4, 8), 1.0)
    augment = config.augment
    assert (augment.colour_per_frame, augment.per_frame, augment.jitter, augment.grayscale) == (True, False, 1.0, 0.2)
    assert (augment.brightness, augment.contrast, augment.saturation, augment.hue) == (32 / 255, 0.0, 0.5, 0.0)
    assert (augment.area, augment.flip, augment.blur) == ((0.25, 1.0), 0.5, 0.0)


def test_the_settings_reach_the_plan_and_the_head() -> None:
    method = small(transformations=["shuffled", "original"])
    assert {spec.plan for spec in method.views.specs} == {
        TemporalTransformations(4, 2, ("shuffled", "original"), (1, 2))
    }
    assert method.views.num_views == 2
    assert method.head.out_features == 4
    assert small().head.out_features == 6
    assert small(transformations=["original"]).head.out_features == 2  # speeds alone
    assert small(transformations=["shuffled", "random_skips"]).head.out_features == 2  # no speeds
    assert small(speed_weight=0).head.out_features == 4


def slow_loss(method: Any, clips: list[Tensor], labels: list[dict[str, Tensor]], weight: float) -> Tensor:
    """Clip by clip, term by term."""
    scores = method.head(method.encoder(torch.cat(clips)).pooled)
    rows = [{name: int(label[name][i]) for name in label} for label in labels for i in range(len(label["speed"]))]
    transformations, speeds = [], []
    for row, truth in zip(scores, rows, strict=True):
        first, second = row[:4], row[4:]
        transformations.append(-torch.log(first[truth["transformation"]].exp() / first.exp().sum()))
        if truth["speed"] != NO_SPEED:
            speeds.append(-torch.log(second[truth["speed"]].exp() / second.exp().sum()))
    assert len(speeds) == len(transformations) // 2
    return torch.stack(transformations).mean() + weight * torch.stack(speeds).mean()


def test_value_and_gradient_of_the_slow_reference() -> None:
    found = []
    for kind in range(2):
        method = small(speed_weight=0.7).eval()
        torch.nn.init.normal_(method.head.weight)
        views = method.views.prepare(raw_views(method))
        if kind:
            loss = slow_loss(method, [view.clip for view in views], [view.labels for view in views], 0.7)
        else:
            losses = method(views)
            loss = losses.loss
            torch.testing.assert_close(loss, losses["transformation_loss"] + 0.7 * losses["speed_loss"])
        loss.backward()
        found.append([loss, *(p.grad for p in method.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_accuracies_are_shares_of_clips_that_are_told() -> None:
    method = small().eval()
    views = method.views.prepare(raw_views(method))
    torch.nn.init.zeros_(method.head.weight)
    with torch.no_grad():
        method.head.bias.copy_(torch.tensor([0.0, 1, 0, 0, 1, 0]))  # all are forward_backward, at speed 1
    losses = method(views)
    assert losses["transformation_accuracy"] == 0.25
    slow = torch.cat([view.labels["speed"] for view in views[:2]]) == 0
    assert losses["speed_accuracy"] == slow.float().mean()


def test_colours_change_from_frame_to_frame() -> None:
    view = raw_views(small())[0]
    assert view.params["brightness"].shape == (4, 4, 1)
    assert view.params["box"].shape == (4, 1, 4)
    assert raw_views(small(augment={"colour_per_frame": False}))[0].params["brightness"].shape == (4, 1, 1)


def test_what_leaves_nothing_to_tell_is_refused() -> None:
    for settings in (
        {"transformations": ["shuffled"]},
        {"transformations": ["original"], "speeds": [1]},
        {"transformations": ["original"], "speed_weight": 0},
    ):
        with pytest.raises(ValidationError, match="nothing to tell"):
            small(**settings)
    for wrong in ({"transformations": ["original", "original"]}, {"speeds": [2, 2]}):
        with pytest.raises(ValidationError, match="only once"):
            small(**wrong)
    with pytest.warns(UserWarning, match="speed_weight=2 is ignored"):
        small(transformations=["shuffled", "random_skips"], speed_weight=2)


def test_a_clip_must_be_long_enough_to_turn_round() -> None:
    config = METHODS.config("temporal_transformations")()
    encoder = tiny_encoder(SMALL["encoder"], {"num_frames": 3})
    with pytest.raises(ConfigError, match=r"input.num_frames=3.*4 or more"):
        METHODS.build(config, encoder)
