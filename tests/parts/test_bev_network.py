from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from st_ssl.parts.bev_network import BevNetwork, BevNetworkConfig


@pytest.mark.parametrize(
    ("config", "shape", "resolution"),
    [
        ({}, (2, 64, 8, 12), 1),
        ({"layers": (1,), "strides": (2,), "widths": (6,)}, (2, 6, 4, 6), 0.5),
        (
            {"layers": (1, 0), "strides": (1, 2), "widths": (6, 8), "up_strides": (1, 2), "up_widths": (4, 7)},
            (2, 11, 8, 12),
            1,
        ),
        (
            {"layers": (0, 1), "strides": (2, 2), "widths": (6, 8), "up_strides": (0.5, 1), "up_widths": (4, 7)},
            (2, 11, 2, 3),
            0.25,
        ),
    ],
)
def test_its_map(config: dict[str, object], shape: tuple[int, ...], resolution: float) -> None:
    network = BevNetwork(BevNetworkConfig.model_validate(config), 5)
    assert network(torch.randn(2, 5, 8, 12)).shape == shape
    assert (network.out_width, network.resolution) == (shape[1], resolution)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"layers": (1, 2)}, "layers has 2 numbers for 1 levels"),
        ({"layers": (1, 2), "strides": (1, 2), "widths": (6, 8)}, "up_strides has 0 numbers for 2 levels"),
        (
            {"layers": (1, 2), "strides": (1, 2), "widths": (6, 8), "up_strides": (1, 1), "up_widths": (4, 4)},
            r"levels come out at \[1.0, 0.5\]",
        ),
    ],
)
def test_levels_that_do_not_fit(config: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        BevNetworkConfig.model_validate(config)
