"""Planted-factor videos: real H.264 files whose six factors are known, to see what a method has learned.

A textured background under a moving camera, and one shape that moves in a quadrant of the frame. The factors are drawn
independently and balanced; everything else (colours, sizes, phases, noise) is a nuisance, drawn from a fine grid of
which training takes the even and test the odd points, so that no clip can be recognised by a nuisance seen before.
The frames before encoding have the same bits on every machine.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
from pydantic import Field

from st_ssl.core.errors import MissingDependencyError
from st_ssl.core.random import keyed_rng
from st_ssl.data.synthetic.design import Planted, PlantedConfig, write_planted
from st_ssl.data.synthetic.shapes2d import MOTIONS, REACH, SHAPES, coverage, half_extent, pose
from st_ssl.data.synthetic.textures import SCENES, Look, canvas, hue_rgb

FORMAT_VERSION = 2
PERIOD = {"slow": 48, "medium": 24, "fast": 12}  # frames per cycle of the motion
FACTORS: dict[str, tuple[str, ...]] = {
    "scene": SCENES,
    "shape": SHAPES,
    "motion": MOTIONS,
    "tempo": tuple(PERIOD),
    "camera": ("static", "pan_left", "pan_right", "zoom_in", "zoom_out"),
    "region": ("top_left", "top_right", "bottom_left", "bottom_right"),
}
GRID = 256  # points of a nuisance's grid
# nuisance -> the values of the first point and of one past the last; turns and cycles where it goes from 0 to 1, pixels
# of a frame of 128 for lengths
NUISANCES: dict[str, tuple[float, float]] = {
    "hue": (0.0, 1.0),
    "chroma": (30.0, 110.0),
    "brightness": (85.0, 170.0),
    "contrast": (-1.0, 1.0),  # the sign says which tone is the brighter one
    "angle": (0.0, 1.0),
    "period": (15.0, 23.0),
    "phase_x": (0.0, 1.0),
    "phase_y": (0.0, 1.0),
    "drift": (-0.15, 0.15),  # change of the background's lighting over the clip, either way from its middle
    "speed": (0.8, 1.2),
    "object_hue": (0.0, 1.0),
    "radius": (15.5, 17.5),
    "amplitude": (10.0, 11.0),
    "centre_x": (-1.0, 1.0),  # fraction of the room that the motion leaves in its quadrant
    "centre_y": (-1.0, 1.0),
    "heading": (0.0, 1.0),
    "start": (0.0, 1.0),
    "noise": (0.0, 0.7),
}
_PAN = 48.0  # pixels of a frame of 128 travelled over the clip at speed 1
_ZOOM = 0.5  # change of the scale over the clip at speed 1
_RIM = 2.0  # width of the object's dark outline
_OUTLINE, _MARKING = 16.0, 240.0


class SyntheticVideoConfig(PlantedConfig):
    """How many clips, of how many frames, of how many pixels a side; ``fps`` in frames per second."""

    kind, version = "video", FORMAT_VERSION

    num_train: int = Field(default=480, ge=0)
    num_test: int = Field(default=240, ge=0)
    num_frames: int = Field(default=64, ge=2)
    size: int = Field(default=128, ge=32, multiple_of=2)
    fps: int = Field(default=24, ge=1)
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class PlantedVideo(Planted):
    """One clip's truth. ``nuisances`` are points of their grids (``noise_seed`` of the integers): even ones in
    training, odd ones in test. ``box`` is the extent of the object over the whole clip, in pixels."""

    nuisances: dict[str, int | float]
    box: tuple[int, int, int, int]
    form: ClassVar[str] = "{:05d}.mp4"

    def row(self) -> tuple[Any, ...]:
        return *super().row(), *self.box

    def value(self, nuisance: str) -> float:
        """A nuisance in its own unit."""
        low, high = NUISANCES[nuisance]
        return low + (high - low) * (self.nuisances[nuisance] / GRID)


def plan_video(config: SyntheticVideoConfig, split: str, index: int) -> PlantedVideo:
    """Draw the factors and nuisances of clip ``index`` of ``split``; ``DataError`` where there is no such clip."""
    factors = config.deal(FACTORS, split, index)
    parity = ("train", "test").index(split)
    rng = keyed_rng(config.seed, "synthetic-video", split, index)
    raw = [int(r) for r in rng.bit_generator.random_raw(len(NUISANCES) + 1)]
    nuisances: dict[str, int | float] = {
        name: (r % (GRID // 2)) * 2 + parity for name, r in zip(NUISANCES, raw, strict=False)
    }
    nuisances["noise_seed"] = (raw[-1] >> 2) * 2 + parity
    draft = PlantedVideo(split, index, factors, nuisances, (0, 0, 0, 0))
    reach = []
    for x, y, radius, heading in _poses(config, draft):
        left, up, right, down = half_extent(factors["shape"], radius, heading)
        reach.append((x - left, y - up, x + right, y + down))
    # the soft edge of a tip ends less than a pixel beyond it
    x0, y0 = (max(0, math.floor(min(r[i] for r in reach))) for i in (0, 1))
    x1, y1 = (min(config.size, math.ceil(max(r[i] for r in reach)) + 1) for i in (2, 3))
    return replace(draft, box=(x0, y0, x1, y1))


def _poses(config: SyntheticVideoConfig, video: PlantedVideo) -> Iterator[tuple[float, float, float, float]]:
    """Centre x, y and radius in pixels and heading in turns of the object, frame by frame."""
    unit, half = config.size / 128.0, config.size / 4.0
    radius, amplitude = video.value("radius") * unit, video.value("amplitude") * unit
    room = half - 0.5 * unit - radius * REACH - amplitude
    vertical, horizontal = video.factors["region"].split("_")
    x = (half if horizontal == "left" else 3.0 * half) - 0.5 + room * video.value("centre_x")
    y = (half if vertical == "top" else 3.0 * half) - 0.5 + room * video.value("centre_y")
    heading, period = video.value("heading"), PERIOD[video.factors["tempo"]]
    for t in range(config.num_frames):
        phase = video.value("start") + t / period
        dx, dy, r, angle = pose(video.factors["motion"], phase, amplitude, radius, heading)
        yield x + dx, y + dy, r, angle


def _camera(config: SyntheticVideoConfig, video: PlantedVideo, extent: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of the canvas seen by the camera, frame by frame; mid-clip it looks straight at it."""
    camera, size = video.factors["camera"], config.size
    grid, middle = np.arange(size) - 0.5 * (size - 1), 0.5 * (extent - 1)
    pan = {"pan_left": -1.0, "pan_right": 1.0}.get(camera, 0.0) * _PAN * size / 128.0 * video.value("speed")
    zoom = {"zoom_in": -1.0, "zoom_out": 1.0}.get(camera, 0.0) * _ZOOM * video.value("speed")
    for t in range(config.num_frames):
        tau = t / (config.num_frames - 1) - 0.5
        rows = np.floor(middle + grid * (1.0 + zoom * tau) + 0.5)
        yield rows.astype(np.intp), np.floor(rows + pan * tau + 0.5).astype(np.intp)


def _paint(frame: np.ndarray, shape: str, at: tuple[float, float, float, float], body: np.ndarray, rim: float) -> None:
    """Draw the object on one frame, in place, touching only the pixels around it."""
    x, y, radius, heading = at
    reach = radius * REACH + 2.0
    x0, y0 = max(0, int(x - reach)), max(0, int(y - reach))
    part = frame[y0 : int(y + reach) + 2, x0 : int(x + reach) + 2]
    dx, dy = np.arange(x0, x0 + part.shape[1])[None, :] - x, np.arange(y0, y0 + part.shape[0])[:, None] - y
    outer, inner, marking = (a[..., None] for a in coverage(shape, dx, dy, radius, heading, rim))
    colour = part + outer * (_OUTLINE - part)
    colour = colour + inner * (body - colour)
    colour = colour + marking * (_MARKING - colour)
    part[...] = np.floor(colour + 0.5).astype(np.uint8)


def render(config: SyntheticVideoConfig, video: PlantedVideo) -> np.ndarray:
    """The frames of a clip before encoding, uint8 [T, H, W, 3]: a function of ``video`` alone, to the bit."""
    size, unit, value = config.size, config.size / 128.0, video.value
    rng = keyed_rng("synthetic-video-pixels", int(video.nuisances["noise_seed"]))
    contrast = value("contrast")
    look = Look(
        hue=value("hue"),
        chroma=value("chroma"),
        brightness=value("brightness"),
        contrast=40.0 * contrast + (25.0 if contrast >= 0 else -25.0),
        angle=value("angle"),
        period=value("period") * unit,
        phase=(value("phase_x"), value("phase_y")),
    )
    extent = size + size // 2
    background = canvas(video.factors["scene"], look, extent, rng)
    body = 60.0 + 170.0 * hue_rgb(value("object_hue"))
    levels = np.arange(256)
    bits = (levels & 3) + ((levels >> 2) & 3) + ((levels >> 4) & 3) + (levels >> 6)  # four fair dice of 0 to 3
    noise = np.floor((bits - 6) * value("noise") + 0.5).astype(np.int16)[:, None]
    frames = np.empty((config.num_frames, size, size, 3), np.uint8)
    views = zip(_camera(config, video, extent), _poses(config, video), strict=True)
    for t, ((rows, cols), at) in enumerate(views):
        gain = 1.0 + value("drift") * (2.0 * t / (config.num_frames - 1) - 1.0)
        light = np.minimum(np.floor(levels * gain + 0.5), 255.0).astype(np.uint8)
        frame = light[background.take(rows, 0).take(cols, 1)]
        _paint(frame, video.factors["shape"], at, body, _RIM * unit)
        grains = rng.bit_generator.random_raw((size * size + 7) // 8).astype("<u8").view(np.uint8)[: size * size]
        np.clip(frame + noise[grains].reshape(size, size, 1), 0, 255, out=frames[t], casting="unsafe")
    return frames


def encode(file: Path | BinaryIO, frames: np.ndarray, fps: int) -> None:
    """Write uint8 [T, H, W, 3] frames as H.264 in MP4, with a key frame every 12 frames and without what makes
    decoding slow."""
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError("av", "video", "writing videos") from error
    options = {"preset": "superfast", "tune": "fastdecode", "crf": "18", "sc_threshold": "0", "threads": "1"}
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = frames.shape[2], frames.shape[1], "yuv420p", 12
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _make(config: SyntheticVideoConfig, video: PlantedVideo) -> bytes:
    file = io.BytesIO()
    encode(file, render(config, video), config.fps)
    return file.getvalue()


def write_dataset(root: Path, config: SyntheticVideoConfig, num_workers: int = 2, progress: bool = True) -> Path:
    """Write the data set under ``root`` and return ``root``: clips as ``train/*.mp4`` and ``test/*.mp4``, and
    ``factors.csv`` with the truth of each; see ``write_planted``."""
    columns = ("path", "split", *FACTORS, "x0", "y0", "x1", "y1")
    return write_planted(root, config, {}, plan_video, _make, num_workers, progress, columns)
