"""Temporal local disturbance of clips (DSM, Wang et al. 2021): some frames change their places, so that the motion
breaks and the scene does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from st_ssl.core.config import Config


class TemporalDisturbanceConfig(Config):
    """``rounds`` times some frames are moved to other places, then as many times some pairs of frames are swapped; each
    time ``share`` of the frames of the clip, and one at least."""

    rounds: int = Field(default=2, gt=0)
    share: float = Field(default=0.1, gt=0, le=1)


class TemporalDisturbance:
    """The transform of ``TemporalDisturbanceConfig``, for clips of three frames or more. The order is never the right
    one. It comes before any crop."""

    def __init__(self, config: TemporalDisturbanceConfig) -> None:
        self.config = config

    def sample(self, rng: np.random.Generator, meta: Any, num_frames: int) -> dict[str, np.ndarray]:
        """``order`` int64 [T, 1]: which frame is at each place."""
        assert num_frames > 2, num_frames  # of two, an even number of swaps always restores the order
        order = np.arange(num_frames)
        while (order[1:] > order[:-1]).all():  # one move may undo another
            order = self._disturbed(rng, num_frames)
        return {"order": order[:, None]}

    def _disturbed(self, rng: np.random.Generator, num_frames: int) -> np.ndarray:
        order, count = list(range(num_frames)), self.config.rounds * max(1, int(self.config.share * num_frames))
        for _ in range(count):
            old, new = rng.choice(num_frames, 2, replace=False)
            order.insert(new, order.pop(old))
        for _ in range(count):
            first, second = rng.choice(num_frames, 2, replace=False)
            order[first], order[second] = order[second], order[first]
        return np.array(order)

    def cut(self, items: Sequence[Any], params: Mapping[str, np.ndarray]) -> list[Any]:
        """The frames in their new order."""
        return [items[at] for at in params["order"].flatten()]

    def apply(self, content: Any, params: Mapping[str, Any]) -> Any:
        """The clips as they are."""
        return content
