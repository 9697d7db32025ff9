from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from st_ssl.core.errors import ConfigError
from st_ssl.encoders.base import InputConfig, count_parameters, random_encoder
from st_ssl.encoders.torchvision_video import HEADS, Torchvision, TorchvisionConfig
from tests.encoders.small import assert_all_trained

torchvision = pytest.importorskip("torchvision")
INPUT = InputConfig(num_frames=8, size=32)
MODELS = ["r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v1_b", "mvit_v2_s", "swin3d_t", "swin3d_s", "swin3d_b"]


def head_of(network: nn.Module) -> tuple[str, nn.Module]:
    return next((name, part) for name, part in network.named_children() if name in HEADS)


@pytest.mark.parametrize("model", MODELS)
def test_parameters_are_those_that_torchvision_documents(model: Any) -> None:
    with torch.device("meta"):
        ours = Torchvision(TorchvisionConfig(model=model), InputConfig(num_frames=16, size=224)).eval()
        theirs = getattr(torchvision.models.video, model)(weights=None)
        features = ours(torch.empty(1, 3, 16, 224, 224))
    name, head = head_of(theirs)
    documented = torchvision.models.get_model_weights(model).KINETICS400_V1.meta["num_params"]
    assert count_parameters(ours) + count_parameters(head) == documented
    assert ours.state_dict().keys() == {key for key in theirs.state_dict() if not key.startswith(f"{name}.")}
    assert features.pooled.shape == (1, ours.embed_dim)
    assert features.map is not None
    assert features.map.shape[:2] == (1, ours.embed_dim)
    assert features.map.shape[3:] == ((14, 14) if model.endswith("_18") else (7, 7))


def reference(model: str, clip: Tensor, network: Any) -> Tensor:
    """What torchvision hands to its head."""
    if model == "s3d":  # the window of its average wants 224 pixels
        return network.features(clip).mean((2, 3, 4))
    seen: list[Tensor] = []
    layer = next(part for part in head_of(network)[1].modules() if isinstance(part, nn.Linear))
    layer.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
    network(clip)
    return seen[0]


@pytest.mark.parametrize("model", ["mc3_18", "s3d", "mvit_v1_b", "mvit_v2_s", "swin3d_t"])
def test_features_are_what_torchvision_hands_to_its_head(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = random_encoder(TorchvisionConfig(model=model), INPUT, seed=0)
    if model == "mvit_v1_b":  # its builder knows one size alone, but the class that it builds does not
        build, sizes = torchvision.models.video.mvit._mvit, {"spatial_size": (32, 32), "temporal_size": 8}
        monkeypatch.setattr(torchvision.models.video.mvit, "_mvit", lambda **settings: build(**(settings | sizes)))
    theirs = getattr(torchvision.models.video, model)(weights=None).eval()
    if model == "mvit_v2_s":
        theirs.pos_encoding.spatial_size, theirs.pos_encoding.temporal_size = (8, 8), 4
    missing = theirs.load_state_dict(ours.state_dict(), strict=False).missing_keys
    assert all(key.startswith(head_of(theirs)[0]) for key in missing)
    clip = torch.randn(2, 3, 8, 32, 32)
    with torch.inference_mode():
        features = ours(clip)
        torch.testing.assert_close(features.pooled, reference(model, clip, theirs), rtol=1e-5, atol=1e-5)
    assert features.map is not None
    if not model.startswith("mvit"):
        torch.testing.assert_close(features.map.mean((2, 3, 4)), features.pooled)


@pytest.mark.parametrize("model", ["s3d", "mvit_v1_b", "mvit_v2_s", "swin3d_t"])
def test_all_parameters_are_trained(model: Any) -> None:
    encoder = random_encoder(TorchvisionConfig(model=model), INPUT, seed=0).train()
    assert_all_trained(encoder, torch.randn(2, 3, 8, 32, 32))


def maps(model: Any, frames: int, size: int) -> tuple[int, ...]:
    input = InputConfig(num_frames=frames, size=size)
    with torch.device("meta"):
        features = Torchvision(TorchvisionConfig(model=model), input)(torch.empty(2, 3, frames, size, size))
    assert features.map is not None
    return tuple(features.map.shape)


def test_other_sizes() -> None:
    assert maps("mvit_v1_b", 8, 112) == (2, 768, 4, 4, 4)
    assert maps("mvit_v2_s", 32, 112) == (2, 768, 16, 4, 4)
    assert maps("swin3d_t", 5, 70) == (2, 768, 3, 3, 3)
    assert maps("r3d_18", 1, 30) == (2, 512, 1, 2, 2)
    assert maps("s3d", 5, 17) == (2, 1024, 1, 1, 1)


def test_mvit_places_every_token() -> None:
    """Its map is rows and columns of the clip: what changes in one corner changes that corner most."""
    encoder = random_encoder(TorchvisionConfig(model="mvit_v2_s"), InputConfig(num_frames=2, size=128), seed=0)
    clip = torch.zeros(1, 3, 2, 128, 128)
    marked = clip.clone()
    marked[..., :32, 96:] = 3
    with torch.inference_mode():
        change = (encoder(marked).map - encoder(clip).map).abs().mean(1)[0, 0]
    assert change.shape == (4, 4)
    assert change.argmax() == 3


@pytest.mark.parametrize(
    ("model", "frames", "size", "said"),
    [
        ("s3d", 4, 224, r"num_frames 4 .* at least 5 frames of 17 pixels; encoder\.name=s3d"),
        ("s3d", 16, 16, r"input\.size 16: .* at least 5 frames of 17 pixels"),
        ("mvit_v1_b", 3, 32, r"num_frames 3 and input\.size 32 must be multiples of 2 and 4 for mvit_v1_b"),
        ("mvit_v2_s", 4, 30, r"input\.size 30 must be multiples of 2 and 4 for mvit_v2_s"),
    ],
)
def test_clips_that_do_not_fit_are_refused(model: Any, frames: int, size: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said), torch.device("meta"):
        Torchvision(TorchvisionConfig(model=model), InputConfig(num_frames=frames, size=size))


def rates(model: Any, drop_path: float | None) -> Iterator[float]:
    with torch.device("meta"):
        encoder = Torchvision(TorchvisionConfig(model=model, drop_path=drop_path), INPUT)
    return (part.p for part in encoder.modules() if isinstance(part, torchvision.ops.StochasticDepth))


@pytest.mark.parametrize("model", ["mvit_v2_s", "swin3d_t"])
def test_stochastic_depth(model: Any) -> None:
    published = list(rates(model, None))
    assert published[-1] == {"mvit_v2_s": 0.2, "swin3d_t": 0.1}[model]
    # The same slope with twice the rate
    assert list(rates(model, 2 * published[-1])) == pytest.approx([2 * rate for rate in published])
    assert set(rates(model, 0.0)) == {0.0}


def test_a_rate_without_stochastic_depth_is_ignored_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"drop_path=0\.1 is ignored: s3d has no stochastic depth"):
        TorchvisionConfig(model="s3d", drop_path=0.1)
