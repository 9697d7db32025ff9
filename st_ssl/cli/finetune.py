"""``finetune``: what pretrained weights are worth to a task, beside the same network from scratch."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st_ssl.cli import Parser, config_file
from st_ssl.cli.find_steps import find_and_print
from st_ssl.cli.finetune_tables import finetune_csv, finetune_tables, split_tables, verdict_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from st_ssl.core.types import Entry
    from st_ssl.data.base import DataSource
    from st_ssl.engine.runtime import Runtime
    from st_ssl.transfer.fitting.finetune import Finished, Progress
    from st_ssl.transfer.fitting.finetune_config import FinetuneConfig
    from st_ssl.transfer.fitting.fit_checkpoint import Unfinished
    from st_ssl.transfer.fitting.outcomes import OutcomeStore
    from st_ssl.transfer.fitting.predictions import Predictions
    from st_ssl.transfer.probes.official_splits import FitSplit

EPILOG = """\
The configuration says what the task is (configs/transfer/); the data is that of the pretraining unless it says
otherwise. Every mode and fraction of the labels is one fit for each seed, all of the same steps: scratch (the same
network, not pretrained), frozen (a head on the pretrained encoder), full (everything, from pretrained weights), last
(its last blocks alone) and lora (low-rank additions to it). Several runs of one architecture take turns. A mode is
ahead where it is ahead of scratch and of the strongest trivial baseline with the same labels. The same command goes on
where it was stopped or killed, also in the middle of a fit. The weights of the last mode are kept (save=all: of every
fit), for `predict` to run on other videos.

examples:
  st-ssl finetune configs/transfer/video/quickstart.yaml runs/quickstart/video/videomae
  st-ssl finetune configs/transfer/points/classify.yaml runs/point_mae data.root=/data/modelnet40
  st-ssl finetune configs/transfer/points/segment.yaml runs/mine label_fractions=[0.01,0.1,1.0]
  st-ssl finetune configs/transfer/video/vit.yaml runs/mine data=ucf101 data.root=/data/ucf101 splits=[1,2,3]
  st-ssl finetune configs/transfer/points/few_shot.yaml runs/mine task.ways=5 task.shots=10
  st-ssl finetune configs/transfer/points/quickstart.yaml runs/quickstart/points/point2vec --find-steps
  st-ssl finetune configs/transfer/points/classify.yaml runs/quickstart/points/point2vec task.target=class \
      epochs=10 seeds=1                                          # on planted objects, which have several labels
  torchrun --nproc-per-node 8 -m st_ssl finetune configs/transfer/points/classify.yaml runs/point_mae modes=[full,lora]
"""


def _arguments() -> argparse.Namespace:
    parser = Parser(
        description="Fine-tune pretrained encoders on a task.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a YAML file, or a name that `configs` lists")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of encoders; key=value sets keys of CONFIG")
    parser.add_argument(
        "--output",
        type=Path,
        help="NAME.json, with the rest beside it (default: in finetune/ of the first run, by CONFIG and data=NAME)",
    )
    parser.add_argument(
        "--save-predictions",
        choices=["few", "all", "none"],
        default="few",
        help="of how many test clouds to keep what was said, in OUTPUT_predictions/ (default: 8); of videos it is all",
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    parser.add_argument(
        "--find-steps",
        action="store_true",
        help="find how many steps scratch needs, without a look at test samples, and stop",
    )
    parser.add_argument("--start", type=_steps, metavar="STEPS", help="where --find-steps begins (default: 50)")
    parser.add_argument("--dry-run", action="store_true", help="tell what would be trained, and on what, and stop")
    arguments = parser.parse()
    if arguments.start and not arguments.find_steps:
        parser.error("--start is for --find-steps")
    return arguments


def _steps(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a number of steps, not {text}")
    return int(text)


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    from st_ssl.core.config import to_yaml
    from st_ssl.core.errors import ConfigError
    from st_ssl.encoders.base import describe_encoder
    from st_ssl.engine.run_files import pretraining_data
    from st_ssl.engine.runtime import start_runtime
    from st_ssl.transfer.fitting.find_steps import START
    from st_ssl.transfer.fitting.finetune_config import load_finetune
    from st_ssl.transfer.fitting.predictions import Predictions

    overrides = [a for a in arguments.runs if "=" in a and not Path(a).exists()]
    runs = [Path(a) for a in arguments.runs if a not in overrides]
    if arguments.config.is_dir() and runs and runs[0].is_file():
        raise ConfigError(f"CONFIG comes first, then RUN: {runs[0]} {arguments.config}")
    file = config_file(arguments.config)
    if not runs:
        raise ConfigError("expected at least one folder of a run behind the configuration")
    for run in runs:
        describe_encoder(run)  # raises where it is none, before its data are asked for
    config = load_finetune(file, overrides, pretraining_data(runs[0]))
    output = _output(arguments.output or runs[0] / "finetune" / f"{_result_name(file, overrides)}.json")
    beside = output.with_name(f"{output.stem}_predictions")
    limits = {"few": Predictions(beside), "all": Predictions(beside, None)}
    if arguments.print_config:
        print(to_yaml(config.model_dump(mode="json")), end="")
        return
    with start_runtime(config.device, "device=") as runtime:
        if arguments.dry_run:
            _dry_run(runs, config, runtime)
        elif arguments.find_steps:
            find_and_print(file, runs, config, runtime, arguments.start or START, _looking)
        else:
            finetune_and_print(runs, config, runtime, output, limits.get(arguments.save_predictions))


def _result_name(file: Path, overrides: Sequence[str]) -> str:
    """The name of the result: that of the configuration, behind that of the data set which ``data=NAME`` asks for."""
    from st_ssl.core.config import parse_override
    from st_ssl.core.fragments import asked_fragment

    asked = asked_fragment([(*parse_override(text), text) for text in overrides])
    return file.stem if asked is None else f"{Path(asked).stem}_{file.stem}"


def _output(given: Path) -> Path:
    """The file of the result. It ends in .json, so that the weights and the table beside it have names of their own."""
    from st_ssl.core.errors import ConfigError

    output = given if given.suffix or given.name in ("", "..") else given.with_name(f"{given.name}.json")
    if output.suffix != ".json" or output.is_dir():
        raise ConfigError(f"--output {given}: expected a file that ends in .json, beside which the rest is written")
    return output


def _dry_run(runs: list[Path], config: FinetuneConfig, runtime: Runtime) -> None:
    from rich.table import Table

    from st_ssl.data.base import DATA, of_split
    from st_ssl.engine.console import PlainConsole
    from st_ssl.transfer.fitting.plan import plan

    table = Table(show_header=False)
    sources = [of_split(config.data, number) for number in config.splits] or [DATA.build(config.data)]
    with ExitStack() as stack:
        told = plan(sources[0], runs, config, runtime.device, _looking(stack, runtime))
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
    import json
    from dataclasses import replace
    from functools import partial

    from st_ssl.core.files import replace_text
    from st_ssl.engine.console import PlainConsole, RunProgress
    from st_ssl.engine.runtime import Preempted
    from st_ssl.transfer.fitting.outcomes import OutcomeStore, told
    from st_ssl.transfer.fitting.task_loader import Interrupted
    from st_ssl.transfer.probes.official_splits import finetune_splits
    from st_ssl.transfer.tasks.base import TASKS

    sources, stamp, unfinished, before = _opened(runs, config, runtime, output, predictions)
    store = OutcomeStore(output.with_name(f"{output.stem}_outcomes.npz"), unfinished.stamp)
    if before is not None and runtime.is_main:
        store.read()

    def keep(result: dict[str, Any]) -> None:
        if runtime.is_main:
            replace_text(output, json.dumps(result | stamp, indent=2) + "\n")
            replace_text(output.with_suffix(".csv"), finetune_csv(result))

    with ExitStack() as stack:
        bars: list[RunProgress] = []

        def show(done: int, total: int, status: str) -> None:
            if not bars:  # how many epochs there are is known now
                bars.append(stack.enter_context(RunProgress("finetune", total, done, runtime.is_main, "epoch")))
            bars[0].update(done, status)

        stack.enter_context(runtime.deferred_stop())
        fit_split = _fitter(runs, config, runtime, output, predictions, unfinished, _looking(stack, runtime), store)
        try:
            if config.splits:
                of_all = partial(told, replace(store, split=None), TASKS.build(config.task), config.modes)
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
    from st_ssl.core.config import flatten
    from st_ssl.core.files import check_writable
    from st_ssl.data.base import DATA, of_split
    from st_ssl.training import distributed
    from st_ssl.transfer.fitting.fit_checkpoint import Unfinished

    for folder in (output.parent, *([predictions.folder] if predictions else [])) if runtime.is_main else ():
        check_writable(folder)
    sources = [of_split(config.data, number) for number in config.splits] or [DATA.build(config.data)]
    if not runtime.is_main:
        distributed.barrier()
    stamp = _stamp(sources, runs, config)  # asks for the samples, which the main process may have to write
    if runtime.is_main:
        distributed.barrier()
    settings = {key: value for key, value in flatten(stamp["config"]).items() if key not in _free_keys()}
    unfinished = Unfinished(output.with_name(f"{output.stem}_unfinished"), {**stamp, "config": settings})
    before = None
    if runtime.is_main:
        output.parent.mkdir(parents=True, exist_ok=True)
        before = _before(output, stamp)
        unfinished.check()
        if before is not None and predictions is not None:
            _tell_of_predictions(before, config, predictions)
    return sources, stamp, unfinished, distributed.gather_objects(before)[0]


def _looking(stack: ExitStack, runtime: Runtime) -> Callable[[int, int], None]:
    """What shows on a bar how many samples have been looked at, of those of each look; it is gone at the end of one."""
    from st_ssl.engine.console import RunProgress

    bars: list[RunProgress] = []

    def looked(done: int, total: int) -> None:
        if not bars:
            bars.append(stack.enter_context(RunProgress("labels", total, done, runtime.is_main, "sample")))
        bars[0].update(done, "looked at")
        if done == total:
            bars.pop().stop()

    return looked


def _free_keys() -> set[str]:
    """Keys that no figure depends on."""
    from st_ssl.engine.run_files import FREE_KEYS

    return FREE_KEYS | {"device", "save", "scratch_steps"}


def _fitter(
    runs: list[Path],
    config: FinetuneConfig,
    runtime: Runtime,
    output: Path,
    predictions: Predictions | None,
    unfinished: Unfinished,
    looked: Callable[[int, int], None],
    store: OutcomeStore,
) -> FitSplit:
    """What fine-tunes on one official split, or on a data set that has none. Predictions are kept of the first split;
    the state of the fit under way of each has a folder of its own."""
    from dataclasses import replace

    from st_ssl.transfer.fitting.finetune import finetune

    def fit_split(
        source: DataSource, split: int | None, progress: Progress, finished: Finished, before: dict[str, Any] | None
    ) -> dict[str, Any]:
        weights, state = output.with_suffix(""), unfinished
        if split is not None:
            weights = weights / f"split_{split}"
            state = replace(unfinished, folder=unfinished.folder.with_name(f"{unfinished.folder.name}_split_{split}"))
            if runtime.is_main:
                state.check()
        said = predictions if split in (None, *config.splits[:1]) else None
        given = (runs, config, runtime.device, progress, finished, weights, said, before, state)
        outcomes = replace(store, split=split or 0)
        return finetune(source, *given, lambda: runtime.stop_requested, looked, outcomes)

    return fit_split


def _stamp(sources: Sequence[DataSource], runs: list[Path], config: FinetuneConfig) -> dict[str, Any]:
    """What the figures depend on."""
    import hashlib

    weights = [run / "encoder.safetensors" for run in runs]
    return {
        "config": config.model_dump(mode="json"),
        "encoders": [hashlib.sha256(file.read_bytes()).hexdigest() for file in weights if file.is_file()],
        "samples": _samples(chain.from_iterable(s.entries() for s in sources), getattr(config.data, "root", None)),
    }


def _samples(entries: Iterable[Entry], root: str | None) -> str:
    """Tells labellings apart, and divisions into parts: where in ``root`` each sample is, its split, its labels and
    its tags."""
    import hashlib
    import json
    import os

    folder, digest = os.path.expanduser(root or ""), hashlib.sha256()
    for e in entries:
        row = [e.path.removeprefix(folder), e.start, e.num_frames, e.split, sorted(e.labels.items())]
        row += [sorted(e.tags)] if e.tags else []  # what has none has the digest of before there were tags
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def _before(output: Path, stamp: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier call has left in ``output``; raises ``OutputError`` where that call was another one."""
    import json

    from st_ssl.core.config import differences
    from st_ssl.core.errors import OutputError
    from st_ssl.engine.console import console

    if not output.is_file():
        return None
    try:
        before: dict[str, Any] = json.loads(output.read_text())
        changed = differences(before["config"], stamp["config"])
        others = [name for name in ("encoders", "samples") if before.get(name) != stamp[name]]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OutputError(f"{output} is not the result of fine-tuning: name another file with --output") from error
    told = [line for key, line in changed.items() if key not in _free_keys()]
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
    import warnings

    best = (config.modes[-1], max(config.label_fractions))
    done = any((row["mode"], row["fraction"]) == best and row["epochs"] for row in before["results"])
    if done and not predictions.there():
        warnings.warn(
            f"predictions are written as the fit that they are of ({best[0]}, {100 * best[1]:g} % of the labels) is "
            "made, and it is done: none are written now; for a fit with them name another file with --output",
            stacklevel=2,
        )
