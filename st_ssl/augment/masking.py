"""Which tokens of a clip or of a cloud an encoder may see. Masks are sorted index arrays, never booleans, so that the
encoder's cost falls with the ratio."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from st_ssl.config import Config
from st_ssl.errors import ConfigError
from st_ssl.types import Mask

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


def _hidden(count: int, ratio: float, rng: np.random.Generator) -> np.ndarray:
    hidden = np.zeros(count, dtype=bool)
    hidden[rng.permutation(count)[: round(count * ratio)]] = True
    return hidden


class PatchMaskConfig(Config):
    """How patches of points are masked: ``random``, or a ``block`` of those nearest to one drawn at random (Point-MAE,
    2022). ``ratio``: the share of patches that is hidden, rounded down as published."""

    kind: Literal["random", "block"] = "random"
    ratio: float = Field(default=0.6, gt=0, lt=1)

    def count(self, num_patches: int) -> int:
        """How many of ``num_patches`` are hidden; raises ``ConfigError`` where that is none."""
        hidden = int(num_patches * self.ratio)
        if hidden == 0:
            raise ConfigError(f"method.mask.ratio={self.ratio} would hide none of {num_patches} patches")
        return hidden


def draw_patch_mask(config: PatchMaskConfig, num_patches: int, rng: np.random.Generator) -> Mask:
    """Draw the mask of one cloud of ``num_patches`` patches. Of a ``block`` it is the first patch alone, since where
    patches are is known only once a cloud is cut into them: see ``grow_blocks``."""
    hidden = np.zeros(num_patches, dtype=bool)
    hidden[rng.permutation(num_patches)[: config.count(num_patches) if config.kind == "random" else 1]] = True
    return Mask(keep=np.flatnonzero(~hidden), masked=np.flatnonzero(hidden))


def grow_blocks(centres: Tensor, first: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The masks of clouds whose hidden patches are the ``count`` nearest to one of them.

    ``centres`` [B, G, 3] of the patches, ``first`` int64 [B] the patch that each block grows around and holds. Returns
    ``keep`` int64 [B, G - count] and ``masked`` int64 [B, count], sorted.
    """
    distance = (centres - centres[torch.arange(len(centres), device=first.device), first][:, None]).square().sum(2)
    order = distance.scatter(1, first[:, None], -1).argsort(stable=True, dim=1)
    return order[:, count:].sort(1).values, order[:, :count].sort(1).values
