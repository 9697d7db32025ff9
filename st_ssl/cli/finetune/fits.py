"""Fits of ``finetune``: what is printed and kept of them, and how the same command goes on."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from rich.table import Table

from st_ssl.cli import progress_bar
from st_ssl.cli.finetune.tables import finetune_csv, finetune_tables, split_tables, verdict_lines
from st_ssl.core.config import differences, flatten
from st_ssl.core.errors import OutputError
from st_ssl.core.files import check_writable, replace_text
from st_ssl.core.types import Entry
from st_ssl.data.base import DATA, DataSource, of_split
from st_ssl.engine.console import PlainConsole, console
from st_ssl.engine.run_files import FREE_KEYS
from st_ssl.engine.runtime import Preempted, Runtime
from st_ssl.training import distributed
from st_ssl.transfer.fitting.finetune import Finished, Progress, finetune
from st_ssl.transfer.fitting.finetune_config import FinetuneConfig
from st_ssl.transfer.fitting.finetune_setup import Setup
from st_ssl.transfer.fitting.fit_checkpoint import Unfinished
from st_ssl.transfer.fitting.outcomes import OutcomeStore
from st_ssl.transfer.fitting.outcomes import told as all_told
from st_ssl.transfer.fitting.predictions import Predictions
from st_ssl.transfer.fitting.task_loader import Interrupted
from st_ssl.transfer.probes.official_splits import finetune_splits
from st_ssl.transfer.tasks.base import TASKS

NO_FIGURE = FREE_KEYS | {"device", "save", "scratch_steps"}
"""Keys that no figure depends on."""


def dry_run(runs: list[Path], config: FinetuneConfig, runtime: Runtime) -> None:
    """Print what would be trained, and on what."""
    table = Table(show_header=False)
    with ExitStack() as stack:
        told = Setup.of(_sources(config)[0], runs, config, runtime.device, looked=looking(stack, runtime)).plan()
    for name, value in told.items():
        table.add_row(name, value)
    if config.splits:
        table.add_row("official splits", f"{', '.join(map(str, config.splits))}, each with all of the above")
    if runtime.is_main:
        PlainConsole().print(table)


def finetune_and_print(
    runs: list[Path], config: FinetuneConfig, runtime: Runtime, output: Path, predictions: Predictions | None
) -> None:
    """Fine-tune, keep ``output``, and the table beside it, up to date with what is done, and print the tables. Of
    several processes the main one writes and prints."""
    sources, stamp, unfinished, before = _opened(runs, config, runtime, output, predictions)
    store = OutcomeStore(output.with_name(f"{output.stem}_outcomes.npz"), unfinished.stamp)
    if before is not None and runtime.is_main:
        store.read()

    def keep(result: dict[str, Any]) -> None:
        if runtime.is_main:
            replace_text(output, json.dumps(result | stamp, indent=2) + "\n")
            replace_text(output.with_suffix(".csv"), finetune_csv(result))

    with ExitStack() as stack:
        show = progress_bar(stack, "finetune", "epoch", runtime.is_main)
        looked = looking(stack, runtime)
        stack.enter_context(runtime.deferred_stop())

        def fit_split(
            source: DataSource, split: int | None, progress: Progress, finished: Finished, before: dict[str, Any] | None
        ) -> dict[str, Any]:
            """Fine-tune on one official split, or on a data set that has none. Predictions are kept of the first split;
            the state of the fit under way of each has a folder of its own."""
            weights, state = output.with_suffix(""), unfinished
            if split is not None:
                weights = weights / f"split_{split}"
                folder = unfinished.folder.with_name(f"{unfinished.folder.name}_split_{split}")
                state = replace(unfinished, folder=folder)
                if runtime.is_main:
                    state.check()
            said = predictions if split in (None, *config.splits[:1]) else None
            given = (runs, config, runtime.device, progress, finished, weights, said, before, state)
            return finetune(source, *given, lambda: runtime.stop_requested, looked, replace(store, split=split or 0))

        try:
            if config.splits:
                of_all = partial(all_told, replace(store, split=None), TASKS.build(config.task), config.modes)
                result = finetune_splits(config.data, config.splits, fit_split, show, keep, before, of_all)
            else:
                result = fit_split(sources[0], None, show, keep, before)
        except Interrupted as error:
            raise Preempted(str(error)) from error
    if runtime.is_main:
        for table in (*finetune_tables(result | stamp, config.task.name), *split_tables(result, config.task.name)):
            PlainConsole().print(table)
        for line in verdict_lines(result):
            print(line)
        for one in result["starved"]:
            where = f"split {one['split']}: " if "split" in one else ""
            print(f"{where}{one['told']}")
        print(f"tested on {result['tested']}")
        print(f"written to {output} and {output.with_suffix('.csv').name} beside it")


def _opened(
    runs: list[Path], config: FinetuneConfig, runtime: Runtime, output: Path, predictions: Predictions | None
) -> tuple[list[DataSource], dict[str, Any], Unfinished, dict[str, Any] | None]:
    """The data, of each official split that is asked for, what figures depend on, the state of the fit under way, and
    what an earlier call has left in ``output``. Raises ``OutputError`` where that was another one, or nothing can be
    written."""
    for folder in (output.parent, *([predictions.folder] if predictions else [])) if runtime.is_main else ():
        check_writable(folder)
    sources = _sources(config)
    if not runtime.is_main:
        distributed.barrier()
    stamp = _stamp(sources, runs, config)  # asks for the samples, which the main process may have to write
    if runtime.is_main:
        distributed.barrier()
    settings = {key: value for key, value in flatten(stamp["config"]).items() if key not in NO_FIGURE}
    unfinished = Unfinished(output.with_name(f"{output.stem}_unfinished"), {**stamp, "config": settings})
    before = None
    if runtime.is_main:
        output.parent.mkdir(parents=True, exist_ok=True)
        before = _before(output, stamp)
        unfinished.check()
        if before is not None and predictions is not None:
            _tell_of_predictions(before, config, predictions)
    return sources, stamp, unfinished, distributed.gather_objects(before)[0]


def _sources(config: FinetuneConfig) -> list[DataSource]:
    """The data, of each official split that is asked for."""
    return [of_split(config.data, number) for number in config.splits] or [DATA.build(config.data)]


def looking(stack: ExitStack, runtime: Runtime) -> Callable[[int, int], None]:
    """What shows on a bar how many samples have been looked at, of those of each look."""
    show = progress_bar(stack, "labels", "sample", runtime.is_main)
    return lambda done, total: show(done, total, "looked at")


def _stamp(sources: Sequence[DataSource], runs: list[Path], config: FinetuneConfig) -> dict[str, Any]:
    """What the figures depend on."""
    weights = [run / "encoder.safetensors" for run in runs]
    return {
        "config": config.model_dump(mode="json"),
        "encoders": [hashlib.sha256(file.read_bytes()).hexdigest() for file in weights if file.is_file()],
        "samples": _samples(chain.from_iterable(s.entries() for s in sources), getattr(config.data, "root", None)),
    }


def _samples(entries: Iterable[Entry], root: str | None) -> str:
    """Tells labellings apart, and divisions into parts: where in ``root`` each sample is, its split, its labels and
    its tags."""
    folder, digest = os.path.expanduser(root or ""), hashlib.sha256()
    for e in entries:
        row = [e.path.removeprefix(folder), e.start, e.num_frames, e.split, sorted(e.labels.items())]
        row += [sorted(e.tags)] if e.tags else []  # what has none has the digest of before there were tags
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def _before(output: Path, stamp: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier call has left in ``output``; raises ``OutputError`` where that call was another one."""
    if not output.is_file():
        return None
    try:
        before: dict[str, Any] = json.loads(output.read_text())
        changed = differences(before["config"], stamp["config"])
        others = [name for name in ("encoders", "samples") if before.get(name) != stamp[name]]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OutputError(f"{output} is not the result of fine-tuning: name another file with --output") from error
    told = [line for key, line in changed.items() if key not in NO_FIGURE]
    told += [f"the {name} are not the same" for name in others]
    if told:
        raise OutputError(
            f"{output} holds the results of another fine-tuning; name another file with --output, or remove it:\n"
            + "\n".join(f"  {line}" for line in told)
        )
    done = sum(len(row["epochs"]) for row in before["results"])
    console.print(f"finetune: going on after the {done} fits in {output}")
    return before


def _tell_of_predictions(before: dict[str, Any], config: FinetuneConfig, predictions: Predictions) -> None:
    """Warn where those asked for will not be there: the fit that they are of is done."""
    best = (config.modes[-1], max(config.label_fractions))
    done = any((row["mode"], row["fraction"]) == best and row["epochs"] for row in before["results"])
    if done and not predictions.there():
        warnings.warn(
            f"predictions are written as the fit that they are of ({best[0]}, {100 * best[1]:g} % of the labels) is "
            "made, and it is done: none are written now; for a fit with them name another file with --output",
            stacklevel=2,
        )
