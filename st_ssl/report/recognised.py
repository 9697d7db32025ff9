"""What a fine-tuned network said of test videos: which classes it takes for which, how sure it is, where it errs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from st_ssl.augment.video import undo_normalise
from st_ssl.core.errors import UserError
from st_ssl.core.types import Entry
from st_ssl.data.base import DATA, DataSource, of_split
from st_ssl.data.loading.sample_dataset import collate
from st_ssl.report.curves import Panel
from st_ssl.report.figures import ACCENT, FAINT, INK, draw, strip
from st_ssl.report.pictures import Sample
from st_ssl.transfer.fitting.activation_maps import class_activation
from st_ssl.transfer.fitting.finetune_model import load_tuned
from st_ssl.transfer.tasks.ballot import Shown
from st_ssl.transfer.tasks.metrics import calibrated, confusion_matrix

HARDEST = 6  # videos
MOST_CLASSES = 40  # of a confusion matrix that can still be read
_HEAT = np.array([255, 72, 0], float)  # what speaks for a class glows in this colour


@dataclass(frozen=True)
class Said:
    """What was said of N test videos: ``scores`` float [N, K], the rows of the index, and the names of the classes;
    ``truth`` int64 [N], -1 for none, is all -1 where videos have any number of labels."""

    scores: np.ndarray
    rows: list[dict[str, Any]]
    classes: list[str]
    about: dict[str, Any]
    truth: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        return self.scores.argmax(1)


@dataclass(frozen=True)
class Recognised:
    """``panels``: the confusion matrix and how true probabilities are; ``confused``: the commonest errors (truth,
    prediction, count, share of the class in per cent); ``hardest``: the videos whose class was thought least likely,
    and in ``note`` what is shown of them."""

    panels: list[Panel] = field(default_factory=list)
    confused: list[tuple[str, str, int, str]] = field(default_factory=list)
    hardest: list[Sample] = field(default_factory=list)
    note: str = ""


def read_said(folder: Path) -> Said:
    """The predictions in ``folder``. Raises what reading them raises."""
    about = json.loads((folder / "about.json").read_text())
    classes = [str(name) for name in json.loads((folder / "classes.json").read_text())]
    rows = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    scores = np.load(folder / "scores.npy", allow_pickle=False)
    if scores.shape != (len(rows), len(classes)):
        raise ValueError(f"scores {list(scores.shape)} are not of {len(rows)} videos and {len(classes)} classes")
    number = {name: i for i, name in enumerate(classes)}
    truth = np.array([number.get(row.get("label"), -1) for row in rows], np.int64)
    return Said(scores, rows, classes, about, truth)


def recognised(folder: Path) -> Recognised:
    """What is to be shown of the predictions in ``folder``; of the hardest videos only where the network that said so
    was kept beside it. Nothing of videos that have any number of labels."""
    said = read_said(folder)
    if not (said.truth >= 0).any():
        return Recognised()
    confusion = confusion_matrix(said.truth, said.predicted, len(said.classes))
    panels = [_confusion(confusion, said), _calibration(said)]
    hardest, note = _hardest(said, folder)
    return Recognised(panels, _confused(confusion, said.classes), hardest, note)


def _confusion(confusion: np.ndarray, said: Said) -> Panel:
    """Truth down, prediction across, the share of each class as the strength of the colour."""
    classes = said.classes
    count = confusion.sum(1)
    recall = np.diagonal(confusion) / count.clip(1)
    shown = np.flatnonzero(count + confusion.sum(0))
    if len(shown) > MOST_CLASSES:  # the worst ones
        shown = np.sort(shown[np.argsort(recall[shown], kind="stable")[:MOST_CLASSES]])
    share = confusion[np.ix_(shown, shown)] / count[shown].clip(1)[:, None]
    names = [_short(classes[i]) for i in shown]

    def paint(axis: Any) -> None:
        from matplotlib.patches import Rectangle

        for (row, column), value in np.ndenumerate(share):
            if value > 0:
                colour, most = (ACCENT, 0.8) if row == column else (INK, 0.5)  # the number must stay legible
                place = (column - 0.5, row - 0.5)
                axis.add_patch(Rectangle(place, 1, 1, facecolor=colour, alpha=most * float(value), lw=0))
                if len(shown) <= 12:
                    axis.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=6)
        axis.set_xticks(range(len(names)), names, rotation=90)
        axis.set_yticks(range(len(names)), names)
        axis.set_xlim(-0.5, len(names) - 0.5)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_aspect("equal")
        axis.set_xlabel("prediction")
        axis.set_ylabel("truth")

    side = 2.2 + 0.13 * len(names)
    overall = 100 * np.trace(confusion) / confusion.sum()
    judged = int(confusion.sum())
    notes = (
        [f"The {MOST_CLASSES} classes that are known worst, of {len(classes)}."] if len(shown) < len(classes) else []
    )
    if judged < len(said.truth):
        notes.append(f"Of {judged} test videos; not counted: {len(said.truth) - judged} without a label of a class.")
    alt = f"Confusion matrix of {len(names)} classes, {overall:.1f} per cent on its diagonal"
    return Panel("Confusion", f"{overall:.1f} % right", draw(side, side, paint, alt), " ".join(notes))


def _calibration(said: Said) -> Panel:
    """How often what is said with some probability is right: on the diagonal it is as sure as it may be."""
    found = calibrated(said.scores, said.truth)
    there = found.count > 0
    count, sure, right = found.count[there], 100 * found.confidence[there], 100 * found.right[there]

    def paint(axis: Any) -> None:
        axis.plot([0, 100], [0, 100], color=FAINT, linewidth=0.8)
        axis.vlines(sure, sure, right, color=INK, linewidth=0.8)
        axis.scatter(sure, right, s=4 + 60 * count / count.sum(), color=ACCENT, zorder=3)
        axis.set_xlim(0, 102)
        axis.set_ylim(0, 102)
        axis.set_xlabel("probability of what is said, %")
        axis.set_ylabel("% right")

    error = found.error()
    alt = f"Calibration: expected calibration error {error:.1f} per cent"
    return Panel("Confidence", f"calibration error {error:.1f} %", draw(3.2, 2.4, paint, alt))


def _confused(confusion: np.ndarray, classes: list[str], most: int = 8) -> list[tuple[str, str, int, str]]:
    errors = confusion - np.diag(np.diagonal(confusion))
    found = []
    for place in np.argsort(-errors, axis=None, kind="stable")[:most].tolist():
        truth, said = divmod(place, len(classes))
        if errors[truth, said]:
            share = 100 * errors[truth, said] / confusion[truth].sum()
            found.append((classes[truth], classes[said], int(errors[truth, said]), f"{share:.0f}"))
    return found


def _hardest(said: Said, folder: Path) -> tuple[list[Sample], str]:
    """The videos whose true class was thought least likely, the least likely first."""
    wrong = np.flatnonzero((said.truth >= 0) & (said.predicted != said.truth))
    likely = said.scores[wrong, said.truth[wrong]]
    rows = wrong[np.argsort(likely, kind="stable")[:HARDEST]].tolist()
    if not rows:
        return [], "None was taken for another class."
    beside = folder.with_name(folder.name.removesuffix("_predictions"))
    fit = f"{said.about['mode']}_{100 * said.about['fraction']:g}_0"
    result = beside.with_name(f"{beside.name}.json")  # the name may have dots in it
    config = json.loads(result.read_text())["config"] if result.is_file() else {}
    splits = config.get("splits", [])  # predictions are kept of the first one
    weights = beside / f"split_{splits[0]}" / fit if splits else beside / fit
    if not config or not (weights / "encoder.json").is_file():
        return [], "The network's weights were not kept, so that its hardest videos cannot be shown."
    try:
        return _shown(said, rows, weights, _source(config["data"], splits)), ""
    except UserError as error:
        return [], f"The hardest videos cannot be shown: {error}"


def _source(data: dict[str, Any], splits: list[int]) -> DataSource:
    """What was tested on."""
    config = DATA.config(data["name"]).model_validate(data)
    return of_split(config, splits[0]) if splits else DATA.build(config)


def _shown(said: Said, rows: list[int], weights: Path, source: DataSource) -> list[Sample]:
    """Film strips of the videos of ``rows``: the clip, and where what was said of it and the truth are seen."""
    model, task, _ = load_tuned(weights)
    input = model.encoder.input
    views = task.testing_views(source, input, 1)
    samples = []
    for row, entry in _found(said, rows, source.entries()):
        batch = collate([source.dataset([entry], views)[0, 0]])
        if not batch.views:
            continue
        view = views.prepare(list(batch.views))[0]
        head = partial(model.head, shown=Shown(view, [entry]))
        truth, predicted = int(said.truth[row]), int(said.predicted[row])
        name = entry.name
        pixels = undo_normalise(view.clip, input.mean, input.std)[0].permute(1, 2, 3, 0).numpy() * 255
        strips = [(["The clip", "its middle"], strip(pixels.astype(np.uint8), name))]
        for told, number in (("said", predicted), ("truth", truth)):
            glow = class_activation(model.encoder, head, view.clip, torch.tensor([number]))[0]
            picture = strip(_overlay(pixels, glow), f"What speaks for {said.classes[number]} in {name}")
            strips.append(([said.classes[number], f"{told}: {100 * said.scores[row, number]:.0f} %"], picture))
        samples.append(Sample(name, [("truth", said.classes[truth]), ("said", said.classes[predicted])], strips))
    return samples


def _found(said: Said, rows: list[int], entries: Any) -> list[tuple[int, Entry]]:
    """The samples that rows of the index are of, by path and start."""
    wanted = {(said.rows[row]["path"], said.rows[row].get("start", 0)): row for row in rows}
    found = {wanted[key]: entry for entry in entries if (key := (entry.path, entry.start)) in wanted}
    return [(row, found[row]) for row in rows if row in found]


def _overlay(pixels: np.ndarray, glow: Tensor) -> np.ndarray:
    """Pixels [T, H, W, 3] in 0 … 255 in grey, and what glows [T, H, W] in 0 … 1 in colour: uint8."""
    share = 0.75 * glow.numpy()[..., None]
    grey = pixels.mean(-1, keepdims=True)
    return (grey * (1 - share) + _HEAT * share).astype(np.uint8)


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"
