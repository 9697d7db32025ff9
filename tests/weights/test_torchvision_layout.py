"""Torchvision's state dicts through the import, against torchvision's networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from st_ssl.encoders.base import count_parameters
from st_ssl.weights.base import LAYOUTS, WeightsError
from tests.weights.published import assert_same, clip, imported, published, unsettle

video = pytest.importorskip("torchvision.models.video")

ENCODERS = [
    ("r3d_18", "r3d", "fc"),
    ("mc3_18", "r3d", "fc"),
    ("r2plus1d_18", "r2plus1d", "fc"),
    ("s3d", "s3d", "classifier"),
]


@pytest.mark.parametrize(("model", "encoder", "head"), ENCODERS)
def test_convolutional_networks_give_the_same_features(model: str, encoder: str, head: str) -> None:
    torch.manual_seed(0)
    theirs = unsettle(getattr(video, model)(weights=None))
    result = imported(theirs.state_dict(), "torchvision")
    assert result.encoder.config.model_dump()["name"] == encoder
    assert len(result.made) + len(result.left) == len(theirs.state_dict())
    assert {name.split(".")[0] for name in result.left} == {head}
    assert count_parameters(result.encoder) == count_parameters(theirs) - count_parameters(getattr(theirs, head))
    x = clip(1, 3, 8, 32, 32)
    with torch.inference_mode():
        parts: Any = theirs.features if model == "s3d" else torch.nn.Sequential(*list(theirs.children())[:5])
        assert_same(result.encoder(x).map, parts(x))


@pytest.mark.parametrize("model", ["mvit_v1_b", "mvit_v2_s", "swin3d_t", "swin3d_s", "swin3d_b"])
def test_transformers_are_told_by_their_shapes(model: str) -> None:
    with torch.device("meta"):
        state = getattr(video, model)(weights=None).state_dict()
    layout = LAYOUTS.build(LAYOUTS.config("torchvision")(), published(state))
    settings = layout.settings()
    assert settings["encoder"] == {"name": "torchvision", "model": model}
    assert (settings["input"]["num_frames"], settings["input"]["size"]) == (32 if "swin" in model else 16, 224)


def test_a_transformer_is_wholly_used() -> None:
    with torch.device("meta"):
        theirs = video.mvit_v2_s(weights=None)
    state = {name: torch.full(t.shape, 0.5, dtype=t.dtype) for name, t in theirs.state_dict().items()}
    result = imported(state, "torchvision")
    assert {name.split(".")[0] for name in result.left} == {"head"}
    assert all((t == 0.5).all() for t in result.encoder.state_dict().values())


def test_what_is_no_network_of_torchvision_is_told() -> None:
    with pytest.raises(WeightsError, match=r"not of the layout torchvision.*begin with blocks.0.weight"):
        imported({"blocks.0.weight": torch.zeros(3)}, "torchvision")
