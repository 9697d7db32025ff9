"""One fit: an encoder and the head of a task, trained on some samples, judged on others. It knows no task by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from st_ssl.config import Config
from st_ssl.data.base import BadSample, Batch, DataSource, Views
from st_ssl.data.loader import build_loader
from st_ssl.data.order import Order, StepSampler
from st_ssl.encoders.base import Encoder
from st_ssl.errors import DataError, UserError
from st_ssl.optim import OptimConfig, build_optimizer, layer_scale, peak_lr
from st_ssl.random import keyed_seed
from st_ssl.schedule import ScheduleConfig, lr_at
from st_ssl.transfer.metrics import IGNORE
from st_ssl.transfer.predictions import Keep
from st_ssl.transfer.subsets import Parts
from st_ssl.transfer.tasks import Shown, Task
from st_ssl.transfer.voting import Ballot
from st_ssl.types import Entry


class FitConfig(Config):
    """How a head, and the encoder unless it is frozen, are trained. ``layer_decay``: the factor by which the learning
    rate falls from a layer of the encoder to the one below; ``val_every``: epochs between two looks at the validation
    part. Of a fraction smaller than a batch all samples are one batch."""

    epochs: int = Field(default=100, gt=0)
    batch_size: int = Field(default=32, gt=1)
    optim: OptimConfig = OptimConfig(lr=5e-4, lr_batch=None, betas=(0.9, 0.999))
    schedule: ScheduleConfig = ScheduleConfig(warmup_epochs=5)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    clip_grad: float | None = Field(default=10.0, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    val_every: int = Field(default=1, gt=0)


class Tuned(nn.Module):
    """An encoder with a head on it; ``frozen``: the encoder stays as it is, in evaluation mode."""

    def __init__(self, encoder: Encoder, head: nn.Module, frozen: bool) -> None:
        super().__init__()
        self.encoder, self.head, self.frozen = encoder, head, frozen
        encoder.requires_grad_(not frozen)

    @property
    def learned(self) -> nn.Module:
        """The part that training changes."""
        return self.head if self.frozen else self

    def train(self, mode: bool = True) -> Tuned:
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, shown: Shown) -> Tensor:
        """Scores [R, K]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = self.encoder(shown.view.content)
        return self.head(features, shown)


@dataclass
class Feed:
    """The samples of ``source`` as ``task`` wants to see them, on ``device``; ``bad`` is what was found broken."""

    source: DataSource
    task: Task
    input: Any
    device: torch.device
    bad: dict[BadSample, None] = field(default_factory=dict)

    def training(self, entries: list[Entry], seed: int, batch_size: int, epochs: int) -> Iterator[Shown]:
        """All steps of a fit, each a varied batch; broken samples are replaced by the rule of the data set."""
        order = Order(seed, len(entries), min(batch_size, len(entries)))
        steps = StepSampler(order, 0, epochs * order.steps_per_pass)
        views = self.task.training_views(self.source, self.input)
        for step, batch in enumerate(self._batches(entries, views, seed, steps)):
            if not batch.views:
                raise DataError(f"a whole batch is broken; the first: {batch.bad[0].path}: {batch.bad[0].reason}")
            (shown,) = self._shown(views, batch, entries)
            epoch = step // order.steps_per_pass
            yield self.task.augmented(shown, [(seed, "augment", epoch, i) for i in batch.wanted.tolist()])

    def testing(self, entries: Sequence[Entry], batch_size: int, votes: int = 1) -> Iterator[tuple[list[Shown], Shown]]:
        """All of ``entries`` once: ``votes`` views of each batch, and what is asked about, which is whole clouds or the
        first view; those that are broken are left out. Where views may be fed together, ``batch_size`` counts them."""
        if self.task.views_together:
            batch_size = max(1, batch_size // votes)
        views = self.task.testing_views(self.source, self.input, votes)
        rows = [(0, i) for i in range(len(entries))]
        steps = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        for batch in self._batches(entries, views, 0, steps):
            for part in self._sound(batch):
                shown = self._shown(views, part, entries)
                asked = shown.pop() if self.task.whole else shown[0]
                yield [self.task.varied(view, vote) if vote else view for vote, view in enumerate(shown)], asked

    def _batches(self, entries: Sequence[Entry], views: Views, seed: int, steps: Iterable[Any]) -> Iterator[Batch]:
        source = self.source
        dataset = source.dataset(entries, views, keyed_seed(seed, "finetune"))
        pin = self.device.type == "cuda"
        lost = source.max_bad(len(entries))
        timeout = source.sample_timeout
        for batch in build_loader(
            dataset, steps, source.collate, source.num_workers, pin, timeout=timeout, max_lost=lost
        ):
            self.bad.update(dict.fromkeys(batch.bad))
            yield batch.to(self.device)

    def _sound(self, batch: Batch) -> Iterator[Batch]:
        """The batch, or those of its samples that stand for themselves, one by one."""
        if batch.views and batch.indices.equal(batch.wanted):
            yield batch
        elif batch.views:
            yield from (part for part in batch.split(len(batch.wanted)) if part.indices.equal(part.wanted))

    def _shown(self, views: Views, batch: Batch, entries: Sequence[Entry]) -> list[Shown]:
        own = [entries[i] for i in batch.indices.tolist()]
        return [Shown(view, own) for view in views.prepare(list(batch.views))]


@dataclass
class Fit:
    """What came of a fit: the epoch (from 1) whose weights the model has, and its figures on the validation part."""

    epoch: int
    validation: dict[str, float]


Watch = Callable[[int, str], None]
"""Told after every epoch how many are done, and how it stands."""


def fit(
    model: Tuned, task: Task, feed: Feed, parts: Parts, config: FitConfig, seed: int, watch: Watch = lambda *_: None
) -> Fit:
    """Train ``model`` on ``parts.train`` and give it the weights of the epoch that is best on ``parts.val`` by the
    metric of ``task`` (of equal ones the later); the last where there is no such part, or nothing labelled in it.

    Everything random is drawn from ``seed``. Raises ``UserError`` where the loss is no number.
    """
    batch = min(config.batch_size, len(parts.train))
    per_epoch = len(parts.train) // batch
    peak = peak_lr(config.optim, batch)
    scale = layer_scale([f"encoder.{name}" for name, _ in model.encoder.named_parameters()], config.layer_decay)
    optimizer = build_optimizer(model.named_parameters(), config.optim, peak, scale)
    best, weights = Fit(config.epochs, {}), None
    loss = math.nan
    model.train()
    for step, shown in enumerate(feed.training(parts.train, seed, batch, config.epochs)):
        for group in optimizer.param_groups:
            rate = lr_at(step, config.epochs * per_epoch, per_epoch, config.schedule, peak)
            group["lr"] = rate * group["lr_scale"]
        torch.manual_seed(keyed_seed(seed, "step", step))  # dropout and the like
        loss = _update(model, task, optimizer, shown, config, seed, loss)
        epoch, rest = divmod(step + 1, per_epoch)
        if rest:
            continue
        status = f"loss {loss:.3f}"
        if parts.val and (epoch % config.val_every == 0 or epoch == config.epochs):
            found = evaluate(model, task, feed, parts.val, config)
            status += f", {task.metric} {found[task.metric]:.1f}"
            if found[task.metric] >= best.validation.get(task.metric, -math.inf):
                best, weights = Fit(epoch, found), _copy(model.learned)
            model.train()
        watch(epoch, status)
    if weights is not None:
        model.learned.load_state_dict(weights)
    return best


def _update(
    model: Tuned,
    task: Task,
    optimizer: torch.optim.Optimizer,
    shown: Shown,
    config: FitConfig,
    seed: int,
    before: float,
) -> float:
    """One step; returns its loss, or the one ``before`` where nothing in the batch is labelled."""
    targets = task.training_targets(shown, seed)
    if not bool((targets != IGNORE).any()):
        return before
    with _autocast(config, targets.device):
        scores = model(shown)
    loss = task.loss(scores.float(), targets)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise UserError(f"the loss is {value}: a smaller optim.lr, or a clip_grad, may help")
    optimizer.zero_grad()
    loss.backward()
    if config.clip_grad is not None:
        nn.utils.clip_grad_norm_(model.learned.parameters(), config.clip_grad)
    optimizer.step()
    return value


@torch.no_grad()
def evaluate(
    model: Tuned,
    task: Task,
    feed: Feed,
    entries: Sequence[Entry],
    config: FitConfig,
    votes: int = 1,
    keep: Keep | None = None,
) -> dict[str, float]:
    """The figures of ``task`` on ``entries``, by the mean of the probabilities that ``votes`` views give a sample, or a
    point of it; with more than one also what its ``metric`` is by the first view alone, as ``<metric>_one_view``.
    ``keep`` is given what the figures are of."""
    model.eval()

    def score(shown: Shown) -> Tensor:
        with _autocast(config, feed.device):
            return model(shown)

    together, alone = task.meter(), task.meter()
    for views, asked in feed.testing(entries, config.batch_size, votes):
        ballot = Ballot(task, asked)
        truth, sample = ballot.truth.cpu().numpy(), ballot.sample.cpu().numpy()
        for vote, answers in enumerate(_answers(score, task, views, config.batch_size), 1):
            for first, piece, scores in answers:
                ballot.add(piece, scores, first)
            if vote == 1 < votes:
                alone.add(ballot.means().cpu().numpy(), truth, sample, asked.entries)
        means = ballot.means().cpu().numpy()
        together.add(means, truth, sample, asked.entries)
        if keep is not None:
            keep(asked, means, truth, sample)
    figures = together.result()
    if votes > 1:
        figures[f"{task.metric}_one_view"] = alone.result()[task.metric]
    return figures


def _answers(
    score: Callable[[Shown], Tensor], task: Task, views: Sequence[Shown], batch_size: int
) -> Iterator[Iterable[tuple[int, Shown, Tensor]]]:
    """The scores of each of ``views`` of a batch: its pieces, with the number of the first sample of each. Views that
    may be fed together are, as many as make ``batch_size`` samples."""
    if not task.views_together:
        for shown in views:
            yield ((first, piece, score(piece)) for first, piece in task.pieces(shown))
        return
    size = len(views[0])
    count = max(1, batch_size // size)
    for group in (views[start : start + count] for start in range(0, len(views), count)):
        entries = [entry for shown in group for entry in shown.entries]
        both = Shown(group[0].view.joined([shown.view for shown in group[1:]]), entries)
        for shown, scores in zip(group, score(both).split(size), strict=True):
            yield [(0, shown, scores)]


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def _autocast(config: FitConfig, device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype=torch.bfloat16) if config.precision == "bf16" else nullcontext()
