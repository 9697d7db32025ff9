"""Correspondences: which points of two views a method takes for the same, beside which of them are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import normalize

from st_ssl.core.evenly import evenly
from st_ssl.core.exhibits import LinksExhibit
from st_ssl.core.types import View
from st_ssl.methods.base import Method
from st_ssl.report.folder import RunFolder
from st_ssl.report.pictures import draw_batch
from st_ssl.report.scenes import GREY, Cloud, Links, Scene, choose, eye_for, natural

SAMPLES, CARRIED = 4, 2  # that are looked at, and those of them whose colours are carried over
QUERIES = 500  # points of the first view that are looked for in the second, of each sample
LINES = 40
COLOURED = 8000  # points of either view where the second takes its colours from the first
RIGHT, WRONG = (0.13, 0.62, 0.35), (0.86, 0.25, 0.22)
_NEAR = 0.05  # radii of the view, and
_VOXELS = 3  # where there are voxels so many of them: the distance up to which a match is right


@dataclass(frozen=True)
class MatchShares:
    """Per cent of matches that are right: by the pretrained network, at random initialisation, and by chance; ``near``
    says in words what counts as right."""

    pretrained: float
    random: float
    chance: float
    near: str


@dataclass(frozen=True)
class Pair:
    """One sample in two views: places, colours and the features of their points, and which are the same."""

    xyz: tuple[np.ndarray, np.ndarray]
    colour: tuple[np.ndarray, np.ndarray]
    features: dict[str, tuple[torch.Tensor, torch.Tensor]]
    pairs: np.ndarray
    near: float


def match_scenes(run: RunFolder) -> tuple[list[Scene], MatchShares | None, int]:
    """Scenes with lines from points of one view to their nearest by feature in the other, then scenes with colours
    carried over; the shares of matches that are right; the step of the weights. Nothing of a method without pairs."""
    if type(run.method).exhibits is Method.exhibits:
        return [], None, 0
    trained, step = run.trained
    batch, entries = draw_batch(run)
    linked: list[Scene] = []
    carried: list[Scene] = []
    shares = []
    with torch.inference_mode():
        views: list[View] = trained.views.prepare(batch.views)
        if not any(isinstance(one, LinksExhibit) for one in run.method.exhibits([view.part(0, 1) for view in views])):
            return [], None, 0
        sphere = run.config.input.unit_sphere  # of clouds: only these have links
        for row, entry in enumerate(entries[:SAMPLES]):
            pair = _pair(run, {"pretrained": trained, "random": run.method}, [v.part(row, row + 1) for v in views])
            if not len(pair.pairs):
                continue
            name, labels = entry.name, list(entry.labels.items())
            clouds, links, right = match(pair, sphere)
            linked.append(Scene(name, labels, clouds, eye_for(sphere), links, shared=False))
            if len(carried) < CARRIED:
                carried.append(Scene(name, labels, _carried(pair, sphere), eye_for(sphere), shared=False))
            shares.append(right)
    if not shares:
        return [], None, step
    size = run.config.input.voxel_size
    near = f"{_VOXELS} voxels" if size else f"{100 * _NEAR:g} % of the radius of the view"
    pretrained, random, chance = (float(share) for share in np.mean(shares, axis=0))
    return linked + carried, MatchShares(pretrained, random, chance, near), step


def _pair(run: RunFolder, methods: dict[str, Method], views: list[View]) -> Pair:
    found: dict[str, LinksExhibit] = {}
    for who, method in methods.items():
        (found[who],) = (one for one in method.exhibits(views) if isinstance(one, LinksExhibit))
    places, colours = [], []
    for view in views[:2]:
        color = view.points.attributes.get("color")
        places.append(view.points.xyz.cpu().numpy())
        colours.append(natural(places[-1], None if color is None else color.cpu().numpy()))
    size = run.config.input.voxel_size
    radius = float(np.linalg.norm(places[1] - places[1].mean(0), axis=1).max()) if len(places[1]) else 0.0
    return Pair(
        (places[0], places[1]),
        (colours[0], colours[1]),
        {who: (m.first, m.second) for who, m in found.items()},
        found["pretrained"].pairs.cpu().numpy(),
        _VOXELS * size if size else _NEAR * radius,
    )


def match(pair: Pair, sphere: bool) -> tuple[list[Cloud], Links, tuple[float, float, float]]:
    """The views of one sample, lines between them, and the per cent of its matches that are right by the pretrained
    network, at random initialisation and by chance."""
    rows = pair.pairs[evenly(len(pair.pairs), QUERIES)]
    truth = pair.xyz[1][rows[:, 1]]
    right, places = {}, {}
    for who, (first, second) in pair.features.items():
        places[who] = pair.xyz[1][nearest_features(first[rows[:, 0]], second)]
        right[who] = np.linalg.norm(places[who] - truth, axis=1) <= pair.near
    within = np.linalg.norm(pair.xyz[1][None] - truth[:: max(1, len(truth) // 50), None], axis=2) <= pair.near
    shares = (100 * right["pretrained"].mean(), 100 * right["random"].mean(), 100 * within.mean())

    chosen = [choose(xyz, sphere) for xyz in pair.xyz]
    seen = np.flatnonzero(np.isin(rows[:, 0], chosen[0]) | np.isin(rows[:, 1], chosen[1]))  # not at a ceiling
    some = seen[evenly(len(seen), LINES)]
    ink = np.where(right["pretrained"][some, None], RIGHT, WRONG)
    links = Links(pair.xyz[0][rows[some, 0]], places["pretrained"][some], ink)
    clouds = [
        Cloud([f"View {i + 1}", f"{len(pair.xyz[i]):,} points"], pair.xyz[i][index], pair.colour[i][index])
        for i, index in enumerate(chosen)
    ]
    clouds[1].caption.append(f"right: {shares[0]:.0f} %, untrained {shares[1]:.0f} %")
    return clouds, links, shares


def _carried(pair: Pair, sphere: bool) -> list[Cloud]:
    """The first view coloured by place, and these colours carried over to the second: by which points are the same
    (grey: not in the first), by the features, and by those of the untrained network."""
    first, second = pair.xyz
    colour = _by_place(first)
    known = np.tile(GREY, (len(second), 1))
    known[pair.pairs[:, 1]] = colour[pair.pairs[:, 0]]
    some, few = (choose(xyz, sphere, COLOURED) for xyz in pair.xyz)
    clouds = [
        Cloud(["View 1", "coloured by place"], first[some], colour[some]),
        Cloud(["View 2", "the same points; grey: not in view 1"], second[few], known[few]),
    ]
    for who, (ours, theirs) in pair.features.items():
        found = nearest_features(theirs[few], ours[some])
        caption = ["View 2", "the nearest by feature" + ("" if who == "pretrained" else ", untrained")]
        clouds.append(Cloud(caption, second[few], colour[some][found]))
    return clouds


def nearest_features(query: torch.Tensor, known: torch.Tensor) -> np.ndarray:
    """Of each feature [Q, D] the row int64 [Q] of the one in ``known`` [P, D] with the largest cosine."""
    known = normalize(known.float(), dim=1)
    parts = [(normalize(part.float(), dim=1) @ known.T).argmax(1) for part in query.split(512)]
    return torch.cat(parts).cpu().numpy()


def _by_place(xyz: np.ndarray) -> np.ndarray:
    """Colours [N, 3] that change evenly over a cloud: across it in hue, upwards in brightness."""
    low, high = np.percentile(xyz, [1, 99], axis=0)
    share = ((xyz - low) / np.maximum(high - low, 1e-9)).clip(0, 1)
    corners = np.array([[[0.93, 0.35, 0.30], [0.98, 0.80, 0.25]], [[0.35, 0.35, 0.85], [0.20, 0.75, 0.60]]])
    x, y = share[:, :1], share[:, 1:2]
    flat = (1 - x) * ((1 - y) * corners[0, 0] + y * corners[0, 1]) + x * ((1 - y) * corners[1, 0] + y * corners[1, 1])
    return flat * (0.65 + 0.35 * share[:, 2:])
