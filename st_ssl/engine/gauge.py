"""The collapse gauge: are the features still spread out, or has the encoder found the trivial answer?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


def feature_spread(features: Tensor) -> float:
    """The mean deviation per channel of normalised features [B, D], times the root of D: 1 for directions all over
    the sphere, 0 for a single one (SimSiam, 2021)."""
    unit = normalize(features.double(), dim=1)
    return float(unit.std(0, correction=0).mean() * features.shape[1] ** 0.5)


def effective_rank(features: Tensor) -> float:
    """exp of the entropy of the normalised singular values of features [B, D], centred (RankMe, 2023): from 1, all on
    a line, to min(B − 1, D)."""
    values = torch.linalg.svdvals(features.double() - features.double().mean(0))
    if float(values.sum()) == 0:
        return 1.0
    share = values / values.sum()
    share = share[share > 0]
    return float((-(share * share.log()).sum()).exp())


class CollapseGauge:
    """Watches the pooled features that an encoder gives while it trains, or the rows [B, D] of a projector.

    ``read`` returns ``feature_spread`` and ``effective_rank`` of the last batch, and a warning once the spread has
    fallen below ``share`` of the first reading, or where nothing can be told apart: the rank is below 1.2, or below 1.5
    in two readings one after the other, as that of features on a line is (SimSiam without its stop-gradient).
    """

    def __init__(self, encoder: nn.Module, share: float = 0.1) -> None:
        self.share = share
        self.first: tuple[float, float] | None = None
        self.warned = False
        self._flat = 0  # readings in a row
        self._features: Tensor | None = None
        encoder.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self._features = (output if isinstance(output, Tensor) else output.pooled).detach()

    def read(self) -> tuple[dict[str, float], str | None]:
        """The two figures, and a warning the first time that they look like collapse. Empty before any batch."""
        if self._features is None or len(self._features) < 4:
            return {}, None
        features = self._features.float().cpu()
        if not bool(features.isfinite().all()):
            return {}, None
        spread, rank = feature_spread(features), effective_rank(features)
        self.first = self.first or (spread, rank)
        self._flat = self._flat + 1 if rank < 1.5 else 0
        fallen = spread < self.share * self.first[0] or spread < 1e-3 or rank < 1.2 or self._flat >= 2
        warning = None
        if fallen and not self.warned:
            self.warned = True
            warning = (
                f"features look collapsed: spread {spread:.4f} (at first {self.first[0]:.4f}), effective rank "
                f"{rank:.1f} (at first {self.first[1]:.1f})"
            )
        return {"feature_spread": spread, "effective_rank": rank}, warning
