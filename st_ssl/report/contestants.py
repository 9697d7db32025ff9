"""Who is compared in figures of probes and retrieval: a marker for each, and what it stands for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from st_ssl.report.figures import ACCENT, INK


@dataclass(frozen=True)
class Contestant:
    """``marker`` and ``fill`` as matplotlib takes them, the ``sign`` for them in a legend ("" for a dot) and what it
    ``means``."""

    marker: str
    fill: str
    sign: str
    means: str


CONTESTANTS = {
    "pretrained": Contestant("o", ACCENT, "", "pretrained"),
    "random": Contestant("o", "none", "", "random init"),
    "raw": Contestant("x", INK, "×", "raw: pixels, 4 frames of 8 × 8"),
    "frames": Contestant("s", INK, "■", "frames: the mean frame, 16 × 16 pixels"),
    "differences": Contestant("^", INK, "▲", "differences: of frames, in 8 × 8 cells"),
    "coordinates": Contestant("x", INK, "×", "coordinates: of 64 points, in the order of a curve through space"),
    "occupancy": Contestant("s", INK, "■", "occupancy: shares of the points in 6 × 6 × 6 cells"),
    "histograms": Contestant("^", INK, "▲", "histograms: of distances, angles, areas and volumes between points"),
    "metadata": Contestant("|", INK, "|", "metadata: what the file says of itself, such as its length"),
}


@dataclass(frozen=True)
class Key:
    """One entry of a legend: the class of its dot in the page, or a ``sign`` instead, and what it ``means``."""

    dot: str
    sign: str
    means: str


def contestant(name: str) -> Contestant:
    """The one of this name; a square for what is not known."""
    return CONTESTANTS.get(name) or Contestant("s", INK, "■", name)


def keys(names: Iterable[str]) -> list[Key]:
    """The legend of those who are in a figure, each once."""
    dots = {"pretrained": "ours", "random": "hollow"}
    shown = {name: contestant(name) for name in names}
    return [Key(dots.get(name, ""), one.sign, one.means) for name, one in shown.items()]
