"""Which tokens of a clip an encoder may see. Masks are sorted index arrays, never booleans, so that the encoder's cost
falls with the ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.core.types import Mask

Grid = tuple[int, int, int]


class MaskConfig(Config):
    """How tokens are masked.

    ``tube``: one spatial mask for all times (VideoMAE, 2022); ``random``: every token on its own (ST-MAE, 2022);
    ``frame``: whole time steps. ``ratio``: the share of tokens that is hidden.
    """

    kind: Literal["tube", "frame", "random"] = "tube"
    ratio: float = Field(default=0.9, gt=0, lt=1)


def check_mask(config: MaskConfig, grid: Grid) -> None:
    """Raise ``ConfigError`` where a token grid (T', H', W') is too small to hide and keep at least one unit each."""
    units = {"tube": grid[1] * grid[2], "frame": grid[0], "random": grid[0] * grid[1] * grid[2]}[config.kind]
    if not 0 < round(units * config.ratio) < units:
        raise ConfigError(
            f"method.mask.ratio={config.ratio}: a {config.kind} mask over {units} units of a {grid} token grid "
            f"would hide {'none' if round(units * config.ratio) == 0 else 'all'} of them"
        )


def draw_mask(config: MaskConfig, grid: Grid, rng: np.random.Generator) -> Mask:
    """Draw the mask of one clip over a token grid (T', H', W') flattened in that order.

    The number of hidden tokens is the same in every draw, so masks stack into a batch.
    """
    time, area = grid[0], grid[1] * grid[2]
    if config.kind == "tube":
        hidden = _hidden(area, config.ratio, rng)[None, :].repeat(time, axis=0)
    elif config.kind == "frame":
        hidden = _hidden(time, config.ratio, rng)[:, None].repeat(area, axis=1)
    else:
        hidden = _hidden(time * area, config.ratio, rng)
    flat = hidden.reshape(-1)
    return Mask(keep=np.flatnonzero(~flat), masked=np.flatnonzero(flat))


@dataclass(frozen=True)
class TokenMask:
    """The mask plan of clips: ``config`` over the token grid (T', H', W'). Raises ``ConfigError`` where the grid is too
    small for it."""

    config: MaskConfig
    grid: Grid

    def __post_init__(self) -> None:
        check_mask(self.config, self.grid)

    def draw(self, rng: np.random.Generator, batch_rng: np.random.Generator, recording: Any) -> Mask:
        return draw_mask(self.config, self.grid, rng)


def _hidden(count: int, ratio: float, rng: np.random.Generator) -> np.ndarray:
    hidden = np.zeros(count, dtype=bool)
    hidden[rng.permutation(count)[: round(count * ratio)]] = True
    return hidden
