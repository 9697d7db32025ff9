"""What an encoder is fed: told to the data side, which cuts it, and to the encoder, which is built for it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat

from st_ssl.core.config import Config

Modality = Literal["video", "points"]


class InputConfig(Config):
    """The clip that an encoder is fed: ``num_frames`` frames, ``stride`` source frames apart, ``size`` pixels square,
    normalised by ``mean`` and ``std`` of pixels in 0 … 1."""

    num_frames: int = Field(default=16, gt=0)
    stride: int = Field(default=4, gt=0)
    size: int = Field(default=112, gt=0)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)


ATTRIBUTE_WIDTHS = {"color": 3, "normal": 3, "intensity": 1, "time": 1, "velocity": 1}
"""Channels of what a point may have besides its place."""


class PointInputConfig(Config):
    """The cloud that an encoder is fed: ``num_points`` points (null: all of them), brought to the unit sphere around
    their centroid where ``unit_sphere``, or else, where ``centre``, above the origin (not sweeps of a drive, whose
    origin is the sensor); of a scene one point a voxel of ``voxel_size`` metres. ``attributes`` are what is known of a
    point besides its place, in the order of the channels; ``time`` and ``velocity`` are known in windows of recordings
    (``data.window``), and ``time`` where sweeps are merged (``data.sweeps``)."""

    num_points: int | None = Field(default=1024, gt=0)
    unit_sphere: bool = True
    centre: bool = True
    voxel_size: float | None = Field(default=None, gt=0)
    attributes: tuple[Literal["color", "normal", "intensity", "time", "velocity"], ...] = ()


class CloudNeeds(Config):
    """What an encoder needs of a cloud: ``points`` at least, of ``where`` the configuration says so, and room on a grid
    of voxels of ``voxel_size`` (None: it has no grid)."""

    points: int = 1
    where: str = ""
    voxel_size: float | None = None


INPUTS: dict[Modality, type[InputConfig] | type[PointInputConfig]] = {
    "video": InputConfig,
    "points": PointInputConfig,
}
