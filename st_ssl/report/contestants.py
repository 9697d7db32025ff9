"""Who is compared and by what: the names that people read in tables, figures and sentences, and the markers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from st_ssl.report.figures import ACCENT, INK
from st_ssl.transfer.probes.scores import FIRST


@dataclass(frozen=True)
class Contestant:
    """``name`` in columns and sentences, what it is ``about``, ``marker`` and ``fill`` as matplotlib takes them, and
    the ``sign`` for them in a legend ("" for a dot)."""

    name: str
    about: str = ""
    marker: str = "s"
    fill: str = INK
    sign: str = "■"


CONTESTANTS = {
    "pretrained": Contestant("pretrained", "", "o", ACCENT, ""),
    "random": Contestant("untrained", "the same network at random initialisation", "o", "none", ""),
    "raw": Contestant("raw pixels", "4 frames of 8 × 8", "x", INK, "×"),
    "frames": Contestant("pooled frames", "the mean frame, 16 × 16 pixels"),
    "differences": Contestant("frame differences", "what changes from frame to frame, in 8 × 8 cells", "^", INK, "▲"),
    "coordinates": Contestant("coordinates", "of 64 points, in the order of a curve through space", "x", INK, "×"),
    "occupancy": Contestant("occupancy", "shares of the points in 6 × 6 × 6 cells"),
    "histograms": Contestant(
        "shape distributions", "histograms of distances, angles, areas and volumes between points", "^", INK, "▲"
    ),
    "metadata": Contestant("file metadata", "what the file says of itself, such as its length", "|", INK, "|"),
}
NAMES = {who: one.name for who, one in CONTESTANTS.items()}


@dataclass(frozen=True)
class Key:
    """One entry of a legend: the class of its dot in the page, or a ``sign`` instead, and what it ``means``."""

    dot: str
    sign: str
    means: str


def contestant(who: str) -> Contestant:
    """The one of this key; a square for what is not known."""
    return CONTESTANTS.get(who) or Contestant(who)


def called(who: str) -> str:
    """The name of a contestant for people."""
    return contestant(who).name


def listed(names: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def keys(names: Iterable[str]) -> list[Key]:
    """The legend of those who are in a figure, each once."""
    dots = {"pretrained": "ours", "random": "hollow"}
    shown = {name: contestant(name) for name in names}
    return [
        Key(dots.get(name, ""), one.sign, f"{one.name}: {one.about}" if one.about else one.name)
        for name, one in shown.items()
    ]


def line_of(who: str) -> dict[str, Any]:
    """How the figures of one contestant are drawn: those of the baselines without a line."""
    shown, line = contestant(who), "-" if who in FIRST else "none"
    colour = ACCENT if who == "pretrained" else INK
    return {"color": colour, "marker": shown.marker, "mfc": shown.fill, "linestyle": line, "ms": 4, "mew": 0.9}
