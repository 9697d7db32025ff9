"""How a cell is made: train, probe, and say what it cost."""

from __future__ import annotations

import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from st_ssl.core.errors import DataError
from st_ssl.encoders.base import ENCODERS, Encoder, load_encoder, random_encoder, save_encoder, serve
from st_ssl.engine.run_config import RunConfig
from st_ssl.engine.run_files import whole_rows
from st_ssl.engine.runtime import Runtime
from st_ssl.engine.trainer import Trainer
from st_ssl.study.cells import PARTS, Cell, Json, packed
from st_ssl.study.grid import Grid
from st_ssl.transfer.features.features import split_entries
from st_ssl.transfer.fitting.finetune import finetune
from st_ssl.transfer.fitting.outcomes import sample_name
from st_ssl.transfer.probes.probe import chance_level, probe_baselines, probe_encoder, read_sets
from st_ssl.transfer.probes.scores import FIRST, Scores
from st_ssl.transfer.probes.sets import find_targets

PRETRAINED, UNTRAINED = FIRST
ROUNDS, STEPS = 3, 8
"""The pace of an arm is the median of so many rounds of so many steps, the first quarter of which does not count."""
_UNTOLD = {"step", "epoch", "seconds", "clips_per_second", "data_wait", "lr"}
_GIB = 2**30


@dataclass
class Making:
    """Makes cells in this process."""

    grid: Grid
    runtime: Runtime

    def make(self, cell: Cell, work: Path, tell: Callable[[str], None]) -> tuple[Json, Json]:
        """The result of a cell, a function of its inputs, and what it cost: seconds, memory in GiB, and, of an arm, how
        much it saw. ``work``: a folder to go on in; it is empty when the cell is done."""
        makers = {"arm": self._arm, "reference": self._reference, "supervised": self._supervised, "pace": self._pace}
        started = time.monotonic()
        with _memory(self.runtime.device) as peak:
            result, cost = makers[cell.kind](cell, work, tell)
        cost = {"seconds": time.monotonic() - started, **cost, "memory": peak() / _GIB}
        shutil.rmtree(work)
        return result, cost

    def _arm(self, cell: Cell, work: Path, tell: Callable[[str], None]) -> tuple[Json, Json]:
        folder = work / "run"
        config = self.grid.config(cell).model_copy(update={"output_dir": str(folder)})
        trainer = Trainer(config, self.runtime, cell.told)
        trainer.fit()
        rows = whole_rows(folder / "metrics.jsonl", "step")
        metrics = {key: value for key, value in rows[-1].items() if key not in _UNTOLD}
        began = time.monotonic()
        tell(f"{cell.told}: probes")
        place = (
            folder
            if (folder / "encoder.json").is_file()
            else next(p.parent for p in sorted(folder.glob("*/encoder.json")))
        )
        result: Json = {part: self._probe(config, part, place) for part in PARTS}
        seconds = sum(row["seconds"] for row in rows)
        steps = trainer.total_steps
        cost = {
            "seconds": seconds,  # also those of parts of the run that were killed
            "probing": time.monotonic() - began,
            "steps": steps,
            "epochs": config.engine.epochs,
            "clips_per_second": steps * trainer.batch_size * trainer.method.views.num_views / max(seconds, 1e-9),
        }
        return {**result, "metrics": metrics, "steps": steps}, cost

    def _reference(self, cell: Cell, work: Path, tell: Callable[[str], None]) -> tuple[Json, Json]:
        config = self.grid.study.run_config(self.grid.arms(cell.network)[0], cell.seed)
        tell(f"{cell.told}: probes")
        return {part: self._probe(config, part, None) for part in PARTS}, {}

    def _probe(self, config: RunConfig, part: Any, run: Path | None) -> Json:
        """What probes of the encoder in ``run`` get on a ``part`` of the data; without a run the untrained network and
        the baselines."""
        probe = config.probe
        assert probe is not None
        source, encoder = self.grid.source(config.data), ENCODERS.registered(config.encoder.name)
        if run is None:
            source.follow({}, encoder.needs(config.encoder, config.input))
        else:
            serve(source, run)
        splits = split_entries(source.entries(), probe.test_share, probe.limit, part)
        classes, _, values = find_targets(splits, probe)
        if not classes and not values:
            raise DataError("a study needs labels of at least two classes, to tell what was learned")
        root = getattr(config.data, "root", None) or ""
        scores = Scores([sample_name(entry).removeprefix(f"{root}/") for entry in splits[1].entries])
        sets = read_sets(source, splits, classes, values, config.input, probe, config.seed)
        device = self.runtime.device
        if run is not None:
            probe_encoder(load_encoder(run), PRETRAINED, sets, device, scores)
            return packed(scores, {PRETRAINED: PRETRAINED})
        untrained: Encoder = random_encoder(config.encoder, config.input, config.seed)
        probe_encoder(untrained, UNTRAINED, sets, device, scores)
        probe_baselines(source, sets, scores)
        told = packed(scores, {who: who for _, _, who in scores.cells})
        return told | {"chance": {name: chance_level(*sets.labels(name)) for name in classes}}

    def _supervised(self, cell: Cell, work: Path, tell: Callable[[str], None]) -> tuple[Json, Json]:
        tuned = self.grid.finetuning(cell)
        config = self.grid.study.run_config(self.grid.arms(cell.network)[0], 0)
        save_encoder(random_encoder(config.encoder, config.input, 0), work / "untrained")

        def show(done: int, total: int, status: str) -> None:
            tell(f"{cell.told}: {done} of {total} epochs, {status}")

        source = self.grid.source(config.data)
        found = finetune(source, [work / "untrained"], tuned, self.runtime.device, show)
        (row,) = found["results"]
        return {"metric": found["metric"], "value": row["metrics"][found["metric"]]["mean"], "steps": row["steps"]}, {}

    def _pace(self, cell: Cell, work: Path, tell: Callable[[str], None]) -> tuple[Json, Json]:
        config = self.grid.study.run_config(cell.arm, 0, epochs=STEPS)
        config = config.model_copy(update={"output_dir": str(work / "run")})
        tell(cell.told)
        rounds, frames = [], 0
        for _ in range(ROUNDS):
            trainer = Trainer(config, self.runtime, cell.told)
            taken = []
            for batch, _waited, seconds, _loss in trainer.tried(STEPS):
                taken.append(seconds)
                frames = sum(view.at.numel() for view in batch.views)
            rounds.append(float(np.mean(taken[STEPS // 4 :])))
        steps = trainer.steps_per_epoch
        return {"seconds": float(np.median(rounds)) * steps, "frames": frames * steps, "steps": steps}, {}


@contextmanager
def _memory(device: torch.device) -> Iterator[Callable[[], int]]:
    """What tells the most bytes in use since: of the GPU, else of this process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device)
        return
    with suppress(OSError):  # elsewhere than on Linux it is the most since the process began
        Path("/proc/self/clear_refs").write_text("5")
    yield _peak


def _peak() -> int:
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
