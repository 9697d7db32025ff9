"""What lies near what in feature space: nearest neighbours and a map, beside the same network not trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from st_ssl.core.evenly import evenly
from st_ssl.core.inputs import InputConfig
from st_ssl.core.types import PointBatch
from st_ssl.core.verdict import Outcomes, judge, strongest
from st_ssl.encoders.base import AnyInput, describe_encoder, load_encoder, random_encoder
from st_ssl.report.clouds import render
from st_ssl.report.contestants import FIRST, called
from st_ssl.report.curves import Panel
from st_ssl.report.figures import ACCENT, FAINT, Picture, draw, pick_colours, strip
from st_ssl.report.folder import RunFolder
from st_ssl.report.standings import Question, Standings, standings
from st_ssl.transfer.features import features as clip_features
from st_ssl.transfer.features.features import INSTANCE, ClipSet, collect_clips, encode, split_entries
from st_ssl.transfer.features.values import value_targets
from st_ssl.transfer.probes.classifiers import centred
from st_ssl.transfer.probes.probe_config import ProbeConfig

QUERIES, NEIGHBOURS = 5, 5
# Pixels of the training clips looked at: 400 usual clips where they are encoded on a GPU, 120 small ones on a CPU.
_PIXELS = {"cuda": 400 * 16 * 112 * 112, "cpu": 120 * 16 * 64 * 64}
_POINTS = {"cuda": 400 * 8192, "cpu": 400 * 1024}  # the same of clouds
_SCENE = 100_000  # points of a cloud that is taken as it is, about
_FEW = 20  # points that t-SNE needs; principal components do for fewer


@dataclass
class Embedding:
    """``features`` of ``train`` and ``test`` videos, float64 [N, D] and [M, D], of every contestant: those of the
    networks (pretrained, random) are pooled, those of the trivial baselines follow; all are ``centred``."""

    train: ClipSet
    test: ClipSet
    classes: dict[str, list[str]]
    features: dict[str, tuple[Tensor, ...]]

    @property
    def labelled(self) -> bool:
        return INSTANCE not in self.classes


@dataclass(frozen=True)
class Neighbour:
    """A training video near a query: does it agree in each factor, and the query's and its own value."""

    name: str
    picture: Picture
    similarity: float
    shares: list[tuple[str, bool, str]]


@dataclass(frozen=True)
class Query:
    """A test video and, per contestant, its nearest training videos."""

    name: str
    picture: Picture
    labels: list[tuple[str, str]]
    rows: list[tuple[str, list[Neighbour]]]


@dataclass(frozen=True)
class Map:
    """The map of test samples coloured by a factor, its legend (value, colour), and how many values have no colour."""

    panel: Panel
    legend: list[tuple[str, str]]
    others: int


def how_many(input: AnyInput, device: str) -> tuple[int, int]:
    """The most train and test samples to look at on a kind of device, so that a report takes seconds: the larger the
    clips or clouds the fewer, 400 and 200 at most."""
    if isinstance(input, InputConfig):
        train = _PIXELS[device] // (input.num_frames * input.size**2)
    else:
        train = _POINTS[device] // (input.num_points or _SCENE)
    train = int(np.clip(train, 40, 400))
    return train, train // 2


def embed(run: RunFolder) -> Embedding:
    """Decode and encode some videos of both splits; targets that are values are left out. Raises ``UserError`` where
    encoder or data are missing."""
    config, input = describe_encoder(run.directory)
    encoders = {"pretrained": load_encoder(run.directory), "random": random_encoder(config, input, 0)}
    probe = run.config.probe or ProbeConfig()
    most_train, most_test = how_many(input, run.device.type)
    train_split = split_entries(run.entries, probe.test_share, most_train)[0]
    test_split = split_entries(run.entries, probe.test_share, most_test)[1]
    values = value_targets(train_split.entries, test_split.entries, probe.values)
    classes = clip_features.classes_of(train_split, test_split, values)
    train = collect_clips(run.source, train_split, classes, input, 0)
    test = collect_clips(run.source, test_split, classes, input, 1)
    features = {
        who: centred(*(encode(encoder, clips, 32, run.device, local=False)[0] for clips in (train, test)))
        for who, encoder in encoders.items()
    }
    shown, asked = (clip_features.raw_features(run.source, clips) for clips in (train, test))
    pairs = {who: (shown[who], asked[who]) for who in shown}
    pairs["metadata"] = clip_features.metadata_features(train, test)
    features |= {who: centred(*map(torch.from_numpy, pair)) for who, pair in pairs.items()}
    return Embedding(train, test, classes, features)


def nearest(embedding: Embedding, who: str) -> tuple[np.ndarray, np.ndarray]:
    """Cosine similarities and indices of the nearest training videos of each test video, [M, NEIGHBOURS] both."""
    train, test = embedding.features[who]
    best, index = (normalize(test, dim=1) @ normalize(train, dim=1).T).topk(min(NEIGHBOURS, len(train)), dim=1)
    return best.numpy(), index.numpy()


def find_neighbours(embedding: Embedding) -> tuple[list[Query], Standings | None]:
    """A handful of queries with their neighbours, pretrained and untrained; and over all test videos, per factor, the
    share of neighbours in per cent that agree, of every contestant."""
    train, test, classes = embedding.train, embedding.test, embedding.classes
    found = {who: nearest(embedding, who) for who in embedding.features}
    pictures: dict[int, Picture] = {}

    def neighbour(query: int, index: int, similarity: float) -> Neighbour:
        name = train.entries[index].name
        if index not in pictures:
            pictures[index] = _middle(train, index)
        shares = []
        for factor, values in classes.items():
            mine, its = test.targets[factor][query], train.targets[factor][index]
            if mine >= 0 and its >= 0:
                shares.append((factor, bool(mine == its), name if factor == INSTANCE else values[its]))
        return Neighbour(name, pictures[index], similarity, shares)

    queries = []
    for query in evenly(len(test), QUERIES).tolist():
        entry = test.entries[query]
        rows = [
            (
                called(who),
                [neighbour(query, int(i), float(s)) for s, i in zip(*(of[query] for of in found[who]), strict=True)],
            )
            for who in FIRST
        ]
        labels = list(entry.labels.items()) if embedding.labelled else []
        queries.append(Query(entry.name, _middle(test, query), labels, rows))
    indices = {who: index for who, (_, index) in found.items()}
    return queries, standings(_agreement(embedding, factor, indices) for factor in classes)


def _middle(clips: ClipSet, index: int) -> Picture:
    """A small picture of one sample: the middle frame of a video, a cloud from one side."""
    name = clips.entries[index].name
    if not isinstance(clips.raw.content, PointBatch):
        frames = clips.raw.clip[index]
        middle = len(frames) // 2
        return strip(frames[middle : middle + 1], f"Middle frame of {name}")
    return strip(render(clips.raw.points.part(index, index + 1).xyz.numpy(), sides=1), f"The cloud {name}")


def _agreement(embedding: Embedding, factor: str, indices: dict[str, np.ndarray]) -> Question:
    """What share of the neighbours ``indices`` [M, K] of each contestant have the label of their query; samples without
    labels do not count. The score of chance is the share of the whole training part."""
    mine, labels = embedding.test.targets[factor], embedding.train.targets[factor]
    everyone = np.tile(np.arange(len(labels)), (len(mine), 1))
    scores = {who: _shares(mine, labels[index]) for who, index in {**indices, "chance": everyone}.items()}
    outcomes = {who: Outcomes.of_scores(score[None]) for who, score in scores.items()}
    figures = {who: float(outcome.values()[0]) for who, outcome in outcomes.items()}
    rival = strongest({who: figure for who, figure in figures.items() if who not in FIRST})
    rivals = {who: outcomes[who] for who in ("random", rival) if who is not None}
    verdict = judge(outcomes["pretrained"], rivals).as_json()
    chance = figures.pop("chance")
    told = {who: {"mean": figure, "std": 0.0, "values": [figure]} for who, figure in figures.items()}
    return Question(factor, f"{len(embedding.classes[factor])} classes", "", told, chance, verdict)


def _shares(mine: np.ndarray, its: np.ndarray) -> np.ndarray:
    """The share of labels ``its`` [M, K] that are those of ``mine`` [M], -1 for none: float [M], NaN where there is
    nothing to compare."""
    counts = (mine[:, None] >= 0) & (its >= 0)
    with np.errstate(invalid="ignore"):
        return ((mine[:, None] == its) & counts).sum(1) / counts.sum(1)


def draw_maps(embedding: Embedding) -> tuple[list[Map], str]:
    """One map per factor and the name of the projection; a single plain one where there are no labels."""
    projected = {called(who): project(embedding.features[who][1].numpy()) for who in FIRST}
    how = "t-SNE" if len(embedding.test) >= _FEW else "Principal components"
    if not embedding.classes or not embedding.labelled:
        return [_map("test samples", None, projected, how)], how
    targets = embedding.test.targets
    labels = {
        factor: [values[i] if i >= 0 else None for i in targets[factor]] for factor, values in embedding.classes.items()
    }
    return [_map(factor, given, projected, how) for factor, given in labels.items()], how


def project(features: np.ndarray) -> np.ndarray:
    """Features [N, D] to the plane [N, 2]: t-SNE by cosine distance, or principal components for a few points."""
    x = features.astype(np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    x = x - x.mean(0)
    if len(x) < _FEW:
        left, values, _ = np.linalg.svd(x, full_matrices=False)
        plane = (left * values)[:, :2]
        return np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(x) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(x)


def _map(title: str, labels: Sequence[str | None] | None, projected: dict[str, np.ndarray], how: str) -> Map:
    given = [label for label in labels or [] if label is not None]
    colours = pick_colours(given)
    count = len(next(iter(projected.values())))
    shades = [ACCENT] * count if labels is None else [colours.get(label or "", FAINT) for label in labels]

    def paint(*axes: Any) -> None:
        for axis, (who, points) in zip(axes, projected.items(), strict=True):
            axis.scatter(points[:, 0], points[:, 1], s=16, c=shades, linewidths=0, alpha=0.9)
            axis.set(xticks=[], yticks=[])
            axis.set_ylabel(who)
            axis.spines[["top", "right"]].set_visible(True)
            axis.margins(0.06)

    alt = f"{how} of {count} test samples coloured by {title}; pretrained above, untrained below"
    panel = Panel(title, "", draw(3.4, 4.6, paint, alt, rows=2))
    return Map(panel, list(colours.items()), len(set(given) - set(colours)))
