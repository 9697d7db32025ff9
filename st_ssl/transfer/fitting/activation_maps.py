"""Where in a clip the evidence for a class is: gradient-weighted class activation maps (Grad-CAM; Selvaraju et al.
2017).

Where a linear head is put on the mean of the features they are the class activation maps of Zhou et al. (2016), for
convolutions and transformers alike.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from st_ssl.core.errors import ConfigError
from st_ssl.core.types import Features
from st_ssl.encoders.base import Encoder

Scores = Callable[[Features], Tensor]
"""A head: features of B clips to scores [B, K]."""


def class_activation(encoder: Encoder, head: Scores, clip: Tensor, classes: Tensor) -> Tensor:
    """How much each place speaks for a class, in 0 … 1 of the most in that clip: float [B, T, H, W].

    ``clip`` float [B, 3, T, H, W], normalised; ``classes`` int64 [B]. ``encoder`` and ``head`` should be in evaluation
    mode; their parameters get no gradient. Raises ``ConfigError`` where the encoder's features have no places, or the
    scores do not depend on them.
    """
    with torch.enable_grad():
        features = encoder(clip.detach().requires_grad_())  # or else a frozen encoder leaves nothing to differentiate
        places = features.map if features.map is not None else features.tokens
        if places is None:
            raise ConfigError("this encoder gives neither a map of features nor tokens: there are no places to show")
        chosen = head(features).gather(1, classes[:, None]).sum()
        (slope,) = torch.autograd.grad(chosen, places, allow_unused=True)
    if slope is None:
        raise ConfigError("the scores do not depend on the features' places: there is no map of them to show")
    map, slope = (_as_map(encoder, tensor.detach()) for tensor in (places, slope))
    evidence = (slope.mean((2, 3, 4), keepdim=True) * map).sum(1, keepdim=True).relu()
    spread = interpolate(evidence, clip.shape[2:], mode="trilinear", align_corners=False)[:, 0]
    return spread / spread.amax((1, 2, 3), keepdim=True).clamp_min(1e-12)


def _as_map(encoder: Encoder, places: Tensor) -> Tensor:
    """Tokens [B, L, D] as a map [B, D, T', H', W']."""
    if places.ndim == 5:
        return places
    if encoder.grid is None:
        raise ConfigError("this encoder's tokens are in no grid: there is no map of them to show")
    return places.transpose(1, 2).unflatten(2, encoder.grid)
