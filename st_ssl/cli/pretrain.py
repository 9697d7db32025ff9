"""Pretrain an encoder on unlabelled data, probe it and write a report. Resumes by itself.

Keys that are often set (all of them, with their values: --print-config):
  output_dir            where the run is written; the same command goes on from there
  seed                  everything random is a function of it
  data                  a data set by name (ucf101, scannet, ... of `configs`): its format and what papers change for it
  data.name             video, points, drives
  data.root             a folder of videos or clouds, or a list; null writes and uses planted-factor ones
  data.num_workers      processes that decode; results do not depend on it
  encoder.name          r3d, video_vit, point_vit, sparse_unet, ...   (a new name takes that encoder's defaults)
  method.name           cvrl, videomae, point_mae, point2vec, ...     (likewise)
  engine.epochs         passes over the data
  engine.batch_size     samples per update, over all processes
  engine.precision      fp32, bf16, fp16
  engine.compile        true: torch.compile
  logging.tensorboard   true: curves for TensorBoard too
  logging.wandb         the name of a project: curves for Weights & Biases too, offline unless WANDB_MODE=online is set
  optim.lr              learning rate for a batch of optim.lr_batch

examples:
  st-ssl pretrain configs/quickstart/video.yaml
  st-ssl pretrain configs/quickstart/video.yaml data.root=/my/videos output_dir=runs/mine
  st-ssl pretrain configs/quickstart/points.yaml data.root=/my/clouds output_dir=runs/clouds
  torchrun --nproc-per-node 8 -m st_ssl pretrain configs/pretrain/contrast/cvrl.yaml data=ucf101 data.root=/data/ucf101
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from st_ssl.cli import Parser, config_file

if TYPE_CHECKING:
    from st_ssl.engine.run_config import NamedRun, RunConfig
    from st_ssl.engine.runtime import Runtime


def _arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("config", type=Path, help="a YAML file, or a name that `configs` lists")
    overrides = "dotted keys that replace those of the file"
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=overrides)
    parser.add_argument("--only", metavar="NAME", help="of a file with several runs, this one alone")
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    parser.add_argument("--dry-run", action="store_true", help="build everything, run a step, tell the costs and stop")
    return parser.parse()


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    file = config_file(arguments.config)  # before torch is imported
    from st_ssl.engine.run_config import load_runs

    runs = load_runs(file, arguments.overrides)
    if arguments.only is not None:
        runs = _chosen(runs, arguments.only)
    if arguments.print_config:
        _print_configs(runs)
        return
    from st_ssl.core.limits import warn_of_little_memory
    from st_ssl.engine.loggers import require_loggers
    from st_ssl.engine.run_files import check_directory
    from st_ssl.engine.runtime import require_compiler, start_runtime

    for run in runs:  # all of them, before the first takes its hours
        require_loggers(run.config.logging)
    with start_runtime(runs[0].config.engine.device) as runtime:
        if any(run.config.engine.compile for run in runs):
            require_compiler(runtime.device, "engine.compile=true")
        if runtime.is_main:
            warn_of_little_memory()
            for run in runs:
                check_directory(run.config)
            if all(run.config.data.root is None for run in runs):
                print("data.root is not set: planted data are used, and written to data/ where they are not there yet")
        reported = []
        if runtime.is_main and not arguments.dry_run:
            _tell_unprobed(runs)
            reported = _to_report(runs)
        for run in runs:
            (_dry_run if arguments.dry_run else _pretrain)(run, runtime)
    # One process is enough for the rest, and the others should not wait for it.
    if runtime.is_main and not arguments.dry_run:
        try:
            for run in runs:
                if run.config.probe is not None:
                    _probe(run.config, runtime)
        finally:  # what was trained is worth looking at, also where it could not be probed
            if reported:
                _report(reported)


def _chosen(runs: list[NamedRun], name: str) -> list[NamedRun]:
    from st_ssl.core.errors import ConfigError, nearest

    names = [run.name for run in runs if run.name]
    if not names:
        raise ConfigError(f"--only {name}: CONFIG has a single run, without a name: leave --only out")
    if name not in names:
        raise ConfigError(f"--only {name}: no such run{nearest(name, names)} (there are: {', '.join(names)})")
    return [run for run in runs if run.name == name]


def _print_configs(runs: list[NamedRun]) -> None:
    """One YAML document that describes the same runs: what they share, and below ``runs`` what is of each."""
    from st_ssl.core.config import to_yaml

    configs = {run.name: run.config.model_dump(mode="json") for run in runs}
    if not runs[0].name:
        print(to_yaml(configs[""]), end="")
        return
    for name, config in configs.items():
        config["output_dir"] = config["output_dir"].removesuffix(f"/{name}")
    first = configs[runs[0].name]
    shared = {key: value for key, value in first.items() if all(c[key] == value for c in configs.values())}
    own = {name: {k: v for k, v in config.items() if k not in shared} for name, config in configs.items()}
    print(to_yaml(shared | {"runs": own}), end="")


def _dry_run(run: NamedRun, runtime: Runtime) -> None:
    from rich.table import Table

    from st_ssl.engine.console import PlainConsole
    from st_ssl.engine.trainer import Trainer

    table = Table(show_header=False, title=run.name or None, title_justify="left")
    for name, value in Trainer(run.config, runtime).dry_run().items():
        table.add_row(name, value)
    if runtime.is_main:
        PlainConsole().print(table)


def _pretrain(run: NamedRun, runtime: Runtime) -> None:
    from st_ssl.engine.trainer import Trainer

    Trainer(run.config, runtime, run.name or "pretrain").fit()


def _probe(config: RunConfig, runtime: Runtime) -> None:
    """Probe a run, unless that was done already for this encoder, data and settings."""
    import json

    from st_ssl.cli.probe.probing import probe_and_print, probe_inputs

    assert config.probe is not None
    if _unprobed(config) is not None:
        return  # the user was told before the training
    directory = Path(config.output_dir)
    done, encoder = directory / "probe.json", directory / "encoder.safetensors"
    current = done.is_file() and done.stat().st_mtime >= encoder.stat().st_mtime
    if current and json.loads(done.read_text()).get("config") == probe_inputs(config, config.probe):
        return
    probe_and_print([directory], config, config.probe, runtime.device, done)


def _unprobed(config: RunConfig) -> str | None:
    """Why the run cannot be probed on its own data, if so."""
    from st_ssl.data.base import DATA
    from st_ssl.transfer.probes.probe import unprobed

    return None if config.probe is None else unprobed(DATA.build(config.data).entries(), config.probe)


def _tell_unprobed(runs: list[NamedRun]) -> None:
    """Say before the training that there will be no probe; where the data are planted there will be."""
    for config in (run.config for run in runs):
        if config.data.root is not None and (why := _unprobed(config)) is not None:
            print(f"{why}: the training ends without a probe (probe=null says so, too)", file=sys.stderr)


def _to_report(runs: list[NamedRun]) -> list[NamedRun]:
    """The runs of the report. Where a package for it is missing there are none, and that is told before the hours that
    training takes."""
    from st_ssl.core.errors import MissingDependencyError
    from st_ssl.report.figures import require_matplotlib

    wanted = [run for run in runs if run.config.report.enabled]
    try:
        if wanted:
            require_matplotlib()
    except MissingDependencyError as error:
        print(f"{error}; once it is there, st-ssl report writes what is left out now", file=sys.stderr)
        return []
    return wanted


def _report(runs: list[NamedRun]) -> None:
    from st_ssl.report.page import write_report

    directories = [Path(run.config.output_dir) for run in runs]
    home = directories[0].parent if runs[0].name else directories[0]
    print(f"report: {write_report(directories, home / 'report.html')}")
