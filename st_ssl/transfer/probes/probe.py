"""Probing: what did a frozen encoder learn, beside the same network at random initialisation and trivial baselines."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.types import Entry
from st_ssl.data.base import BadSample, DataSource
from st_ssl.encoders.base import AnyInput, Encoder, load_encoder, random_encoder, serve
from st_ssl.transfer.features.features import (
    Split,
    check_modality,
    collect_clips,
    describe_test_part,
    encode,
    metadata_features,
    one_encoder,
    raw_features,
    split_entries,
)
from st_ssl.transfer.fitting.outcomes import sample_name
from st_ssl.transfer.probes.classifiers import (
    attentive_predict,
    centred,
    knn_mean,
    knn_predict,
    linear_predict,
    max_mean,
    r2_scores,
    rank_scores,
    ridge_predict,
    svm_predict,
)
from st_ssl.transfer.probes.few_labels import (
    FEW_SHOT,
    Episodes,
    able_classes,
    few_shot_episodes,
    right_by_share,
    subset_rows,
)
from st_ssl.transfer.probes.probe_config import ProbeConfig
from st_ssl.transfer.probes.retrieval import hits_at, recall_by_chance
from st_ssl.transfer.probes.scores import CHANCE, VALUE_ROWS, Scores, add_verdicts, rows_of
from st_ssl.transfer.probes.sets import Sets, find_targets, tell_values

Progress = Callable[[str], None]


def probe_runs(
    source: DataSource,
    runs: Sequence[Path],
    config: ProbeConfig,
    device: torch.device,
    progress: Progress = lambda message: None,
) -> dict[str, Any]:
    """Probe the encoders of ``runs`` (folders with ``encoder.json``), which must be of one architecture.

    With one run, seeds differ in all that the probe draws; with several, each is one seed. Returns, ready for JSON:

    - for each target its number of classes, its chance level (see ``chance_level``), how many samples were judged; for
      a value target (see ``value_targets``) the ``range`` of its training values, and a chance level of 0: the R² of
      the mean of the test values;
    - for each kind of probe the accuracies of ``pretrained``, ``random`` (the same network untrained) and of trivial
      baselines (what ``DataSource.raw_features`` gives, and ``metadata``), in per cent: mean, std, single values; for
      value targets R² and rank correlations (``VALUE_ROWS``), as plain numbers;
    - for each kind the verdict: the pretrained encoder against the untrained one and the strongest baseline, as
      ``core/verdict.py`` has it;
    - the same for each R@k of retrieval, which has chance levels of its own, for few-shot episodes (with ``interval``,
      half the 95 % interval of the mean over episodes alone) and for each fraction of the labels;
    - ``overall``: means and verdicts over all targets with classes, and over all value targets.

    Everyone's features are prepared alike, as ``prepared`` says. An attentive probe has nothing to attend to in a
    baseline, which is a single vector: beside it stands the linear probe of the baseline.
    """
    result, scores = probe_source(source, runs, config, device, progress)
    add_verdicts(result, scores)
    return result


def probe_source(
    source: DataSource, runs: Sequence[Path], config: ProbeConfig, device: torch.device, progress: Progress
) -> tuple[dict[str, Any], Scores]:
    """``probe_runs`` before verdicts are made, and the scores that these are made of."""
    encoder, input = one_encoder(runs)
    check_modality(source, input)
    serve(source, runs[0])
    entries = source.entries()
    if (why := unprobed(entries, config)) is not None:
        raise DataError(why)
    splits = split_entries(entries, config.test_share, config.limit)
    classes, found, values = find_targets(splits, config)
    tell_values(splits, found, config)
    _check_episodes(splits, classes, config)
    seeds = len(runs) if len(runs) > 1 else config.seeds
    scores = Scores([sample_name(entry) for entry in splits[1].entries])
    bad: dict[BadSample, None] = {}
    for seed in range(seeds):
        progress(f"probe {seed + 1} of {seeds}: reading {source.items}")
        sets = read_sets(source, splits, classes, values, input, config, seed)
        bad.update(dict.fromkeys(sets.train.bad + sets.test.bad))
        probe_baselines(source, sets, scores)
        for who in ("pretrained", "random"):
            progress(f"probe {seed + 1} of {seeds}: {who}")
            run = runs[seed % len(runs)]
            probed = load_encoder(run) if who == "pretrained" else random_encoder(encoder, input, seed)
            probe_encoder(probed, who, sets, device, scores)
    used = len(set().union(*(sets.rows(name)[0].tolist() for name in sets.names)))
    targets = {name: _target(scores, name, sets) for name in classes}
    targets |= {name: _value_target(scores, name, sets) for name in values}
    made = {kind for target in targets.values() for kind in (*target, *target["probes"])}
    result = {
        "runs": [str(run) for run in runs],
        "pretrainings": len(runs),
        "seeds": seeds,
        "sizes": {"train": used, "test": max(scores.judged(name) for name in sets.names)},
        "tested": describe_test_part(entries, config.test_share),
        "prepared": _prepared(config, made),
        "bad": [{"path": b.path, "reason": b.reason} for b in bad],
        "targets": targets,
    }
    return result, scores


def read_sets(
    source: DataSource,
    splits: tuple[Split, Split],
    classes: dict[str, list[str]],
    values: list[str],
    input: AnyInput,
    config: ProbeConfig,
    seed: int,
) -> Sets:
    """Read what is probed with one ``seed``: the parts, and the targets with their classes or values."""
    train, test = (
        collect_clips(source, split, classes, input, 2 * seed + part, num_clips=config.clips)
        for part, split in enumerate(splits)
    )
    return Sets(train, test, classes, values, config, seed)


def _prepared(config: ProbeConfig, made: Container[str]) -> dict[str, str]:
    """How features are prepared for each kind of probe that was ``made``, those of encoders and of baselines alike."""
    own, standard = "centred on the training features", "standard scores of the training features"
    near = own if config.centre else "as they are"
    words = {
        "knn": near,
        "linear": standard,
        "svm": standard if config.svm_standardise else "as they are",
        "attentive": "tokens whitened on the training tokens; for baselines the linear probe",
        "retrieval": near,
        "few_shot": f"{own}, then of length 1",
        "curve": "standard scores of the labelled training features",
        "knn_r2": near,
        "ridge_r2": standard,
    }
    keys = (key for kind in config.kinds for key in (kind, *VALUE_ROWS.get(kind, ())))
    return {key: words[key] for key in keys if key in words and key in made}


def unprobed(entries: Sequence[Entry], config: ProbeConfig) -> str | None:
    """Why there is nothing to probe on ``entries``, if so: known before anything is trained."""
    try:
        splits = split_entries(entries, config.test_share, config.limit)
        classes, values, probed = find_targets(splits, config)
    except DataError as error:
        return f"nothing to probe: {error}"
    if classes or probed:
        return None
    if values and not VALUE_ROWS.keys() & set(config.kinds):
        kinds = f"probe.kinds has {', '.join(config.kinds)}, which are for classes"
        return f"nothing to probe: {kinds}, and {', '.join(values)} are values: expected knn or linear"
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


def _value_target(scores: Scores, name: str, sets: Sets) -> dict[str, Any]:
    """All there is to tell of one value target, but for its verdicts."""
    values, _ = sets.labels(name)
    return {
        "range": [float(values.min()), float(values.max())],
        "chance": 0.0,
        "samples": {"train": len(values), "test": scores.judged(name)},
        "probes": {key: scores.row(name, key) for kind in sets.config.kinds for key in VALUE_ROWS.get(kind, ())},
    }


def _target(scores: Scores, name: str, sets: Sets) -> dict[str, Any]:
    """All there is to tell of one target, but for its verdicts."""
    config = sets.config
    labels, truth = sets.labels(name)
    chance = chance_level(labels, truth)
    told: dict[str, Any] = {
        "classes": len(sets.classes[name]),
        "chance": chance,
        "samples": {"train": len(labels), "test": scores.judged(name)},
        "probes": {kind: scores.row(name, kind) for kind in config.kinds if (name, kind, "pretrained") in scores.cells},
    }
    if "retrieval" in config.kinds:
        keys = _recall_keys(config)
        by_chance = recall_by_chance(labels, truth, config.recall, sets.identities(name))
        told["retrieval"] = {
            "chance": dict(zip(keys, by_chance, strict=True)),
            "probes": {key: scores.row(name, key) for key in keys},
        }
    if "few_shot" in config.kinds and len(able_classes(labels, truth, config.few_shot)) >= config.few_shot.ways:
        probes = {key: scores.row(name, rows_of("few_shot", key)) for key in FEW_SHOT}
        for key, cells in probes.items():
            for who, cell in cells.items():
                halves = scores.intervals[name, rows_of("few_shot", key), who]
                cell["interval"] = float(np.sqrt(np.square(halves).sum()) / len(halves))
        told["few_shot"] = config.few_shot.model_dump() | {"chance": 100 / config.few_shot.ways, "probes": probes}
    if "curve" in config.kinds:
        own = [sets.train.entries[row] for row in sets.rows(name)[0]]
        told["curve"] = {
            "fractions": list(config.label_fractions),
            "samples": [len(subset_rows(own, name, share, 0)) for share in config.label_fractions],
            "chance": chance,
            "probes": {
                (key := _percent(share)): scores.row(name, rows_of("curve", key)) for share in config.label_fractions
            },
        }
    return told


def chance_level(train: np.ndarray, test: np.ndarray) -> float:
    """What the better of two guesses that look at no sample gets right in the test part, in per cent: always the
    commonest class of the training part (of several the mean), or any of its classes, drawn at random. Labels int64,
    -1 for none. In a small part that is not stratified the commonest class for training may be rare in the test, and
    the first guess alone would be below what drawing gives."""
    counts = np.bincount(train[train >= 0])
    asked = test[test >= 0]
    shares = np.bincount(asked, minlength=len(counts))[: len(counts)] / max(1, len(asked))
    return float(100 * max(shares[counts == counts.max()].mean(), shares[counts > 0].mean()))


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _recall_keys(config: ProbeConfig) -> list[str]:
    return [f"R@{k}" for k in config.recall]


def _judge(
    pooled: tuple[np.ndarray, np.ndarray], wide: tuple[np.ndarray, np.ndarray], sets: Sets, name: str
) -> Iterator[tuple[str, np.ndarray | Episodes]]:
    """What features are worth for one target: the scores of each kind of probe but the attentive one, whoever the
    features are of. ``pooled``: those of all training and test samples, float [N, k]; ``wide``: what an SVM is fed."""
    config, seed = sets.config, sets.seed
    rows, test_rows = sets.rows(name)
    labels, truth = sets.labels(name)
    x, y = pooled[0][rows], pooled[1][test_rows]
    gallery, queries = torch.from_numpy(x), torch.from_numpy(y)
    if config.centre:
        gallery, queries = centred(gallery, queries)
    if name in sets.values:
        predicted = {}
        if "knn" in config.kinds:
            predicted["knn"] = knn_mean(gallery, labels, queries, config.knn_k)
        if "linear" in config.kinds:
            predicted["linear"] = ridge_predict(x, labels, y, seed, config.ridge_strengths)[0]
        for kind, told in predicted.items():
            yield from zip(VALUE_ROWS[kind], (r2_scores(told, truth), rank_scores(told, truth)), strict=True)
        return
    if "knn" in config.kinds:
        count = len(sets.classes[name])
        yield "knn", knn_predict(gallery, labels, queries, count, config.knn_k, config.knn_temperature) == truth
    if "linear" in config.kinds:
        yield "linear", linear_predict(x, labels, y, seed, config.linear_strengths)[0] == truth
    if "svm" in config.kinds:
        own = (wide[0][rows], labels, wide[1][test_rows])
        yield "svm", svm_predict(*own, seed, config.svm_strengths, config.svm_standardise)[0] == truth
    if "retrieval" in config.kinds:
        hits = hits_at(gallery, labels, queries, truth, config.recall, sets.identities(name))
        yield from zip(_recall_keys(config), hits.T, strict=True)
    if "few_shot" in config.kinds:
        found = few_shot_episodes(x, labels, y, truth, config.few_shot, seed)
        yield from ((rows_of("few_shot", key), episodes) for key, episodes in found.items())
    if "curve" in config.kinds:
        own_entries = [sets.train.entries[row] for row in rows]
        subsets = [subset_rows(own_entries, name, share, seed) for share in config.label_fractions]
        right = right_by_share(x, labels, y, truth, subsets, seed, config.linear_strengths)
        keys = [rows_of("curve", _percent(share)) for share in config.label_fractions]
        yield from zip(keys, right, strict=True)


def probe_baselines(source: DataSource, sets: Sets, scores: Scores) -> None:
    """What trivial baselines get, to ``scores``."""
    config = sets.config
    shown, asked = raw_features(source, sets.train), raw_features(source, sets.test)
    pairs = {who: (features, asked[who]) for who, features in shown.items()}
    pairs["metadata"] = metadata_features(sets.train, sets.test)
    for name in sets.values:
        truth = sets.labels(name)[1]
        for kind in [kind for kind in config.kinds if kind in VALUE_ROWS]:
            sets.add(scores, name, VALUE_ROWS[kind][0], CHANCE, r2_scores(truth.mean(), truth))
    attentive = "attentive" in config.kinds
    kinds = (*config.kinds, "linear") if attentive else config.kinds  # which stands beside the attentive one, too
    of_classes = replace(sets, config=config.model_copy(update={"kinds": kinds}))
    for who, pair in pairs.items():
        for name in sets.names:
            for key, found in _judge(pair, pair, of_classes if name in sets.classes else sets, name):
                if key != "linear" or "linear" in config.kinds:
                    sets.add(scores, name, key, who, found)
                if key == "linear" and attentive:
                    sets.add(scores, name, "attentive", who, found)


def probe_encoder(encoder: Encoder, who: str, sets: Sets, device: torch.device, scores: Scores) -> None:
    """What the features of ``encoder`` get, to ``scores`` under the name ``who``."""
    config = sets.config
    local = bool(sets.classes and {"attentive", "svm"} & set(config.kinds))
    pooled, tokens = encode(encoder, sets.train, config.batch_size, device, local)
    test_pooled, test_tokens = encode(encoder, sets.test, config.batch_size, device, local)
    attentive = bool(sets.classes) and "attentive" in config.kinds and _attentive(tokens, config)
    narrow = (pooled.numpy(), test_pooled.numpy())
    wide = narrow
    if "svm" in config.kinds:
        wide = (_for_svm(pooled, tokens).numpy(), _for_svm(test_pooled, test_tokens).numpy())
    for name in sets.names:
        for key, found in _judge(narrow, wide, sets, name):
            sets.add(scores, name, key, who, found)
    if attentive:
        counts = {name: len(values) for name, values in sets.classes.items()}
        predictions = attentive_predict(
            tokens, sets.train.targets, test_tokens, counts, sets.seed, config.attentive_epochs, config.attentive_lr
        )
        for name, predicted in predictions.items():
            sets.add(scores, name, "attentive", who, predicted[sets.rows(name)[1]] == sets.labels(name)[1])


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
