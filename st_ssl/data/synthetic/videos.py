"""Planted-factor videos: real H.264 files whose seven factors are known, to see what a method has learned.

A textured background under a moving camera, whose light goes up and down for an instant now and then, and one shape
that moves about a quadrant of the frame. The factors are drawn independently and balanced. Everything else (colours,
sizes, phases, noise) is a nuisance, drawn from a fine grid of which each split takes points of its own, so that no clip
can be recognised by a nuisance seen before. Motion, tempo and order need several frames: of tempo and order one frame
says nothing, and of motion little, as an object that does not move along an axis rests anywhere on the way of one that
does. The frames before encoding have the same bits on every machine.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from st_ssl.core.errors import MissingDependencyError
from st_ssl.core.random import Key, keyed_rng
from st_ssl.data.synthetic.design import Planted, PlantedConfig, write_planted
from st_ssl.data.synthetic.shapes2d import MOTIONS, REACH, SHAPES, coverage, half_extent, pose
from st_ssl.data.synthetic.textures import SCENES, Look, canvas, hue_rgb

FORMAT_VERSION = 3
PERIOD = {"slow": 64, "medium": 32, "fast": 16}  # frames per cycle of the motion
FACTORS: dict[str, tuple[str, ...]] = {
    "scene": SCENES,
    "shape": SHAPES,
    "motion": MOTIONS,
    "tempo": tuple(PERIOD),
    "camera": ("static", "pan_left", "pan_right", "zoom_in", "zoom_out"),
    "region": ("top_left", "top_right", "bottom_left", "bottom_right"),
    "order": ("bright_then_dark", "dark_then_bright"),
}
SECOND = {f"second_{name}": FACTORS[name] for name in ("shape", "motion", "tempo")}
"""The factors of the second object, where there is one."""
FLASH, FLASH_PERIOD = 4, 24  # frames that a change of the light takes, and from a pair of them to the next
FLASH_GAIN = {"bright": 1.2, "dark": 0.8, "": 1.0}
GRID = 256  # points of a nuisance's grid
# nuisance -> the values of the first point and of one past the last; turns and cycles where it goes from 0 to 1, pixels
# of a frame of 128 for lengths
NUISANCES: dict[str, tuple[float, float]] = {
    "hue": (0.0, 1.0),
    "chroma": (20.0, 45.0),
    "brightness": (70.0, 95.0),
    "contrast": (-1.0, 1.0),  # the sign says which tone is the brighter one
    "angle": (0.0, 1.0),
    "period": (22.0, 32.0),
    "phase_x": (0.0, 1.0),
    "phase_y": (0.0, 1.0),
    "drift": (-0.05, 0.05),  # change of the background's lighting over the clip, either way from its middle
    "speed": (0.8, 1.2),
    "object_hue": (0.0, 1.0),
    "radius": (17.0, 20.0),
    "amplitude": (16.0, 18.0),
    "centre_x": (0.0, 6.0),  # how far the object stays from the edges of the frame that its quadrant touches
    "centre_y": (0.0, 6.0),
    "rest_x": (0.0, 1.0),  # where in its swing an axis stands that the motion does not move
    "rest_y": (0.0, 1.0),
    "heading": (0.0, 1.0),
    "start": (0.0, 1.0),
    "flash": (0.0, 1.0),  # phase of the light
    "noise": (0.0, 0.3),
    "place": (0.0, 1.0),  # which of the three other quadrants the second object is in
    "bar": (0.0, 1.0),  # phase of the bar that hides the object
    "instant": (0.0, 1.0),  # when a shot begins, within what it has to choose from
    "viewpoint": (0.0, 1.0),  # where on the camera's way a shot begins, of what is left of it
}
_PAN = 64.0  # pixels of a frame of 128 travelled over the clip at speed 1
_ZOOM = 0.7  # change of the scale over the clip at speed 1
_RIM = 2.5  # width of the object's outline
_DARK, _BRIGHT = 16.0, 240.0
_BESIDE = 0.7  # size of two objects in a frame, as a fraction of that of one: each stays in its quadrant
_CLOCK = 4.0  # height of the clock

Points = dict[str, int | float]
"""Nuisances as points of their grids."""


class SyntheticVideoConfig(PlantedConfig):
    """How many clips, of how many frames, of how many pixels a side; ``fps`` in frames per second.

    Switches that make it harder, or easier to cheat, all off by default. ``scene_motion``: the share of training videos
    whose motion is tied to the scene (in all others, and in val and test, it is independent). ``objects=2``: another
    object with factors of its own (``SECOND``) in another quadrant, bright where the first one is dark and the other
    way round. ``occlusion``: a bar of the background's mean colour hides the object for about this share of the frames.
    ``cuts``: how often the background's look and the camera's place change at once; the scene stays.
    ``watermark="clock"``: a bar along the lower edge grows with the number of the frame.
    """

    kind, version = "video", FORMAT_VERSION

    num_train: int = Field(default=480, ge=0)
    num_val: int = Field(default=0, ge=0)
    num_test: int = Field(default=240, ge=0)
    num_frames: int = Field(default=64, ge=2)
    size: int = Field(default=128, ge=32, multiple_of=2)
    fps: int = Field(default=24, ge=1)
    seed: int = Field(default=0, ge=0)
    scene_motion: float = Field(default=0.0, ge=0, le=1)
    objects: Literal[1, 2] = 1
    occlusion: float = Field(default=0.0, ge=0, le=0.9)
    cuts: int = Field(default=0, ge=0)
    watermark: Literal["none", "clock"] = "none"

    @model_validator(mode="after")
    def _check_cuts(self) -> SyntheticVideoConfig:
        if self.cuts and self.num_frames < 4 * (self.cuts + 1):
            most = max(0, self.num_frames // 4 - 1)
            raise ValueError(f"cuts={self.cuts}: expected at most {most} in num_frames={self.num_frames}")
        return self

    def factors(self) -> dict[str, tuple[str, ...]]:
        """The values of each factor."""
        return FACTORS | (SECOND if self.objects == 2 else {})


@dataclass(frozen=True)
class PlantedVideo(Planted):
    """One clip's truth. ``nuisances`` are points of their grids, and ``noise_seed``. Training takes even ones, test
    those that leave 1 when divided by 4, val those that leave 3. ``second``: the nuisances of the second object.
    ``cuts``: the first frame of each later shot, with its nuisances. ``box`` is the extent of the (first) object over
    the whole clip, in pixels."""

    nuisances: Points
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    second: Points | None = None
    cuts: tuple[tuple[int, Points], ...] = ()
    form: ClassVar[str] = "{:05d}.mp4"

    def row(self) -> tuple[Any, ...]:
        cuts = ("|".join(str(frame) for frame, _ in self.cuts),) if self.cuts else ()
        return *super().row(), *self.box, *cuts


def _value(points: Points, nuisance: str) -> float:
    """A nuisance in its own unit."""
    low, high = NUISANCES[nuisance]
    return low + (high - low) * (points[nuisance] / GRID)


def plan_video(config: SyntheticVideoConfig, split: str, index: int) -> PlantedVideo:
    """Draw the factors and nuisances of clip ``index`` of ``split``; ``DataError`` where there is no such clip."""
    factors = config.deal(config.factors(), split, index)
    if split == "train" and config.scene_motion:
        factors["motion"] = _tied_motions(config)[index]
    key = (config.seed, "synthetic-video", split, index)
    draft = PlantedVideo(split, index, factors, _draw(split, *key))
    if config.objects == 2:
        draft = replace(draft, second=_draw(split, *key, "second"))
    if config.cuts:
        shots = [_draw(split, *key, "shot", shot) for shot in range(1, config.cuts + 1)]
        part = config.num_frames / (config.cuts + 1)  # a shot begins within a quarter of this of its even share
        begin = [math.floor(part * (k + 0.5 * (_value(shot, "instant") - 0.5))) for k, shot in enumerate(shots, 1)]
        draft = replace(draft, cuts=tuple(zip(begin, shots, strict=True)))
    reach = []
    for x, y, radius, heading in _poses(config, factors, draft.nuisances):
        left, up, right, down = half_extent(factors["shape"], radius, heading)
        reach.append((x - left, y - up, x + right, y + down))
    # the soft edge of a tip ends less than a pixel beyond it
    x0, y0 = (max(0, math.floor(min(r[i] for r in reach))) for i in (0, 1))
    x1, y1 = (min(config.size, math.ceil(max(r[i] for r in reach)) + 1) for i in (2, 3))
    return replace(draft, box=(x0, y0, x1, y1))


def _draw(split: str, *key: Key) -> Points:
    """A point of each nuisance's grid among those of ``split``, and a ``noise_seed`` by the same rule."""
    step, first = {"train": (2, 0), "test": (4, 1), "val": (4, 3)}[split]
    raw = [int(r) for r in keyed_rng(*key).bit_generator.random_raw(len(NUISANCES) + 1)]
    points: Points = {name: r % (GRID // step) * step + first for name, r in zip(NUISANCES, raw, strict=False)}
    return points | {"noise_seed": (raw[-1] >> 3) * step + first}


@lru_cache(maxsize=8)
def _tied_motions(config: SyntheticVideoConfig) -> tuple[str, ...]:
    """The motions of all training videos: of a share ``scene_motion`` of them, dealt out in the order of the scenes.

    Each motion is as often there as without. There are 8 scenes for 6 motions: where all are tied, the scene tells 5 of
    6 motions.
    """
    dealt = [config.deal(FACTORS, "train", index) for index in range(config.num_train)]
    raw = keyed_rng(config.seed, "synthetic-video", "tied").bit_generator.random_raw(len(dealt))
    tied = sorted(np.argsort(raw, kind="stable")[: round(config.scene_motion * len(dealt))].tolist())
    motions = [factors["motion"] for factors in dealt]
    ranked = sorted((motions[i] for i in tied), key=MOTIONS.index)
    for i, motion in zip(sorted(tied, key=lambda i: SCENES.index(dealt[i]["scene"])), ranked, strict=True):
        motions[i] = motion
    return tuple(motions)


def _poses(
    config: SyntheticVideoConfig, factors: Mapping[str, str], points: Points
) -> Iterator[tuple[float, float, float, float]]:
    """Centre x, y and radius in pixels and heading in turns of an object, frame by frame."""
    unit = config.size / 128.0 * (_BESIDE if config.objects == 2 else 1.0)
    radius, amplitude = _value(points, "radius") * unit, _value(points, "amplitude") * unit
    vertical, horizontal = factors["region"].split("_")
    inset = radius * REACH + amplitude + 0.5 * unit
    x, y = inset + _value(points, "centre_x") * unit - 0.5, inset + _value(points, "centre_y") * unit - 0.5
    x = x if horizontal == "left" else config.size - 1.0 - x
    y = y if vertical == "top" else config.size - 1.0 - y
    heading, period = _value(points, "heading"), PERIOD[factors["tempo"]]
    rest = (_value(points, "rest_x"), _value(points, "rest_y"))
    for t in range(config.num_frames):
        phase = _value(points, "start") + t / period
        dx, dy, r, angle = pose(factors["motion"], phase, amplitude, radius, heading, rest)
        yield x + dx, y + dy, r, angle


def flashes(config: SyntheticVideoConfig, video: PlantedVideo) -> list[str]:
    """How the light on the background is: "bright", "dark" or "", as usual, for each frame."""
    first, then = video.factors["order"].split("_then_")
    cycle = [first] * FLASH + [then] * FLASH + [""] * (FLASH_PERIOD - 2 * FLASH)
    start = math.floor(_value(video.nuisances, "flash") * FLASH_PERIOD)
    return [cycle[(start + t) % FLASH_PERIOD] for t in range(config.num_frames)]


def _camera(config: SyntheticVideoConfig, video: PlantedVideo, extent: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of the canvas seen by the camera, frame by frame. In a single shot it looks straight at the
    middle of the canvas mid-clip; one of several begins anywhere on the same way."""
    camera, size, speed = video.factors["camera"], config.size, _value(video.nuisances, "speed")
    grid, middle = np.arange(size) - 0.5 * (size - 1), 0.5 * (extent - 1)
    pan = {"pan_left": -1.0, "pan_right": 1.0}.get(camera, 0.0) * _PAN * size / 128.0 * speed
    zoom = {"zoom_in": -1.0, "zoom_out": 1.0}.get(camera, 0.0) * _ZOOM * speed
    last, shots = config.num_frames - 1, [(0, video.nuisances), *video.cuts]
    ends = [frame for frame, _ in video.cuts] + [config.num_frames]
    for (begin, points), end in zip(shots, ends, strict=True):
        spare = (last - (end - 1 - begin)) / last
        for t in range(begin, end):
            tau = (t - begin) / last - 0.5 + spare * _value(points, "viewpoint")
            rows = np.floor(middle + grid * (1.0 + zoom * tau) + 0.5)
            yield rows.astype(np.intp), np.floor(rows + pan * tau + 0.5).astype(np.intp)


@dataclass(frozen=True)
class _Paint:
    """The colours of an object, in 0..255."""

    body: np.ndarray
    line: float
    """Of the outline and the marking."""

    def put(self, frame: np.ndarray, shape: str, at: tuple[float, float, float, float], rim: float) -> None:
        """Draw an object on one frame, in place, touching only the pixels around it."""
        x, y, radius, heading = at
        reach = radius * REACH + 2.0
        x0, y0 = max(0, int(x - reach)), max(0, int(y - reach))
        part = frame[y0 : int(y + reach) + 2, x0 : int(x + reach) + 2]
        dx, dy = np.arange(x0, x0 + part.shape[1])[None, :] - x, np.arange(y0, y0 + part.shape[0])[:, None] - y
        outer, inner, marking = (a[..., None] for a in coverage(shape, dx, dy, radius, heading, rim))
        colour = part + outer * (self.line - part)
        colour = colour + inner * (self.body - colour)
        colour = colour + marking * (self.line - colour)
        part[...] = np.floor(colour + 0.5).astype(np.uint8)


def _canvas(config: SyntheticVideoConfig, scene: str, points: Points, rng: np.random.Generator) -> np.ndarray:
    """The background of one shot, larger than the frame."""
    contrast = _value(points, "contrast")
    look = Look(
        hue=_value(points, "hue"),
        chroma=_value(points, "chroma"),
        brightness=_value(points, "brightness"),
        contrast=12.0 * contrast + (20.0 if contrast >= 0 else -20.0),
        angle=_value(points, "angle"),
        period=_value(points, "period") * config.size / 128.0,
        phase=(_value(points, "phase_x"), _value(points, "phase_y")),
    )
    return canvas(scene, look, config.size * 7 // 4, rng)


def _bright(points: Points) -> _Paint:
    return _Paint(180.0 + 70.0 * hue_rgb(_value(points, "object_hue")), _DARK)


def _dark(points: Points) -> _Paint:
    return _Paint(_DARK + 40.0 * hue_rgb(_value(points, "object_hue")), _BRIGHT)


def _second(config: SyntheticVideoConfig, video: PlantedVideo) -> dict[str, str]:
    """The shape, motion, tempo and region of the second object."""
    assert video.second is not None
    regions = FACTORS["region"]
    step = 1 + math.floor(_value(video.second, "place") * (len(regions) - 1))
    region = regions[(regions.index(video.factors["region"]) + step) % len(regions)]
    return {name.removeprefix("second_"): video.factors[name] for name in SECOND} | {"region": region}


def render(config: SyntheticVideoConfig, video: PlantedVideo) -> np.ndarray:
    """The frames of a clip before encoding, uint8 [T, H, W, 3]: a function of ``video`` and the switches alone, to the
    bit."""
    size, rim, points = config.size, _RIM * config.size / 128.0, video.nuisances
    rng = keyed_rng("synthetic-video-pixels", int(points["noise_seed"]))
    shots = {0: points} | dict(video.cuts)
    canvases = {frame: _canvas(config, video.factors["scene"], own, rng) for frame, own in shots.items()}
    paint, background, extent = _bright(points), canvases[0], len(canvases[0])
    levels = np.arange(256)
    bits = (levels & 3) + ((levels >> 2) & 3) + ((levels >> 4) & 3) + (levels >> 6)  # four fair dice of 0 to 3
    noise = np.floor((bits - 6) * _value(points, "noise") + 0.5).astype(np.int16)[:, None]
    frames = np.empty((config.num_frames, size, size, 3), np.uint8)
    views, poses = _camera(config, video, extent), _poses(config, video.factors, points)
    others: Iterator[tuple[float, float, float, float]] = iter(())
    if video.second is not None:
        second, inverse = _second(config, video), _dark(video.second)
        others = _poses(config, second, video.second)
    for t, (view, at, flash) in enumerate(zip(views, poses, flashes(config, video), strict=True)):
        background = canvases.get(t, background)
        gain = FLASH_GAIN[flash] + _value(points, "drift") * (2.0 * t / (config.num_frames - 1) - 1.0)
        light = np.minimum(np.floor(levels * gain + 0.5), 255.0).astype(np.uint8)
        frame = light[background.take(view[0], 0).take(view[1], 1)]
        paint.put(frame, video.factors["shape"], at, rim)
        if video.second is not None:
            inverse.put(frame, second["shape"], next(others), rim)
        if config.occlusion:
            _hide(config, video, frame, t, light[_mean_colour(background)])
        grains = rng.bit_generator.random_raw((size * size + 7) // 8).astype("<u8").view(np.uint8)[: size * size]
        np.clip(frame + noise[grains].reshape(size, size, 1), 0, 255, out=frames[t], casting="unsafe")
    if config.watermark == "clock":
        _clock(frames)
    return frames


def _mean_colour(image: np.ndarray) -> np.ndarray:
    """The mean of a picture's pixels, uint8 [3]."""
    return (image.sum((0, 1), dtype=np.int64) // (image.shape[0] * image.shape[1])).astype(np.uint8)


def _hide(config: SyntheticVideoConfig, video: PlantedVideo, frame: np.ndarray, t: int, colour: np.ndarray) -> None:
    """Draw the bar on frame ``t``, in place: it crosses the object's box from left to right once a clip. The wider it
    is, the longer it hides the middle."""
    x0, y0, x1, y1 = video.box
    width = (x1 - x0) * config.occlusion / (1.0 - config.occlusion)
    way = _value(video.nuisances, "bar") + t / config.num_frames
    right = x0 + math.floor((way - math.floor(way)) * (x1 - x0 + width) + 0.5)
    left = math.floor(right - width + 0.5)
    frame[y0:y1, max(x0, left) : min(x1, right)] = colour


def _clock(frames: np.ndarray) -> None:
    """Draw a clock on frames [T, H, W, 3], in place: along the lower edge a bright part that grows from nothing to the
    whole width, dark beyond."""
    count, height, width, _ = frames.shape
    high = math.ceil(_CLOCK * height / 128.0)
    for t in range(count):
        frames[t, height - high :] = int(_DARK)
        frames[t, height - high :, : math.floor(width * t / (count - 1) + 0.5)] = int(_BRIGHT)


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
    """Write the data set under ``root`` and return ``root``: clips as ``train/*.mp4``, ``val/*.mp4`` and
    ``test/*.mp4``, and ``factors.csv`` with the truth of each (of videos with ``cuts`` also ``cut_frames``, the first
    frame of each later shot, as "20|41"); see ``write_planted``."""
    columns = ("path", "split", *config.factors(), "x0", "y0", "x1", "y1", *(["cut_frames"] if config.cuts else []))
    return write_planted(root, config, {}, plan_video, _make, num_workers, progress, columns)
