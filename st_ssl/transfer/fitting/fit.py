"""One fit: an encoder and the head of a task, trained on some samples, judged on others. It knows no task by name."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from st_ssl.core.errors import ConfigError, DataError, UserError
from st_ssl.core.random import Key, keyed_seed
from st_ssl.data.base import BadSample
from st_ssl.training import distributed
from st_ssl.training.batchnorm import convert_batchnorm
from st_ssl.training.checkpoint import Loaded, check_keys, flatten_optimizer, restore_optimizer
from st_ssl.training.ema import follow
from st_ssl.training.optim import build_optimizer, layer_numbers, layer_scale, peak_lr
from st_ssl.training.schedule import lr_at
from st_ssl.transfer.fitting.curve import curve_samples, marks
from st_ssl.transfer.fitting.evaluate import evaluate
from st_ssl.transfer.fitting.finetune_config import FitConfig, autocast
from st_ssl.transfer.fitting.finetune_model import Tuned
from st_ssl.transfer.fitting.fit_checkpoint import Unfinished
from st_ssl.transfer.fitting.label_fractions import FEW, Parts
from st_ssl.transfer.fitting.task_loader import Feed, Interrupted
from st_ssl.transfer.tasks.ballot import Shown
from st_ssl.transfer.tasks.base import Task


@dataclass
class Fit:
    """What came of a fit: the epoch (from 1) whose weights the model has, its figures on the validation part, and by
    ``curve``, steps to the metric, how the weights of these steps did on test samples."""

    epoch: int
    validation: dict[str, float]
    curve: dict[int, float] = field(default_factory=dict)


Watch = Callable[[int, str], None]
"""Told after every epoch how many are done, and how it stands."""


def fit(
    model: Tuned,
    task: Task,
    feed: Feed,
    parts: Parts,
    config: FitConfig,
    seed: int,
    watch: Watch = lambda *_: None,
    unfinished: Unfinished | None = None,
    name: str = "fit",
) -> Fit:
    """Train ``model`` on ``parts.train`` and give it the weights of the epoch that is best on ``parts.val`` by the
    metric of ``task`` (of equal ones the later); the last where there is no such part, or nothing labelled in it. The
    steps are those of ``config``: passes over ``parts.train`` where it does not name them.

    Everything random is drawn from ``seed``. Under ``name`` the state is kept in ``unfinished``, from which the same
    call goes on after the process was killed, to the same bits. Several processes share each batch, and make the same
    steps as one (but for what the network draws as it runs, such as dropout, and for mixing, which stays within a
    part). Raises ``UserError`` where the loss is no number, and ``Interrupted`` where ``feed`` says to stop.
    """
    course = _Course(model, task, feed, parts, config, seed)
    if unfinished is not None and (loaded := unfinished.load(name)) is not None:
        course.restore(loaded)
        watch(course.epoch, "going on")
    shown = feed.training(task.drawn(parts.train), seed, course.batch, course.total, config.accumulate, course.step)

    def save() -> None:
        if unfinished is not None:
            unfinished.save(name, course.step, *course.state())

    try:
        course.mark()
        ended = course.ended_epoch and course.look(watch)
        while not ended and course.step < course.total:
            if course.advance(list(islice(shown, config.accumulate))):
                raise Interrupted(f"stopped after {course.epoch} of {config.epochs} epochs of {name}")
            course.mark()
            if course.ended_epoch:
                feed.share_bad()
                if unfinished is not None and unfinished.due():
                    save()
                ended = course.look(watch)
    except Interrupted:
        feed.share_bad()
        save()
        distributed.barrier()  # what started them ends all when one has ended
        raise
    return course.result()


def check_batch(model: nn.Module, samples: int, config: FitConfig) -> None:
    """``DataError`` or ``ConfigError`` where batches of ``samples`` have parts (one a process and step of
    ``accumulate``) without a sample, or with one where ``model``, in the mode of training, has batch norm."""
    batch, processes = min(config.batch_size, samples), distributed.world_size()
    smallest = batch // (processes * config.accumulate)
    if not smallest:
        raise DataError(
            f"a batch of {batch} of {samples} samples is less than processes × accumulate = "
            f"{processes} × {config.accumulate}: each part needs a sample"
        )
    norms = any(isinstance(m, _BatchNorm) and m.training for m in model.modules())
    if smallest == 1 and norms and processes == 1:
        told = f"accumulate={config.accumulate}: batch norm needs two samples in each part of a batch of {batch}"
        raise ConfigError(f"{told} ({samples} to train on: see label_fractions, val_share and batch_size)")


@dataclass
class _Course:
    """A fit on its way: all that changes from step to step."""

    model: Tuned
    task: Task
    feed: Feed
    parts: Parts
    config: FitConfig
    seed: int
    step: int = 0
    loss: float = math.nan
    idle: int = 0
    """Looks in a row that were no better than the best before."""
    best: Fit = field(init=False)
    kept: dict[str, Tensor] | None = None
    curve: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config, model, processes = self.config, self.model, distributed.world_size()
        self.batch = min(config.batch_size, len(self.parts.train))
        self.total = config.budget(len(self.parts.train))
        self.best = Fit(config.epochs, {})
        self.shown = curve_samples(self.parts.test, self.task.group) if config.curve else []
        self.rank, self.processes = distributed.rank(), processes
        model.train()
        self._check()
        self.network: nn.Module = model
        if processes > 1:
            convert_batchnorm(model, self.feed.device.type)
            self.network = distributed.average_gradients(model)
        self.peak = peak_lr(config.optim, self.batch)
        self.optimizer = build_optimizer(model.named_parameters(), config.optim, self.peak, self._scale())
        self.live = model.learned()
        self.average = None if config.ema is None else _copy(self.live)

    def _scale(self) -> Callable[[str], float]:
        """What the learning rate of each parameter is multiplied by."""
        encoder, decay = self.model.encoder, self.config.layer_decay
        names = [f"encoder.{name}" for name, _ in encoder.named_parameters()]
        if decay < 1 and any(p.requires_grad for p in encoder.parameters()) and not layer_numbers(names)[1]:
            called = getattr(encoder.config, "name", type(encoder).__name__)
            told = f"layer_decay={decay:g} is ignored: the encoder {called} has no numbered layers"
            warnings.warn(told, stacklevel=2)
        return layer_scale(names, decay)

    def _check(self) -> None:
        config, samples = self.config, len(self.parts.train)
        check_batch(self.model, samples, config)
        if config.patience is not None and not self.parts.val:
            told = f"patience={config.patience}"
            if samples >= FEW:
                raise ConfigError(f"{told}: there is no validation part to look at; set val_share above 0")
            warnings.warn(f"{told} is ignored: under {FEW} labels there is no validation part", stacklevel=2)
        if not self.task.mixes:
            return
        parts = self.processes * config.accumulate
        views = self.task.training_views(self.feed.source, self.feed.input).num_views
        if self.batch // parts * views < 2:  # nothing to mix with
            told = f"parts of one sample, of processes × accumulate = {self.processes} × {config.accumulate}"
            if config.batch_size // parts * views < 2:
                raise ConfigError(f"task.mix: there is nothing to mix in a batch of {config.batch_size} in {told}")
            warnings.warn(f"task.mix is ignored in a batch of all {self.batch} samples in {told}", stacklevel=2)

    @property
    def epoch(self) -> int:
        """How many are done."""
        return self._epochs(self.step)

    @property
    def ended_epoch(self) -> bool:
        """Whether the last step was the last of an epoch."""
        return self.epoch > self._epochs(self.step - 1)

    def _epochs(self, steps: int) -> int:
        """How many are done after so many steps."""
        return max(steps, 0) * self.config.epochs // self.total

    # ---------------------------------------------------------------- training

    def advance(self, shown: Sequence[Shown]) -> bool:
        """One step with the parts ``shown`` of its batch. Whether some process was told to stop."""
        rate = lr_at(self.step, self.total, self.total / self.config.epochs, self.config.schedule, self.peak)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        task = self.task
        targets = [task.training_targets(part, self.seed) for part in shown]
        parts = enumerate(zip(shown, targets, strict=True))
        batch = [task.mixed(part, own, self._key("mix", number)) for number, (part, own) in parts]
        weights = [task.weight(mixed) for _, mixed in batch]
        stopped = float(self.feed.stopped())
        total, stop = distributed.sum_over_ranks([sum(weights), stopped], self.feed.device)
        if total:
            self._update(batch, [weight * self.processes / total for weight in weights])
        self.step += 1
        return bool(stop)

    def _key(self, what: str, number: int) -> tuple[Key, ...]:
        """Of draws for part ``number`` of this process's share; the first of all has that of a whole batch."""
        place = self.rank * self.config.accumulate + number
        return (self.seed, what, self.step, *((place,) if place else ()))

    def _update(self, batch: list[tuple[Shown, Tensor]], shares: list[float]) -> None:
        """Change the weights by the gradient of the mean loss over the batches of all processes; ``shares``: what the
        loss of each part counts for, 1 on average."""
        self.optimizer.zero_grad()
        value = 0.0
        for number, ((shown, targets), share) in enumerate(zip(batch, shares, strict=True)):
            torch.manual_seed(keyed_seed(*self._key("step", number)))  # dropout and the like
            network, last = self.network, number == len(batch) - 1  # with which alone processes average gradients
            with network.no_sync() if isinstance(network, DistributedDataParallel) and not last else nullcontext():
                with autocast(self.config, targets.device):
                    scores = network(shown)
                scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
                # A part without labels still takes part: processes wait for each other's gradients.
                loss = self.task.loss(scores, targets) * share if share else scores.sum() * 0
                value += float(loss.detach())
                if not math.isfinite(value) and self.processes == 1:
                    break
                loss.backward()
        (value,) = distributed.sum_over_ranks([value / self.processes], self.feed.device)
        if not math.isfinite(value):
            raise UserError(f"the loss is {value}: a smaller optim.lr, or a clip_grad, may help")
        if self.config.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.optimizer.step()
        self.loss = value
        if self.average is not None and self.config.ema is not None:
            warm = (1 + self.step) / (10 + self.step)
            follow(self.average, self.live, min(self.config.ema, warm))

    # ---------------------------------------------------------------- judging

    def look(self, watch: Watch) -> bool:
        """How the epoch that was just done does on the validation part, if it is one to look at. Whether no other is
        needed."""
        config, task, val, epoch = self.config, self.task, self.parts.val, self.epoch
        status = f"loss {self.loss:.3f}"
        due = epoch // config.val_every > self._epochs(self.step - 1) // config.val_every
        if val and (due or self.step == self.total):
            with self._averaged():
                found = evaluate(self.model, task, self.feed, val, config)
                value, before = found[task.metric], self.best.validation.get(task.metric, -math.inf)
                status += f", {task.metric} {value:.1f}"
                if value >= before:
                    self.best, self.kept = Fit(epoch, found), _copy(self.live, "cpu")
            self.idle = self.idle + 1 if value <= before else 0
            self.model.train()
        watch(epoch, status)
        return config.patience is not None and self.idle >= config.patience

    def mark(self) -> None:
        """Note for the curve how the network does on test samples, if that is due. Nothing is chosen by it, and no draw
        of the training is another one for it."""
        if not self.shown or self.step not in marks(self.total) or self.step in self.curve:
            return
        with self._averaged():
            found = evaluate(self.model, self.task, self.feed, self.shown, self.config)
        self.curve[self.step] = found[self.task.metric]
        self.model.train()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The model has the average of its weights, if one is kept."""
        if self.average is None:
            yield
            return
        own = _copy(self.live)
        _write(self.average, self.live)
        try:
            yield
        finally:
            _write(own, self.live)

    def result(self) -> Fit:
        """Give the model the weights that it is left with."""
        kept = self.average if self.kept is None else self.kept
        if kept is not None:
            _write(kept, self.live)
        return replace(self.best, curve=self.curve)

    # ---------------------------------------------------------------- state

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, object]]:
        """All of it, as tensors and as JSON, for ``restore``."""
        optimizer, settings = flatten_optimizer(self.optimizer)
        tensors = {"model": self.live, "optimizer": optimizer}
        tensors |= {} if self.average is None else {"average": self.average}
        tensors |= {} if self.kept is None else {"kept": self.kept}
        return tensors, {
            "optimizer": settings,
            "loss": self.loss,
            "idle": self.idle,
            "best": [self.best.epoch, self.best.validation],
            "curve": [list(mark) for mark in self.curve.items()],
            "bad": [[bad.path, bad.reason] for bad in self.feed.bad],
        }

    def restore(self, loaded: Loaded) -> None:
        """Go on where ``state`` was taken."""
        state, tensors = loaded.state, loaded.tensors
        check_keys(self.live, tensors["model"], f"{loaded.path}: the network")
        _write(tensors["model"], self.live)
        restore_optimizer(self.optimizer, tensors["optimizer"], state["optimizer"])
        if self.average is not None:
            _write(tensors["average"], self.average)
        self.kept = tensors.get("kept")
        self.step, self.loss, self.idle, self.best = loaded.step, state["loss"], state["idle"], Fit(*state["best"])
        self.curve = dict(state["curve"])
        self.feed.bad.update((BadSample(*row), None) for row in state["bad"])


def _copy(tensors: dict[str, Tensor], device: str | None = None) -> dict[str, Tensor]:
    return {name: tensor.detach().to(device or tensor.device, copy=True) for name, tensor in tensors.items()}


@torch.no_grad()
def _write(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
