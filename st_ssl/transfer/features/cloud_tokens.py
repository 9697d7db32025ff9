"""Local features of clouds with the places that they are of, in the frame of the file."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from st_ssl.core.errors import ConfigError
from st_ssl.core.types import Features, View
from st_ssl.data.base import CutsViews
from st_ssl.data.views import POSE
from st_ssl.encoders.base import Encoder
from st_ssl.transfer.features.array_shards import Part, write_bytes
from st_ssl.transfer.features.features import encoded


@dataclass
class CloudTokens:
    """Of one view of a cloud: ``features`` float16 [L, D] of its points or patches, and where these are, ``xyz``
    float64 [L, 3] in the frame of the file."""

    features: np.ndarray
    xyz: np.ndarray


def in_file_frame(view: View, number: int, xyz: torch.Tensor) -> np.ndarray:
    """Places [L, 3] in the cloud ``number`` of a view, as its file has them: float64 [L, 3]."""
    places = xyz.double()
    if POSE in view.labels:
        pose = view.labels[POSE][number, 0].double().to(places.device)
        places = places @ pose[:3, :3].T + pose[:3, 3]
    return places.cpu().numpy()


TOKENS = "tokens"
"""The folder of the files of tokens within that of an extraction."""
PACKED = ("tokens", "places", "lengths")
"""The arrays of a part of an extraction that hold the tokens of its views, one after the other."""


def packed_tokens(clouds: Sequence[CloudTokens]) -> dict[str, np.ndarray]:
    """The tokens of views as the arrays ``PACKED``."""
    features, xyz = ([getattr(cloud, name) for cloud in clouds] for name in ("features", "xyz"))
    lengths = np.array([len(own) for own in features], dtype=np.int64)
    return dict(zip(PACKED, (np.concatenate(features), np.concatenate(xyz), lengths), strict=True))


def unpacked_tokens(part: Part, views: int) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of the file of each cloud of a part, which has ``views`` of each."""
    features, xyz, lengths = (part.arrays[name] for name in PACKED)
    bounds = np.concatenate([[0], lengths.cumsum()])
    for first in range(0, len(lengths), views):
        rows = slice(bounds[first], bounds[first + views])
        arrays = {"features": features[rows], "xyz": xyz[rows]}
        if views > 1:
            arrays["view"] = np.repeat(np.arange(views), lengths[first : first + views])
        yield arrays


def tokens_name(row: int, form: str) -> str:
    """The name of the file of the tokens of a row."""
    return f"{row:06d}.{'npz' if form == 'npy' else 'safetensors'}"


def write_tokens(folder: Path, clouds: Iterable[dict[str, np.ndarray]], form: str) -> None:
    """Write a file for each row, and no others."""
    from safetensors.numpy import save

    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed here
    folder.mkdir()
    for row, arrays in enumerate(clouds):
        if form == "npy":
            content = io.BytesIO()
            np.savez(content, **arrays)  # type: ignore[arg-type]
            data = content.getvalue()
        else:
            data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        write_bytes(folder / tokens_name(row, form), [data])


@torch.inference_mode()
def encode_clouds(
    encoder: Encoder, views: CutsViews, raw: View, batch_size: int, device: torch.device
) -> tuple[torch.Tensor, list[CloudTokens]]:
    """Pooled features float32 [B, D] of what ``views`` had cut, on the CPU, and the local ones of each cloud: those of
    its points, or else of its patches at their centres. Raises ``ConfigError`` where the encoder gives neither."""
    pooled, local = [], []
    for features, view in encoded(encoder, views, raw, batch_size, device):
        pooled.append(features.pooled.float().cpu())
        local += [_local(features, view, number) for number in range(len(view))]
    return torch.cat(pooled), local


def _local(features: Features, view: View, number: int) -> CloudTokens:
    if features.points is not None:
        first, last = view.points.offsets[number : number + 2].tolist()
        own, xyz = features.points[first:last], view.points.xyz[first:last]
    elif features.tokens is not None and features.centres is not None:
        own, xyz = features.tokens[number], features.centres[number]
    else:
        raise ConfigError("tokens: this encoder gives features of whole clouds alone, of no points and no patches")
    return CloudTokens(own.half().cpu().numpy(), in_file_frame(view, number, xyz))
