"""What every fit begins with: the samples and their labels, and encoders that are there to be loaded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from st_ssl.core.config import Config, Place, merge, validate
from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.random import keyed_seed
from st_ssl.core.types import Entry
from st_ssl.data.base import DataSource
from st_ssl.encoders.base import AnyInput, Encoder, describe_encoder, load_encoder, random_encoder, serve
from st_ssl.training.optim import check_precision
from st_ssl.transfer.fitting.curve import too_few
from st_ssl.transfer.fitting.finetune_config import FinetuneConfig
from st_ssl.transfer.fitting.finetune_model import Tuned, tuned
from st_ssl.transfer.fitting.fit_config import Mode
from st_ssl.transfer.fitting.label_fractions import Parts, draws, with_validation
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
        task: Task = TASKS.build(config.task)
        input = _input(runs, config)
        _check(task, source, runs[0], config, device)
        feed = Feed(source, task, input, device, stopped=stopped, looked=looked)
        return cls(task, feed, config, runs, wanted_entries(source, config))

    def parts(self, repeat: int) -> Parts:
        """All samples of a repetition that can be used; the task then knows the classes of these."""
        if repeat != self._repeat:
            divided, self._repeat = self.task.parts(self.entries, repeat), repeat
            if divided != self._asked:  # or else what was learned of the classes still holds
                self._asked = divided
                self.classes = self.task.learn_classes(divided, self.feed.look)
                self._parts = self.task.usable(divided)
        return self._parts

    def labelled(self, share: float, repeat: int) -> Parts:
        """The samples of a fit with that share of the labels: a validation part is one of labels, too."""
        parts, task = self.parts(repeat), self.task
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
        network = self._network(mode, seed, run)
        torch.manual_seed(keyed_seed(seed, "head"))
        return tuned(network, self.task.head(network), mode, self.config.last_blocks, self.config.lora)

    def _network(self, mode: Mode, seed: int, run: Path) -> Encoder:
        described = _described(run, self.config)
        if mode == "scratch":
            return random_encoder(*described, keyed_seed(seed, "scratch"))
        return load_encoder(run, described)


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


def wanted_entries(source: DataSource, config: FinetuneConfig) -> list[Entry]:
    """All samples but those of a test part that is not asked for."""
    entries = list(source.entries())
    if config.test_on == "test":
        return entries
    if not any(entry.split == "val" for entry in entries):
        raise DataError("test_on=val: no sample of the data is of the split val")
    return [entry for entry in entries if entry.split != "test"]
