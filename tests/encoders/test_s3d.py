from __future__ import annotations

from typing import Any

import pytest
import torch

from st_ssl.encoders.base import InputConfig, count_parameters
from st_ssl.encoders.s3d import S3D, STAGES, Gate, S3DConfig
from tests.weights.published import unsettle

models = pytest.importorskip("torchvision.models")
INPUT = InputConfig(num_frames=8, size=32)


def test_s3d_is_the_one_of_torchvision() -> None:
    torch.manual_seed(0)
    theirs = models.video.s3d(weights=None).eval()
    unsettle(theirs)
    ours = S3D(S3DConfig(), INPUT).eval()
    ours.load_state_dict({name: t for name, t in theirs.state_dict().items() if not name.startswith("classifier.")})
    assert count_parameters(ours) + count_parameters(theirs.classifier) == 8_320_048
    assert models.get_model_weights("s3d").KINETICS400_V1.meta["num_params"] == 8_320_048
    clip = torch.randn(2, 3, 9, 48, 33)
    with torch.inference_mode():
        features = ours(clip)
        torch.testing.assert_close(features.map, theirs.features(clip), rtol=1e-5, atol=1e-5)
    assert features.pooled.shape == (2, ours.embed_dim) == (2, 1024)
    assert features.pooled.std() > 0.01


@pytest.mark.parametrize("shape", [(1, 16, 16), (4, 20, 64), (16, 112, 112)])
def test_any_clip(shape: tuple[int, int, int]) -> None:
    with torch.device("meta"):
        encoder = S3D(S3DConfig(width=8), INPUT)
        assert encoder(torch.empty(2, 3, *shape)).pooled.shape == (2, encoder.embed_dim) == (2, 128)


@pytest.mark.parametrize("gating", ["temporal", "branches", "blocks"])
def test_open_gates_make_no_difference(gating: Any) -> None:
    torch.manual_seed(0)
    plain = S3D(S3DConfig(width=8), INPUT).eval()
    gated = S3D(S3DConfig(width=8, gating=gating), INPUT).eval()
    missing, unexpected = gated.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(".fc." in name for name in missing)
    clip = torch.randn(2, 3, 8, 32, 32)
    with torch.inference_mode():
        expected = plain(clip).pooled
        assert not torch.allclose(gated(clip).pooled, expected, rtol=0.1)
        for module in gated.modules():
            if isinstance(module, Gate):
                module.fc.weight.zero_()
                module.fc.bias.fill_(20.0)
        torch.testing.assert_close(gated(clip).pooled, expected)


@pytest.mark.parametrize("gating", ["temporal", "branches", "blocks"])
def test_where_the_gates_are(gating: Any) -> None:
    with torch.device("meta"):
        plain, gated = S3D(S3DConfig(), INPUT), S3D(S3DConfig(gating=gating), INPUT)
    blocks = [block for stage in STAGES for block in stage]
    if gating == "temporal":  # of the stem (7 and 3 frames) and of two branches of every block
        gates = [64, 192] + [channels for block in blocks for channels in (block[2], block[4])]
    else:
        stem = [192] if gating == "branches" else []
        gates = stem + [channels for block in blocks for channels in (block[0], block[2], block[4], block[5])]
    assert count_parameters(gated) - count_parameters(plain) == sum(n * n + n for n in gates)


def test_a_gate_weighs_channels_by_the_whole_clip() -> None:
    torch.manual_seed(0)
    gate, x = Gate(3), torch.randn(2, 3, 2, 4, 4)
    for sample in range(2):
        for channel in range(3):
            weight = (gate.fc.weight[channel] @ x[sample].mean((1, 2, 3)) + gate.fc.bias[channel]).sigmoid()
            torch.testing.assert_close(gate(x)[sample, channel], weight * x[sample, channel])
