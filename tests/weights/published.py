"""State dicts as others publish them, made here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from st_ssl.core.config import parse_override
from st_ssl.weights.base import Published
from st_ssl.weights.importing import Imported, apply_layout


def published(state: Mapping[str, Tensor], container: str = "", **about: Any) -> Published:
    """What reading a file of these would give, which tells ``about`` besides."""
    return Published(Path("published.pth"), {container: dict(state)}, about, {})


def imported(
    state: Mapping[str, Tensor] | Published, layout: str, *overrides: str, container: str = "", **about: Any
) -> Imported:
    read = state if isinstance(state, Published) else published(state, container, **about)
    return apply_layout(read, layout, [(*parse_override(text), text) for text in overrides])


def unsettle(network: nn.Module) -> Any:
    """``network`` in eval mode with norms that do something, and leave something of what they are given: with large
    means all that is behind them would be zero."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.get_buffer("running_mean").normal_(std=0.1)
            module.get_buffer("running_var").uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return network.eval()


def assert_same(ours: Tensor | None, theirs: Tensor) -> None:
    """The same features, that are not the same for everything."""
    assert theirs.std() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def clip(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))
