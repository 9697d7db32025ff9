"""Probing: what did a frozen encoder learn, beside the same network at random initialisation and trivial baselines."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.types import Entry
from st_ssl.data.base import BadSample, DataSource
from st_ssl.encoders.base import AnyInput, Encoder, describe_encoder, load_encoder, random_encoder, serve
from st_ssl.transfer.features.features import (
    INSTANCE,
    ClipSet,
    Split,
    check_modality,
    classes_of,
    collect_clips,
    describe_test_part,
    encode,
    raw_features,
    split_entries,
)
from st_ssl.transfer.probes.classifiers import attentive_predict, knn_predict, linear_predict, max_mean, svm_predict
from st_ssl.transfer.probes.few_labels import (
    FEW_SHOT,
    able_classes,
    accuracy_by_share,
    few_shot_accuracy,
    subset_rows,
)
from st_ssl.transfer.probes.probe_config import ProbeConfig
from st_ssl.transfer.probes.retrieval import recall_at, recall_by_chance

_SECTIONS = ("retrieval", "few_shot", "curve")
"""Kinds that have several rows for a target, and a place of their own in the result."""
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
    each target's number of classes, chance level (see ``chance_level``) and for each probe the accuracies of
    ``pretrained``, ``random`` (same network, not trained), ``raw`` (kNN on shrunken clips) and ``metadata`` (kNN on
    width, height, rate and length), in per cent, mean ± std and single values; for retrieval the same and its own
    chance level for each R@k; so too for few-shot episodes (with ``interval``, half the 95 % interval of the mean over
    episodes alone: how much seeds or runs differ is in ``std``) and for each fraction of the labels.
    """
    encoder, input = _network(runs)
    check_modality(source, input)
    serve(source, runs[0])
    entries = source.entries()
    if (why := unprobed(entries, config)) is not None:
        raise DataError(why)
    splits = split_entries(entries, config.test_share, config.limit)
    classes = classes_of(*splits)
    _check_episodes(splits, classes, config)
    seeds = len(runs) if len(runs) > 1 else config.seeds
    table: dict[Cell, list[float]] = {}
    bad: dict[BadSample, None] = {}
    for seed in range(seeds):
        progress(f"probe {seed + 1} of {seeds}: reading {source.items}")
        train, test = (
            collect_clips(source, split, classes, input, 2 * seed + part, num_clips=config.clips)
            for part, split in enumerate(splits)
        )
        bad.update(dict.fromkeys(train.bad + test.bad))
        cells = _baselines(source, train, test, classes, config, seed)
        for who in ("pretrained", "random"):
            progress(f"probe {seed + 1} of {seeds}: {who}")
            run = runs[seed % len(runs)]
            probed = load_encoder(run) if who == "pretrained" else random_encoder(encoder, input, seed)
            for (kind, name), accuracy in _probe(probed, train, test, classes, config, seed, device).items():
                cells[name, kind, who] = accuracy
        for cell, accuracy in cells.items():
            table.setdefault(cell, []).append(accuracy)
    return {
        "runs": [str(run) for run in runs],
        "seeds": seeds,
        "sizes": {"train": len(train), "test": len(test)},
        "tested": describe_test_part(entries, config.test_share),
        "bad": [{"path": b.path, "reason": b.reason} for b in bad],
        "targets": {name: _target(table, name, (train, test), len(values), config) for name, values in classes.items()},
    }


def unprobed(entries: Sequence[Entry], config: ProbeConfig) -> str | None:
    """Why there is nothing to probe on ``entries``, if so: known before anything is trained."""
    try:
        splits = split_entries(entries, config.test_share, config.limit)
    except DataError as error:
        return f"nothing to probe: {error}"
    if classes_of(*splits):
        return None
    told = "there is one sample alone, from which no other is told apart" if len(entries) == 1 else ""
    return f"nothing to probe: {told or 'no target has two classes'}"


def _check_episodes(splits: tuple[Split, Split], classes: dict[str, list[str]], config: ProbeConfig) -> None:
    """Tell of the targets with too few large classes for episodes. Raises ``ConfigError`` where it is all of them and
    nothing else is asked for."""
    if "few_shot" not in config.kinds:
        return
    asked, small = config.few_shot, []
    for name, values in classes.items():
        train, test = (
            np.array([values.index(e.labels[name]) for e in part.entries if name in e.labels], dtype=np.int64)
            for part in splits
        )
        if len(able := able_classes(train, test, asked)) < asked.ways:
            small.append(f"{name} ({len(able)})")
    if small:
        told = (
            f"probe.few_shot: {asked.ways} classes with {asked.shots} training and {asked.queries} test samples each "
            f"are more than there are of {', '.join(small)}"
        )
        if len(small) == len(classes) and config.kinds == ("few_shot",):
            raise ConfigError(f"{told}: ask for fewer ways, shots or queries")
        warnings.warn(f"{told}: no episodes", stacklevel=3)


def _network(runs: Sequence[Path]) -> tuple[Config, AnyInput]:
    """The one encoder, and its input, that all of ``runs`` hold."""
    first = describe_encoder(runs[0])
    for run in runs[1:]:
        if describe_encoder(run) != first:
            raise DataError(f"{run} and {runs[0]} hold different encoders: probe runs of one architecture together")
    return first


Cell = tuple[str, str, str]
"""Target, kind of probe, and who was probed: pretrained, random, or a baseline."""

FIRST = ("pretrained", "random")
"""Who stands first in a table; the baselines follow."""


def _target(
    table: dict[Cell, list[float]], name: str, sets: tuple[ClipSet, ClipSet], num_classes: int, config: ProbeConfig
) -> dict[str, Any]:
    """All there is to tell of one target."""
    train, test = sets
    return {
        "classes": num_classes,
        "chance": chance_level(train.targets[name], test.targets[name]),
        "probes": {kind: row for kind in config.kinds if kind not in _SECTIONS and (row := _row(table, name, kind))},
        **_retrieval(table, name, sets, config),
        **_few_labels(table, name, sets, config),
    }


def _row(table: dict[Cell, list[float]], name: str, kind: str) -> dict[str, dict[str, Any]]:
    """Who was probed to mean, standard deviation and single values over the seeds."""
    baselines = [who for target, own, who in table if (target, own) == (name, kind) and who not in FIRST]
    found = {who: table[name, kind, who] for who in (*FIRST, *baselines) if (name, kind, who) in table}
    return {
        who: {"mean": float(np.mean(values)), "std": float(np.std(values)), "values": values}
        for who, values in found.items()
    }


def _labelled(train: ClipSet, test: ClipSet, name: str) -> tuple[np.ndarray, np.ndarray]:
    return np.flatnonzero(train.targets[name] >= 0), np.flatnonzero(test.targets[name] >= 0)


def chance_level(train: np.ndarray, test: np.ndarray) -> float:
    """What the better of two guesses that look at no sample gets right in the test part, in per cent: always the
    commonest class of the training part (of several the mean), or any of its classes, drawn at random. Labels int64,
    -1 for none. In a small part that is not stratified the commonest class for training may be rare in the test, and
    the first guess alone would be below what drawing gives."""
    counts = np.bincount(train[train >= 0])
    asked = test[test >= 0]
    shares = np.bincount(asked, minlength=len(counts))[: len(counts)] / max(1, len(asked))
    return float(100 * max(shares[counts == counts.max()].mean(), shares[counts > 0].mean()))


def _accuracy(predicted: np.ndarray, truth: np.ndarray) -> float:
    return float(100 * np.mean(predicted == truth))


def _retrieval(
    table: dict[Cell, list[float]], name: str, sets: tuple[ClipSet, ClipSet], config: ProbeConfig
) -> dict[str, Any]:
    """What there is to tell of retrieval, if it was asked for: each R@k, and its chance level."""
    if "retrieval" not in config.kinds:
        return {}
    _, labels, _, truth = _known(sets, name)
    chance = recall_by_chance(labels, truth, config.recall, _identities(sets, name))
    keys = _recall_keys(config)
    return {
        "retrieval": {
            "chance": dict(zip(keys, chance, strict=True)),
            "probes": {key: _row(table, name, key) for key in keys},
        }
    }


def _few_labels(
    table: dict[Cell, list[float]], name: str, sets: tuple[ClipSet, ClipSet], config: ProbeConfig
) -> dict[str, Any]:
    """What there is to tell of few-shot episodes and of the label curve, if they were asked for."""
    told: dict[str, Any] = {}
    rows, labels, _, truth = _known(sets, name)
    if "few_shot" in config.kinds and len(able_classes(labels, truth, config.few_shot)) >= config.few_shot.ways:
        probes = {key: _row(table, name, f"few_shot {key}") for key in FEW_SHOT}
        for key, cells in probes.items():
            for who, cell in cells.items():
                halves = np.asarray(table[name, f"few_shot {key} interval", who])
                cell["interval"] = float(np.sqrt((halves**2).sum()) / len(halves))
        told["few_shot"] = config.few_shot.model_dump() | {"chance": 100 / config.few_shot.ways, "probes": probes}
    if "curve" in config.kinds:
        own = [sets[0].entries[row] for row in rows]
        told["curve"] = {
            "fractions": list(config.label_fractions),
            "samples": [len(subset_rows(own, name, share, 0)) for share in config.label_fractions],
            "chance": chance_level(labels, truth),
            "probes": {_percent(share): _row(table, name, f"curve {share}") for share in config.label_fractions},
        }
    return told


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _recall_keys(config: ProbeConfig) -> list[str]:
    return [f"R@{k}" for k in config.recall]


def _known(sets: tuple[ClipSet, ClipSet], name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows and labels of the train videos that have one for a target, and those of the test videos."""
    rows, test_rows = _labelled(*sets, name)
    return rows, sets[0].targets[name][rows], test_rows, sets[1].targets[name][test_rows]


def _identities(sets: tuple[ClipSet, ClipSet], name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """A number for each labelled train and test video, the same for the same file: it must not find itself, unless
    that is what is asked for."""
    if name == INSTANCE:
        return None
    rows = _labelled(*sets, name)
    paths = [[clips.entries[i].path for i in own] for clips, own in zip(sets, rows, strict=True)]
    number = {path: i for i, path in enumerate(dict.fromkeys(paths[0] + paths[1]))}
    train, test = (np.array([number[path] for path in own], dtype=np.int64) for own in paths)
    return train, test


def _neighbours(
    train: Tensor, test: Tensor, sets: tuple[ClipSet, ClipSet], name: str, num_classes: int, config: ProbeConfig
) -> Iterator[tuple[str, float]]:
    """What needs no training, for features of all train and test videos: kNN, and each R@k of retrieval."""
    rows, labels, test_rows, truth = _known(sets, name)
    x, y = train[rows], test[test_rows]
    if "knn" in config.kinds:
        predicted = knn_predict(x, labels, y, num_classes, config.knn_k, config.knn_temperature)
        yield "knn", _accuracy(predicted, truth)
    if "retrieval" in config.kinds:
        recall = recall_at(x, labels, y, truth, config.recall, _identities(sets, name))
        yield from zip(_recall_keys(config), recall, strict=True)


def _with_few_labels(
    x: np.ndarray, y: np.ndarray, sets: tuple[ClipSet, ClipSet], name: str, config: ProbeConfig, seed: int
) -> Iterator[tuple[str, float]]:
    """Few-shot episodes and the label curve for features [N, k] of all train and test samples."""
    rows, labels, test_rows, truth = _known(sets, name)
    if "few_shot" in config.kinds:
        found = few_shot_accuracy(x[rows], labels, y[test_rows], truth, config.few_shot, seed)
        for key, (mean, half) in found.items():
            yield from ((f"few_shot {key}", mean), (f"few_shot {key} interval", half))
    if "curve" in config.kinds:
        own = [sets[0].entries[row] for row in rows]
        subsets = [subset_rows(own, name, share, seed) for share in config.label_fractions]
        values = accuracy_by_share(x[rows], labels, y[test_rows], truth, subsets, seed, config.linear_strengths)
        yield from ((f"curve {share}", value) for share, value in zip(config.label_fractions, values, strict=True))


def _baselines(
    source: DataSource, train: ClipSet, test: ClipSet, classes: dict[str, list[str]], config: ProbeConfig, seed: int
) -> dict[Cell, float]:
    """What is known without a network, by kNN, retrieval, SVM and with few labels."""
    if not {"knn", "retrieval", "svm", "few_shot", "curve"} & set(config.kinds):
        return {}
    shown, asked = raw_features(source, train), raw_features(source, test)
    pairs = {who: (a - a.mean(0), asked[who] - a.mean(0)) for who, a in shown.items()}
    centre, scale = train.metadata.mean(0), train.metadata.std(0) + 1e-9
    # The constant keeps files of average metadata away from the origin, where a cosine has no direction.
    first, second = (np.c_[(s.metadata - centre) / scale, np.ones(len(s))] for s in (train, test))
    result: dict[Cell, float] = {}
    for name, values in classes.items():
        for who, (a, b) in {**pairs, "metadata": (first, second)}.items():
            x, y = torch.from_numpy(a), torch.from_numpy(b)
            for kind, value in _neighbours(x, y, (train, test), name, len(values), config):
                result[name, kind, who] = value
            for kind, value in _with_few_labels(a, b, (train, test), name, config, seed):
                result[name, kind, who] = value
            if "svm" in config.kinds:
                result[name, "svm", who] = _svm(a, b, (train, test), name, config, seed)
    return result


def _svm(
    x: np.ndarray, y: np.ndarray, sets: tuple[ClipSet, ClipSet], name: str, config: ProbeConfig, seed: int
) -> float:
    """The accuracy of the SVM on features [N, k] of all train and test samples: one rule, whoever they are of."""
    rows, labels, test_rows, truth = _known(sets, name)
    predicted, _ = svm_predict(x[rows], labels, y[test_rows], seed, config.svm_strengths, config.svm_standardise)
    return _accuracy(predicted, truth)


def _probe(
    encoder: Encoder,
    train: ClipSet,
    test: ClipSet,
    classes: dict[str, list[str]],
    config: ProbeConfig,
    seed: int,
    device: torch.device,
) -> dict[tuple[str, str], float]:
    local = bool({"attentive", "svm"} & set(config.kinds))
    pooled, tokens = encode(encoder, train, config.batch_size, device, local)
    test_pooled, test_tokens = encode(encoder, test, config.batch_size, device, local)
    attentive = "attentive" in config.kinds and _attentive(tokens, config)
    wide = [_for_svm(*pair).numpy() for pair in ((pooled, tokens), (test_pooled, test_tokens)) if "svm" in config.kinds]
    result: dict[tuple[str, str], float] = {}
    for name, values in classes.items():
        rows, labels, test_rows, truth = _known((train, test), name)
        for kind, value in _neighbours(pooled, test_pooled, (train, test), name, len(values), config):
            result[kind, name] = value
        few = _with_few_labels(pooled.numpy(), test_pooled.numpy(), (train, test), name, config, seed)
        result |= {(kind, name): value for kind, value in few}
        if "linear" in config.kinds:
            predicted, _ = linear_predict(
                pooled[rows].numpy(), labels, test_pooled[test_rows].numpy(), seed, config.linear_strengths
            )
            result["linear", name] = _accuracy(predicted, truth)
        if "svm" in config.kinds:
            result["svm", name] = _svm(wide[0], wide[1], (train, test), name, config, seed)
    if attentive:
        counts = {name: len(values) for name, values in classes.items()}
        predictions = attentive_predict(
            tokens, train.targets, test_tokens, counts, seed, config.attentive_epochs, config.attentive_lr
        )
        for name, predicted in predictions.items():
            _, test_rows = _labelled(train, test, name)
            result["attentive", name] = _accuracy(predicted[test_rows], test.targets[name][test_rows])
    return result


def _attentive(tokens: Tensor, config: ProbeConfig) -> bool:
    """Whether an attentive probe has anything to attend to in ``tokens`` [N, L, D]. Raises ``ConfigError`` where it has
    not and no other kind is asked for."""
    if tokens.shape[1]:
        return True
    if len(config.kinds) == 1:
        raise ConfigError("probe.kinds: attentive needs tokens or a map of features, which this encoder does not give")
    warnings.warn("no attentive probe: this encoder gives neither tokens nor a map of features", stacklevel=3)
    return False


def _for_svm(pooled: Tensor, tokens: Tensor) -> Tensor:
    """What the SVM is fed, float32 [N, k]: ``max_mean`` of the tokens where there are any, as in the papers."""
    return torch.cat([max_mean(part.float()) for part in tokens.split(64)]) if tokens.shape[1] else pooled
