"""State dicts as others publish them, made here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from st_ssl.config import parse_override
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
    """``network`` in eval mode with statistics that batch norm does not do nothing with."""
    for name, buffer in network.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return network.eval()


def clip(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))
