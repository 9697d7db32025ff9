"""The page about the boxes of a log: what was found in them, and sweeps with their boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from st_ssl.core.boxes import Boxes
from st_ssl.data.box_checks import BoxReport, Finding, Frame, Row
from st_ssl.ops.boxes import points_in_boxes
from st_ssl.report.box_edges import box_edges
from st_ssl.report.clouds import Eye
from st_ssl.report.figures import require_matplotlib
from st_ssl.report.scenes import Cloud, Scene, choose
from st_ssl.report.templates import templates, write_page
from st_ssl.report.turnable import turnable, viewer_script

GROUND = (0.62, 0.64, 0.67)
LINES = {"holds points": (0.15, 0.62, 0.3), "holds none": (0.85, 0.25, 0.2), "of no class": (0.75, 0.72, 0.5)}
"""The colours of boxes."""
SHOWN = 6
"""Sweeps on a page."""
_EYE = Eye(90, 55)  # from behind and above, so that ahead is up
_LARGEST = 60.0  # metres: a larger box would be all that is seen
_BEYOND = 1.5  # times as far as the farthest point is not drawn


@dataclass(frozen=True)
class _Range:
    """What a table says of the boxes of a class in a range."""

    boxes: int
    empty: str
    points: str


def examples(report: BoxReport, names: Sequence[str]) -> list[str]:
    """Which of the sweeps ``names`` to show: those that findings name, and others evenly spread."""
    named = [finding.example[0] for finding in report.findings if finding.example is not None]
    spread = [names[place] for place in np.linspace(0, len(names) - 1, SHOWN).astype(int)] if names else []
    return list(dict.fromkeys([*named, *spread]))[:SHOWN]


def write_box_page(frames: Sequence[Frame], report: BoxReport, output: Path, title: str = "Boxes of a log") -> Path:
    """Write the page of a ``report`` to ``output`` and return it; ``frames`` are those to show, as from ``examples``.
    Raises ``MissingDependencyError`` without the extra ``viz``."""
    require_matplotlib()
    mended = [finding for finding in report.mistakes if finding.repair is not None]
    heads = list(dict.fromkeys((row.near, row.far) for row in sorted(report.rows, key=lambda row: row.near)))
    by_class: dict[str, dict[tuple[float, float], _Range]] = {}
    for row in report.rows:
        by_class.setdefault(row.name, {})[row.near, row.far] = _cell(row)
    text = templates().get_template("boxes.html").render(
        title=title,
        report=report,
        heads=[(head, f"{head[0]:g} m or more" if np.isinf(head[1]) else f"{head[0]:g} to {head[1]:g} m")
               for head in heads],
        by_class=by_class,
        legend=[(name, f"rgb({', '.join(f'{255 * part:.0f}' for part in colour)})") for name, colour in LINES.items()],
        scenes=[turnable(_scene(frame, mended)) for frame in frames],
        script=viewer_script(),
    )  # fmt: skip
    return write_page(text, output)


def _cell(row: Row) -> _Range:
    return _Range(row.boxes, f"{100 * row.empty / row.boxes:.0f} %", f"{row.points:.0f}")


def _scene(frame: Frame, mended: Sequence[Finding]) -> Scene:
    """A sweep with its boxes as they are, and beside it with those that the findings would make of them."""
    name, xyz, boxes = frame
    clouds = [_cloud("as given", xyz, boxes)]
    if mended:
        for finding in mended:
            assert finding.repair is not None
            boxes = finding.repair(boxes)
        clouds.append(_cloud("as they should be, by the guess", xyz, boxes))
    return Scene(name, [], clouds, _EYE)


def _cloud(what: str, xyz: np.ndarray, boxes: Boxes) -> Cloud:
    values = boxes.values[:, :7].astype(np.float64)
    sound = np.isfinite(values).all(1) & (values[:, 3:6] > 0).all(1)
    reach = _BEYOND * np.hypot(xyz[:, 0], xyz[:, 1]).max(initial=0)
    drawn = sound & (values[:, 3:6] < _LARGEST).all(1) & (np.hypot(values[:, 0], values[:, 1]) < reach)
    drawn &= np.abs(values[:, 2]) < reach
    own, known = values[drawn], boxes.classes[drawn] >= 0
    holds = points_in_boxes(torch.from_numpy(xyz), torch.from_numpy(own).to(torch.float32)).any(0).numpy()
    edges = [box_edges(own[which]) for which in (known & holds, known & ~holds, ~known)]
    shown = xyz[choose(xyz, unit_sphere=False)]
    colours = [np.tile(colour, (len(places), 1)) for places, colour in zip(edges, LINES.values(), strict=True)]
    told = f"{len(values)} boxes"
    if not drawn.all():
        told += f", {len(values) - int(drawn.sum())} of which are far out, huge or nonsense, and not drawn"
    places = np.concatenate([shown, *edges])
    return Cloud([what, told], places, np.concatenate([np.tile(GROUND, (len(shown), 1)), *colours]))
