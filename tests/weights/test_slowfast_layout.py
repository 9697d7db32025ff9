"""SlowFast's two repositories and Caffe2 through the import, against networks of their own."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from st_ssl.encoders.base import ENCODERS, InputConfig
from st_ssl.encoders.pytorchvideo_zoo import PytorchvideoConfig
from st_ssl.weights.base import LAYOUTS, WeightsError
from st_ssl.weights.layouts.slowfast import published_name, slowfast_name
from tests.weights.published import assert_same, clip, imported, published, unsettle

COUNTS = (3, 4, 6, 3)


class Residual(nn.Module):
    """A block as facebookresearch/SlowFast names its parts."""

    def __init__(self, cin: int, inside: int, frames: int, stride: int) -> None:
        super().__init__()
        cout = 4 * inside
        if cin != cout or stride > 1:
            self.branch1 = nn.Conv3d(cin, cout, 1, (1, stride, stride), bias=False)
            self.branch1_bn = nn.BatchNorm3d(cout)
        self.branch2 = nn.Module()
        parts: dict[str, tuple[int, int, Any, int]] = {
            "a": (cin, inside, (frames, 1, 1), 1),
            "b": (inside, inside, (1, 3, 3), stride),
            "c": (inside, cout, 1, 1),
        }
        for name, (before, after, kernel, step) in parts.items():
            conv = nn.Conv3d(
                before, after, kernel, (1, step, step), padding="same" if step == 1 else (0, 1, 1), bias=False
            )
            self.branch2.add_module(name, conv)
            self.branch2.add_module(f"{name}_bn", nn.BatchNorm3d(after))

    def forward(self, x: Tensor) -> Tensor:
        y: Any = x
        for name in "abc":
            y = getattr(self.branch2, f"{name}_bn")(getattr(self.branch2, name)(y))
            y = y if name == "c" else y.relu()
        return (y + (self.branch1_bn(self.branch1(x)) if hasattr(self, "branch1") else x)).relu()


class SlowNetwork(nn.Module):
    """Slow-R50 (Feichtenhofer et al. 2019, Table 1) as facebookresearch/SlowFast names its parts, of any width."""

    def __init__(self, width: int, frames: tuple[int, ...] = (1, 1, 3, 3)) -> None:
        super().__init__()
        self.s1 = nn.Module()
        self.s1.pathway0_stem = nn.Module()
        self.s1.pathway0_stem.conv = nn.Conv3d(3, width, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False)
        self.s1.pathway0_stem.bn = nn.BatchNorm3d(width)
        cin = width
        for number, count in enumerate(COUNTS):
            stage = nn.Module()
            for block in range(count):
                stride = 2 if number and not block else 1
                stage.add_module(f"pathway0_res{block}", Residual(cin, width << number, frames[number], stride))
                cin = 4 * (width << number)
            self.add_module(f"s{number + 2}", stage)
        self.head = nn.Module()
        self.head.projection = nn.Linear(cin, 5)

    def forward(self, x: Tensor) -> Tensor:
        stem: Any = self.s1.pathway0_stem
        x = nn.functional.max_pool3d(stem.bn(stem.conv(x)).relu(), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for number in range(2, 6):
            for block in getattr(self, f"s{number}").children():
                x = block(x)
        return x


@pytest.fixture(scope="module")
def network() -> SlowNetwork:
    torch.manual_seed(0)
    return unsettle(SlowNetwork(8))


def caffe2(name: str) -> str:
    """The blob that becomes ``name``, as Caffe2 calls it."""
    name = name.replace("s1.pathway0_stem.conv", "conv1").replace("s1.pathway0_stem.bn", "res_conv1_bn")
    name = re.sub(r"s(\d)\.pathway0_res(\d+)\.branch(\d)(?:\.([abc]))?", r"res\1_\2_branch\3\4", name)
    ends = {"running_mean": "rm", "running_var": "riv", "weight": "s" if "_bn" in name else "w", "bias": "b"}
    stem, _, last = name.rpartition(".")
    return f"{stem.replace('head.projection', 'pred')}_{ends[last]}"


@pytest.mark.parametrize("form", ["pyth", "contrastive", "caffe2"])
def test_slow_gives_the_same_features_from_every_form_of_facebookresearch(network: SlowNetwork, form: str) -> None:
    state = dict(network.state_dict())
    if form == "contrastive":  # MoCo of the same repository
        history = {f"backbone_hist.{name}": tensor for name, tensor in state.items()}
        state = {f"backbone.{name}": tensor for name, tensor in state.items()} | history
        state |= {"queue_x": torch.zeros(4, 2), "ptr": torch.zeros(1), "iter": torch.zeros(1)}
    elif form == "caffe2":
        state = {caffe2(n): t for n, t in state.items() if not n.endswith("num_batches_tracked")}
        state |= {"lr": torch.zeros(1), "conv1_w_momentum": torch.zeros(3), "model_iter": torch.zeros(1)}
        assert "res4_0_branch2c_bn_riv" in state
    result = imported(state, "slowfast") if form != "caffe2" else _from_blobs(state)
    assert result.encoder.config.model_dump(include={"name", "depth", "width"}) == {
        "name": "slow",
        "depth": 50,
        "width": 8,
    }
    assert (result.encoder.input.num_frames, result.encoder.input.stride, result.encoder.input.size) == (8, 8, 224)
    x = clip(1, 3, 4, 32, 32)
    with torch.inference_mode():
        assert_same(result.encoder(x).map, network(x))


def _from_blobs(state: dict[str, Tensor]) -> Any:
    from st_ssl.weights.importing import apply_layout

    return apply_layout(published(state, "blobs"), "slowfast")


def test_slow_is_pytorchvideo_s_own() -> None:
    hub = pytest.importorskip("pytorchvideo.models.hub")
    torch.manual_seed(0)
    theirs = unsettle(hub.slow_r50(pretrained=False))
    result = imported(theirs.state_dict(), "slowfast")
    assert result.encoder.config.model_dump()["name"] == "slow"
    assert set(result.left) == {"blocks.5.proj.weight", "blocks.5.proj.bias"}
    x = clip(1, 3, 2, 32, 32)
    with torch.inference_mode():
        for block in theirs.blocks[:-1]:
            x = block(x)
        assert_same(result.encoder(clip(1, 3, 2, 32, 32)).map, x)


@pytest.mark.parametrize(
    ("zoo", "pooled", "name"),
    [
        ("blocks.0.multipathway_blocks.1.norm.running_var", False, "s1.pathway1_stem.bn.running_var"),
        ("blocks.0.multipathway_fusion.conv_fast_to_slow.weight", False, "s1_fuse.conv_f2s.weight"),
        ("blocks.3.multipathway_fusion.norm.bias", False, "s4_fuse.bn.bias"),
        (
            "blocks.4.multipathway_blocks.1.res_blocks.2.branch2.norm_c.weight",
            False,
            "s5.pathway1_res2.branch2.c_bn.weight",
        ),
        ("blocks.1.res_blocks.0.branch1_norm.running_mean", True, "s2.pathway0_res0.branch1_bn.running_mean"),
        ("blocks.5.res_blocks.0.branch2.conv_a.weight", True, "s5.pathway0_res0.branch2.a.weight"),
    ],
)
def test_names_of_pytorchvideo_in_facebookresearch(zoo: str, pooled: bool, name: str) -> None:
    assert published_name(zoo, pooled) == name


@pytest.mark.parametrize(
    ("blob", "name"),
    [
        ("t_res_conv1_bn_rm", "s1.pathway1_stem.bn.running_mean"),
        ("t_conv1_w", "s1.pathway1_stem.conv.weight"),
        ("t_pool1_subsample_bn_s", "s1_fuse.bn.weight"),
        ("t_pool1_subsample_w", "s1_fuse.conv_f2s.weight"),
        ("t_res4_5_branch2c_bn_subsample_bn_riv", "s4_fuse.bn.running_var"),
        ("t_res4_5_branch2c_bn_subsample_w", "s4_fuse.conv_f2s.weight"),
        ("t_res3_0_branch1_bn_b", "s3.pathway1_res0.branch1_bn.bias"),
        ("res4_4_branch2c_w", "s4.pathway0_res4.branch2.c.weight"),
        ("pred_b", "head.projection.bias"),
        ("res4_4_branch2c_w_momentum", None),
        ("lr", None),
    ],
)
def test_names_of_caffe2(blob: str, name: str | None) -> None:
    assert slowfast_name(blob) == name


@pytest.mark.parametrize("model", ["c2d_r50", "i3d_r50", "slowfast_r50", "x3d_l"])
def test_networks_of_pytorchvideo_are_told_and_wholly_used(model: str) -> None:
    hub = pytest.importorskip("pytorchvideo.models.hub")
    with torch.device("meta"):
        state = getattr(hub, model)(pretrained=False).state_dict()
        layout = LAYOUTS.build(LAYOUTS.config("slowfast")(), published(state))
        encoder = ENCODERS.build(
            PytorchvideoConfig.model_validate({"model": model}), InputConfig(num_frames=32, size=64)
        )
    assert layout.settings()["encoder"] == {"name": "pytorchvideo", "model": model}
    made = layout.translate(encoder)
    assert made.keys() == encoder.state_dict().keys()
    left = state.keys() - {name for part in made.values() for name in part.sources}
    assert all(layout.why_left(name) for name in left)
    if model in ("i3d_r50", "slowfast_r50"):
        theirs = {published_name(name, model == "i3d_r50"): t for name, t in state.items() if name not in left}
        other = LAYOUTS.build(LAYOUTS.config("slowfast")(), published(theirs))
        assert other.settings()["encoder"]["model"] == model
        assert other.translate(encoder).keys() == made.keys()


def test_the_configuration_in_a_file_tells_the_clip() -> None:
    with torch.device("meta"):
        file = published(SlowNetwork(8, (1, 1, 1, 1)).state_dict())
    for unread in (None, "MADE: 2001-99-99\nMODEL: {ARCH: slow}\n"):
        file.about["cfg"] = unread
        with pytest.raises(WeightsError, match=r"layout\.arch=c2d or layout\.arch=slow"):
            LAYOUTS.build(LAYOUTS.config("slowfast")(), file).settings()
    file.about["cfg"] = (
        "DATA:\n  NUM_FRAMES: 4\n  SAMPLING_RATE: 16\n  MEAN: [0.1, 0.2, 0.3]\nMODEL:\n  ARCH: slow_c2d\n"
    )
    settings = LAYOUTS.build(LAYOUTS.config("slowfast")(), file).settings()
    assert settings["encoder"]["temporal_kernels"] == (1, 1, 1, 1)
    assert settings["input"] == {
        "num_frames": 4,
        "stride": 16,
        "size": 224,
        "mean": [0.1, 0.2, 0.3],
        "std": (0.225,) * 3,
    }


def test_a_matrix_the_other_way_round_is_no_kernel(network: SlowNetwork) -> None:
    state = dict(network.state_dict())
    name = "s2.pathway0_res0.branch2.c.weight"
    state[name] = state[name].flatten(1).T.contiguous()
    with pytest.raises(WeightsError, match=r"\[8, 32\]"):
        imported(state, "slowfast")
