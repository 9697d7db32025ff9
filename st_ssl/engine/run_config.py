"""The configuration of a run, put together from those of its parts, and of a suite of runs that share some keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, create_model

from st_ssl.core.config import Config, Place, given_keys, merge, override, parse_override, read_yaml, validate
from st_ssl.core.errors import ConfigError, nearest
from st_ssl.core.fragments import apart, lay_fragment
from st_ssl.core.inputs import INPUTS, Modality
from st_ssl.data.base import DATA
from st_ssl.data.loading.partners import PairsConfig
from st_ssl.data.sources.detect import of_another_root
from st_ssl.encoders.base import ENCODERS
from st_ssl.methods.base import METHODS
from st_ssl.training.optim import OptimConfig
from st_ssl.training.schedule import ScheduleConfig
from st_ssl.transfer.probes.probe_config import PROBES, ProbeConfig


class EngineConfig(Config):
    """How a run is carried out.

    ``batch_size`` counts samples per update over all processes and accumulated parts; ``accumulate`` splits each
    process's share into that many parts. ``checkpoint_every`` is in updates (default: once an epoch); ``ema`` is the
    decay of a moving average of the weights, which is then what is exported. ``patience`` is how many updates in a
    row may be lost to overflow in fp16 before the run stops. ``keep_last``: the newest checkpoints are kept, and those
    at the shares ``keep_at`` of the run, for ``probe --steps``.
    """

    epochs: int = Field(default=100, gt=0)
    batch_size: int = Field(default=32, gt=0)
    accumulate: int = Field(default=1, gt=0)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    clip_grad: float | None = Field(default=None, gt=0)
    ema: float | None = Field(default=None, gt=0, lt=1)
    checkpoint_every: int | None = Field(default=None, gt=0)
    keep_last: int = Field(default=2, gt=0)
    keep_at: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    log_every: int = Field(default=10, gt=0)
    patience: int = Field(default=20, gt=0)


class ReportConfig(Config):
    """Whether a finished run writes ``report.html``, and how many samples its pictures show."""

    enabled: bool = True
    samples: int = Field(default=6, gt=0)


class LoggingConfig(Config):
    """Where curves go besides ``metrics.jsonl``. ``tensorboard``: event files in the folder of the run; ``wandb``: the
    name of a Weights & Biases project, whose files stay in that folder unless WANDB_MODE=online is set."""

    tensorboard: bool = False
    wandb: str | None = Field(default=None, min_length=1)


class StartConfig(Config):
    """Weights to start from: those of the encoder in the folder ``run`` (a run, or an imported encoder), and of the
    newest checkpoint of that run the named ``parts`` of its method (a projector, say)."""

    run: str
    parts: tuple[str, ...] = ()


Start = Annotated[StartConfig, BeforeValidator(lambda value: {"run": value} if isinstance(value, str) else value)]


class RunConfig(Config):
    """One pretraining run: data through a method into an encoder. ``probe`` tells what it learned; null skips it.

    ``weights``: the folder of a run or of an imported encoder to start from, or {run, parts}; ``frozen``: the encoder
    is not trained. ``encoders``: further encoders, for methods that take several, by the names by which the method
    knows them; each has a configuration, an input, and perhaps weights, and may be frozen. ``pairs``: whose recordings
    the views of a sample are of; anything but its own is a control.
    """

    output_dir: str
    seed: int = 0
    weights: Start | None = None
    frozen: bool = False
    encoders: dict[str, Any] = Field(default_factory=dict)
    pairs: PairsConfig = PairsConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    engine: EngineConfig = EngineConfig()
    probe: ProbeConfig | None = ProbeConfig()
    report: ReportConfig = ReportConfig()
    logging: LoggingConfig = LoggingConfig()
    optim: OptimConfig
    # What these are is known only once the registries are searched: see ``run_model``.
    input: Any
    data: Any
    encoder: Any
    method: Any


class DeviceConfig(Config):
    """Where it is computed."""

    device: Literal["auto", "cpu", "cuda"] = "auto"


class EncoderProbeConfig(Config):
    """The part of ``RunConfig`` that a probe needs, for an encoder whose run is not there."""

    engine: DeviceConfig = DeviceConfig()
    probe: Any
    data: Any


@lru_cache
def run_model(modality: Modality) -> type[RunConfig]:
    """``RunConfig`` with the registered kinds of data, and the input, probes, encoders and methods of a ``modality``,
    as the types of its fields."""
    own = INPUTS[modality]
    probe: Any = PROBES[modality]
    further: Any = dict[str, _further(modality)]  # type: ignore[misc]
    return create_model(
        "RunConfig",
        __base__=RunConfig,
        __doc__=RunConfig.__doc__,
        input=(own, own()),
        probe=(probe | None, probe()),
        data=(DATA.union(), ...),
        encoder=(ENCODERS.union(lambda cls: cls.modality == modality), ...),
        method=(METHODS.union(lambda cls: cls.modality == modality), ...),
        encoders=(further, Field(default_factory=dict)),
    )


def _further(modality: Modality) -> Any:
    """The model of a further encoder of a run."""
    return create_model(
        "FurtherEncoder",
        __base__=Config,
        encoder=(ENCODERS.union(lambda cls: cls.modality == modality), ...),
        input=(INPUTS[modality], INPUTS[modality]()),
        weights=(Start | None, None),
        frozen=(bool, False),
    )


def encoder_probe(directory: Path, modality: Modality, overrides: Sequence[str]) -> EncoderProbeConfig:
    """What to probe the encoder alone in ``directory`` on: all that is known is given as ``key=value``. Raises
    ``ConfigError`` where that names no data, or other keys than those of ``EncoderProbeConfig``."""
    place, kind = Place(directory), PROBES[modality]
    laid = lay_fragment({}, [(*parse_override(text), text) for text in overrides], place, None)
    given = override(*laid, place)
    data = given.get("data", {})
    if isinstance(data, dict):
        if not data.keys() & {"root", "list"}:
            raise ConfigError(
                f"{directory} holds an encoder without the run that made it, and so no data to probe it on: add "
                "data.root=FOLDER"
            )
        given["data"] = {"name": modality, **data}
    model = create_model(
        "EncoderProbeConfig", __base__=EncoderProbeConfig, probe=(kind, kind()), data=(DATA.union(), ...)
    )
    config: EncoderProbeConfig = validate(model, given, place)
    return config


@dataclass(frozen=True)
class NamedRun:
    """One run of a configuration file; ``name`` is "" where the file describes a single one."""

    name: str
    config: RunConfig


def load_runs(file: Path, overrides: Sequence[str] = ()) -> list[NamedRun]:
    """The runs that a YAML file describes: itself, or with a key ``runs`` each of those laid on the rest of the file.

    An override ``runs.<name>.key=value`` is for one run, ``key=value`` for all; ``data=NAME``, also in the file, lays
    a data set's own settings between the two (``st_ssl.core.fragments``). Raises ``ConfigError`` that lists
    every mistake with its place, before anything is built.
    """
    data, place = read_yaml(file)
    parts = data.pop("runs", None)
    parsed = [(*parse_override(text), text) for text in overrides]
    if parts is None:
        return [NamedRun("", resolve_run(data, parsed, place))]
    if not isinstance(parts, dict) or not parts or not all(isinstance(p, dict) for p in parts.values()):
        raise ConfigError(f"{place.of(('runs',))}: runs: expected a mapping from names to keys and values")
    for key, _, text in parsed:
        if key[0] == "runs" and (len(key) < 3 or key[1] not in parts):
            raise ConfigError(
                f"{text!r}: expected runs.<name>.key=value with a name out of {list(parts)}"
                f"{nearest(key[1], parts) if len(key) > 1 else ''}"
            )
    runs, data = [], apart(data)
    for name, part in parts.items():
        own = [
            (key[2:] if key[0] == "runs" else key, value, text)
            for key, value, text in parsed
            if key[0] != "runs" or key[1] == name
        ]
        config = resolve_run(merge(data, apart(part)), own, place.within((), ("runs", name)))
        runs.append(NamedRun(name, config.model_copy(update={"output_dir": f"{config.output_dir}/{name}"})))
    return runs


def resolve_run(
    data: dict[str, Any],
    overrides: list[tuple[tuple[str, ...], Any, str]],
    place: Place,
) -> RunConfig:
    """The configuration of one run, from its keys and the ``overrides`` (key, value, text) of the command line. Errors
    take the lines of keys from ``place``."""
    data, overrides = lay_fragment(data, overrides, place, "pretrain")
    data = override(data, overrides, place)
    if "task" in data and "method" not in data:
        raise ConfigError(f"{place.of(('task',))}: it has a task, and no method: this file is for finetune")
    if isinstance(data.get("data"), dict):
        data["data"] = {"name": "video", **data["data"]}
    data = {"data": {"name": "video"}, **data}
    kind = data["data"].get("name") if isinstance(data["data"], dict) else None
    modality = DATA.registered(kind).modality if kind in DATA.names() else "video"
    _refuse_others(data, modality, place)
    asked = given_keys(overrides, "data")
    if asked & {"root", "list"} and isinstance(data["data"], dict):
        data["data"] = of_another_root(data["data"], asked, modality, place.of(("data", "format")))
    return validate(run_model(modality), data, place)


def _refuse_others(data: dict[str, Any], modality: Modality, place: Place) -> None:
    """Raise ``ConfigError`` for an encoder or a method of another modality than the data's."""
    for part, registry in (("encoder", ENCODERS), ("method", METHODS)):
        section = data.get(part)
        name = section.get("name") if isinstance(section, dict) else None
        if name not in registry.names():
            continue
        other = registry.registered(name).modality
        if other != modality:
            where, kind = place.of((part, "name")), data["data"]["name"]
            raise ConfigError(f"{where}: {part}.name: {name} is for {other}, and data.name={kind} is not")
