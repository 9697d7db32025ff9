"""Probing: what did a frozen encoder learn, beside the same network at random initialisation and trivial baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from st_ssl.config import Config
from st_ssl.data.base import BadSample, DataSource
from st_ssl.encoders.base import Encoder, describe_encoder, load_encoder, random_encoder
from st_ssl.errors import DataError
from st_ssl.transfer.classifiers import attentive_predict, knn_predict, linear_predict
from st_ssl.transfer.features import (
    ClipSet,
    classes_of,
    collect_clips,
    encode,
    shrunken_pixels,
    split_entries,
)

Kind = Literal["knn", "linear", "attentive"]


class ProbeConfig(Config):
    """What is probed and how. ``seeds``: how often everything random is drawn anew (the moment of each video that is
    looked at, the random initialisation, the classifiers); ``limit``: the most videos of a split that are used."""

    kinds: tuple[Kind, ...] = Field(default=("knn", "linear", "attentive"), min_length=1)
    seeds: int = Field(default=3, gt=0)
    limit: int = Field(default=2000, gt=1)
    test_share: float = Field(default=0.25, gt=0, lt=1)
    batch_size: int = Field(default=32, gt=0)
    knn_k: int = Field(default=20, gt=0)
    knn_temperature: float = Field(default=0.07, gt=0)
    linear_strengths: tuple[PositiveFloat, ...] = Field(default=(0.001, 0.01, 0.1, 1.0), min_length=1)
    attentive_epochs: int = Field(default=20, gt=0)
    attentive_lr: float = Field(default=3e-3, gt=0)


Progress = Callable[[str], None]


def probe_runs(
    source: DataSource,
    runs: Sequence[Path],
    config: ProbeConfig,
    device: torch.device,
    progress: Progress = lambda message: None,
) -> dict[str, Any]:
    """Probe the encoders of ``runs`` (folders with ``encoder.json``), which must be of one architecture.

    With one run, seeds differ in all that the probe draws; with several, each is one seed. Returns, ready for JSON,
    each target's number of classes, chance level (always guessing the commonest class of the training part) and for
    each probe the accuracies of ``pretrained``, ``random`` (same network, not trained), ``pixels`` (kNN on shrunken
    clips) and ``metadata`` (kNN on width, height, rate and length), in per cent, mean ± std and single values.
    """
    encoder_config, input = describe_encoder(runs[0])
    for run in runs[1:]:
        if describe_encoder(run) != (encoder_config, input):
            raise DataError(f"{run} and {runs[0]} hold different encoders: probe runs of one architecture together")
    train_split, test_split = split_entries(source.entries(), config.test_share, config.limit)
    classes = classes_of(train_split, test_split)
    if not classes:
        raise DataError("nothing to probe: no target has two classes")
    seeds = len(runs) if len(runs) > 1 else config.seeds
    table: dict[Cell, list[float]] = {}
    bad: dict[BadSample, None] = {}
    for seed in range(seeds):
        progress(f"probe {seed + 1} of {seeds}: decoding")
        train = collect_clips(source, train_split, classes, input, 2 * seed)
        test = collect_clips(source, test_split, classes, input, 2 * seed + 1)
        bad.update(dict.fromkeys(train.bad + test.bad))
        cells = _baselines(train, test, classes, config)
        for who in ("pretrained", "random"):
            progress(f"probe {seed + 1} of {seeds}: {who}")
            pretrained = who == "pretrained"
            run = runs[seed % len(runs)]
            encoder = load_encoder(run) if pretrained else random_encoder(encoder_config, input, seed)
            for (kind, name), accuracy in _probe(encoder, train, test, classes, config, seed, device).items():
                cells[name, kind, who] = accuracy
        for cell, accuracy in cells.items():
            table.setdefault(cell, []).append(accuracy)
    return {
        "runs": [str(run) for run in runs],
        "seeds": seeds,
        "sizes": {"train": len(train), "test": len(test)},
        "bad": [{"path": b.path, "reason": b.reason} for b in bad],
        "targets": {
            name: {
                "classes": len(values),
                "chance": _chance(train.targets[name], test.targets[name]),
                "probes": {kind: _row(table, name, kind) for kind in config.kinds},
            }
            for name, values in classes.items()
        },
    }


Cell = tuple[str, str, str]
"""Target, kind of probe, and who was probed: one of ``WHO``."""

WHO = ("pretrained", "random", "pixels", "metadata")


def _row(table: dict[Cell, list[float]], name: str, kind: str) -> dict[str, dict[str, Any]]:
    """Who was probed to mean, standard deviation and single values over the seeds."""
    found = {who: table[name, kind, who] for who in WHO if (name, kind, who) in table}
    return {
        who: {"mean": float(np.mean(values)), "std": float(np.std(values)), "values": values}
        for who, values in found.items()
    }


def _labelled(train: ClipSet, test: ClipSet, name: str) -> tuple[np.ndarray, np.ndarray]:
    return np.flatnonzero(train.targets[name] >= 0), np.flatnonzero(test.targets[name] >= 0)


def _chance(train: np.ndarray, test: np.ndarray) -> float:
    commonest = np.bincount(train[train >= 0]).argmax()
    return float(100 * np.mean(test[test >= 0] == commonest))


def _accuracy(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float(100 * np.mean(predicted == truth))


def _knn(
    train: Tensor, test: Tensor, sets: tuple[ClipSet, ClipSet], name: str, num_classes: int, config: ProbeConfig
) -> float:
    rows, test_rows = _labelled(*sets, name)
    labels = sets[0].targets[name][rows]
    predicted = knn_predict(train[rows], labels, test[test_rows], num_classes, config.knn_k, config.knn_temperature)
    return _accuracy(predicted, sets[1].targets[name][test_rows])


def _baselines(train: ClipSet, test: ClipSet, classes: dict[str, list[str]], config: ProbeConfig) -> dict[Cell, float]:
    if "knn" not in config.kinds:
        return {}
    pixels = shrunken_pixels(train), shrunken_pixels(test)
    centre, scale = train.metadata.mean(0), train.metadata.std(0) + 1e-9
    # The constant keeps files of average metadata away from the origin, where a cosine has no direction.
    metadata = [np.c_[(s.metadata - centre) / scale, np.ones(len(s))] for s in (train, test)]
    result: dict[Cell, float] = {}
    for name, values in classes.items():
        for who, (a, b) in {"pixels": pixels, "metadata": metadata}.items():
            x, y = (
                torch.from_numpy(a - a.mean(0) * (who == "pixels")),
                torch.from_numpy(b - a.mean(0) * (who == "pixels")),
            )
            result[name, "knn", who] = _knn(x, y, (train, test), name, len(values), config)
    return result


def _probe(
    encoder: Encoder,
    train: ClipSet,
    test: ClipSet,
    classes: dict[str, list[str]],
    config: ProbeConfig,
    seed: int,
    device: torch.device,
) -> dict[tuple[str, str], float]:
    local = "attentive" in config.kinds
    pooled, tokens = encode(encoder, train, config.batch_size, device, local)
    test_pooled, test_tokens = encode(encoder, test, config.batch_size, device, local)
    result: dict[tuple[str, str], float] = {}
    for name, values in classes.items():
        rows, test_rows = _labelled(train, test, name)
        labels, truth = train.targets[name][rows], test.targets[name][test_rows]
        if "knn" in config.kinds:
            result["knn", name] = _knn(pooled, test_pooled, (train, test), name, len(values), config)
        if "linear" in config.kinds:
            predicted, _ = linear_predict(
                pooled[rows].numpy(), labels, test_pooled[test_rows].numpy(), seed, config.linear_strengths
            )
            result["linear", name] = _accuracy(predicted, truth)
    if "attentive" in config.kinds:
        counts = {name: len(values) for name, values in classes.items()}
        predictions = attentive_predict(
            tokens, train.targets, test_tokens, counts, seed, config.attentive_epochs, config.attentive_lr
        )
        for name, predicted in predictions.items():
            _, test_rows = _labelled(train, test, name)
            result["attentive", name] = _accuracy(predicted[test_rows], test.targets[name][test_rows])
    return result
