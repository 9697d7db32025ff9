"""Fine-tune pretrained encoders on a task.

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
  st-ssl finetune configs/transfer/driving_detection.yaml runs/quickstart/driving --overfit 5
  st-ssl finetune configs/transfer/points/classify.yaml runs/quickstart/points/point2vec task.target=class \
      epochs=10 seeds=1                                          # on planted objects, which have several labels
  torchrun --nproc-per-node 8 -m st_ssl finetune configs/transfer/points/classify.yaml runs/point_mae modes=[full,lora]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from st_ssl.cli import Parser, config_file, split_runs


def _arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("config", type=Path, metavar="CONFIG", help="a YAML file, or a name that `configs` lists")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of encoders; key=value sets keys of CONFIG")
    output = "NAME.json, with the rest beside it (default: in finetune/ of the first run, by CONFIG and data=NAME)"
    parser.add_argument("--output", type=Path, help=output)
    kept = "of how many test clouds to keep what was said, in OUTPUT_predictions/ (default: 8); of videos it is all"
    parser.add_argument("--save-predictions", choices=["few", "all", "none"], default="few", help=kept)
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")
    steps = "find how many steps scratch needs, without a look at test samples, and stop"
    parser.add_argument("--find-steps", action="store_true", help=steps)
    parser.add_argument("--start", type=_count, metavar="STEPS", help="where --find-steps begins (default: 50)")
    few = "learn N training samples by heart, to see whether the task can be learned from the data at all, and stop"
    parser.add_argument("--overfit", type=_count, metavar="N", help=few)
    parser.add_argument("--dry-run", action="store_true", help="tell what would be trained, and on what, and stop")
    arguments = parser.parse()
    if arguments.start and not arguments.find_steps:
        parser.error("--start is for --find-steps")
    if arguments.overfit and arguments.find_steps:
        parser.error("--overfit and --find-steps are two things")
    return arguments


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, not {text}")
    return int(text)


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    from st_ssl.cli.finetune.fits import dry_run, finetune_and_print
    from st_ssl.cli.finetune.steps import find_and_print
    from st_ssl.core.config import to_yaml
    from st_ssl.core.errors import ConfigError
    from st_ssl.encoders.base import describe_encoder
    from st_ssl.engine.run_files import pretraining_data
    from st_ssl.engine.runtime import start_runtime
    from st_ssl.transfer.fitting.find_steps import START
    from st_ssl.transfer.fitting.finetune_config import load_finetune, overfitting
    from st_ssl.transfer.fitting.predictions import Predictions

    runs, overrides = split_runs(arguments.runs)
    if arguments.config.is_dir() and runs and runs[0].is_file():
        raise ConfigError(f"CONFIG comes first, then RUN: {runs[0]} {arguments.config}")
    file = config_file(arguments.config)
    if not runs:
        raise ConfigError("expected at least one folder of a run behind the configuration")
    for run in runs:
        describe_encoder(run)  # raises where it is none, before its data are asked for
    config = load_finetune(file, overrides, pretraining_data(runs[0]))
    name = _result_name(file, overrides)
    if arguments.overfit:
        config, name = overfitting(config, arguments.overfit), f"{name}_overfit"
    output = _output(arguments.output or runs[0] / "finetune" / f"{name}.json")
    beside = output.with_name(f"{output.stem}_predictions")
    limits = {"few": Predictions(beside), "all": Predictions(beside, None)}
    if arguments.print_config:
        print(to_yaml(config.model_dump(mode="json")), end="")
        return
    with start_runtime(config.device, "device=") as runtime:
        if arguments.dry_run:
            dry_run(runs, config, runtime)
        elif arguments.find_steps:
            find_and_print(file, runs, config, runtime, arguments.start or START)
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
