"""Procedural background textures, in arithmetic that gives the same bits on every machine (see ``shapes2d``)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from st_ssl.data.synthetic.shapes2d import direction

Array = np.ndarray
_LATTICE = 32  # the random lattice of the clouds repeats after this many cells


@dataclass(frozen=True)
class Look:
    """How one clip shows its scene: colours in 0..255, hues and angles in turns, lengths in pixels."""

    hue: float
    chroma: float
    brightness: float
    contrast: float
    angle: float
    period: float
    phase: tuple[float, float]


def _wave(x: Array) -> Array:
    """A triangle wave of period 1 between -0.5 (at the integers) and 0.5."""
    return 0.5 - np.abs(2.0 * (x - np.floor(x)) - 1.0)


def _step(x: Array, sharpness: float = 9.0) -> Array:
    return np.clip(0.5 + x * sharpness, 0.0, 1.0)


def _clouds(u: Array, v: Array, lattice: Array) -> Array:
    """Value noise in [0, 1]: a random lattice of one cell per unit, interpolated with smoothstep weights."""
    iu, iv = np.floor(u), np.floor(v)
    fu, fv = u - iu, v - iv
    wu, wv = fu * fu * (3.0 - 2.0 * fu), fv * fv * (3.0 - 2.0 * fv)
    a, b = iu.astype(np.int64) % _LATTICE, iv.astype(np.int64) % _LATTICE
    c, d = (a + 1) % _LATTICE, (b + 1) % _LATTICE
    top = lattice[b, a] + wu * (lattice[b, c] - lattice[b, a])
    bottom = lattice[d, a] + wu * (lattice[d, c] - lattice[d, a])
    return top + wv * (bottom - top)


def _stripes(u: Array, v: Array, lattice: Array) -> Array:
    return _step(_wave(u), 4.0)


def _checks(u: Array, v: Array, lattice: Array) -> Array:
    return _step(_wave(0.6 * u) * _wave(0.6 * v), 16.0)


def _dots(u: Array, v: Array, lattice: Array) -> Array:
    x, y = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    return _step(0.31 - np.sqrt(x * x + y * y))


def _rings(u: Array, v: Array, lattice: Array) -> Array:
    return _step(_wave(np.sqrt(u * u + v * v)), 4.0)


def _zigzag(u: Array, v: Array, lattice: Array) -> Array:
    return _step(_wave(u + 0.9 * _wave(0.6 * v)), 4.0)


def _bricks(u: Array, v: Array, lattice: Array) -> Array:
    row = np.floor(v)
    along = 0.5 * u + 0.5 * (row - 2.0 * np.floor(0.5 * row))
    return _step(np.minimum(1.0 + 2.0 * _wave(along), 0.5 + _wave(v)) * 0.5 - 0.12, 14.0)


def _mottle(u: Array, v: Array, lattice: Array) -> Array:
    return _step(_clouds(1.5 * u, 1.5 * v, lattice) - 0.5, 7.0)


def _lattice(u: Array, v: Array, lattice: Array) -> Array:
    x, y = 0.7 * u, 0.6062177826491071 * v
    lines = np.minimum(_wave(x), np.minimum(_wave(0.5 * x + y), _wave(0.5 * x - y)))
    return _step(lines + 0.3, 6.0)


# scene -> (texture, gap between the hues of its two tones in turns): a palette is a relation between tones, because the
# hue itself is a nuisance
_SCENES: dict[str, tuple[Callable[[Array, Array, Array], Array], float]] = {
    "stripes": (_stripes, 0.125),
    "checks": (_checks, 0.25),
    "dots": (_dots, 0.375),
    "rings": (_rings, 0.5),
    "zigzag": (_zigzag, 0.5),
    "bricks": (_bricks, 0.375),
    "mottle": (_mottle, 0.25),
    "lattice": (_lattice, 0.125),
}
SCENES = tuple(_SCENES)


def hue_rgb(hue: float) -> Array:
    """The pure colour of a hue in turns as RGB in [0, 1], piecewise linear."""
    sixths = 6.0 * (hue + np.array([0.0, 2.0, 1.0]) / 3.0)
    sixths = sixths - 6.0 * np.floor(sixths / 6.0)
    return np.clip(np.abs(sixths - 3.0) - 1.0, 0.0, 1.0)


def canvas(scene: str, look: Look, size: int, rng: np.random.Generator) -> Array:
    """The background of ``scene`` as uint8 [size, size, 3], two tones mixed by its texture.

    Weak clouds lie over every texture, so that a shift along its stripes is still visible.
    """
    texture, gap = _SCENES[scene]
    raw = rng.bit_generator.random_raw(_LATTICE * _LATTICE)
    lattice = (raw >> np.uint64(40)).reshape(_LATTICE, _LATTICE).astype(np.float64) / 2.0**24
    grid = (np.arange(size) - 0.5 * (size - 1)) / look.period
    c, s = direction(look.angle)
    x, y = grid[None, :], grid[:, None]
    u, v = c * x + s * y + 4.0 * (look.phase[0] - 0.5), c * y - s * x + 4.0 * (look.phase[1] - 0.5)
    mix = 0.8 * texture(u, v, lattice) + 0.2 * _clouds(0.9 * v + 7.0, 0.9 * u + 3.0, lattice)
    first = look.brightness + look.contrast + look.chroma * (hue_rgb(look.hue) - 0.5)
    second = look.brightness - look.contrast + look.chroma * (hue_rgb(look.hue + gap) - 0.5)
    colour = second + mix[..., None] * (first - second)
    return np.floor(np.clip(colour, 0.0, 255.0) + 0.5).astype(np.uint8)
