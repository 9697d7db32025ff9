from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from st_ssl.core.errors import ConfigError, MissingDependencyError
from st_ssl.encoders.base import ENCODERS, InputConfig, count_parameters, random_encoder
from st_ssl.encoders.pytorchvideo_zoo import Pytorchvideo, PytorchvideoConfig
from st_ssl.encoders.r3d import Slow, SlowConfig
from tests.encoders.small import assert_all_trained
from tests.weights.published import unsettle

INPUT = InputConfig(num_frames=8, size=32)
PUBLISHED = {  # millions of parameters with the head: PyTorchVideo's model zoo (docs/source/model_zoo.md), Kinetics-400
    "slow_r50": 32.45,
    "c2d_r50": 24.33,
    "i3d_r50": 28.04,
    "slowfast_r50": 34.57,
    "slowfast_r101": 62.83,
    "slowfast_16x8_r101_50_50": 53.77,
    "x3d_xs": 3.79,
    "x3d_s": 3.79,
    "x3d_m": 3.79,
    "x3d_l": 6.15,
    "csn_r101": 22.21,
    "r2plus1d_r50": 28.11,
}
WIDTHS = {"slowfast": 2048 + 256, "x3d": 432}


pytest.importorskip("pytorchvideo")


def network(model: str) -> Any:
    """The whole one, of pytorchvideo's own builder."""
    from pytorchvideo.models import hub

    return getattr(hub, model)(pretrained=False)


@pytest.mark.parametrize("model", PUBLISHED)
def test_parameters_are_those_that_the_zoo_documents(model: Any) -> None:
    with torch.device("meta"):
        ours = Pytorchvideo(PytorchvideoConfig(model=model), InputConfig(num_frames=16, size=224)).eval()
        theirs = network(model)
        features = ours(torch.empty(1, 3, 16, 224, 224))
    head = theirs.blocks[-1]
    count = count_parameters(ours) + count_parameters(head.proj)
    if model.startswith("x3d"):
        count += count_parameters(head.pool.post_conv)
    assert count == count_parameters(theirs)
    assert round(count / 1e6, 2) == PUBLISHED[model]
    assert ours.state_dict().keys() <= theirs.state_dict().keys()
    assert ours.embed_dim == WIDTHS.get(model.split("_")[0], 2048)
    assert features.pooled.shape == (1, ours.embed_dim)
    assert features.map is not None
    assert features.map.shape[1] == ours.embed_dim
    assert features.map.shape[3:] == (7, 7)


def handed_to_the_head(theirs: Any, clip: Any) -> Tensor:
    """What the last of pytorchvideo's blocks is given, averaged over time and space."""
    for block in theirs.blocks[:-1]:
        clip = block(clip)
    return clip.mean((2, 3, 4))


@pytest.mark.parametrize("model", ["csn_r101", "i3d_r50", "r2plus1d_r50"])
def test_features_are_what_the_published_head_is_given(model: Any) -> None:
    ours = random_encoder(PytorchvideoConfig(model=model), INPUT, seed=0)
    theirs = network(model).eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    clip = torch.randn(2, 3, 8, 32, 32)
    with torch.inference_mode():
        pooled = ours(clip).pooled
        torch.testing.assert_close(pooled, handed_to_the_head(theirs, clip), rtol=1e-4, atol=1e-5)
    assert pooled.std() > 0.01


def test_slowfast_makes_two_pathways_of_a_clip() -> None:
    ours = random_encoder(PytorchvideoConfig(model="slowfast_r50"), INPUT, seed=0)
    theirs = network("slowfast_r50").eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    theirs.blocks[5].pool = nn.ModuleList([nn.AdaptiveAvgPool3d(1), nn.AdaptiveAvgPool3d(1)])  # a clip of any size
    clip = torch.randn(2, 3, 8, 32, 32)
    with torch.inference_mode():
        features = ours(clip)
        # 8 frames, an alpha of 4: the slow pathway sees the first and the last
        expected = handed_to_the_head(theirs, [clip[:, :, [0, 7]].contiguous(), clip.clone()])
        torch.testing.assert_close(features.pooled, expected, rtol=1e-4, atol=1e-5)
        assert features.map is not None
        assert features.map.shape == (2, 2304, 2, 1, 1)
        assert not torch.allclose(ours(clip.flip(2)).pooled, features.pooled, rtol=1e-3)


@pytest.mark.parametrize("model", ["slowfast_r50", "csn_r101"])
def test_all_parameters_are_trained(model: Any) -> None:
    encoder = random_encoder(PytorchvideoConfig(model=model), INPUT, seed=0).train()
    assert_all_trained(encoder, torch.randn(2, 3, 8, 32, 32))


@pytest.mark.parametrize(("alpha", "time"), [(2, 4), (4, 2), (8, 1)])
def test_alpha(alpha: int, time: int) -> None:
    with torch.device("meta"):
        encoder = Pytorchvideo(PytorchvideoConfig(model="slowfast_r50", alpha=alpha), INPUT)
        features = encoder(torch.empty(2, 3, 8, 32, 32))
    assert features.map is not None
    assert features.map.shape == (2, 2304, time, 1, 1)


def test_alphas_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"input\.num_frames 8 must be a multiple of encoder\.alpha 3"):
        Pytorchvideo(PytorchvideoConfig(alpha=3), INPUT)
    with pytest.warns(UserWarning, match=r"alpha=2 is ignored: x3d_m has one pathway"):
        PytorchvideoConfig(model="x3d_m", alpha=2)


def test_x3d_ends_with_its_fifth_convolution() -> None:
    ours = random_encoder(PytorchvideoConfig(model="x3d_xs"), INPUT, seed=0)
    theirs = network("x3d_xs").eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    pool = theirs.blocks[5].pool
    clip = torch.randn(2, 3, 8, 32, 32)
    with torch.inference_mode():
        x = clip
        for block in theirs.blocks[:5]:
            x = block(x)
        expected = pool.pre_act(pool.pre_norm(pool.pre_conv(x)))
        torch.testing.assert_close(ours(clip).map, expected, rtol=1e-4, atol=1e-5)


def slow_weights(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Pytorchvideo's ``slow_r50`` as the state of our ``Slow``."""
    result = {}
    for key, tensor in state.items():
        _, number, *rest = key.split(".")
        if number == "5":
            continue
        if number == "0":
            name = f"stem.{ ({'conv': 0, 'norm': 1}[rest[0]]) }.{rest[-1]}"
        else:
            _, block, branch, *layer, last = rest
            if branch.startswith("branch1"):
                part = f"downsample.{int(branch.endswith('norm'))}"
            else:
                kind, letter = layer[0].split("_")
                part = f"conv{'abc'.index(letter) + 1}.{int(kind == 'norm')}"
            name = f"layer{number}.{block}.{part}.{last}"
        result[name] = tensor
    return result


def test_our_slow_network_is_theirs() -> None:
    torch.manual_seed(0)
    theirs = network("slow_r50").eval()
    unsettle(theirs)
    ours = Slow(SlowConfig(), INPUT).eval()
    ours.load_state_dict(slow_weights(theirs.state_dict()))
    clip = torch.randn(2, 3, 4, 32, 32)
    with torch.inference_mode():
        pooled = ours(clip).pooled
        torch.testing.assert_close(pooled, handed_to_the_head(theirs, clip), rtol=1e-4, atol=1e-5)
    assert pooled.std() > 0.01
    assert round((count_parameters(ours) + 2049 * 400) / 1e6, 2) == PUBLISHED["slow_r50"]


def test_it_is_only_needed_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("pytorchvideo")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pytorchvideo", None)
    assert "pytorchvideo" in ENCODERS.names()
    with pytest.raises(MissingDependencyError, match=r'encoder\.model=csn_r101 .* pip install "st_ssl\[zoo\]"'):
        Pytorchvideo(PytorchvideoConfig(model="csn_r101"), INPUT)
