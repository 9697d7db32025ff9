"""One update's gradients: precision, accumulation and gradient caching, on one process or many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from st_ssl.core.random import keyed_seed
from st_ssl.data.base import Batch
from st_ssl.methods.base import Method, MethodOutput
from st_ssl.training.optim import check_precision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class GradientStep:
    """Fills the gradients of a method from a batch cut into parts, equal to those of the batch in one piece.

    Where samples are compared with each other, the loss is taken over the outputs of all parts and its gradient is
    carried back part by part (gradient caching, Gao et al. 2021), at the price of a second forward pass. Batch norm
    still sees one part at a time, as it does in any accumulation.
    """

    def __init__(self, model: nn.Module, method: Method, precision: str, device: torch.device, seed: int) -> None:
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

    def __call__(self, batch: Batch, step: int, rank: int, parts: int) -> MethodOutput:
        """Gradients and losses (detached, averaged over the parts) of one batch, for global step ``step``."""
        batches = [part.to(self.device) for part in batch.split(parts)] if parts > 1 else [batch.to(self.device)]
        if parts > 1 and self.method.compares_samples:
            return self._cached(batches, step, rank)
        totals: dict[str, Tensor] = {}
        for number, part in enumerate(batches):
            with self._synchronised(number == len(batches) - 1):
                output = self._forward(part, step, rank, number)
                self.scaler.scale(output["loss"] / parts).backward()
            for name, value in output.items():
                totals[name] = totals.get(name, 0) + value.detach() / parts
        return totals

    def _forward(
        self, batch: Batch, step: int, rank: int, number: int, gradients: dict[str, Tensor] | None = None
    ) -> MethodOutput:
        self._seed(step, rank, number)
        views = self.method.views.prepare(batch.views)
        with self.autocast():
            return self.model(views, gradients)

    def _seed(self, step: int, rank: int, number: int) -> None:
        # Dropout and the like draw from the global stream: it starts anew at every step, so it needs no saving.
        torch.manual_seed(keyed_seed(self.seed, "step", step, rank, number))

    def _cached(self, batches: list[Batch], step: int, rank: int) -> MethodOutput:
        kept: list[dict[str, Tensor]] = []
        with torch.no_grad(), _frozen_statistics(self.method):
            for number, part in enumerate(batches):
                self._seed(step, rank, number)
                views = self.method.views.prepare(part.views)
                with self.autocast():
                    kept.append(self.method.outputs(views))
        whole = {name: torch.cat([part[name] for part in kept]).requires_grad_() for name in kept[0]}
        with self.autocast():
            output = self.method.losses(whole)
        gradients = torch.autograd.grad(self.scaler.scale(output["loss"]), list(whole.values()))
        pieces = [g.chunk(len(batches)) for g in gradients]
        for number, part in enumerate(batches):
            own = {name: piece[number] for name, piece in zip(whole, pieces, strict=True)}
            with self._synchronised(number == len(batches) - 1):
                self._forward(part, step, rank, number, own)["loss"].backward()
        return {name: value.detach() for name, value in output.items()}

    def _synchronised(self, last: bool) -> AbstractContextManager[None]:
        """Processes average their gradients with the last part alone."""
        if last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms use the batch's statistics but do not count it: the second pass will."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
