from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from st_ssl.encoders.base import InputConfig, count_parameters
from st_ssl.encoders.c3d import C3D, C3DConfig
from tests.weights.published import unsettle

INPUT = InputConfig(num_frames=16, size=112)


def test_parameters_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        encoder = C3D(C3DConfig(), INPUT)
        features = encoder(torch.empty(1, 3, 16, 112, 112))
    channels = [3, 64, 128, 256, 256, 512, 512, 512, 512]  # Figure 3 of Tran et al. 2015
    assert count_parameters(encoder) == sum(27 * a * b + b for a, b in pairwise(channels))
    assert features.map is not None
    assert features.map.shape == (1, 512, 2, 7, 7)
    # pool5 leaves 512 × 1 × 4 × 4 to two layers of 4,096; with a layer for the 400 classes of Kinetics that makes the
    # 79 M that Carreira and Zisserman (2017, Table 1) give for it
    head = (8192 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 400
    assert (count_parameters(encoder) + head) // 10**6 == 79


@pytest.mark.parametrize("batch_norm", [False, True])
def test_against_the_layers_written_out(batch_norm: bool) -> None:
    torch.manual_seed(0)
    ours = C3D(C3DConfig(width=4, batch_norm=batch_norm), INPUT).eval()
    unsettle(ours)
    layers: list[nn.Module] = []
    for name in ("1", "P", "2", "p", "3a", "3b", "p", "4a", "4b", "p", "5a", "5b"):
        if name in "Pp":
            layers.append(nn.MaxPool3d((1, 2, 2) if name == "P" else 2))
            continue
        layers.append(ours.get_submodule(f"conv{name}"))
        layers.extend([ours.get_submodule(f"bn{name}")] if batch_norm else [])
        layers.append(nn.ReLU())
    clip = torch.randn(2, 3, 8, 32, 48)
    with torch.inference_mode():
        features = ours(clip)
        expected = nn.Sequential(*layers)(clip)
    torch.testing.assert_close(features.map, expected)
    assert expected.std() > 0
    torch.testing.assert_close(features.pooled, expected.mean((2, 3, 4)))
    biases = [p for name, p in ours.named_parameters() if name.startswith("conv") and name.endswith("bias")]
    assert len(biases) == (0 if batch_norm else 8)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 24), (2, 100, 100)])
def test_any_clip(shape: Any) -> None:
    with torch.device("meta"):
        encoder = C3D(C3DConfig(width=4), INPUT)
        assert encoder(torch.empty(2, 3, *shape)).pooled.shape == (2, encoder.embed_dim) == (2, 32)
