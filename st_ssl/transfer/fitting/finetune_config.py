"""What is fine-tuned and how, and reading it from a file that is laid over the data of a pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, create_model, field_validator

from st_ssl.core.config import given_keys, merge, once, override, parse_override, read_yaml, validate
from st_ssl.core.errors import ConfigError
from st_ssl.core.fragments import lay_fragment
from st_ssl.data.base import DATA
from st_ssl.data.sources.detect import of_another_root
from st_ssl.transfer.fitting.fit_config import FitConfig, LoraConfig, Mode
from st_ssl.transfer.fitting.label_fractions import Share
from st_ssl.transfer.tasks.base import TASKS

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
    of which the strongest is a rival in every verdict.
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
    # What the registries hold is known only once they are searched: see ``finetune_model``.
    task: Any
    data: Any

    @field_validator("save", mode="before")
    @classmethod
    def _as_said_before(cls, value: Any) -> Any:
        return {True: "all", False: "none"}[value] if isinstance(value, bool) else value

    _once = field_validator("modes", "label_fractions", "splits")(once)


@lru_cache(maxsize=1)
def finetune_model() -> type[FinetuneConfig]:
    """``FinetuneConfig`` with the registered tasks and kinds of data as the types of ``task`` and ``data``."""
    return create_model(
        "FinetuneConfig",
        __base__=FinetuneConfig,
        __doc__=FinetuneConfig.__doc__,
        task=(TASKS.union(), ...),
        data=(DATA.union(), ...),
    )


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
        given["data"] = merge(data, own)
    section, asked = given.get("data"), given_keys(parsed, "data")
    elsewhere = asked & {"root", "list"} or "root" not in theirs
    if "format" in theirs and elsewhere and isinstance(section, dict) and section.get("name") in DATA.names():
        modality = DATA.registered(section["name"]).modality
        given["data"] = of_another_root(section, asked, modality, place.of(("data", "format")))
    return validate(finetune_model(), given, place)
