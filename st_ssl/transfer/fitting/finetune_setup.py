"""What every fit begins with: the samples and their labels, and encoders that are there to be loaded; and the plan of
all fits, for people to read before anything is trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from st_ssl.core.config import Config, Place, merge, validate
from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.evenly import evenly
from st_ssl.core.random import keyed_seed
from st_ssl.core.types import Entry
from st_ssl.data.base import DataSource
from st_ssl.encoders.base import AnyInput, count_parameters, describe_encoder, load_encoder, random_encoder, serve
from st_ssl.training.optim import check_precision
from st_ssl.transfer.features.features import one_encoder
from st_ssl.transfer.fitting.curve import too_few
from st_ssl.transfer.fitting.finetune_config import FinetuneConfig, Mode
from st_ssl.transfer.fitting.finetune_model import Tuned, tuned
from st_ssl.transfer.fitting.fit import check_batch
from st_ssl.transfer.fitting.label_fractions import FEW, Parts, draws, with_validation
from st_ssl.transfer.fitting.task_loader import Feed
from st_ssl.transfer.tasks.base import TASKS, Task


@dataclass
class Setup:
    """The samples of a task, and the encoders in the folders ``runs``, for fits as ``config`` wants them. ``classes``
    are those of the parts that were asked for last."""

    task: Task
    feed: Feed
    config: FinetuneConfig
    runs: Sequence[Path]
    entries: list[Entry]
    classes: list[str] = field(default_factory=list)
    _repeat: int | None = None
    _asked: Parts | None = None
    _parts: Parts = field(default_factory=lambda: Parts([]))

    @classmethod
    def of(
        cls,
        source: DataSource,
        runs: Sequence[Path],
        config: FinetuneConfig,
        device: torch.device,
        stopped: Callable[[], bool] = lambda: False,
        looked: Callable[[int, int], None] = lambda *_: None,
    ) -> Setup:
        """Raises ``UserError`` where the data, the encoders and the configuration do not go together."""
        one_encoder(runs)
        task: Task = TASKS.build(config.task)
        described = _described(runs[0], config)
        encoder = load_encoder(runs[0], described)
        serve(source, runs[0], described)
        if not task.modality == source.modality == encoder.modality:
            raise ConfigError(
                f"task.name={config.task.name} is for {task.modality}, the data is {source.modality} and the encoder "
                f"in {runs[0]} is fed {encoder.modality}: all three must be the same"
            )
        if config.modes != ("frozen",):
            check_precision(encoder, config.precision, device, "precision")
        if not task.has_fractions and config.label_fractions != (1.0,):
            raise ConfigError(
                f"label_fractions: {config.task.name} takes as many labels as it says itself: leave it at [1.0]"
            )
        task.of_data(source)
        plain = config.overfit is not None
        feed = Feed(source, task, described[1], device, stopped=stopped, looked=looked, plain=plain)
        return cls(task, feed, config, runs, wanted_entries(source, config))

    def parts(self, repeat: int) -> Parts:
        """All samples of a repetition that can be used; the task then knows the classes of these."""
        if repeat != self._repeat:
            divided, self._repeat = self.task.parts(self.entries, repeat), repeat
            if divided != self._asked:  # or else what was learned of the classes still holds
                self._asked = divided
                self.classes = self.task.learn_classes(divided, self.feed.look)
                self._parts = self._few(self.task.usable(divided))
        return self._parts

    def _few(self, parts: Parts) -> Parts:
        """``parts``, or the few training samples that are all there is, spread evenly over them."""
        if (count := self.config.overfit) is None:
            return parts
        chosen = [parts.train[row] for row in evenly(len(parts.train), count)]
        return Parts(chosen, [], chosen, f"the {len(chosen)} samples that it was trained on")

    def labelled(self, share: float, repeat: int) -> Parts:
        """The samples of a fit with that share of the labels: a validation part is one of labels, too."""
        parts, task = self.parts(repeat), self.task
        if self.config.overfit is not None:
            return parts
        labels, own = (task.fraction(part, share, repeat) for part in (parts.train, parts.val))
        if not task.has_fractions:
            return Parts(labels, [], parts.test, parts.tested)
        found = with_validation(labels, own, task.group, self.config.val_share)
        return Parts(found.train, found.val, parts.test, parts.tested)

    def repeats(self, share: float) -> int:
        """How often fits with that share of the labels are made."""
        labels = len(self.task.fraction(self.parts(0).train, share, 0))
        return self.task.repeats(draws(labels, self.config.seeds, len(self.runs)))

    def steps(self) -> int:
        """How many steps every fit takes; a warning where that is known to be too few for scratch."""
        config = self.config
        steps = config.budget(len(self.labelled(1.0, 0).train))
        if "scratch" in config.modes and steps < (config.scratch_steps or 0):
            warnings.warn(too_few(steps, config.scratch_steps), stacklevel=2)
        return steps

    def model(self, mode: Mode, seed: int, run: Path) -> Tuned:
        """A network to be trained: the encoder of ``run``, or a new one like it, with a new head. Draws from torch."""
        described = _described(run, self.config)
        scratch = mode == "scratch"
        network = random_encoder(*described, keyed_seed(seed, "scratch")) if scratch else load_encoder(run, described)
        torch.manual_seed(keyed_seed(seed, "head"))
        return tuned(network, self.task.head(network), mode, self.config.last_blocks, self.config.lora)

    def plan(self) -> dict[str, str]:
        """What ``finetune`` would do: the samples and classes of the first repetition, for each fraction of the labels
        what is trained on, how long and how often, and how much of the network each mode trains. Labels of points are
        looked at as for a fit. Nothing is trained or written."""
        parts, steps, config, classes = self.parts(0), self.steps(), self.config, self.classes
        names = ", ".join(classes[:8]) + (", …" if len(classes) > 8 else "")
        told = {"task": config.task.name, "classes": f"{len(classes)} ({names})"}
        counts = {share: self.repeats(share) for share in config.label_fractions}
        labelled = {share: self.labelled(share, 0) for share in config.label_fractions}
        for share, own in labelled.items():
            drawn = f"{counts[share]} draws" if counts[share] > 1 else "once"
            told[f"labels, {100 * share:g} %"] = f"{_labels(own)}; {steps:,} steps, {drawn}"
        own_parts = any(entry.split in ("val", "test") for entry in self.entries)
        drawn = "" if own_parts else ", drawn: the data have no test part"
        told["test on"] = f"{len(parts.test):,} samples{drawn}"
        told |= self.task.counted()
        modes, fits = len(config.modes), sum(counts.values())
        told["fits"] = f"{modes * fits:,} ({modes} modes × {fits} draws of labels)"
        for mode in config.modes:
            model = self.model(mode, config.seed, self.runs[0])
            for own in labelled.values():
                check_batch(model.train(), len(own.train), config)
            every = sum(p.numel() for p in model.parameters())
            told[f"trained, {mode}"] = f"{count_parameters(model):,} of {every:,} parameters"
        return told


def _described(run: Path, config: FinetuneConfig) -> tuple[Config, AnyInput]:
    """The encoder of ``run`` and its input, with the changes of ``config``."""
    encoder, input = describe_encoder(run)
    return _changed(encoder, config.encoder, "encoder"), _changed(input, config.input, "input")


def _changed(config: Any, changes: dict[str, Any], key: str) -> Any:
    return validate(type(config), merge(config.model_dump(), changes), Place(Path(key))) if changes else config


def wanted_entries(source: DataSource, config: FinetuneConfig) -> list[Entry]:
    """All samples but those of a test part that is not asked for."""
    entries = list(source.entries())
    if config.test_on == "test":
        return entries
    if not any(entry.split == "val" for entry in entries):
        raise DataError("test_on=val: no sample of the data is of the split val")
    return [entry for entry in entries if entry.split != "test"]


def _labels(parts: Parts) -> str:
    """What the labels are for."""
    if parts.val:
        return f"{len(parts.train):,}, and {len(parts.val):,} to choose the epoch by"
    why = f"under {FEW}: " if len(parts.train) < FEW else ""
    return f"{len(parts.train):,} ({why}the last weights count)"
