"""The run: steps, checkpoints and the ways a run can end. It knows no method, encoder or data set by name."""

from __future__ import annotations

import json
import resource
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from st_ssl.core.config import to_yaml
from st_ssl.core.errors import ConfigError, DataError, UserError
from st_ssl.core.files import replace_text
from st_ssl.core.types import Entry
from st_ssl.data.account import account_lines
from st_ssl.data.base import DATA, Batch, DataSource, samples_digest, training_part
from st_ssl.data.loading.loader import build_loader
from st_ssl.data.loading.partners import partners
from st_ssl.data.loading.sample_dataset import SampleDataset, collate
from st_ssl.data.loading.sample_order import Order, StepSampler
from st_ssl.encoders.base import ENCODERS, Encoder, count_parameters, prepared_of, save_encoder
from st_ssl.engine.building import averaged, build
from st_ssl.engine.console import RunProgress, console
from st_ssl.engine.gauge import CollapseGauge
from st_ssl.engine.loggers import RunLog, open_log, require_loggers
from st_ssl.engine.look import look_at
from st_ssl.engine.quarantine import Quarantine
from st_ssl.engine.run_config import RunConfig
from st_ssl.engine.run_files import check_same_run
from st_ssl.engine.runtime import Preempted, Runtime
from st_ssl.engine.step import GradientStep, Step
from st_ssl.methods.base import Method, Moment
from st_ssl.training import distributed
from st_ssl.training.batchnorm import convert_batchnorm
from st_ssl.training.checkpoint import Checkpointer, Loaded, flatten_optimizer, load_checkpoint, restore_optimizer
from st_ssl.training.ema import EMA
from st_ssl.training.optim import build_optimizer, decay_at, peak_lr
from st_ssl.training.schedule import lr_at

DATA_FILE = "data.json"
"""In the folder of a run: what was decided of its data, and what was left out."""


class TrainingError(UserError):
    """Training went wrong in a way that more steps will not mend, such as a loss that is not finite."""


def open_source(config: RunConfig, runtime: Runtime) -> tuple[DataSource, Sequence[Entry]]:
    """The data set and its training samples; the main process goes first, since it may have to write them."""
    source: DataSource = DATA.build(config.data)
    if not runtime.is_main:
        distributed.barrier()
    entries = source.recordings()
    if runtime.is_main:
        distributed.barrier()
    return source, training_part(entries)


def fit_batch(wanted: int, num_samples: int, unit: int) -> int:
    """The batch size to use: ``wanted``, or for fewer samples than that the largest multiple of ``unit`` (processes ×
    accumulated parts) that they fill, with a warning."""
    if wanted % unit:
        raise ConfigError(f"engine.batch_size={wanted} must be a multiple of processes × engine.accumulate = {unit}")
    if wanted <= num_samples:
        return wanted
    smaller = num_samples // unit * unit
    if smaller == 0:
        raise DataError(f"{num_samples} samples are fewer than processes × engine.accumulate = {unit}")
    warnings.warn(f"engine.batch_size={wanted} is more than there are samples: using {smaller}", stacklevel=2)
    return smaller


_LONG_ENOUGH = 60.0  # seconds of a dry run after which it takes no further step
_MUCH_WAITING = 0.2  # share of the time, of a run of more than a minute


@dataclass
class _Clock:
    """Where the time of the last logged steps went."""

    started: float
    waited: float = 0.0
    samples: int = 0


class Trainer:
    """One pretraining run, from its configuration to the encoder in its ``output_dir``.

    Everything that a step does is a function of the configuration, the step's number and the checkpointed state, so a
    run that is stopped anywhere and started again gives the same losses to the last bit.
    """

    def __init__(self, config: RunConfig, runtime: Runtime, name: str = "pretrain") -> None:
        require_loggers(config.logging)
        self.config, self.runtime, self.name = config, runtime, name
        self.directory = Path(config.output_dir)
        self.source, self.entries = open_source(config, runtime)
        encoder = ENCODERS.registered(config.encoder.name)
        before = prepared_of(self.directory)  # of an earlier part of the run
        self.source.follow(before, encoder.needs(config.encoder, config.input))
        engine = config.engine
        self.batch_size = fit_batch(engine.batch_size, len(self.entries), runtime.world_size * engine.accumulate)
        self.samples = samples_digest(self.entries)
        self.partners = partners(config.pairs, self.entries, config.seed)
        self.order = Order(config.seed, len(self.entries), self.batch_size)
        self.steps_per_epoch = max(1, (self.source.epoch_size or len(self.entries)) // self.batch_size)
        self.total_steps = engine.epochs * self.steps_per_epoch
        self.kept_steps = {max(1, round(share * self.total_steps)) for share in engine.keep_at}
        self.built = build(config)
        self.method = self.built.method.to(runtime.device)
        self.exports = self.method.exports()
        for exported in self.exports.values():
            exported.prepared = self.source.prepared
        self.gauges = {name: CollapseGauge(exported) for name, exported in self.exports.items()}
        self.gauges |= {name: CollapseGauge(module) for name, module in self.method.watched().items()}
        self.optimizer = build_optimizer(
            self.method.named_parameters(),
            config.optim,
            peak_lr(config.optim, self.batch_size),
            rules=self.method.rules(),
        )
        self.ema = EMA(self.method) if engine.ema is not None else None
        self.model = self._wrap()
        self.gradients = GradientStep(self.model, self.method, engine.precision, runtime.device, config.seed)
        self.step = 0
        self.overflows = 0

    def _wrap(self) -> nn.Module:
        if self.config.engine.compile:  # networks alone: a forward that takes views holds objects and sizes that vary
            for network in self.method.children():
                if not (isinstance(network, Encoder) and network.frozen):
                    network.compile()
        step = Step(self.method)
        if self.runtime.world_size == 1:
            return step
        convert_batchnorm(self.method, self.runtime.device.type)
        return distributed.average_gradients(step)

    # ---------------------------------------------------------------- the loop

    def fit(self) -> None:
        """Train to the end, from the newest checkpoint if there is one.

        Raises ``Preempted`` after saving when told to stop, ``TrainingError`` for losses or gradients that are not
        finite, ``DataError`` where too many samples are broken.
        """
        checkpointer = self._resume()
        if self.step == 0 and self.runtime.is_main:
            for started in self.built.started.values():
                console.print(f"{self.name}: {started.told()}")
        self._quarantine = self._open_quarantine(self.directory / "bad_samples.jsonl")
        every = self.config.engine.checkpoint_every or self.steps_per_epoch
        clock, whole = _Clock(time.monotonic()), _Clock(time.monotonic())
        prepares = type(self.method).before_epoch is not Method.before_epoch
        look = partial(look_at, self.source, self.entries, self.batch_size, self.config.seed, self.runtime)
        progress = RunProgress(self.name, self.total_steps, self.step, self.runtime.is_main)
        opened = open_log(self.config, self.step, self.total_steps, self.runtime.is_main)
        with opened as log, self.runtime.deferred_stop(), progress:
            for batch, waited in self._batches(self.step, self.total_steps):
                if self.step % self.steps_per_epoch == 0 and prepares:
                    self.method.before_epoch(self._moment(), look)
                row, stop = self._update(batch)
                clock.waited += waited
                whole.waited += waited
                clock.samples += self.batch_size
                done = self.step == self.total_steps
                if self.step % self.config.engine.log_every == 0 or done:
                    self._log(row, clock, log, progress)
                    clock = _Clock(time.monotonic())
                if self.step % every == 0 or self.step in self.kept_steps or done or stop:
                    self._save(checkpointer)
                if stop and not done:
                    raise Preempted(f"stopped at step {self.step} of {self.total_steps}, saved in {self.directory}")
        if self._quarantine.known and self.runtime.is_main:
            count, file = len(self._quarantine.known), self.directory / "bad_samples.jsonl"
            console.print(f"{self.name}: {count} broken samples were replaced, listed in {file}", style="yellow")
        self._tell_of_waiting(whole)
        distributed.barrier()

    def _tell_of_waiting(self, clock: _Clock) -> None:
        """Say what makes reading quick, where much of the time of the run was spent on it."""
        elapsed = time.monotonic() - clock.started
        if self.runtime.is_main and elapsed > _LONG_ENOUGH and clock.waited > _MUCH_WAITING * elapsed:
            root = self.config.data.root
            pack = "" if self.source.packed or root is None else f"`st-ssl prepare pack {root}` makes it quick, or "
            console.print(
                f"{self.name}: {clock.waited / elapsed:.0%} of the time was spent waiting for data: {pack}more "
                f"data.num_workers (now {self.source.num_workers})"
            )

    def _batches(self, start: int, stop: int) -> Any:
        sampler = StepSampler(self.order, start, stop, self.runtime.rank, self.runtime.world_size)
        pin = self.runtime.device.type == "cuda"
        dataset = self.source.dataset(self.entries, self.method.views, self.config.seed)
        assert isinstance(dataset, SampleDataset)
        dataset.partners = self.partners
        timeout, max_lost = self.source.sample_timeout, self.source.max_bad(len(self.entries))
        workers = self.source.num_workers
        loader = iter(build_loader(dataset, sampler, collate, workers, pin, timeout=timeout, max_lost=max_lost))
        while True:
            before = time.monotonic()
            batch = next(loader, None)
            if batch is None:
                return
            yield batch, time.monotonic() - before

    def _open_quarantine(self, file: Path | None) -> Quarantine:
        return Quarantine(file, len(self.entries), self.source.max_bad_share)

    def _update(self, batch: Batch) -> tuple[dict[str, float], bool]:
        """One optimiser step. Returns what there is to log, and whether some process was told to stop."""
        engine = self.config.engine
        lr = lr_at(
            self.step,
            self.total_steps,
            self.steps_per_epoch,
            self.config.schedule,
            peak_lr(self.config.optim, self.batch_size),
        )
        decay = decay_at(self.step, self.total_steps, self.config.optim)
        peak = peak_lr(self.config.optim, self.batch_size)
        for group in self.optimizer.param_groups:
            group["lr"] = (peak if group["constant"] else lr) * group["lr_scale"]
            if group["decays"]:
                group["weight_decay"] = decay
        new = self._quarantine.unknown(batch.bad)
        stop, found, empty = self._agree(float(self.runtime.stop_requested), float(bool(new)), float(not batch.views))
        if found or empty:
            self._list_bad(batch, bool(empty))
        self.optimizer.zero_grad(set_to_none=True)
        self.model.train()
        update = self.gradients(batch, self.step, self.runtime.rank, engine.accumulate)
        scaler = self.gradients.scaler
        scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.method.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        self._check_finite(update.scalars["loss"], norm, batch)
        if engine.clip_grad is not None:
            nn.utils.clip_grads_with_norm_(self.method.parameters(), engine.clip_grad, norm)
        scaler.step(self.optimizer)
        scaler.update()
        self.method.after_update(self._moment(), update.kept)
        if self.ema is not None and engine.ema is not None:
            self.ema.update(engine.ema)
        self.step += 1
        scalars = {name: float(distributed.mean_over_ranks(value.double())) for name, value in update.scalars.items()}
        return {**scalars, "lr": lr, "grad_norm": float(norm)}, bool(stop)

    def _moment(self) -> Moment:
        return Moment(self.step, self.total_steps, self.steps_per_epoch)

    def _agree(self, *flags: float) -> list[float]:
        return distributed.max_over_ranks(list(flags), self.runtime.device)

    def _list_bad(self, batch: Batch, empty: bool) -> None:
        bad = [sample for samples in distributed.gather_objects(batch.bad) for sample in samples]
        self._quarantine.add(bad, write=self.runtime.is_main)
        self._quarantine.check()
        if empty:
            raise self._quarantine.error("a sample and all that could have replaced it are broken")

    def _check_finite(self, loss: torch.Tensor, norm: torch.Tensor, batch: Batch) -> None:
        """Stop all processes before a loss or gradient that is not finite reaches the weights."""
        loss_bad, norm_bad = not bool(loss.isfinite()), not bool(norm.isfinite())
        any_loss, any_norm = self._agree(float(loss_bad), float(norm_bad))
        if any_norm and not any_loss and self.config.engine.precision == "fp16":
            self.overflows += 1  # the scaler skips this update and tries a smaller scale
            if self.overflows < self.config.engine.patience:
                return
        elif not any_loss and not any_norm:
            self.overflows = 0
            return
        mine = [self.entries[i].shown for i in batch.indices.tolist()]
        told = distributed.gather_objects((self.runtime.rank, loss_bad, mine))
        what = "loss" if any_loss else "gradient"
        culprits = [t for t in told if t[1]] or told
        lines = [f"rank {rank}: {', '.join(paths)}" for rank, _, paths in culprits]
        raise TrainingError(
            f"the {what} is not finite at step {self.step + 1}; the weights are still those of step {self.step}. "
            "Samples of that step:\n" + "\n".join(lines)
        )

    def _log(self, row: dict[str, float], clock: _Clock, log: RunLog, progress: RunProgress) -> None:
        elapsed = time.monotonic() - clock.started
        gauge: dict[str, float] = {}
        for name, watch in self.gauges.items():
            found, warning = watch.read()
            of = "" if name in self.exports and len(self.exports) == 1 else f"{name}/"
            gauge |= {f"{of}{key}": value for key, value in found.items()}
            if warning and self.runtime.is_main:
                whose = f"the {name}'s " if of else "the "
                console.print(f"{self.name}: step {self.step}: {whose}{warning}", style="yellow")
        rate = clock.samples * self.method.views.num_views / elapsed
        timing = {
            "clips_per_second": rate,
            "data_wait": clock.waited / elapsed,
            "seconds": elapsed,
            "broken": len(self._quarantine.known),
        }
        log.write({"step": self.step, "epoch": self.step / self.steps_per_epoch, **row, **gauge, **timing})
        speed = f"{rate:.0f} {self.source.unit}/s  {clock.waited / elapsed:.0%} waiting for data"
        progress.update(self.step, f"loss {row['loss']:.4f}  {speed}")

    # ---------------------------------------------------------------- state

    def _resume(self) -> Checkpointer | None:
        """Load the newest checkpoint, if any; every process ends up in the same state."""
        checkpointer, path = None, None
        if self.runtime.is_main:
            self._claim_directory()
            checkpointer = Checkpointer(self.directory / "checkpoints", self.config.engine.keep_last, self.kept_steps)
            loaded = checkpointer.latest()
            path = None if loaded is None else loaded.path
            if path is None:  # a start from nothing will find again what an earlier one found broken
                (self.directory / "bad_samples.jsonl").unlink(missing_ok=True)
        path = distributed.gather_objects(path)[0]
        if path is not None:
            self._restore(load_checkpoint(path))
            if self.runtime.is_main and self.step < self.total_steps:
                console.print(f"{self.name}: going on from step {self.step} of {self.total_steps}")
        return checkpointer

    def _claim_directory(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            check_same_run(self.directory, self.config)
            replace_text(self.directory / "config.yaml", to_yaml(self.config.model_dump(mode="json")), alone=True)
            told = json.dumps(self.source.account(), indent=2, ensure_ascii=False) + "\n"
            replace_text(self.directory / DATA_FILE, told, alone=True)
        except OSError as error:
            raise ConfigError(f"output_dir={self.directory}: cannot be written to: {error.strerror}") from error

    def _restore(self, loaded: Loaded) -> None:
        if loaded.state["samples"] != self.samples:
            raise DataError(
                f"{loaded.path}: these are not the samples that the run began with, so it cannot go on with "
                "them; bring the old ones back, or choose another output_dir"
            )
        if loaded.state["frozen"] != self.built.frozen:
            raise DataError(
                f"{loaded.path}: a frozen encoder of the run is from another file now, so it cannot go on with it; "
                "bring the old one back, or choose another output_dir"
            )
        own = {name: value for name, value in self.method.state_dict().items() if self._is_frozen(name)}
        self.method.load_state_dict(own | loaded.tensors["model"])
        restore_optimizer(self.optimizer, loaded.tensors["optimizer"], loaded.state["optimizer"])
        if self.ema is not None:
            own = {name: value for name, value in self.ema.state_dict().items() if self._is_frozen(name)}
            self.ema.load(own | loaded.tensors["ema"])
        if loaded.state["scaler"]:
            self.gradients.scaler.load_state_dict(loaded.state["scaler"])
        self.step, self.overflows = loaded.step, loaded.state["overflows"]
        for name, first in loaded.state["gauges"].items():
            self.gauges[name].first = tuple(first)

    def _save(self, checkpointer: Checkpointer | None) -> None:
        if checkpointer is None:
            return
        tensors, optimizer = flatten_optimizer(self.optimizer)
        groups = {"model": self._saved(self.method.state_dict()), "optimizer": tensors}
        if self.ema is not None:
            groups["ema"] = self._saved(self.ema.state_dict())
        state = {
            "optimizer": optimizer,
            "scaler": self.gradients.scaler.state_dict(),
            "overflows": self.overflows,
            "samples": self.samples,
            "frozen": self.built.frozen,
            "gauges": {name: list(gauge.first) for name, gauge in self.gauges.items() if gauge.first},
        }
        # Encoders first: a run killed between the two does this step again, so its encoder is never left behind.
        for name, exported in self.exports.items():
            place = self.directory if len(self.exports) == 1 else self.directory / name
            save_encoder(exported, place, self._averaged(exported))
        checkpointer.save(self.step, groups, state)

    def _is_frozen(self, name: str) -> bool:
        """Whether a tensor of the method is of a frozen encoder that is in a file, and so in no checkpoint."""
        return name.startswith(tuple(self.built.frozen))

    def _saved(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: value for name, value in tensors.items() if not self._is_frozen(name)}

    def _averaged(self, exported: Encoder) -> dict[str, torch.Tensor] | None:
        """What is written of an exported encoder in place of its weights, if anything."""
        return None if self.ema is None else averaged(self.method, exported, self.ema.state_dict())

    # ---------------------------------------------------------------- trying it out

    def tried(self, steps: int) -> Iterator[tuple[Batch, float, float, float]]:
        """Make the first ``steps``, and write nothing of a run: of each its batch, the seconds of waiting for it, all
        its seconds, and the loss."""
        self._quarantine = self._open_quarantine(None)
        for batch, waited in self._batches(0, steps):
            before = time.monotonic()
            loss = self._update(batch)[0]["loss"]
            yield batch, waited, waited + time.monotonic() - before, loss

    def dry_run(self, steps: int = 3) -> dict[str, Any]:
        """Run a step for the shapes and a few more for the rate, if they take less than a minute; nothing of a run is
        written."""
        rates, shapes, loss = [], [], 0.0
        steps = min(steps, self.total_steps)
        if self.runtime.is_main:
            console.print(f"{self.name}: reading {self.batch_size} {self.source.items} for the first of {steps} steps")
        with RunProgress(self.name, steps, 0, self.runtime.is_main) as progress:
            for batch, waited, taken, loss in self.tried(steps):  # noqa: B007
                rates.append(taken)
                shapes = [str(view) for view in batch.views]
                progress.update(len(rates), f"{taken:.1f} s a step, {waited:.1f} s of it waiting for data")
                if max(self._agree(sum(rates))) > _LONG_ENOUGH:
                    break
        seconds = min(rates)
        memory = (
            torch.cuda.max_memory_allocated(self.runtime.device)
            if self.runtime.device.type == "cuda"
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        return {
            "data": "\n".join(account_lines(self.source.account())) or self.config.data.root or "planted",
            "views": " and ".join(shapes),
            "encoder parameters": f"{count_parameters(self.method.encoder):,}",
            "method parameters": f"{count_parameters(self.method):,}",
            "samples": f"{len(self.entries):,} ({len(self._quarantine.known)} found broken)",
            "first losses": f"{loss:.4f}",
            "memory": f"{memory / 2**30:.2f} GiB",
            f"{self.source.unit}/s": f"{self.batch_size * self.method.views.num_views / seconds:.1f}",
            "steps": f"{self.total_steps:,} ({self.config.engine.epochs} epochs of {self.steps_per_epoch})",
            "time for the run": f"{seconds * self.total_steps / 60:.1f} min",
        }
