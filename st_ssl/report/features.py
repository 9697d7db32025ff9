"""Features of points in colour: principal components as red, green and blue, beside the same network untrained."""

from __future__ import annotations

import numpy as np
import torch

from st_ssl.core.evenly import evenly
from st_ssl.core.types import PointBatch
from st_ssl.encoders.base import Encoder, describe_encoder, load_encoder, random_encoder
from st_ssl.report.embedding import Embedding
from st_ssl.report.folder import RunFolder
from st_ssl.report.scenes import Cloud, Scene, choose, eye_for, natural
from st_ssl.transfer.tasks.points_common import point_features

SHOWN = 4  # clouds


def feature_scenes(run: RunFolder, embedding: Embedding) -> list[Scene]:
    """Some test clouds: as they are, and coloured by the features of their points, pretrained and untrained.
    No scenes of an encoder that has no features of places. Raises ``UserError`` as ``load_encoder``."""
    test = embedding.test
    rows = evenly(len(test), SHOWN).tolist()
    with torch.inference_mode():
        clouds = [test.views.prepare([test.raw.part(row, row + 1)])[0].points for row in rows]
        pretrained = load_encoder(run.directory)
        found = {
            "Pretrained": _features(pretrained, clouds),
            "Untrained": _features(random_encoder(*describe_encoder(run.directory), 0), clouds),
        }
    sphere = run.config.input.unit_sphere
    chosen = [choose(points.xyz.numpy(), sphere) for points in clouds]
    colours = {
        who: principal_colours([values[index] for values, index in zip(features, chosen, strict=True)])
        for who, features in found.items()
        if features is not None
    }
    if not colours:
        return []
    scenes = []
    for number, (row, points, index) in enumerate(zip(rows, clouds, chosen, strict=True)):
        xyz, color = points.xyz.numpy()[index], points.attributes.get("color")
        own = natural(xyz, None if color is None else color.numpy()[index])
        parts = [Cloud(["Input", f"{len(points.xyz):,} points"], xyz, own)]
        parts += [Cloud([who], xyz, given[number]) for who, given in colours.items()]
        entry = test.entries[row]
        labels = list(entry.labels.items()) if embedding.labelled else []
        scenes.append(Scene(entry.name, labels, parts, eye_for(sphere)))
    return scenes


def _features(encoder: Encoder, clouds: list[PointBatch]) -> list[np.ndarray] | None:
    """Of each point of each cloud, [N, D] each; None where the encoder gives none."""
    encoder.eval()
    found = []
    for points in clouds:
        features = encoder(points)
        if features.points is None and features.centres is None:
            return None
        found.append(point_features(features, points).float().numpy())
    return found


def principal_colours(features: list[np.ndarray]) -> list[np.ndarray]:
    """Features [N, D] of several clouds to colours [N, 3] in 0 … 1: the first three principal components of all of
    them together, so that one colour means the same in all clouds; each is spread over its middle 96 per cent."""
    every = np.concatenate(features).astype(np.float64)
    mean = every.mean(0)
    _, vectors = np.linalg.eigh(np.cov(every - mean, rowvar=False).reshape(every.shape[1], -1))
    axes = vectors[:, ::-1][:, :3]
    axes = axes * np.where(axes.sum(0) < 0, -1, 1)  # which end is bright is arbitrary, but always the same
    planes = (every - mean) @ axes
    low, high = np.percentile(planes, [2, 98], axis=0)
    share = ((planes - low) / np.maximum(high - low, 1e-12)).clip(0, 1)
    colour = np.full((len(every), 3), 0.5)
    colour[:, : share.shape[1]] = 0.08 + 0.87 * share
    return np.split(colour, np.cumsum([len(part) for part in features])[:-1])
