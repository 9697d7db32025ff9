"""Fine-tuning: what pretraining is worth to a task, beside the same network from scratch, for any fraction of the
labels. What the task is, and of which modality, is its own affair (see ``tasks.py``)."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from st_ssl.core.random import keyed_seed
from st_ssl.core.summary import null, summary
from st_ssl.data.base import BadSample, DataSource
from st_ssl.training import distributed
from st_ssl.transfer.fitting.baselines import Baselines
from st_ssl.transfer.fitting.curve import marks, starved, too_few
from st_ssl.transfer.fitting.evaluate import evaluate
from st_ssl.transfer.fitting.finetune_config import FinetuneConfig, Mode
from st_ssl.transfer.fitting.finetune_model import merge_lora, save_tuned
from st_ssl.transfer.fitting.finetune_setup import Setup
from st_ssl.transfer.fitting.fit import Watch, fit
from st_ssl.transfer.fitting.fit_checkpoint import Unfinished
from st_ssl.transfer.fitting.label_fractions import Parts
from st_ssl.transfer.fitting.outcomes import Judged, OutcomeStore, told
from st_ssl.transfer.fitting.predictions import Keeper, Predictions

Progress = Callable[[int, int, str], None]
"""Told how many epochs of all fits are done, of how many, and how it stands."""

Finished = Callable[[dict[str, Any]], None]
"""Given the result of all fits so far, after each of them."""

_KEPT = ("classes", "sizes", "tested", "results", "starved", "bad", "baselines", "verdicts")
"""What a result has of the fits done so far."""


@dataclass
class _Grid:
    """All fits, and what has come of those done."""

    setup: Setup
    progress: Progress
    weights: Path | None
    predictions: Predictions | None
    outcomes: OutcomeStore
    unfinished: Unfinished | None = None
    done: int = 0
    judged: int = 0
    """Test samples that the last fit was judged by."""
    steps: int = 0
    repeats: dict[float, int] = field(default_factory=dict)
    """Of each fraction of the labels, as far as they are known."""
    rows: dict[tuple[Mode, float], dict[str, Any]] = field(default_factory=dict)
    """What a result has of the fits of one mode with one fraction of the labels, ready for JSON."""

    def count(self) -> None:
        """Find out how many fits there are, and of how many steps: the first repetition tells."""
        self.steps = self.setup.steps()
        self.repeats = {share: self.setup.repeats(share) for share in self.setup.config.label_fractions}

    def add(self, parts: Parts, mode: Mode, share: float, repeat: int) -> None:
        """One more fit."""
        setup, times = self.setup, self.repeats[share]
        task, feed = setup.task, setup.feed
        config, device, run = setup.config.of(mode), feed.device, setup.runs[repeat % len(setup.runs)]
        seed = keyed_seed(config.seed, "finetune", repeat)
        name = f"{mode}, {100 * share:g} % of the labels, {repeat + 1} of {times}"
        task.begin(parts.train)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            model = setup.model(mode, seed, run).to(device)
            own = config.model_copy(update={"steps": self.steps})
            fitted = fit(model, task, feed, parts, own, seed, self._watch(name), self.unfinished, name)
            if mode == "lora":
                merge_lora(model.encoder)
            keep = self._keeper(parts, mode, share, repeat)
            found = evaluate(model, task, feed, parts.test, config, task.votes, keep, judged := Judged())
            if keep is not None:
                keep.close()
        self.done += config.epochs
        self.outcomes.add(mode, share, repeat, judged)
        self.judged = distributed.gather_objects(judged.count)[0]
        counts = {"train": len(parts.train), "val": len(parts.val)}
        new = {"mode": mode, "fraction": share, "repeats": times, "steps": self.steps, "labels": counts}
        row = self.rows.setdefault((mode, share), {**new, "epochs": [], "metrics": {}})
        row["epochs"].append(fitted.epoch)
        for figure, value in found.items():
            before = row["metrics"].get(figure, {"values": []})["values"]
            row["metrics"][figure] = summary([math.nan if v is None else v for v in [*before, value]])
        if config.curve:
            curve = row.setdefault("curve", {"steps": marks(self.steps), "values": []})
            curve["values"].append([null(fitted.curve.get(step, math.nan)) for step in curve["steps"]])
        saves = config.save == "all" or (config.save == "one" and self._shown(mode, share, repeat))
        if self.weights is not None and saves and distributed.rank() == 0:
            figures = {figure: null(value) for figure, value in found.items()}
            about = {"mode": mode, "fraction": share, "repeat": repeat, "figures": figures}
            model.encoder.prepared = feed.source.prepared
            save_tuned(model, task, setup.classes, about, self.weights / f"{mode}_{100 * share:g}_{repeat}")

    def take_up(self, before: dict[str, Any]) -> None:
        """The fits of an earlier call with the same settings count as done."""
        for row in copy.deepcopy(before["results"]):
            self.rows[row["mode"], row["fraction"]] = row
            self.repeats[row["fraction"]], self.steps = row["repeats"], row["steps"]
            self.done += len(row["epochs"]) * self.setup.config.epochs
        self.setup.feed.bad.update((BadSample(**bad), None) for bad in before["bad"])

    def missing(self, repeat: int) -> list[tuple[float, Mode]]:
        """The fits of a repetition that are not done."""
        config = self.setup.config
        done = {fit for fit, row in self.rows.items() if len(row["epochs"]) > repeat}
        wanted = [share for share in config.label_fractions if repeat < self.repeats.get(share, 1)]
        return [(share, mode) for share in wanted for mode in config.modes if (mode, share) not in done]

    def _shown(self, mode: Mode, share: float, repeat: int) -> bool:
        """Whether it is the fit that is looked at and applied: of the last mode, with most labels."""
        config = self.setup.config
        return mode == config.modes[-1] and share == max(config.label_fractions) and repeat == 0

    def _keeper(self, parts: Parts, mode: Mode, share: float, repeat: int) -> Keeper | None:
        """Where the predictions of a fit go, if they are those to be looked at."""
        if self.predictions is None or not self._shown(mode, share, repeat) or distributed.rank() > 0:
            return None
        task, config = self.setup.task, self.setup.config
        about = {"task": config.task.name, "mode": mode, "fraction": share, "votes": task.votes}
        return self.predictions.keeper(task, self.setup.classes, parts.test, about)

    def tell(self, what: str, more: int = 0) -> None:
        """What is being done, and how many epochs of it are."""
        config = self.setup.config
        self.progress(self.done + more, sum(self.repeats.values()) * len(config.modes) * config.epochs, what)

    def _watch(self, name: str) -> Watch:
        self.tell(name)
        return lambda epoch, status: self.tell(f"{name}: {status}", epoch)


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
    outcomes: OutcomeStore | None = None,
) -> dict[str, Any]:
    """Fine-tune the encoders of ``runs`` (folders with ``encoder.json``, of one architecture) on ``config.task``.

    In every repetition all modes see the same samples in the same order with the same augmentation, and every fit takes
    the same steps, however few its labels are. Returns, ready for JSON, for every mode and label fraction how many
    labels were used, and the figures of the task on the test part: mean, standard deviation and the single values over
    the repetitions; null where there is none. ``starved`` has the fractions where scratch was given too few steps, of
    which there is a warning, too. ``baselines`` and ``verdicts`` tell whether the modes are ahead of scratch and of the
    strongest trivial baseline: see ``outcomes.told``.

    ``finished`` is given the same after every fit, of those done so far, and as ``before`` it is gone on from there, to
    the same figures: everything random is a function of the seed and the fit. In ``unfinished`` is the state of the one
    under way, which goes on in the middle of it. The weights that ``config.save`` asks for go to ``weights``, a folder
    for each fit. To ``predictions`` goes what the last of the modes says of test samples, with the largest fraction, in
    the first repetition. ``outcomes`` keeps what each test sample got (None: in memory alone).

    Where labels of points are learned those of all parts are looked at first; ``looked`` is told how many samples have
    been, and of how many. Several processes share the samples; files are written by the main one alone. Raises
    ``Interrupted`` soon after ``stopped`` is true on one of them.
    """
    setup = Setup.of(source, runs, config, device, stopped, looked)
    feed = setup.feed
    store = OutcomeStore() if outcomes is None else outcomes
    grid = _Grid(setup, progress, weights, predictions, store, unfinished)
    baselines = Baselines(feed, store) if config.baselines else None
    result: dict[str, Any] = {"runs": [str(run) for run in runs], "metric": setup.task.metric}
    if before is not None:
        grid.take_up(before)
        result |= {key: before[key] for key in _KEPT if key in before}
    repeat = 0
    while repeat < max(grid.repeats.values(), default=1):
        for share, mode in grid.missing(repeat):
            if len(grid.repeats) < len(config.label_fractions):
                grid.count()
            parts, own = setup.parts(repeat), setup.labelled(share, repeat)
            if baselines is not None:
                baselines.add(own, share, repeat, grid.tell)
            grid.add(own, mode, share, repeat)
            result["classes"] = setup.classes
            result["sizes"] = {"train": len(parts.train), "val": len(parts.val), "test": grid.judged}
            result["tested"] = parts.tested
            result["results"] = copy.deepcopy(list(grid.rows.values()))
            result["starved"] = starved(result["results"], setup.task.metric, len(setup.classes), config.scratch_steps)
            feed.share_bad()
            result["bad"] = [{"path": bad.path, "reason": bad.reason} for bad in feed.bad]
            result |= told(store, setup.task, config.modes, result["results"])
            finished(result)
        repeat += 1
    if distributed.rank() == 0:  # what the recipe knows was told before the first fit
        for text in {one["told"] for one in result["starved"]} - {too_few(grid.steps, config.scratch_steps)}:
            warnings.warn(text, stacklevel=2)
    if unfinished is not None:
        unfinished.remove()
    return result
