"""What is fine-tuned and how, which part of it is trained, and reading it from a file that is laid over the data of a
pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, PositiveInt, field_validator, model_validator

from st_ssl.core.config import Config, given_keys, merge, once, override, parse_override, read_yaml, validate
from st_ssl.core.errors import ConfigError
from st_ssl.core.fragments import lay_fragment
from st_ssl.data.base import DATA
from st_ssl.data.sources.detect import of_another_root
from st_ssl.training.optim import OptimConfig
from st_ssl.training.schedule import ScheduleConfig
from st_ssl.transfer.features.extract import with_data
from st_ssl.transfer.fitting.label_fractions import Share
from st_ssl.transfer.tasks.base import TASKS

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


_OF_ROOT = ("root", "list", "format", "split", "index")
"""Keys of data that say where they are and in which form."""


class FinetuneConfig(FitConfig):
    """What is fine-tuned and how. ``modes``: the same network from ``scratch``, a head on the ``frozen`` pretrained
    encoder, and the ``full`` network from pretrained weights; of that only the ``last`` blocks (``last_blocks`` of
    them, and what follows), or low-rank additions to it (``lora``). ``label_fractions``: the shares of the labelled
    training samples that are used, of every class alike, the smaller ones being part of the larger.

    ``seeds``: how often all is drawn anew (initialisation, order, augmentation, fraction). Null: five times with fewer
    than 200 labels, three times with more. Several runs take turns, each as often as the others. ``val_share``: the
    share of the labels of each class, from 200 labels on, that chooses the best epoch and is not trained on, where the
    data has no validation part; 0 for none, and then the last epoch counts.

    ``save``: keep the weights of ``one`` fit, that whose predictions are kept too (the last of the modes, the largest
    fraction, the first repetition), of ``all``, or of ``none``; true and false mean all and none.

    ``scratch_steps``: up to how many steps scratch is known to go on improving, by ``finetune --find-steps`` on the
    data that the recipe is for: on training samples outside the labels. A warning where scratch is given fewer.

    ``test_on``: the part that is tested on, where there are both; with "val" the test part is left out, as where its
    labels are kept from the public (ScanNet). ``splits``: official splits of the data set (UCF101 and HMDB51 have 1,
    2, 3), each with fits of its own: see ``finetune_splits``. ``encoder`` and ``input`` change keys of the pretrained
    encoder, in all modes, that its weights do not depend on: how many points it is fed, how many patches it makes of
    them, drop path. ``baselines``: also what trivial baselines make of the same labels (see ``fitting/baselines.py``),
    of which the strongest is a rival in every verdict. ``overfit``: so many training samples are all there is; they are
    shown as they are, and tested on, to see whether the task can be learned at all.
    """

    modes: tuple[Mode, ...] = Field(default=("scratch", "frozen", "full"), min_length=1)
    last_blocks: int = Field(default=2, gt=0)
    lora: LoraConfig = LoraConfig()
    label_fractions: tuple[Share, ...] = Field(default=(1.0,), min_length=1)
    seeds: int | None = Field(default=None, gt=0)
    seed: int = 0
    scratch_steps: int | None = Field(default=None, gt=0)
    val_share: float = Field(default=0.1, ge=0, lt=1)
    test_on: Literal["test", "val"] = "test"
    splits: tuple[PositiveInt, ...] = ()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    save: Literal["one", "all", "none"] = "one"
    encoder: dict[str, Any] = Field(default_factory=dict)
    input: dict[str, Any] = Field(default_factory=dict)
    baselines: bool = True
    overfit: int | None = Field(default=None, gt=0)
    # What the registries hold is known only once they are searched: see ``finetune_model``.
    task: Any
    data: Any

    @field_validator("save", mode="before")
    @classmethod
    def _as_said_before(cls, value: Any) -> Any:
        return {True: "all", False: "none"}[value] if isinstance(value, bool) else value

    _once = field_validator("modes", "label_fractions", "splits")(once)


def overfitting(config: FinetuneConfig, samples: int) -> FinetuneConfig:
    """One fit from scratch of what ``config`` says, on so many ``samples``, as they are; nothing of it is kept but the
    figures."""
    task = config.task.model_copy(update={"mix": None}) if hasattr(config.task, "mix") else config.task
    one = {"modes": ("scratch",), "label_fractions": (1.0,), "seeds": 1, "splits": (), "scratch_steps": None}
    kept = {"curve": False, "baselines": False, "save": "none", "patience": None}
    return config.model_copy(update={"overfit": samples, "task": task, **one, **kept})


@lru_cache(maxsize=1)
def finetune_model() -> type[FinetuneConfig]:
    """``FinetuneConfig`` with the registered tasks and kinds of data as the types of ``task`` and ``data``."""
    return with_data(FinetuneConfig, task=(TASKS.union(), ...))


def load_finetune(file: Path, overrides: Sequence[str], data: dict[str, Any] | None = None) -> FinetuneConfig:
    """The configuration in a YAML file with ``key=value`` overrides; ``data`` is that of the pretraining, on which the
    file's own is laid: of another root, without what only says how to read the first; None where no run tells it, as of
    an imported encoder. ``data=NAME``, also in the file, lays a data set's own settings between the file and the other
    overrides (``st_ssl.core.fragments``). A format that the file names for another root than its own counts where the
    data look like it. Raises ``ConfigError`` that lists every mistake with its place."""
    given, place = read_yaml(file)
    parsed = [(*parse_override(text), text) for text in overrides]
    placed = data is not None and bool(data.get("root") or data.get("list"))
    given, parsed = lay_fragment(given, parsed, place, "finetune", placed=placed)
    theirs = set(given["data"]) if isinstance(given.get("data"), dict) else set()
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
        given |= merge({"data": data}, {"data": own})  # other data than the run's have their own defaults
    section, asked = given.get("data"), given_keys(parsed, "data")
    elsewhere = asked & {"root", "list"} or "root" not in theirs
    if "format" in theirs and elsewhere and isinstance(section, dict) and section.get("name") in DATA.names():
        modality = DATA.registered(section["name"]).modality
        given["data"] = of_another_root(section, asked, modality, place.of(("data", "format")))
    return validate(finetune_model(), given, place)
