"""Self-supervised pretraining on video and 3D. In a notebook::

encoder = st_ssl.load("runs/mine")
features = encoder(st_ssl.clip(encoder, "video.mp4"))  # .pooled [1, D], .map or .tokens
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from st_ssl.encoders.base import Encoder

__version__ = "0.1.0"


def load(place: str | Path, download: bool = False, revision: str | None = None) -> Encoder:
    """The encoder at ``place``, in eval mode on the CPU.

    ``place`` is the folder of a run or of any ``encoder.json`` and ``encoder.safetensors``, a file that
    ``convert.py export --to safetensors`` wrote, or a repository "user/name" on the Hugging Face Hub; what is on this
    machine comes first, and nothing is downloaded without ``download``. ``revision``: a branch, tag or commit there.

    Raises ``UserError`` where there is none, or it is damaged.
    """
    from st_ssl.weights.loading import load as found  # here, so that importing st_ssl loads no torch

    return found(place, download, revision)


def clip(encoder: Encoder, video: str | os.PathLike[str] | npt.NDArray[np.uint8]) -> Tensor:
    """What ``encoder`` is to be fed of ``video``, float32 [1, 3, T, S, S], normalised as ``encoder.input`` says.

    ``video`` is a file or a folder of frames, of which the clip in the middle is taken, or the T frames of a clip
    themselves, uint8 [T, H, W, 3] RGB. Of each frame it is the largest centred square, as in evaluation.

    Raises ``UserError`` where the video cannot be read, or frames are of another number, type or shape.
    """
    from st_ssl.weights.loading import clip as cut

    return cut(encoder, video)
