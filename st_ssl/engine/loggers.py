"""Where the rows of a run go: ``metrics.jsonl`` always, TensorBoard and Weights & Biases when asked for."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from st_ssl.core.errors import ConfigError, MissingDependencyError
from st_ssl.core.files import replace_text
from st_ssl.engine.console import MetricsFile
from st_ssl.engine.run_config import LoggingConfig, RunConfig
from st_ssl.engine.run_files import whole_rows
from st_ssl.engine.runtime import Preempted

Row = dict[str, Any]
"""``step`` and the figures that were logged at it, by name."""


class Sink(Protocol):
    """Something that takes rows. ``close``: whether the run ended well, or at least in order."""

    def write(self, row: Row) -> None: ...

    def close(self, well: bool = True) -> None: ...


class RunLog:
    """Hands each row to all of ``sinks``, and closes them when its context ends."""

    def __init__(self, sinks: list[Sink]) -> None:
        self.sinks = sinks

    def write(self, row: Row) -> None:
        for sink in self.sinks:
            sink.write(row)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        for sink in self.sinks:
            sink.close(kind is None or issubclass(kind, Preempted))


class TensorBoard:
    """Event files in ``directory``. What an earlier part of the run logged past the step resumed from is purged."""

    def __init__(self, directory: Path, resume_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(directory), purge_step=resume_step + 1)

    def write(self, row: Row) -> None:
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()  # or a killed run would lack rows that its checkpoint is past

    def close(self, well: bool = True) -> None:
        self._writer.close()


class Wandb:
    """A run of a Weights & Biases project. Its id and the last step sent are kept in ``wandb.json`` in the folder of
    the run: resumed, it goes on with the same curves and sends no step twice. Nothing is lost by that: a step that is
    done again gives the same figures.

    Nothing is sent over the network unless the environment asks for it by ``WANDB_MODE=online``: the files stay in the
    folder of the run for ``wandb sync``.
    """

    def __init__(self, config: RunConfig, resume_step: int) -> None:
        wandb = _import_wandb()
        directory = Path(config.output_dir)
        self._file = directory / "wandb.json"
        known = next(iter(whole_rows(self._file)), {})
        if resume_step == 0 or known.get("project") != config.logging.wandb:
            known = {"id": uuid.uuid4().hex[:8], "project": config.logging.wandb, "step": 0}
        self._known = known
        try:
            self._run = wandb.init(
                project=known["project"],
                id=known["id"],
                resume="allow",
                name=directory.resolve().name,
                dir=str(directory),
                mode=_wandb_mode(),
                config=config.model_dump(mode="json"),
            )
        except wandb.Error as error:
            raise ConfigError(f"logging.wandb={known['project']}: wandb does not start: {error}") from error

    def write(self, row: Row) -> None:
        if row["step"] > self._known["step"]:
            self._run.log({name: value for name, value in row.items() if name != "step"}, step=row["step"])
            self._known["step"] = row["step"]
            replace_text(self._file, json.dumps(self._known) + "\n", alone=True)

    def close(self, well: bool = True) -> None:
        self._run.finish(exit_code=0 if well else 1)


def _wandb_mode() -> str:
    return os.environ.get("WANDB_MODE") or "offline"


def _import_wandb() -> Any:
    if _wandb_mode() == "offline":
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read on import: it, too, uses the network
    try:
        import wandb
    except ImportError as error:
        raise MissingDependencyError("wandb", "wandb", "logging.wandb") from error
    return wandb


def require_loggers(config: LoggingConfig) -> None:
    """Raise ``MissingDependencyError`` where a package is missing for what ``config`` asks for."""
    if config.tensorboard:
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise MissingDependencyError("tensorboard", "tensorboard", "logging.tensorboard") from error
    if config.wandb is not None:
        _import_wandb()


def open_log(config: RunConfig, resume_step: int, total_steps: int, is_main: bool = True) -> RunLog:
    """The log of a run that goes on from ``resume_step``. In processes other than the main one it takes rows and does
    nothing with them; a run that is at its end is left as it is."""
    if not is_main:
        return RunLog([])
    directory = Path(config.output_dir)
    sinks: list[Sink] = [MetricsFile(directory / "metrics.jsonl", resume_step)]
    if resume_step < total_steps:
        if config.logging.tensorboard:
            sinks.append(TensorBoard(directory / "tensorboard", resume_step))
        if config.logging.wandb is not None:
            sinks.append(Wandb(config, resume_step))
    return RunLog(sinks)
