"""Reconstruction: predict what was hidden, in pixels."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Normalisation = Literal["channel", "patch", "none"]


def normalised_pixels(patches: Tensor, channels: int, normalisation: Normalisation, eps: float = 1e-6) -> Tensor:
    """The target of masked autoencoders: each patch's pixels, brought to mean 0 and deviation 1 of their own.

    ``patches`` [B, M, C × P] in channel-major order. ``channel``: each colour channel of a patch on its own (VideoMAE
    2022: unbiased variance, eps added to the deviation); ``patch``: all values of a patch together (MAE 2022, ST-MAE
    2022: unbiased variance, eps under the root); ``none``: as they are.
    """
    if normalisation == "none":
        return patches
    if normalisation == "patch":
        mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
        return (patches - mean) / (variance + eps).sqrt()
    x = patches.unflatten(-1, (channels, -1))
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True).sqrt() + eps)
    return x.flatten(-2)


def masked_mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Each sample's mean squared error over its masked patches, [B, M, P] both to [B], in the target's precision."""
    return (prediction.to(target.dtype) - target).square().mean((1, 2))
