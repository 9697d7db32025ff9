"""Class activation maps: those of the paper where it has a formula, and where there is nothing to show."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from st_ssl.core.errors import ConfigError
from st_ssl.core.types import Features
from st_ssl.encoders.base import ENCODERS, Encoder, InputConfig, random_encoder
from st_ssl.transfer.fitting.activation_maps import class_activation

INPUT = InputConfig(num_frames=4, stride=1, size=16)
SMALL: list[dict[str, Any]] = [
    {"name": "video_vit", "dim": 12, "depth": 1, "heads": 2, "patch": 8, "tubelet": 2},
    {"name": "r3d", "depth": 10, "width": 4},
]


def built(settings: dict[str, Any]) -> Encoder:
    return random_encoder(ENCODERS.config(settings["name"]).model_validate(settings), INPUT, 0)


@pytest.mark.parametrize("settings", SMALL, ids=lambda settings: settings["name"])
def test_with_a_linear_head_it_is_the_class_activation_map(settings: dict[str, Any]) -> None:
    encoder = built(settings)
    torch.manual_seed(0)
    head, clip, classes = nn.Linear(encoder.embed_dim, 3), torch.randn(2, 3, 4, 16, 16), torch.tensor([2, 0])
    found = class_activation(encoder, lambda features: head(features.pooled), clip, classes)
    with torch.no_grad():
        features = encoder(clip)
        if features.map is not None:
            map = features.map
        else:
            assert features.tokens is not None and encoder.grid is not None
            map = features.tokens.transpose(1, 2).reshape(2, encoder.embed_dim, *encoder.grid)
        evidence = torch.einsum("bd,bdthw->bthw", head.weight[classes], map).relu()
        expected = interpolate(evidence[:, None], (4, 16, 16), mode="trilinear")[:, 0]
    expected = expected / expected.amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert found.shape == (2, 4, 16, 16) and found.max() == 1
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_a_frozen_encoder_is_looked_into_all_the_same() -> None:
    encoder = built(SMALL[0]).requires_grad_(False)
    head = nn.Linear(encoder.embed_dim, 3)
    with torch.no_grad():
        found = class_activation(encoder, lambda f: head(f.pooled), torch.randn(1, 3, 4, 16, 16), torch.tensor([1]))
    assert found.shape == (1, 4, 16, 16) and not found.requires_grad


class Pooled(Encoder):
    """An encoder that tells nothing of places, or whose pooled features come from elsewhere."""

    def __init__(self, places: bool) -> None:
        super().__init__(ENCODERS.config("r3d")(), INPUT)
        self.embed_dim, self.places = 3, places

    def forward(self, clip: Any, keep: Tensor | None = None) -> Features:
        return Features(pooled=clip.mean((2, 3, 4)), map=clip * 2 if self.places else None)


@pytest.mark.parametrize(("places", "message"), [(False, "neither a map"), (True, "do not depend")])
def test_what_cannot_be_shown_is_said(places: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        class_activation(Pooled(places), lambda f: f.pooled, torch.randn(1, 3, 4, 16, 16), torch.tensor([1]))
