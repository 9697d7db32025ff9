"""Fine-tuning: what pretraining is worth to a task, beside the same network from scratch, for any fraction of the
labels. What the task is, and of which modality, is its own affair (see ``tasks.py``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt, create_model, field_validator

from st_ssl.core.config import Config, Place, given_keys, merge, once, override, parse_override, read_yaml, validate
from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.random import keyed_seed
from st_ssl.core.types import Entry
from st_ssl.data.base import DATA, BadSample, DataSource
from st_ssl.data.sources.detect import of_another_root
from st_ssl.encoders.base import (
    AnyInput,
    Encoder,
    count_parameters,
    describe_encoder,
    load_encoder,
    random_encoder,
    serve,
)
from st_ssl.training import distributed
from st_ssl.training.optim import check_precision
from st_ssl.transfer.fitting.evaluate import evaluate
from st_ssl.transfer.fitting.finetune_model import tuned
from st_ssl.transfer.fitting.finetuned_io import save_tuned
from st_ssl.transfer.fitting.fit import Watch, check_batch, fit
from st_ssl.transfer.fitting.fit_checkpoint import Unfinished
from st_ssl.transfer.fitting.fit_config import FitConfig, LoraConfig, Mode
from st_ssl.transfer.fitting.label_fractions import Parts, Share
from st_ssl.transfer.fitting.lora import merge_lora
from st_ssl.transfer.fitting.predictions import Keeper, Predictions
from st_ssl.transfer.fitting.task_loader import Feed
from st_ssl.transfer.tasks.base import TASKS, Task

_OF_ROOT = ("root", "list", "format", "split", "index")
"""Keys of data that say where they are and in which form."""


class FinetuneConfig(FitConfig):
    """What is fine-tuned and how. ``modes``: the same network from ``scratch``, a head on the ``frozen`` pretrained
    encoder, and the ``full`` network from pretrained weights; of that only the ``last`` blocks (``last_blocks`` of
    them, and what follows), or low-rank additions to it (``lora``). ``label_fractions``: the shares of the labelled
    training samples that are used, of every class alike, the smaller ones being part of the larger. ``seeds``: how
    often all is drawn anew (initialisation, order, augmentation, fraction); several runs count as that many.

    ``val_share``: of each class, for choosing the best epoch, where the data has no validation part; taken before the
    fraction; 0 for none, and then the last epoch counts. ``save``: keep the weights of ``one`` fit, that whose
    predictions are kept too (the last of the modes, the largest fraction, the first repetition), of ``all``, or of
    ``none``; true and false mean all and none.

    ``test_on``: the part that is tested on, where there are both; with "val" the test part is left out, as where its
    labels are kept from the public (ScanNet). ``splits``: official splits of the data set (UCF101 and HMDB51 have 1,
    2, 3), each with fits of its own: see ``finetune_splits``. ``encoder`` and ``input`` change keys of the pretrained
    encoder, in all modes, that its weights do not depend on: how many points it is fed, how many patches it makes of
    them, drop path.
    """

    modes: tuple[Mode, ...] = Field(default=("scratch", "frozen", "full"), min_length=1)
    last_blocks: int = Field(default=2, gt=0)
    lora: LoraConfig = LoraConfig()
    label_fractions: tuple[Share, ...] = Field(default=(1.0,), min_length=1)
    seeds: int = Field(default=3, gt=0)
    seed: int = 0
    val_share: float = Field(default=0.1, ge=0, lt=1)
    test_on: Literal["test", "val"] = "test"
    splits: tuple[PositiveInt, ...] = ()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    save: Literal["one", "all", "none"] = "one"
    encoder: dict[str, Any] = Field(default_factory=dict)
    input: dict[str, Any] = Field(default_factory=dict)
    # What the registries hold is known only once they are searched: see ``finetune_model``.
    task: Any
    data: Any

    @field_validator("save", mode="before")
    @classmethod
    def _as_said_before(cls, value: Any) -> Any:
        return {True: "all", False: "none"}[value] if isinstance(value, bool) else value

    _once = field_validator("modes", "label_fractions", "splits")(once)


@lru_cache(maxsize=1)
def finetune_model() -> type[FinetuneConfig]:
    """``FinetuneConfig`` with the registered tasks and kinds of data as the types of ``task`` and ``data``."""
    return create_model(
        "FinetuneConfig",
        __base__=FinetuneConfig,
        __doc__=FinetuneConfig.__doc__,
        task=(TASKS.union(), ...),
        data=(DATA.union(), ...),
    )


def load_finetune(file: Path, overrides: Sequence[str], data: dict[str, Any] | None = None) -> FinetuneConfig:
    """The configuration in a YAML file with ``key=value`` overrides; ``data`` is that of the pretraining, on which the
    file's own is laid: of another root, without what only says how to read the first; None where no run tells it, as of
    an imported encoder. A format that the file names for another root than its own counts where the data look like it.
    Raises ``ConfigError`` that lists every mistake with its place."""
    given, place = read_yaml(file)
    theirs = set(given["data"]) if isinstance(given.get("data"), dict) else set()
    parsed = [(*parse_override(text), text) for text in overrides]
    given = override(given, parsed, place)
    if "task" not in given and (strange := [key for key in ("method", "runs") if key in given]):
        raise ConfigError(f"{place.of((strange[0],))}: it has {strange[0]}, and no task: this file is for pretrain")
    own = given.get("data") or {}
    task = given.get("task")
    name = task.get("name") if isinstance(task, dict) else None
    if data is None and isinstance(own, dict) and name in TASKS.names():
        if not own:
            raise ConfigError(
                f"{file} names no data, and neither does a run that made the encoder: add data.root=FOLDER"
            )
        given["data"] = {"name": TASKS.registered(name).modality, **own}
    if data is not None and isinstance(own, dict):
        if own.get("root", data.get("root")) != data.get("root"):
            data = {key: value for key, value in data.items() if key not in _OF_ROOT}
        given["data"] = merge(data, own)
    section, asked = given.get("data"), given_keys(parsed, "data")
    elsewhere = asked & {"root", "list"} or "root" not in theirs
    if "format" in theirs and elsewhere and isinstance(section, dict) and section.get("name") in DATA.names():
        modality = DATA.registered(section["name"]).modality
        given["data"] = of_another_root(section, asked, modality, place.of(("data", "format")))
    return validate(finetune_model(), given, place)


Progress = Callable[[int, int, str], None]
"""Told how many epochs of all fits are done, of how many, and how it stands."""

Finished = Callable[[dict[str, Any]], None]
"""Given the result of all fits so far, after each of them."""


@dataclass
class _Grid:
    """What all fits have in common, and what has come of those done: for each mode and label fraction the figures on
    the test part and the epoch chosen, one for each repetition."""

    feed: Feed
    config: FinetuneConfig
    runs: Sequence[Path]
    progress: Progress
    weights: Path | None
    predictions: Predictions | None
    total: int
    unfinished: Unfinished | None = None
    classes: list[str] = field(default_factory=list)
    done: int = 0
    figures: dict[tuple[Mode, float], list[dict[str, float]]] = field(default_factory=dict)
    epochs: dict[tuple[Mode, float], list[int]] = field(default_factory=dict)

    def add(self, parts: Parts, mode: Mode, share: float, repeat: int, name: str) -> None:
        """One more fit."""
        seed = keyed_seed(self.config.seed, "finetune", repeat)
        network = self._network(mode, seed, repeat)
        task, device, config = self.feed.task, self.feed.device, self.config.of(mode)
        task.begin(parts.train)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(keyed_seed(seed, "head"))
            model = tuned(network, task.head(network), mode, config.last_blocks, config.lora).to(device)
            fitted = fit(model, task, self.feed, parts, config, seed, self._watch(name), self.unfinished, name)
            if mode == "lora":
                merge_lora(model.encoder)
            keep = self._keeper(parts, mode, share, repeat)
            found = evaluate(model, task, self.feed, parts.test, config, task.votes, keep)
            if keep is not None:
                keep.close()
        self.done += config.epochs
        self.figures.setdefault((mode, share), []).append(found)
        self.epochs.setdefault((mode, share), []).append(fitted.epoch)
        if self.weights is not None and self._saves(mode, share, repeat):
            about = {"mode": mode, "fraction": share, "repeat": repeat, "figures": _nulls(found)}
            model.encoder.prepared = self.feed.source.prepared
            save_tuned(model, task, self.classes, about, self.weights / f"{mode}_{100 * share:g}_{repeat}")

    def take_up(self, before: dict[str, Any]) -> None:
        """The fits of an earlier call with the same settings count as done."""
        for row in before["results"]:
            cell, count = (row["mode"], row["fraction"]), len(row["epochs"])
            values = {name: figure["values"] for name, figure in row["metrics"].items()}
            self.epochs[cell] = list(row["epochs"])
            self.figures[cell] = [
                {name: math.nan if v[repeat] is None else v[repeat] for name, v in values.items()}
                for repeat in range(count)
            ]
            self.done += count * self.config.epochs
        self.feed.bad.update((BadSample(**bad), None) for bad in before["bad"])

    def has(self, mode: Mode, share: float, repeat: int) -> bool:
        """Whether that fit is done."""
        return len(self.epochs.get((mode, share), ())) > repeat

    def rows(self) -> list[dict[str, Any]]:
        """Ready for JSON."""
        return [
            {"mode": mode, "fraction": share, "epochs": self.epochs[mode, share], "metrics": _summary(values)}
            for (mode, share), values in self.figures.items()
        ]

    def _network(self, mode: Mode, seed: int, repeat: int) -> Encoder:
        run = self.runs[repeat % len(self.runs)]
        described = _described(run, self.config)
        if mode == "scratch":
            return random_encoder(*described, keyed_seed(seed, "scratch"))
        return load_encoder(run, described)

    def _shown(self, mode: Mode, share: float, repeat: int) -> bool:
        """Whether it is the fit that is looked at and applied: of the last mode, with most labels."""
        return mode == self.config.modes[-1] and share == max(self.config.label_fractions) and repeat == 0

    def _saves(self, mode: Mode, share: float, repeat: int) -> bool:
        wanted = self.config.save == "all" or (self.config.save == "one" and self._shown(mode, share, repeat))
        return wanted and distributed.rank() == 0

    def _keeper(self, parts: Parts, mode: Mode, share: float, repeat: int) -> Keeper | None:
        """Where the predictions of a fit go, if they are those to be looked at."""
        if self.predictions is None or not self._shown(mode, share, repeat) or distributed.rank() > 0:
            return None
        about = {"task": self.config.task.name, "mode": mode, "fraction": share, "votes": self.feed.task.votes}
        return self.predictions.keeper(self.feed.task, self.classes, parts.test, about)

    def _watch(self, name: str) -> Watch:
        self.progress(self.done, self.total, name)
        return lambda epoch, status: self.progress(self.done + epoch, self.total, f"{name}: {status}")


def finetune(
    source: DataSource,
    runs: Sequence[Path],
    config: FinetuneConfig,
    device: torch.device,
    progress: Progress = lambda *_: None,
    finished: Finished = lambda result: None,
    weights: Path | None = None,
    predictions: Predictions | None = None,
    before: dict[str, Any] | None = None,
    unfinished: Unfinished | None = None,
    stopped: Callable[[], bool] = lambda: False,
    looked: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Fine-tune the encoders of ``runs`` (folders with ``encoder.json``, of one architecture) on ``config.task``.

    In every repetition all modes see the same samples in the same order with the same augmentation. Returns, ready for
    JSON, for every mode and label fraction the figures of the task on the test part: mean, standard deviation and the
    single values over the repetitions; null where there is none. ``finished`` is given the same after every fit, of
    those done so far, and as ``before`` it is gone on from there, to the same figures: everything random is a function
    of the seed and the fit. In ``unfinished`` is the state of the one under way, which goes on in the middle of it.
    The weights that ``config.save`` asks for go to ``weights``, a folder for each fit. To ``predictions`` goes what the
    last of the modes says of test samples, with the largest fraction, in the first repetition.

    Where labels of points are learned those of all parts are looked at first; ``looked`` is told how many samples have
    been, and of how many. Several processes share the samples; files are written by the main one alone. Raises
    ``Interrupted`` soon after ``stopped`` is true on one of them.
    """
    task: Task = TASKS.build(config.task)
    input = _input(runs, config)
    _check(task, source, runs[0], config, device)
    repeats = task.repeats(len(runs) if len(runs) > 1 else config.seeds)
    feed = Feed(source, task, input, device, stopped=stopped, looked=looked)
    fits = [(share, mode) for share in config.label_fractions for mode in config.modes]
    grid = _Grid(feed, config, runs, progress, weights, predictions, repeats * len(fits) * config.epochs, unfinished)
    entries = _entries(source, config)
    result: dict[str, Any] = {"runs": [str(run) for run in runs], "repeats": repeats, "metric": task.metric}
    if before is not None:
        grid.take_up(before)
        result |= {key: before[key] for key in ("classes", "sizes", "tested", "results", "bad") if key in before}
    asked, parts = None, Parts([])
    for repeat in range(repeats):
        missing = [fit for fit in fits if not grid.has(fit[1], fit[0], repeat)]
        if not missing:
            continue
        divided = task.parts(entries, config.val_share, repeat)
        if divided != asked:  # or else what was learned of the classes still holds
            asked = divided
            result["classes"] = grid.classes = task.learn_classes(divided, feed.look)
            parts = task.usable(divided)
            result["sizes"] = {"train": len(parts.train), "val": len(parts.val), "test": len(parts.test)}
            result["tested"] = parts.tested
        for share, mode in missing:
            train = task.fraction(parts.train, share, repeat)
            name = f"{mode}, {100 * share:g} % of the labels, {repeat + 1} of {repeats}"
            grid.add(Parts(train, parts.val, parts.test), mode, share, repeat, name)
            result["results"] = grid.rows()
            feed.share_bad()
            result["bad"] = [{"path": bad.path, "reason": bad.reason} for bad in feed.bad]
            finished(result)
    if unfinished is not None:
        unfinished.remove()
    return result


def plan(
    source: DataSource,
    runs: Sequence[Path],
    config: FinetuneConfig,
    device: torch.device,
    looked: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, str]:
    """What ``finetune`` would do with the same arguments, for people to read: the samples and classes of the first
    repetition, how many fits there are, and how much of the network each mode trains. Labels of points are looked at
    as for a fit. Nothing is trained or written."""
    task: Task = TASKS.build(config.task)
    feed = Feed(source, task, _input(runs, config), device, looked=looked)
    _check(task, source, runs[0], config, device)
    repeats = task.repeats(len(runs) if len(runs) > 1 else config.seeds)
    entries = _entries(source, config)
    parts = task.parts(entries, config.val_share, 0)
    classes = task.learn_classes(parts, feed.look)
    parts = task.usable(parts)
    names = ", ".join(classes[:8]) + (", …" if len(classes) > 8 else "")
    told = {"task": config.task.name, "classes": f"{len(classes)} ({names})"}
    for share in config.label_fractions:
        count = len(task.fraction(parts.train, share, 0))
        steps = config.epochs * (count // min(count, config.batch_size))
        told[f"train on, {100 * share:g} %"] = f"{count:,} samples, {steps:,} steps in {config.epochs} epochs"
    drawn = "" if any(entry.split in ("val", "test") for entry in entries) else ", drawn: the data have no test part"
    told |= {"choose the epoch on": f"{len(parts.val):,} samples", "test on": f"{len(parts.test):,} samples{drawn}"}
    grid = f"{len(config.modes)} modes × {len(config.label_fractions)} fractions × {repeats} times"
    told |= task.counted()
    told["fits"] = f"{len(config.modes) * len(config.label_fractions) * repeats:,} ({grid})"
    for mode in config.modes:
        network = load_encoder(runs[0], _described(runs[0], config))
        model = tuned(network, task.head(network), mode, config.last_blocks, config.lora)
        for share in config.label_fractions:
            check_batch(model.train(), len(task.fraction(parts.train, share, 0)), config)
        every = sum(p.numel() for p in model.parameters())
        told[f"trained, {mode}"] = f"{count_parameters(model):,} of {every:,} parameters"
    return told


def _described(run: Path, config: FinetuneConfig) -> tuple[Config, AnyInput]:
    """The encoder of ``run`` and its input, with the changes of ``config``."""
    encoder, input = describe_encoder(run)
    return _changed(encoder, config.encoder, "encoder"), _changed(input, config.input, "input")


def _changed(config: Any, changes: dict[str, Any], key: str) -> Any:
    return validate(type(config), merge(config.model_dump(), changes), Place(Path(key))) if changes else config


def _input(runs: Sequence[Path], config: FinetuneConfig) -> AnyInput:
    """What the encoders of ``runs``, which must be of one architecture, are fed."""
    first = describe_encoder(runs[0])
    for run in runs[1:]:
        if describe_encoder(run) != first:
            raise DataError(f"{run} and {runs[0]} hold different encoders: fine-tune runs of one architecture together")
    return _described(runs[0], config)[1]


def _check(task: Task, source: DataSource, run: Path, config: FinetuneConfig, device: torch.device) -> None:
    encoder = load_encoder(run, _described(run, config))
    serve(source, run, _described(run, config))
    modality = encoder.modality
    if not task.modality == source.modality == modality:
        raise ConfigError(
            f"task.name={config.task.name} is for {task.modality}, the data is {source.modality} and the encoder in "
            f"{run} is fed {modality}: all three must be the same"
        )
    if config.modes != ("frozen",):
        check_precision(encoder, config.precision, device, "precision")
    if not task.has_fractions and config.label_fractions != (1.0,):
        raise ConfigError(
            f"label_fractions: {config.task.name} takes as many labels as it says itself: leave it at [1.0]"
        )


def _entries(source: DataSource, config: FinetuneConfig) -> list[Entry]:
    """All samples but those of a test part that is not asked for."""
    entries = list(source.entries())
    if config.test_on == "test":
        return entries
    if not any(entry.split == "val" for entry in entries):
        raise DataError("test_on=val: no sample of the data is of the split val")
    return [entry for entry in entries if entry.split != "test"]


def _summary(values: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    summary = {}
    for name in values[0]:
        numbers = [value[name] for value in values]
        there = [number for number in numbers if not math.isnan(number)]
        summary[name] = {
            "mean": float(np.mean(there)) if there else None,
            "std": float(np.std(there)) if there else None,
            "values": [None if math.isnan(number) else number for number in numbers],
        }
    return summary


def _nulls(figures: Mapping[Any, float]) -> dict[Any, float | None]:
    """Ready for JSON, which has no NaN."""
    return {name: None if math.isnan(value) else value for name, value in figures.items()}
