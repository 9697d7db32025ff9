"""An encoder and what it is fed in two lines, for notebooks: what ``st_ssl.load``, ``st_ssl.clip`` and
``st_ssl.cloud`` do."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from st_ssl.core.errors import ConfigError, DataError, MissingDependencyError, UserError, nearest, sample_fault
from st_ssl.core.files import missing_folder
from st_ssl.encoders.base import Encoder, load_encoder
from st_ssl.weights.bundle import read_bundle

if TYPE_CHECKING:
    import numpy.typing as npt

    from st_ssl.core.types import PointBatch, PointCloud

REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""What a repository on the Hub is called: user/name."""
FILES = ("encoder.json", "encoder.safetensors")


def load(place: str | Path, download: bool = False, revision: str | None = None) -> Encoder:
    """The encoder at ``place``, in eval mode on the CPU: see ``st_ssl.load``."""
    path = Path(place).expanduser()
    if path.is_dir():
        return load_encoder(path)
    if path.is_file():
        return read_bundle(path).encoder
    named = isinstance(place, str) and REPO.fullmatch(place) is not None
    if named and download:
        return load_encoder(_downloaded(str(place), revision))
    absent, home = missing_folder(path), path.absolute().parent
    if home.is_dir():
        absent = f"there is no such folder or file{nearest(path.name, [inside.name for inside in home.iterdir()])}"
    hub = f"; if that is a repository on the Hugging Face Hub: st_ssl.load({place!r}, download=True)" if named else ""
    raise ConfigError(f"{place}: {absent}{hub}")


def _downloaded(repo: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingDependencyError("huggingface_hub", "hub", f"downloading {repo}") from error
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(FILES)))
    except Exception as error:  # of the Hub, or of the package for the network, which differs by version
        raise UserError(f"{repo}: could not be downloaded from the Hugging Face Hub: {error}") from error


@torch.no_grad()
def clip(encoder: Encoder, video: str | os.PathLike[str] | npt.NDArray[np.uint8]) -> Tensor:
    """What ``encoder`` is to be fed of ``video``, float32 [1, 3, T, S, S]: see ``st_ssl.clip``."""
    from st_ssl.augment.video import centre_crop
    from st_ssl.core.random import keyed_rng
    from st_ssl.core.types import VideoMeta
    from st_ssl.data.streams.base import Recording
    from st_ssl.data.streams.video import open_video
    from st_ssl.data.video.views import centred_views
    from st_ssl.data.views import stack

    if encoder.modality != "video":
        raise ConfigError("st_ssl.clip: this encoder is fed clouds of points, not videos: use st_ssl.cloud")
    input = encoder.input
    if isinstance(video, str | os.PathLike):
        views = centred_views(input)
        with sample_fault(str(video)), open_video(Path(video)) as reader:
            return views.prepare(stack([views.cut(Recording.of(reader), ())]))[0].clip
    frames = np.asarray(video)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        told = f"{frames.dtype} {list(frames.shape)}"
        raise DataError(f"st_ssl.clip: frames are uint8 [T, H, W, 3], RGB; these are {told}")
    if len(frames) != input.num_frames:
        told = f"the encoder is fed clips of {input.num_frames} frames, these are {len(frames)}"
        raise DataError(f"st_ssl.clip: {told}")
    augment = centre_crop(input.size, input.mean, input.std)
    meta = VideoMeta(len(frames), 0.0, frames.shape[2], frames.shape[1])
    params = augment.sample(keyed_rng(), meta, len(frames))
    cut = torch.from_numpy(augment.cut(list(frames), params))
    return augment.apply(cut[None], {name: torch.from_numpy(value)[None] for name, value in params.items()})


@torch.no_grad()
def cloud(
    encoder: Encoder,
    cloud: str | os.PathLike[str] | npt.NDArray[np.floating],
    attributes: Mapping[str, npt.NDArray[np.floating]] | None = None,
) -> PointBatch:
    """What ``encoder`` is to be fed of one cloud: see ``st_ssl.cloud``."""
    from st_ssl.data.points.dataset import check_needs
    from st_ssl.data.points.views import plain_views
    from st_ssl.data.streams.base import Recording, StillCloud
    from st_ssl.data.streams.points import read_cloud
    from st_ssl.data.streams.points.reading import decide
    from st_ssl.data.views import stack

    if encoder.modality != "points":
        raise ConfigError("st_ssl.cloud: this encoder is fed clips of videos, not clouds: use st_ssl.clip")
    views = plain_views(encoder.input)
    if isinstance(cloud, str | os.PathLike):
        if attributes is not None:
            raise DataError("st_ssl.cloud: attributes belong to arrays; of a file they are in it")
        name = str(cloud)
        reading = decide([name], None, encoder.prepared)  # as those that the encoder was trained on
        for line in reading.told:
            warnings.warn(line, stacklevel=3)
        with sample_fault(name):
            found = read_cloud(name, reading.options)
    else:
        name, found = "st_ssl.cloud", _cloud_of(encoder, cloud, attributes or {})
    with sample_fault(name):
        (cut,) = views.cut(Recording.of(StillCloud(lambda: found)), ())
        check_needs(cut, encoder.needs(encoder.config, encoder.input))
    return views.prepare(stack([[cut]]))[0].points


def _cloud_of(
    encoder: Encoder, points: npt.NDArray[np.floating], attributes: Mapping[str, npt.NDArray[np.floating]]
) -> PointCloud:
    """Arrays as a reader would give them."""
    from st_ssl.core.inputs import ATTRIBUTE_WIDTHS
    from st_ssl.core.types import PointCloud
    from st_ssl.data.streams.points.base import clean

    table, names = np.asarray(points), encoder.input.attributes
    wide = 3 + sum(ATTRIBUTE_WIDTHS[name] for name in names)
    columns = {3} if attributes else {3, wide}
    if table.dtype.kind not in "fiu" or table.ndim != 2 or table.shape[1] not in columns:
        also = f", or [N, {wide}] with {', '.join(names)} behind them" if wide in columns and names else ""
        raise DataError(f"st_ssl.cloud: points are numbers [N, 3]{also}; these are {table.dtype} {list(table.shape)}")
    given = {name: np.asarray(values) for name, values in attributes.items()}
    first = 3
    for name in names if table.shape[1] > 3 else ():
        given[name] = table[:, first : first + ATTRIBUTE_WIDTHS[name]]
        first += ATTRIBUTE_WIDTHS[name]
    for name, values in given.items():
        if name not in ATTRIBUTE_WIDTHS:
            there = ", ".join(ATTRIBUTE_WIDTHS)
            raise DataError(
                f"st_ssl.cloud: no attribute {name!r}{nearest(name, ATTRIBUTE_WIDTHS)} (there are: {there})"
            )
        width = ATTRIBUTE_WIDTHS[name]
        if values.size != len(table) * width or len(values) != len(table) or values.dtype.kind not in "fiu":
            raise DataError(
                f"st_ssl.cloud: {name} is numbers [{len(table)}, {width}]; this is {values.dtype} {list(values.shape)}"
            )
        if name != "normal" and values.size and not 0 <= np.nanmin(values) <= np.nanmax(values) <= 1.001:
            low, high = np.nanmin(values), np.nanmax(values)
            raise DataError(f"st_ssl.cloud: {name} is in 0 … 1; this is in {low:g} … {high:g}")
        given[name] = values.reshape(len(table), width).astype(np.float32)
    xyz = table[:, :3].astype(np.float32 if table.dtype == np.float32 else np.float64)
    return clean("st_ssl.cloud", PointCloud(xyz, given))[0]
