"""What a report reads of a run's folder. Reading only: a run may still be going on while it is looked at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from st_ssl.core.errors import DataError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.plain_json import NOT_PLAIN, load_json
from st_ssl.core.types import Entry
from st_ssl.data.account import account_lines
from st_ssl.data.base import DATA, DataSource
from st_ssl.encoders.base import serve
from st_ssl.engine.building import build_method, with_checkpoint
from st_ssl.engine.run_config import RunConfig
from st_ssl.engine.run_files import load_run_config, whole_rows
from st_ssl.methods.base import Method
from st_ssl.training.checkpoint import DamagedCheckpointError, load_checkpoint


@dataclass
class RunFolder:
    """One run on disk. Whatever it lacks raises a ``UserError`` that says what, where it is asked for."""

    directory: Path
    name: str
    config: RunConfig

    @classmethod
    def open(cls, directory: Path) -> RunFolder:
        """Raises ``UserError`` where ``directory`` is not the folder of a run."""
        return cls(directory, directory.resolve().name, load_run_config(directory))

    @cached_property
    def metrics(self) -> list[dict[str, float]]:
        """The rows of ``metrics.jsonl``, one per logged step."""
        rows = [row for row in whole_rows(self.directory / "metrics.jsonl") if "step" in row]
        if not rows:
            raise DataError("No metrics yet: metrics.jsonl is missing or empty.")
        return rows

    def probe(self, file: Path) -> dict[str, Any]:
        """A result as ``probe_runs`` returned it, with the configuration it was made by."""
        if not file.is_file():
            raise DataError(f"Not probed yet. This makes it: st-ssl probe {self.directory}")
        try:
            return json.loads(file.read_text())
        except ValueError as error:
            raise DataError(f"{file} is not JSON: {error}") from error

    @cached_property
    def account(self) -> list[str]:
        """How the data were found and read, and what was left out, in lines; none where the run did not write it."""
        file = self.directory / "data.json"
        try:
            return account_lines(load_json(file.read_text(encoding="utf-8"))) if file.is_file() else []
        except NOT_PLAIN as error:
            raise DataError(f"{file}: not what a run writes of its data: {error!r}") from error

    @cached_property
    def bad_samples(self) -> list[dict[str, Any]]:
        """Path and reason of each sample that was found broken."""
        rows = whole_rows(self.directory / "bad_samples.jsonl")
        return list({row["path"]: row for row in rows if "path" in row}.values())

    @cached_property
    def source(self) -> DataSource:
        return serve(DATA.build(self.config.data), self.directory)

    @cached_property
    def entries(self) -> Sequence[Entry]:
        """All samples; raises ``DataError`` where the data have gone."""
        return self.source.entries()

    @cached_property
    def method(self) -> Method:
        """The method as it was configured, with the weights of its random initialisation."""
        return build_method(self.config, start=False).eval()

    @cached_property
    def trained(self) -> tuple[Method, int]:
        """The method with the weights of the newest checkpoint that is whole, and that checkpoint's step."""
        folders = [p for p in (self.directory / "checkpoints").glob("step_*") if p.name[5:].isdigit()]
        damaged = ""
        for path in sorted(folders, key=lambda p: int(p.name[5:]), reverse=True):
            try:
                loaded = load_checkpoint(path)
            except DamagedCheckpointError as error:
                damaged = f" ({error})"  # the one before will do; setting it aside is the run's own affair
                continue
            return with_checkpoint(self.config, loaded), loaded.step
        raise DataError(f"No checkpoint yet{damaged}.")

    @property
    def of_clouds(self) -> bool:
        """Whether its samples are clouds, not videos."""
        return isinstance(self.config.input, PointInputConfig)

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if self.config.engine.device != "cpu" and torch.cuda.is_available() else "cpu")
