"""What fine-tuning brought: figures of each mode, and what the network said of test samples beside the truth."""

from __future__ import annotations

import colorsys
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from st_ssl.core.errors import DataError
from st_ssl.report.clouds import by_height
from st_ssl.report.detected import LINES, Detected, detected
from st_ssl.report.figures import PALETTE
from st_ssl.report.finetune_tables import FigureTable, figure_tables
from st_ssl.report.folder import RunFolder
from st_ssl.report.recognised import Recognised, recognised
from st_ssl.report.scenes import Cloud, Scene, choose, eye_for

SHOWN = 8  # clouds
RIGHT, WRONG, UNKNOWN = (0.72, 0.74, 0.77), (0.86, 0.16, 0.16), (0.86, 0.87, 0.89)


@dataclass(frozen=True)
class Finetuned:
    """``tables`` of what was measured; which fit predictions are of (``about``): ``scenes`` of test clouds and the
    colours (name, colour) of the classes in them, what was ``recognised`` in test videos, or ``detected`` in sweeps."""

    tables: list[FigureTable] = field(default_factory=list)
    scenes: list[Scene] = field(default_factory=list)
    about: str = ""
    legend: list[tuple[str, str]] = field(default_factory=list)
    recognised: Recognised | None = None
    detected: Detected | None = None


def finetuned(run: RunFolder) -> Finetuned | None:
    """What ``finetune`` left in the folder of a run, with the predictions written last; None where it was not
    fine-tuned. Raises ``DataError`` for a file that is not such a result."""
    tables = [table for file in sorted((run.directory / "finetune").glob("*.json")) for table in figure_tables(file)]
    kept = sorted((run.directory / "finetune").glob("*_predictions/about.json"))
    if not kept:
        return Finetuned(tables) if tables else None
    folder = max(kept, key=lambda file: file.stat().st_mtime).parent
    try:
        about = json.loads((folder / "about.json").read_text())
        told = f"{about['task']}, {about['mode']}, {100 * about['fraction']:g} % of the labels"
        if not run.of_clouds:
            return Finetuned(tables, about=told, recognised=recognised(folder))
        if (folder / "boxes.npz").is_file():
            boxes = detected(folder)
            return Finetuned(tables, boxes.scenes, told, LEGEND, detected=boxes)
        classes = [str(name) for name in json.loads((folder / "classes.json").read_text())]
        clouds = {name: _load(folder / name) for name in list(about["clouds"])[:SHOWN]}
        sphere = run.config.input.unit_sphere
        scenes = [_scene(Path(about["clouds"][n]).name, arrays, classes, sphere) for n, arrays in clouds.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(f"{folder}: not the predictions of a fine-tuned network: {error!r}") from error
    there = [arrays[name].ravel() for arrays in clouds.values() for name in ("label", "prediction")]
    seen = np.unique(np.concatenate(there)) if there else np.zeros(0, int)
    colours = class_colours(len(classes))
    legend = [(classes[i], _hex(colours[i])) for i in seen.tolist() if i >= 0]
    whole = any(arrays["label"].ndim == 0 for arrays in clouds.values())
    return Finetuned(tables, scenes, told, [] if whole else legend)


def _load(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as stored:
        return {name: stored[name] for name in ("xyz", "label", "prediction")}


def _near(xyz: np.ndarray, sphere: bool) -> np.ndarray:
    """Places as they are drawn, float32 [N, 3]: near the origin, or on the unit ``sphere``."""
    middle = xyz.mean(0) if sphere else np.floor(xyz.min(0)) * (np.abs(xyz).max() > 1e4)
    moved = xyz - middle
    radius = float(np.sqrt((moved**2).sum(1).max())) if sphere else 1.0
    return (moved / (radius or 1.0)).astype(np.float32)


def _scene(name: str, arrays: dict[str, np.ndarray], classes: list[str], sphere: bool) -> Scene:
    """One cloud: of points that were asked about the input, the truth, what was said, and where that is wrong; of a
    whole cloud itself."""
    places = _near(arrays["xyz"], sphere and arrays["label"].ndim == 0)
    chosen = choose(places, sphere)
    xyz = places[chosen]
    if arrays["label"].ndim == 0:
        truth, said = int(arrays["label"]), int(arrays["prediction"])
        told = classes[said] if truth < 0 else f"{'✓' if truth == said else '✗'} {classes[said]}"
        truth_told = "no label" if truth < 0 else f"truth: {classes[truth]}"
        return Scene(name, [], [Cloud([told, truth_told], xyz, by_height(xyz))], eye_for(sphere))
    labels, predictions = arrays["label"], arrays["prediction"]
    known, right = labels >= 0, labels == predictions
    told = f"red; {100 * np.mean(right[known]):.1f} % of the points are right" if known.any() else "no labels"
    colours = np.vstack([class_colours(len(classes)), UNKNOWN])  # -1 is the last
    errors = np.where(right[:, None], RIGHT, WRONG)
    errors[~known] = UNKNOWN
    clouds = [
        Cloud(["Input", f"{len(arrays['xyz']):,} points"], xyz, by_height(xyz)),
        Cloud(["Truth"], xyz, colours[labels[chosen]]),
        Cloud(["Prediction"], xyz, colours[predictions[chosen]]),
        Cloud(["Errors", told], xyz, errors[chosen]),
    ]
    return Scene(name, [], clouds, eye_for(sphere))


def class_colours(count: int) -> np.ndarray:
    """A colour for each of ``count`` classes, float [count, 3] in 0 … 1: those of the page's palette, then others that
    turn by the golden angle."""
    colours = [tuple(int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)) for text in PALETTE]
    for i in range(count):
        colours.append(colorsys.hsv_to_rgb((0.1 + 0.618 * i) % 1, 0.4 + 0.15 * (i % 3), 0.88 - 0.2 * (i % 2)))
    return np.array(colours[:count]).reshape(count, 3)


def _hex(colour: np.ndarray) -> str:
    return "#" + "".join(f"{round(255 * value):02x}" for value in colour)


LEGEND = [(name, _hex(np.array(colour))) for name, colour in LINES.items()]
"""Of boxes in sweeps."""
