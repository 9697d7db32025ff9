"""The contract between a method and everything else: what it wants to see, and what it makes of that."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor, nn

from st_ssl.core.config import Config
from st_ssl.core.exhibits import Exhibit
from st_ssl.core.inputs import Modality
from st_ssl.core.registry import Registry
from st_ssl.core.types import View
from st_ssl.data.views import Views, ViewSpec
from st_ssl.encoders.base import Encoder
from st_ssl.training.optim import Rule

ConfigT = TypeVar("ConfigT", bound=Config)


@dataclass(frozen=True)
class Paper:
    """Where a method is from: its ``title``, ``authors`` ("Qian et al."), ``venue`` ("CVPR 2021"), and its ``idea`` in
    one line."""

    title: str
    authors: str
    venue: str
    idea: str


@dataclass
class Losses:
    """What a method makes of a batch: the scalar ``loss`` that is minimised, the scalars ``logs`` that are logged
    beside it, and the tensors ``kept`` (samples along the first axis) that ``after_update`` is to get."""

    loss: Tensor
    logs: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        """``"loss"``, or one of ``logs`` by its name."""
        return self.loss if name == "loss" else self.logs[name]

    def scalars(self) -> dict[str, Tensor]:
        """The loss and all that is logged, by name."""
        return {"loss": self.loss, **self.logs}


@dataclass
class Outputs:
    """What a method makes of some samples before they are compared, samples along the first axis of all tensors:
    ``features`` have gradients, ``given`` (targets, indices, masks) need none."""

    features: dict[str, Tensor]
    given: dict[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        return self.features[name] if name in self.features else self.given[name]


@dataclass(frozen=True)
class Moment:
    """Where a run stands: ``step`` (from 0) of ``num_steps`` updates, of which ``steps_per_epoch`` make an epoch."""

    step: int
    num_steps: int
    steps_per_epoch: int = 1

    @property
    def epoch(self) -> int:
        """The epoch that the step is in, from 0."""
        return self.step // self.steps_per_epoch

    @property
    def share(self) -> float:
        """The share of the run that is done, 0 … 1."""
        return min(1.0, self.step / max(1, self.num_steps))


Look = Callable[[Sequence[ViewSpec], Encoder], "tuple[Tensor, Tensor]"]
"""``look(specs, encoder)``: the indices int64 [N] of all training samples that could be read, in their order, and the
pooled features [N, V, D] of their V views in evaluation mode."""


class Method(nn.Module, ABC, Generic[ConfigT]):
    """A pretraining method around an encoder.

    ``views`` declares what the method wants to see. Most methods write ``forward``, views to ``Losses``. One that
    compares samples with each other writes ``outputs`` (views of some samples to ``Outputs``) and ``losses`` (the
    outputs of a whole batch to ``Losses``) instead, so that the batch may be larger than what fits in memory at once.
    None of the three changes a buffer, but for the statistics of batch norm: they may run twice for one update. State
    changes in ``before_epoch`` and ``after_update`` alone, and all of it is in the state dict.
    """

    paper: ClassVar[Paper]
    modality: ClassVar[Modality] = "video"
    encoder: Encoder
    views: Views
    config: ConfigT

    def __init__(self, config: ConfigT, encoder: Encoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder

    def forward(self, views: list[View]) -> Losses:
        """The losses of a batch of the views that ``views`` declares."""
        return self.losses(self.outputs(views))

    def outputs(self, views: list[View]) -> Outputs:
        """Views of some samples to what is compared with that of others."""
        raise NotImplementedError(f"{type(self).__name__} has neither forward nor outputs")

    def losses(self, outputs: Outputs) -> Losses:
        """The outputs of a whole batch to its losses."""
        raise NotImplementedError(f"{type(self).__name__} has neither forward nor losses")

    def compares_samples(self) -> bool:
        """Whether the loss of a sample depends on the other samples of the batch: where it has ``outputs`` and
        ``losses``, unless it says otherwise."""
        return type(self).outputs is not Method.outputs

    def before_epoch(self, moment: Moment, look: Look) -> None:
        """Called before each epoch: where samples are clustered or positives mined. What it finds goes into buffers of
        fixed shape, so that a run that is resumed within the epoch has it from its checkpoint."""

    def after_update(self, moment: Moment, kept: Mapping[str, Tensor]) -> None:
        """Called after each update of the optimiser: where a teacher follows its student, or a queue takes keys.
        ``kept`` is that of the whole batch, detached, in the order of its samples."""

    def exports(self) -> dict[str, Encoder]:
        """The encoders that the run leaves: one lands in its folder, several in folders of it by their names."""
        return {"encoder": self.encoder}

    def watched(self) -> dict[str, nn.Module]:
        """What the collapse gauge watches besides the exported encoders: modules that give rows [B, D], by name. By
        default the ``projector``, where there is one."""
        projector = getattr(self, "projector", None)
        return {"projection": projector} if isinstance(projector, nn.Module) else {}

    def rules(self) -> Sequence[Rule]:
        """Parameters, by pattern, that have a rate or a weight decay of their own."""
        return ()

    def exhibits(self, views: list[View]) -> Sequence[Exhibit]:
        """What there is to see besides the views, for the report."""
        return ()


METHODS: Registry[Method[Any]] = Registry("method", "st_ssl.methods")
