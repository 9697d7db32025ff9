"""How a network is trained on a task, and which part of it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from st_ssl.core.config import Config
from st_ssl.training.optim import OptimConfig
from st_ssl.training.schedule import ScheduleConfig

Mode = Literal["scratch", "frozen", "full", "last", "lora"]


class LoraConfig(Config):
    """Low-rank adaptation (Hu et al. 2022): to the weight of each layer in ``targets`` a product of two matrices of
    ``rank`` is added, scaled by ``alpha`` / ``rank``, and trained in its place. ``dropout`` is of what goes into them;
    ``targets``: ends of names of layers (null: the attention's, ``attn.qkv`` and ``attn.proj``)."""

    rank: int = Field(default=8, gt=0)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] | None = Field(default=None, min_length=1)


class OtherwiseConfig(Config):
    """What a mode has otherwise than the rest: its own ``lr``, its own ``layer_decay``."""

    lr: float | None = Field(default=None, gt=0)
    layer_decay: float | None = Field(default=None, gt=0, le=1)


class FitConfig(Config):
    """How a head, and the encoder unless it is frozen, are trained: for ``steps`` steps, or where that is null for
    ``epochs`` passes over all labelled training samples, however few of them are used. An epoch of ``schedule`` and of
    ``val_every``, the epochs between two looks at the validation part, is the total of steps divided by ``epochs``.

    ``layer_decay``: the factor by which the learning rate falls from a layer of the encoder to the one below (see
    ``optim.layer_numbers``; a warning where it numbers none). Of a fraction smaller than a batch all samples are one
    batch, which counts over all processes; each takes its share in ``accumulate`` parts, for less memory. Batch norm
    sees one part at a time, and mixing stays within one.

    ``curve``: each fit is looked at on test samples (at most 500, one view of each) after an eighth, a quarter, half,
    three quarters and all of its steps, so that anyone sees whether it was given enough of them. Nothing is ever chosen
    by it.

    ``ema``: the decay of a moving average of the weights, which is then what is evaluated and kept; in the first steps
    it is less, (1 + steps) / (10 + steps), so that short trainings are averaged too. ``patience``: training ends after
    so many looks in a row that are no better than the best before. ``otherwise``: what single modes have of their own;
    a network from scratch often learns nothing by the rates that suit pretrained weights.
    """

    epochs: int = Field(default=100, gt=0)
    steps: int | None = Field(default=None, gt=0)
    batch_size: int = Field(default=32, gt=1)
    accumulate: int = Field(default=1, gt=0)
    optim: OptimConfig = OptimConfig(lr=5e-4, lr_batch=None, betas=(0.9, 0.999))
    schedule: ScheduleConfig = ScheduleConfig(warmup_epochs=5)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    clip_grad: float | None = Field(default=10.0, gt=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    ema: float | None = Field(default=None, gt=0, lt=1)
    val_every: int = Field(default=1, gt=0)
    patience: int | None = Field(default=None, gt=0)
    curve: bool = True
    otherwise: dict[Mode, OtherwiseConfig] = Field(default_factory=dict)

    def budget(self, samples: int) -> int:
        """How many steps a fit takes, where there are so many labelled training ``samples`` in all."""
        return self.steps or self.epochs * (samples // min(self.batch_size, samples))

    def of(self, mode: Mode) -> Self:
        """These settings with what ``mode`` has otherwise."""
        other = self.otherwise.get(mode, OtherwiseConfig())
        lr, decay = other.lr or self.optim.lr, other.layer_decay or self.layer_decay
        return self.model_copy(update={"optim": self.optim.model_copy(update={"lr": lr}), "layer_decay": decay})

    @model_validator(mode="after")
    def _parts_of_a_batch(self) -> Self:
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate={self.accumulate}: a batch of {self.batch_size} has no more parts than that")
        return self


def autocast(config: FitConfig, device: torch.device) -> AbstractContextManager[Any]:
    """The context of every forward pass."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if config.precision == "bf16" else nullcontext()
