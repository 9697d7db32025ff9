"""Scenes in the page: what ``viewer.js`` reads, and the still picture that stands there without scripts."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from st_ssl.report.clouds import FINE, draw, place, shrink
from st_ssl.report.figures import Picture, encode_picture
from st_ssl.report.scenes import Links, Scene

if TYPE_CHECKING:
    from markupsafe import Markup

_SIZE = 200  # pixels a side of a cloud's still
_RANGE = 4.0  # radii from the middle that a stored coordinate reaches; what is farther is left at the rim


@dataclass(frozen=True)
class Turnable:
    """A scene for the page: captions of its clouds and, in base64, ``clouds`` and ``links`` as ``viewer.js`` takes
    them: of each cloud int16 [N, 3] places ("=" where they are those of the cloud before) and uint8 [N, 3] colours;
    int16 [K, 2, 3] ends of links and uint8 [K, 3] colours."""

    name: str
    labels: list[tuple[str, str]]
    captions: list[list[str]]
    clouds: str
    links: str
    eye: str
    still: Picture


def turnable(scene: Scene) -> Turnable:
    """``scene`` as it goes into the page."""
    parts, before = [], None
    frames = scene.frames()
    for cloud, (middle, radius) in zip(scene.clouds, frames, strict=True):
        same = before is not None and cloud.xyz is before
        parts.append(f"{'=' if same else _text(_steps((cloud.xyz - middle) / radius))}:{_text(_bytes(cloud.colour))}")
        before = cloud.xyz if scene.shared else None
    links = ""
    if scene.links is not None:
        ends = np.stack(_ends(scene.links, frames), axis=1)
        links = f"{_text(_steps(ends))}:{_text(_bytes(scene.links.colour))}"
    captions = [cloud.caption for cloud in scene.clouds]
    eye = f"{scene.eye.turn:g},{scene.eye.tilt:g}"
    return Turnable(scene.name, scene.labels, captions, ",".join(parts), links, eye, still(scene))


def still(scene: Scene) -> Picture:
    """The clouds of a scene side by side in one picture."""
    size, frames = FINE * _SIZE, scene.frames()
    most = max(len(cloud.xyz) for cloud in scene.clouds)
    pictures = [
        draw((cloud.xyz - middle) / radius, cloud.colour, scene.eye, size, most)
        for cloud, (middle, radius) in zip(scene.clouds, frames, strict=True)
    ]
    picture = shrink(np.concatenate(pictures, axis=1))
    if scene.links is not None:
        picture = _with_links(picture, scene, frames)
    captions = ", ".join(cloud.caption[0] for cloud in scene.clouds)
    return encode_picture(picture, len(pictures), f"{captions} of {scene.name}")


def _with_links(picture: np.ndarray, scene: Scene, frames: list[tuple[np.ndarray, float]]) -> np.ndarray:
    from PIL import Image, ImageDraw

    assert scene.links is not None
    lines = Image.new("RGBA", (FINE * picture.shape[1], FINE * picture.shape[0]))
    brush = ImageDraw.Draw(lines)
    first, second = (place(ends, scene.eye, FINE * _SIZE)[:, :2] for ends in _ends(scene.links, frames))
    for (x, y), (u, v), colour in zip(first, second, _bytes(scene.links.colour), strict=True):
        brush.line([(x, y), (u + FINE * _SIZE, v)], fill=(*colour.tolist(), 190), width=FINE)
    below = Image.fromarray(picture, "RGBA")
    return np.asarray(Image.alpha_composite(below, lines.resize(below.size, Image.Resampling.LANCZOS)))


def _ends(links: Links, frames: list[tuple[np.ndarray, float]]) -> list[np.ndarray]:
    return [
        (ends - middle) / radius for ends, (middle, radius) in zip((links.start, links.end), frames[:2], strict=True)
    ]


def _steps(points: np.ndarray) -> np.ndarray:
    """Places in radii from the middle to int16."""
    return (points * (32767 / _RANGE)).round().clip(-32767, 32767).astype("<i2")


def _bytes(colour: np.ndarray) -> np.ndarray:
    return (255 * colour).round().clip(0, 255).astype(np.uint8)


def _text(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


@cache
def viewer_script() -> tuple[Markup, str]:
    """The viewer, and its hash as the page's content security policy names it: nothing else may run."""
    from markupsafe import Markup

    text = files("st_ssl.report").joinpath("viewer.js").read_text(encoding="utf-8")
    return Markup(text), "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
