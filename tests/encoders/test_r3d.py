from __future__ import annotations

from typing import Any

import pytest
import torch

from st_ssl.encoders.base import ENCODERS, InputConfig, count_parameters
from st_ssl.encoders.r2plus1d import R2Plus1DConfig, apart
from st_ssl.encoders.r3d import BLOCKS, R3D, R3DConfig, ResNetConfig, Slow, SlowConfig, between_of, in_one
from tests.weights.published import unsettle

torchvision_models = pytest.importorskip("torchvision.models")
video_models = pytest.importorskip("torchvision.models.video")
resnet = pytest.importorskip("torchvision.models.video.resnet")
INPUT = InputConfig(num_frames=8, size=32)
SLOW: dict[str, Any] = {  # of the CVRL paper: "R3D-50", a slow ResNet
    "depth": 50,
    "stem_kernel": (5, 7, 7),
    "stem_stride": (2, 2, 2),
    "stem_pool": True,
    "temporal_kernels": (1, 1, 3, 3),
    "temporal_strides": (1, 1, 1, 1),
    "temporal_in": "first",
}


MC3: dict[str, Any] = {"temporal_kernels": (3, 1, 1, 1), "temporal_strides": (1, 1, 1, 1)}


@pytest.mark.parametrize(
    ("published", "config"),
    [("r3d_18", R3DConfig()), ("mc3_18", R3DConfig(**MC3)), ("r2plus1d_18", R2Plus1DConfig())],
)
def test_resnets_of_18_layers_are_those_of_torchvision(published: str, config: ResNetConfig) -> None:
    torch.manual_seed(0)
    theirs = getattr(video_models, published)(weights=None).eval()
    unsettle(theirs)
    ours = ENCODERS.build(config, INPUT).eval()
    documented = torchvision_models.get_model_weights(published).KINETICS400_V1.meta["num_params"]
    assert count_parameters(ours) + count_parameters(theirs.fc) == documented
    ours.load_state_dict({name: t for name, t in theirs.state_dict().items() if not name.startswith("fc.")})
    theirs.fc = torch.nn.Identity()
    clip = torch.randn(2, 3, 8, 32, 32)
    with torch.inference_mode():
        features = ours(clip)
        torch.testing.assert_close(features.pooled, theirs(clip), rtol=1e-5, atol=1e-5)
    assert features.pooled.std() > 0.01
    assert features.map is not None
    torch.testing.assert_close(features.map.mean((2, 3, 4)), features.pooled)


@pytest.mark.parametrize("two_steps", [False, True])
@pytest.mark.parametrize("depth", [10, 18, 34, 50, 101, 152, 200])
def test_parameters_and_width_of_every_depth(depth: Any, two_steps: bool) -> None:
    kind, counts = BLOCKS[depth]
    with torch.device("meta"):
        ours = ENCODERS.build(R2Plus1DConfig(depth=depth) if two_steps else R3DConfig(depth=depth), INPUT)
        theirs = resnet.VideoResNet(
            resnet.BasicBlock if kind == "basic" else resnet.Bottleneck,
            [resnet.Conv2Plus1D if two_steps else resnet.Conv3DSimple] * 4,
            list(counts),
            resnet.R2Plus1dStem if two_steps else resnet.BasicStem,
        )
        features = ours.eval()(torch.empty(1, 3, 8, 32, 32))
    assert count_parameters(ours) == count_parameters(theirs) - count_parameters(theirs.fc)
    assert ours.embed_dim == theirs.fc.in_features == features.pooled.shape[1] == (512 if kind == "basic" else 2048)
    assert ours.state_dict().keys() == {name for name in theirs.state_dict() if not name.startswith("fc.")}


def test_slow_variant_of_cvrl() -> None:
    with torch.device("meta"):
        encoder = R3D(R3DConfig(**SLOW), InputConfig(num_frames=16, size=224)).eval()
        shapes: list[tuple[int, ...]] = []
        for part in ("stem", "layer1", "layer2", "layer3", "layer4"):
            encoder.get_submodule(part).register_forward_hook(
                lambda _module, _args, out: shapes.append(tuple(out.shape[1:]))
            )
        encoder(torch.empty(1, 3, 16, 224, 224))
    # 16 frames: the stem halves time, the pooling and all later stages leave it alone.
    assert shapes == [(64, 8, 56, 56), (256, 8, 56, 56), (512, 8, 28, 28), (1024, 8, 14, 14), (2048, 8, 7, 7)]
    assert encoder.embed_dim == 2048
    kernels = [encoder.get_submodule(f"layer{stage}.0.conv1.0").kernel_size for stage in (1, 2, 3, 4)]
    assert kernels == [(1, 1, 1), (1, 1, 1), (3, 1, 1), (3, 1, 1)]
    assert encoder.get_submodule("layer3.0.conv2.0").kernel_size == (1, 3, 3)
    head, stem = 2048 * 400 + 400, 4 * 7 * 7 * 3 * 64  # the published Slow-R50 of Kinetics-400 has a 1-frame stem
    assert round((count_parameters(encoder) + head - stem) / 1e6, 2) == 32.45


def test_zero_initialised_residuals_make_blocks_identities() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 32, 2, 6, 6)  # positive, as after the ReLU of the block before
    changed = {}
    for zero in (True, False):
        encoder = R3D(R3DConfig(depth=50, width=8, zero_init_residual=zero), INPUT)
        changed[zero] = not torch.allclose(encoder.get_submodule("layer1.1")(x), x)
    assert changed == {True: False, False: True}


def test_slow_is_settings_of_r3d() -> None:
    with torch.device("meta"):
        slow = Slow(SlowConfig(), InputConfig())
        settings = SlowConfig().model_dump(exclude={"name"})
        same = R3D(R3DConfig(**settings), InputConfig())
        features = slow.eval()(torch.empty(1, 3, 8, 224, 224))
    assert count_parameters(slow) == count_parameters(same)
    assert slow.state_dict().keys() == same.state_dict().keys()
    assert features.map is not None
    assert features.map.shape == (1, 2048, 8, 7, 7)  # res5 of Table 1 (Feichtenhofer et al. 2019) for 8 slow frames
    assert settings == R3DConfig(**(SLOW | {"stem_kernel": (1, 7, 7), "stem_stride": (1, 2, 2)})).model_dump(
        exclude={"name"}
    )


@pytest.mark.parametrize(("cin", "cout"), [(64, 64), (64, 128), (512, 512), (3, 7)])
def test_two_steps_have_no_more_parameters_than_one(cin: int, cout: int) -> None:
    kernel, stride = (3, 3, 3), (1, 1, 1)
    between = between_of(cin, cout, kernel)
    one, two, more = (
        sum(p.numel() for p in build(cin, cout, kernel, stride, n).parameters() if p.ndim == 5)
        for build, n in ((in_one, between), (apart, between), (apart, between + 1))
    )
    assert two <= one < more


@pytest.mark.parametrize("frames", [1, 3, 16])
def test_any_number_of_frames(frames: int) -> None:
    encoder = R3D(R3DConfig(depth=10, width=4), INPUT).eval()
    assert encoder(torch.randn(1, 3, frames, 40, 24)).pooled.shape == (1, encoder.embed_dim)
