"""What a detector found in test sweeps: boxes beside the true ones, where it finds them, and which it missed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from st_ssl.core.boxes import Boxes
from st_ssl.report.box_edges import box_edges
from st_ssl.report.clouds import Eye
from st_ssl.report.curves import Panel
from st_ssl.report.figures import PALETTE, draw
from st_ssl.report.scenes import Cloud, Scene, choose
from st_ssl.transfer.detection.average_precision import DetectionMeter

SURE = 0.3  # the least score of a box that is drawn
MISSED = 12  # boxes in the table
GROUND = (0.62, 0.64, 0.67)
LINES = {"true": (0.15, 0.62, 0.3), "neither right nor wrong": (0.75, 0.72, 0.5), "found": (0.93, 0.45, 0.1)}
"""The colours of boxes."""
EYE = Eye(90, 55)  # from behind and above, so that ahead is up

Row = tuple[str, list[str]]


@dataclass(frozen=True)
class Detected:
    """``panels``: precision over recall. Tables with the average precision and the recall of each class ``by_range``
    and ``by_points``: heads, then rows of a name and cells. ``missed``: the boxes with the most points that were not
    found (class, points, metres away, drive, sweep). ``scenes`` of sweeps with their boxes."""

    panels: list[Panel]
    by_range: tuple[list[str], list[Row]]
    by_points: tuple[list[str], list[Row]]
    missed: list[tuple[str, int, str, str, int]]
    scenes: list[Scene] = field(default_factory=list)


def detected(folder: Path) -> Detected:
    """What is to be shown of the predictions in ``folder``. Raises what reading them raises."""
    about = json.loads((folder / "about.json").read_text())
    classes = [str(name) for name in json.loads((folder / "classes.json").read_text())]
    with np.load(folder / "boxes.npz", allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    sweeps = {int(number): (str(path), int(at)) for number, (path, at) in about["sweeps"].items()}
    meter = DetectionMeter(classes, about["overlaps"], about["overlap_of"])
    pairs = {number: _boxes(arrays, number) for number in sweeps}
    for found, true in pairs.values():
        meter.add(found, true)
    order = list(sweeps)
    missed = []
    for name in classes:
        for place, box, points in meter.missed(name, MISSED):
            number = order[place]
            away = f"{float(np.linalg.norm(pairs[number][1].values[box, :2])):.0f}"
            missed.append((name, points, away, Path(sweeps[number][0]).name, sweeps[number][1]))
    missed = sorted(missed, key=lambda row: -row[1])[:MISSED]
    scenes = [
        _scene(folder / f"{number:04d}.npz", f"{Path(path).name}, sweep {at}", *pairs[number])
        for number, (path, at) in sweeps.items()
        if (folder / f"{number:04d}.npz").is_file()
    ]
    tables = [_table(classes, {name: of(name) for name in classes}) for of in (meter.by_range, meter.by_points)]
    return Detected([_curves(meter, classes)], tables[0], tables[1], missed, scenes)


def _boxes(arrays: dict[str, np.ndarray], number: int) -> tuple[Boxes, Boxes]:
    """The boxes found in a sweep, and the true ones."""
    own, true = arrays["sweep"] == number, arrays["true_sweep"] == number
    found = Boxes(arrays["values"][own], arrays["classes"][own], {"score": arrays["score"][own]})
    facts = {"points": arrays["true_points"][true]}
    return found, Boxes(arrays["true_values"][true], arrays["true_classes"][true], facts)


def _curves(meter: DetectionMeter, classes: list[str]) -> Panel:
    """Precision over recall of every class."""

    def paint(axis: Any) -> None:
        for name, colour in zip(classes, PALETTE * len(classes), strict=False):
            recall, precision = meter.curve(name)
            if len(recall):
                axis.plot(100 * recall, 100 * precision, color=colour, label=f"{name} {meter.ap(name):.1f}")
        axis.set_xlim(0, 100)
        axis.set_ylim(0, 103)
        axis.set_xlabel("recall, %")
        axis.set_ylabel("precision, %")
        axis.grid(axis="y")
        if axis.lines:
            axis.legend(frameon=False, loc="lower left")

    told = ", ".join(f"{name} {meter.ap(name):.1f}" for name in classes)
    note = "Behind each class its average precision: the area below the best precision at each recall or a higher one."
    return Panel("Precision and recall", "", draw(3.4, 2.2, paint, f"average precision: {told}"), note)


def _table(classes: list[str], of: dict[str, dict[str, tuple[float, float, int]]]) -> tuple[list[str], list[Row]]:
    """Heads, and a row for each class: average precision / recall (count)."""
    rows = []
    for name in classes:
        cells = [f"{ap:.1f} / {recall:.1f} ({count})" if count else "–" for ap, recall, count in of[name].values()]
        rows.append((name, cells))
    return list(of[classes[0]]), rows


def _scene(file: Path, name: str, found: Boxes, true: Boxes) -> Scene:
    """The sweep with its true boxes, and with those found, to turn."""
    with np.load(file, allow_pickle=False) as stored:
        xyz = stored["xyz"]
    xyz = xyz[choose(xyz, unit_sphere=False)]
    sure = found.take(found.facts["score"] >= SURE)
    known = np.isfinite(true.values[:, :7]).all(1)
    true_colour, ignored, found_colour = LINES.values()
    layers = {
        "truth": [
            (true.values[known & (true.classes >= 0)], true_colour),
            (true.values[known & (true.classes < 0)], ignored),
        ],
        "found": [(sure.values, found_colour)],
    }
    told = {
        "truth": f"{int((true.classes >= 0).sum())} boxes",
        "found": f"{len(sure)} boxes with a score of {SURE:g} or more",
    }
    clouds = []
    for what, boxes in layers.items():
        edges = [box_edges(values) for values, _ in boxes]
        colours = [np.tile(colour, (len(own), 1)) for own, (_, colour) in zip(edges, boxes, strict=True)]
        places = np.concatenate([xyz, *edges])
        colour = np.concatenate([np.tile(GROUND, (len(xyz), 1)), *colours])
        clouds.append(Cloud([what, told[what]], places, colour))
    return Scene(name, [], clouds, EYE)
