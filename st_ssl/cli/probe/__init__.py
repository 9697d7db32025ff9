"""Measure what pretrained encoders learned.

The accuracies are those of kNN, linear, linear SVM and attentive probes on frozen features: for every planted factor or
label, or where there are none for telling which video a clip is from, or which cloud some points. Retrieval needs no
classifier: R@k is the share of test samples with one of their own class among the k nearest training samples. Chance is
the better of two guesses that look at nothing: always the commonest class of the training part, or any class at random.

Labels that are numbers with fractions are values, not classes: ridge regression and the mean of the nearest neighbours
predict them, told by R² (1 is perfect, the mean of all values is 0) and rank correlation; probe.values.age=true says
the same of whole numbers, and =false takes each number as a class.

probe.kinds also knows few_shot (episodes of probe.few_shot.ways classes with .shots samples each, mean and 95 %
interval) and curve (linear accuracy at probe.label_fractions of the labels), which take long. --splits probes each of
the official splits of UCF101 or HMDB51 for itself and gives the mean ± std over them.

The best baseline stands beside the untrained network. "ahead" means that the 95 % bootstrap interval of the paired
difference, over seeds and test samples, lies above 0 against both. Features are prepared alike, an encoder's and a
baseline's: centred for kNN and retrieval (probe.centre=false: as they are), in standard scores for linear probes.

Several runs of one architecture count as seeds. RUN/probe.json is of the run's own data and probe settings; the result
for other data goes to probe_NAME.json, for other settings to a file named after them, such as probe_svm.json, for three
runs to probe_3_runs_….json, and the report shows all of them. An encoder without its run, that `convert` imported or
`finetune` kept, is probed on what data.root=FOLDER names.

--steps probes every kept checkpoint of a run, to see whether more pretraining would help: engine.keep_at=[0.1,0.25,0.5]
keeps those of these shares of the run. Its result is RUN/curve.json, which the report shows.

examples:
  st-ssl probe runs/quickstart/video/cvrl
  st-ssl probe runs/seed0 runs/seed1 runs/seed2 --output three_seeds.json
  st-ssl probe runs/mine data.root=/labelled/videos probe.kinds=[knn,linear]
  st-ssl probe encoders/r3d18 data.root=/labelled/videos      # convert import … --output encoders/r3d18
  st-ssl probe runs/mine --steps
  st-ssl probe runs/clouds data.root=/data/modelnet40 probe.kinds=[svm]
  st-ssl probe runs/mine data.root=/data/ucf101 --splits 1,2,3 probe.kinds=[retrieval] probe.clips=10 \
      probe.limit=100000 probe.centre=false                       # retrieval as papers report it
  st-ssl probe runs/mine data.root=/labelled/videos probe.kinds=[few_shot,curve] probe.few_shot.shots=5
"""

from __future__ import annotations

import argparse
from pathlib import Path

from st_ssl.cli import Parser, split_runs


def _arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="folders of runs or encoders; key=value sets keys of the first's config"
    )
    parser.add_argument("--output", type=Path, help="where the JSON goes (default: in the first run; see below)")
    parser.add_argument("--splits", metavar="1,2,3", help="official splits of the data set, for their mean")
    parser.add_argument("--steps", action="store_true", help="probe each kept checkpoint: the learning curve")
    return parser.parse()


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    from st_ssl.cli.probe.probing import probe_and_print, probe_inputs
    from st_ssl.cli.probe.steps import curve_and_print
    from st_ssl.core.errors import ConfigError
    from st_ssl.data.base import DATA
    from st_ssl.engine.probe_files import CURVE, probe_file
    from st_ssl.engine.run_files import find_runs, has_encoder_alone, load_probe_config
    from st_ssl.engine.runtime import start_runtime
    from st_ssl.transfer.probes.probe_config import PROBES

    given, overrides = split_runs(arguments.runs)
    if arguments.splits is not None:
        overrides.append(f"probe.splits=[{arguments.splits}]")
    if not given:
        raise ConfigError("expected at least one folder of a run")
    if arguments.steps and arguments.splits is not None:
        raise ConfigError("--steps and --splits do not go together: probe the steps of one split by data.split=1")
    if arguments.steps and any(map(has_encoder_alone, given)):
        raise ConfigError("--steps needs a run with its checkpoints, and this is an encoder without its run")
    together = len(given) > 1 or has_encoder_alone(given[0])
    groups = [given] if together else [[run] for run in find_runs(given[0])]
    if arguments.output is not None and len(groups) > 1:
        raise ConfigError(f"--output takes one result, and {given[0]} holds {len(groups)} runs: name one of them")
    for group in groups:
        config = load_probe_config(group[0], overrides)
        probe = config.probe or PROBES[DATA.registered(config.data.name).modality]()
        with start_runtime(config.engine.device) as runtime:
            if arguments.steps:
                curve_and_print(group, config, probe, runtime.device, arguments.output or group[0] / CURVE)
                continue
            output = probe_file(group, probe_inputs(config, probe), arguments.output)
            probe_and_print(group, config, probe, runtime.device, output)
