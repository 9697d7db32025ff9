"""One update's gradients: precision, accumulation and gradient caching, on one process or many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from st_ssl.core.random import keyed_seed
from st_ssl.core.types import View
from st_ssl.data.base import Batch
from st_ssl.methods.base import Losses, Method, Outputs
from st_ssl.training.distributed import gather_rows, mean_over_ranks
from st_ssl.training.optim import check_precision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Step(nn.Module):
    """What processes run together: the losses of a batch, or of a part of it the scalar whose gradient is the part's
    share, given the ``gradients`` of the whole batch's loss by this part's features (Gao et al. 2021)."""

    def __init__(self, method: Method[Any]) -> None:
        super().__init__()
        self.method = method

    def forward(self, views: list[View], gradients: dict[str, Tensor] | None = None) -> Losses:
        if gradients is None:
            losses: Losses = self.method(views)
            return losses
        features = self.method.outputs(views).features
        terms = [(features[name] * gradient).sum() for name, gradient in gradients.items()]
        return Losses(torch.stack(terms).sum())


@dataclass
class Update:
    """What an update leaves besides gradients: the scalars, averaged over the parts, and what the method is to be given
    after it: of the whole batch, in the order of its samples."""

    scalars: dict[str, Tensor]
    kept: dict[str, Tensor]


class GradientStep:
    """Fills the gradients of a method from a batch cut into parts, equal to those of the batch in one piece.

    Where samples are compared with each other, the loss is taken over the outputs of all parts and its gradient is
    carried back part by part (gradient caching, Gao et al. 2021), at the price of a second forward pass. What the loss
    itself owns (a temperature, prototypes) has its gradient from the whole batch, averaged over processes and added
    once. Batch norm still sees one part at a time, as it does in any accumulation.
    """

    def __init__(self, model: nn.Module, method: Method[Any], precision: str, device: torch.device, seed: int) -> None:
        self.model = model
        self.method = method
        self.device = device
        self.seed = seed
        self.precision = precision
        check_precision(method, precision, device, "engine.precision")
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def autocast(self) -> AbstractContextManager[None]:
        """The context of every forward pass."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision])

    def __call__(self, batch: Batch, step: int, rank: int, parts: int) -> Update:
        """Gradients of one batch, and its losses, for global step ``step``."""
        batches = [part.to(self.device) for part in batch.split(parts)] if parts > 1 else [batch.to(self.device)]
        if parts > 1 and self.method.compares_samples():
            return self._cached(batches, step, rank)
        totals: dict[str, Tensor] = {}
        kept: list[dict[str, Tensor]] = []
        for number, part in enumerate(batches):
            with self._synchronised(number == len(batches) - 1):
                losses = self._forward(part, step, rank, number)
                self.scaler.scale(losses.loss / parts).backward()
            for name, value in losses.scalars().items():
                totals[name] = totals.get(name, 0) + value.detach() / parts
            kept.append(losses.kept)
        return Update(totals, _joined(kept))

    def _forward(
        self, batch: Batch, step: int, rank: int, number: int, gradients: dict[str, Tensor] | None = None
    ) -> Losses:
        self._seed(step, rank, number)
        views = self.method.views.prepare(batch.views)
        with self.autocast():
            losses: Losses = self.model(views, gradients)
        return losses

    def _seed(self, step: int, rank: int, number: int) -> None:
        # Dropout and the like draw from the global stream: it starts anew at every step, so it needs no saving.
        torch.manual_seed(keyed_seed(self.seed, "step", step, rank, number))

    def _cached(self, batches: list[Batch], step: int, rank: int) -> Update:
        found: list[Outputs] = []
        with torch.no_grad(), frozen_statistics(self.method):
            for number, part in enumerate(batches):
                self._seed(step, rank, number)
                views = self.method.views.prepare(part.views)
                with self.autocast():
                    found.append(self.method.outputs(views))
        features = {
            name: torch.cat([part.features[name] for part in found]).requires_grad_() for name in found[0].features
        }
        given = {name: torch.cat([part.given[name] for part in found]) for name in found[0].given}
        with self.autocast():
            losses = self.method.losses(Outputs(features, given))
        owned = {name: p for name, p in self.method.named_parameters() if p.requires_grad}
        wanted = [*features.values(), *owned.values()]
        gradients = torch.autograd.grad(self.scaler.scale(losses.loss), wanted, allow_unused=True)
        by_feature = {name: g for name, g in zip(features, gradients, strict=False) if g is not None}
        sizes = [len(part.indices) for part in batches]
        pieces = {name: g.split([len(g) * size // sum(sizes) for size in sizes]) for name, g in by_feature.items()}
        for number, part in enumerate(batches):
            own = {name: piece[number] for name, piece in pieces.items()}
            with self._synchronised(number == len(batches) - 1):
                self._forward(part, step, rank, number, own).loss.backward()
        for parameter, gradient in zip(owned.values(), gradients[len(features) :], strict=True):
            if gradient is not None:
                mean = mean_over_ranks(gradient)
                parameter.grad = mean if parameter.grad is None else parameter.grad + mean
        return Update({name: value.detach() for name, value in losses.scalars().items()}, _joined([losses.kept]))

    def _synchronised(self, last: bool) -> AbstractContextManager[None]:
        """Processes average their gradients with the last part alone."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()


def _joined(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """What is kept of the parts of all processes, detached, in the order of the samples."""
    return {name: gather_rows(torch.cat([part[name].detach() for part in parts])) for name in parts[0]}


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms use the batch's statistics but do not count it: the second pass will."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
