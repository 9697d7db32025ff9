"""Multi-block masks of clips (V-JEPA, Bardes et al. 2024): rectangles that last for the whole clip are hidden."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from st_ssl.augment.masking import Grid
from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.core.types import Mask

_TRIES = 1000


class BlockMaskConfig(Config):
    """The union of ``blocks`` rectangles is hidden at all times; the rest is visible.

    A block covers the share ``scale`` of the frame, and its height is ``aspect`` times its width, drawn uniformly. All
    blocks of all samples of a batch have one size; their places are drawn for each sample.

    Every mask of a batch must have the same number of tokens. That is the smallest of ``references`` masks that are
    drawn for the batch (the paper: of the 24 clips of a process), of visible and of hidden tokens alike. ``truncate``
    tells which tokens stay: the ``first`` ones in the order of time, rows and columns, as published, which leaves out
    late times; or ``random`` ones.
    """

    blocks: int = Field(default=8, gt=0)
    scale: float = Field(default=0.15, gt=0, lt=1)
    aspect: tuple[float, float] = (0.75, 1.5)
    references: int = Field(default=24, gt=0)
    truncate: Literal["first", "random"] = "first"

    @model_validator(mode="after")
    def _aspect_is_a_range(self) -> Self:
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"aspect needs 0 < low <= high, got {self.aspect}")
        return self


@dataclass(frozen=True)
class BlockMask:
    """The mask plan of ``config`` over the token grid (T', H', W'). Raises ``ConfigError`` where a block may cover all
    of the grid.

    The size of the blocks and the number of tokens depend on ``batch_rng`` alone. A sample whose mask has fewer tokens
    than that is drawn again; with 24 references that is at most one in twelve.
    """

    config: BlockMaskConfig
    grid: Grid

    def __post_init__(self) -> None:
        _, rows, columns = self.grid
        area = int(rows * columns * self.config.scale)
        low, high = self.config.aspect
        what = f"of a {self.grid} token grid"
        if area == 0 or max(low, (rows - 0.5) ** 2 / area) <= min(high, area / (columns - 0.5) ** 2):
            share = "all" if area else "nothing"
            raise ConfigError(f"method.masks: a block of scale={self.config.scale} may cover {share} {what}")
        rng = np.random.default_rng(0)
        if all(self._union(rng, self._size(rng)).all() for _ in range(_TRIES)):
            raise ConfigError(f"method.masks: blocks={self.config.blocks} of scale={self.config.scale} hide all {what}")

    def draw(self, rng: np.random.Generator, batch_rng: np.random.Generator, recording: Any) -> Mask:
        """The mask of one sample, sorted indices of the flattened grid."""
        times, cells = self.grid[0], self.grid[1] * self.grid[2]
        size = self._size(batch_rng)
        references = [self._hidden(batch_rng, size, 0, cells - 1).sum() for _ in range(self.config.references)]
        least, most = min(references), max(references)
        hidden = np.tile(self._hidden(rng, size, least, most).ravel(), times)
        return Mask(
            self._some(rng, np.flatnonzero(~hidden), times * (cells - most)),
            self._some(rng, np.flatnonzero(hidden), times * least),
        )

    def _size(self, rng: np.random.Generator) -> tuple[int, int]:
        """Height and width of a block in tokens."""
        _, rows, columns = self.grid
        area, aspect = int(rows * columns * self.config.scale), rng.uniform(*self.config.aspect)
        height, width = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        return min(max(height, 1), rows), min(max(width, 1), columns)

    def _union(self, rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
        """Which places blocks of ``size`` at random places hide, bool [H', W']."""
        _, rows, columns = self.grid
        top = rng.integers(0, rows - size[0] + 1, (self.config.blocks, 1))
        left = rng.integers(0, columns - size[1] + 1, (self.config.blocks, 1))
        in_rows = (np.arange(rows) >= top) & (np.arange(rows) < top + size[0])
        in_columns = (np.arange(columns) >= left) & (np.arange(columns) < left + size[1])
        union: np.ndarray = np.logical_or.reduce(in_rows[:, :, None] & in_columns[:, None, :], axis=0)
        return union

    def _hidden(self, rng: np.random.Generator, size: tuple[int, int], least: int, most: int) -> np.ndarray:
        """The first union that hides ``least`` to ``most`` places."""
        while True:
            hidden = self._union(rng, size)
            if least <= hidden.sum() <= most:
                return hidden

    def _some(self, rng: np.random.Generator, index: np.ndarray, count: int) -> np.ndarray:
        """``count`` of the sorted indices, sorted."""
        if self.config.truncate == "first":
            return index[:count]
        return np.sort(rng.choice(index, count, replace=False))
