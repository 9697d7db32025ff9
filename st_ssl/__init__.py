"""Self-supervised pretraining on video and 3D. In a notebook::

encoder = st_ssl.load("runs/mine")
features = encoder(st_ssl.clip(encoder, "video.mp4"))  # .pooled [1, D], .map or .tokens
features = encoder(st_ssl.cloud(encoder, "tile.las"))  # of an encoder of clouds: .pooled [1, D], .points or .tokens
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from st_ssl.core.types import PointBatch, PointCloud, View
    from st_ssl.encoders.base import Encoder
    from st_ssl.methods.base import Method, Moment

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


def cloud(
    encoder: Encoder,
    cloud: str | os.PathLike[str] | npt.NDArray[np.floating],
    attributes: Mapping[str, npt.NDArray[np.floating]] | None = None,
) -> PointBatch:
    """The batch of one cloud that ``encoder`` takes, prepared as ``extract`` and ``probe`` do it.
    ``encoder.input`` says how: one point a voxel or a number of points, moved onto the unit sphere or above the origin.

    ``cloud`` is a file of any format that is read (or a folder that is a scene, or ``file.h5#17``), or numbers [N, 3],
    with ``attributes`` by name: ``color`` [N, 3] and ``intensity`` [N, 1] in 0 … 1, ``normal`` [N, 3]. These may also
    be further columns, in the order of ``encoder.input.attributes``. ``source`` int64 [P] of the result
    holds the place of each point in the cloud.

    Raises ``UserError`` where the cloud cannot be read, lacks what ``encoder.input.attributes`` asks for, or arrays are
    of another shape or range.
    """
    from st_ssl.weights.loading import cloud as cut

    return cut(encoder, cloud, attributes)


def method(
    name: str, encoder: Encoder | Mapping[str, Any], input: Mapping[str, Any] | None = None, **settings: Any
) -> Method[Any]:
    """The pretraining method ``name`` around ``encoder``, a ``torch.nn.Module`` for a loop of one's own. ``st-ssl
    methods`` lists them. An example is in st_ssl/methods/README.md.

    ``encoder`` is a module (``st_ssl.load``), or its configuration, ``{"name": "r3d", "depth": 10}``, of which
    ``input`` says what it is fed. ``settings`` are those of the method, as in a recipe's section ``method``.

    Raises ``ConfigError`` for a name, a key or a value that is not known, with the nearest that is.
    """
    from st_ssl.methods.alone import build

    return build(name, encoder, input, settings)


def view(content: Tensor | PointBatch) -> View:
    """A view for a method, of clips float [B, 3, T, H, W], normalised as ``encoder.input`` says, or of a
    ``PointBatch``; without masks: methods that mask take ``st_ssl.views``."""
    from st_ssl.methods.alone import view as one

    return one(content)


def views(
    method: Method[Any], samples: Sequence[npt.NDArray[Any] | PointCloud], seed: int = 0, epoch: int = 0
) -> list[View]:
    """The views that ``method`` declares, cut, augmented and masked, of ``samples`` in memory: videos uint8
    [N, H, W, 3], or clouds [N, 3] or ``PointCloud``. Every draw is a function of ``seed``, ``epoch`` and the place of
    the sample."""
    from st_ssl.methods.alone import views as cut

    return cut(method, samples, seed, epoch)


def moment(step: int, num_steps: int) -> Moment:
    """Where a loop of one's own stands, for ``Method.after_update``: ``step`` (from 0) of ``num_steps``."""
    from st_ssl.methods.base import Moment

    return Moment(step, num_steps)
