"""``probe``: what pretrained encoders learned, beside the same network untrained and trivial baselines."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st_ssl.cli import Parser
from st_ssl.core.summary import MEASURES, decimals, extent, plus_minus

if TYPE_CHECKING:
    import torch

    from st_ssl.engine.run_config import EncoderProbeConfig, RunConfig
    from st_ssl.transfer.probes.probe_config import ProbeConfig

EPILOG = """\
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

examples:
  st-ssl probe runs/quickstart/video/cvrl
  st-ssl probe runs/seed0 runs/seed1 runs/seed2 --output three_seeds.json
  st-ssl probe runs/mine data.root=/labelled/videos probe.kinds=[knn,linear]
  st-ssl probe encoders/r3d18 data.root=/labelled/videos      # convert import … --output encoders/r3d18
  st-ssl probe runs/clouds data.root=/data/modelnet40 probe.kinds=[svm]
  st-ssl probe runs/mine data.root=/data/ucf101 --splits 1,2,3 probe.kinds=[retrieval] probe.clips=10 \
      probe.limit=100000 probe.centre=false                       # retrieval as papers report it
  st-ssl probe runs/mine data.root=/labelled/videos probe.kinds=[few_shot,curve] probe.few_shot.shots=5
"""


def _arguments() -> argparse.Namespace:
    parser = Parser(
        description="Measure what pretrained encoders learned.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="folders of runs or encoders; key=value sets keys of the first's config"
    )
    parser.add_argument("--output", type=Path, help="where the JSON goes (default: in the first run; see below)")
    parser.add_argument("--splits", metavar="1,2,3", help="official splits of the data set, for their mean")
    return parser.parse()


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    from st_ssl.core.errors import ConfigError
    from st_ssl.data.base import DATA
    from st_ssl.engine.probe_files import probe_file
    from st_ssl.engine.run_files import find_runs, has_encoder_alone, load_probe_config
    from st_ssl.engine.runtime import start_runtime
    from st_ssl.transfer.probes.probe_config import PROBES

    overrides = [a for a in arguments.runs if "=" in a and not Path(a).exists()]
    given = [Path(a) for a in arguments.runs if a not in overrides]
    if arguments.splits is not None:
        overrides.append(f"probe.splits=[{arguments.splits}]")
    if not given:
        raise ConfigError("expected at least one folder of a run")
    together = len(given) > 1 or has_encoder_alone(given[0])
    groups = [given] if together else [[run] for run in find_runs(given[0])]
    if arguments.output is not None and len(groups) > 1:
        raise ConfigError(f"--output takes one result, and {given[0]} holds {len(groups)} runs: name one of them")
    for group in groups:
        config = load_probe_config(group[0], overrides)
        probe = config.probe or PROBES[DATA.registered(config.data.name).modality]()
        output = probe_file(group, probe_inputs(config, probe), arguments.output)
        with start_runtime(config.engine.device) as runtime:
            probe_and_print(group, config, probe, runtime.device, output)


def probe_and_print(
    runs: list[Path], config: RunConfig | EncoderProbeConfig, probe: ProbeConfig, device: torch.device, output: Path
) -> None:
    """Probe ``runs`` on the data of ``config``, write ``output`` and print the table."""
    import json

    from st_ssl.core.files import check_file, replace_text
    from st_ssl.data.base import DATA
    from st_ssl.engine.console import PlainConsole, console
    from st_ssl.engine.quarantine import Quarantine
    from st_ssl.engine.run_files import pretraining_data, same_data
    from st_ssl.transfer.probes.official_splits import probe_splits
    from st_ssl.transfer.probes.probe import probe_runs

    check_file(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    source = DATA.build(config.data)
    with console.status("probe") as status:

        def tell(message: str) -> None:
            status.update(console.render_str(message))

        if probe.splits:
            result = probe_splits(config.data, runs, probe, device, tell)
        else:
            result = probe_runs(source, runs, probe, device, tell)
    result["config"] = probe_inputs(config, probe)
    own = pretraining_data(runs[0])
    if (
        result["bad"] and own is not None and same_data(own, result["config"]["data"])
    ):  # what is broken elsewhere does not count against the run
        from st_ssl.data.base import BadSample

        quarantine = Quarantine(runs[0] / "bad_samples.jsonl", len(source.entries()), config.data.max_bad_share)
        quarantine.add(BadSample(b["path"], b["reason"]) for b in result["bad"])
    replace_text(output, json.dumps(result, indent=2) + "\n")
    for table in probe_tables(result):
        PlainConsole().print(table)
    for line in verdict_lines(result):
        print(line)
    print(f"tested on {result['tested']}")
    print(f"written to {output}")


def probe_inputs(config: RunConfig | EncoderProbeConfig, probe: ProbeConfig) -> dict[str, Any]:
    """What a probe's figures depend on besides the encoder."""
    return {"probe": probe.model_dump(mode="json"), "data": config.data.model_dump(mode="json")}


def probe_tables(result: dict[str, Any]) -> list[Any]:
    """One table per kind of probe: a target a row, per cent, mean ± std over the seeds, with the strongest baseline and
    the verdict; and where there are several baselines one of all of them."""
    from st_ssl.transfer.probes.scores import SECTIONS

    sizes = result["sizes"]
    parts = f"{sizes['train']} train, {sizes['test']} test, {result['seeds']} seed{'s' * (result['seeds'] != 1)}"
    if "splits" in result:
        parts = f"mean ± std over splits {', '.join(map(str, result['splits']))}; {parts}"
    how = f"({contestant(result)}; {parts})"
    targets = result["targets"]
    kinds = list(dict.fromkeys(kind for target in targets.values() for kind in target["probes"]))
    tables = []
    for kind in kinds:
        told = {name: target for name, target in targets.items() if kind in target["probes"]}
        lines = [
            Line(_target(name, target), target["probes"][kind], target["chance"], target["verdicts"].get(kind), kind)
            for name, target in told.items()
        ]
        tables += _tables(f"{kind.partition('_')[0]} probe", MEASURES.get(kind, "% right"), how, lines)
    for section in SECTIONS:
        told = {name: target for name, target in targets.items() if section in target}
        if told:
            tables += _section_tables(section, told, how)
    return tables


@dataclass
class Line:
    """A row of a table: its ``name``, who got what, what chance gets, and the verdict; of a heading the name alone.
    ``key``: which figures these are."""

    name: str
    cells: dict[str, Any] = field(default_factory=dict)
    chance: float = 0.0
    verdict: dict[str, Any] | None = None
    key: str = ""

    def told(self, who: str) -> str:
        """What a contestant got, or chance."""
        digits = decimals(self.key)
        return plus_minus(self.cells[who], digits) if who in self.cells else f"{self.chance:.{digits}f}"


def _section_tables(section: str, targets: dict[str, Any], how: str) -> list[Any]:
    """The rows of one section, target by target."""
    first = next(iter(targets.values()))[section]
    titles = {
        "retrieval": ("retrieval", "% with one right among the k nearest"),
        "few_shot": ("few-shot", "% right ± 95 % interval, {ways} classes, {shots} shots, {episodes} episodes"),
        "curve": ("linear probe by the share of the labels", "% right"),
    }
    lines = []
    for name, target in targets.items():
        own = target[section]
        lines.append(Line(_target(name, target)))
        for key, cells in own["probes"].items():
            chance = own["chance"][key] if isinstance(own["chance"], dict) else own["chance"]
            lines.append(Line(f"  {key}", cells, chance, own["verdicts"].get(key)))
    title, figure = titles[section]
    return _tables(title, figure.format_map(first), how, lines)


def _tables(title: str, figure: str, how: str, lines: list[Line]) -> list[Any]:
    """The table of the networks, the strongest baseline and the verdict; and that of all baselines, if there is more
    than one."""
    from rich.text import Text

    from st_ssl.report.contestants import called
    from st_ssl.report.standings import Standing

    everyone = list(dict.fromkeys(who for line in lines for who in line.cells))
    networks = [who for who in everyone if who in ("pretrained", "random")]
    baselines = [who for who in everyone if who not in networks]
    verdicts = any(line.verdict for line in lines)
    heads = [*map(called, networks), "chance", *(["best baseline", "verdict"] if verdicts else [])]
    first = _table(f"{title}, {figure} {how}", heads)
    for line in lines:
        ahead = line.verdict is not None and line.verdict["standing"] == "ahead"
        cells = [
            Text(line.told(who), "bold" if ahead and who == "pretrained" else "") if line.cells else ""
            for who in networks
        ]
        cells.append(line.told("chance") if line.cells else "")
        if verdicts:
            cells += [_best(line), "" if line.verdict is None else Standing.of(line.verdict).words]
        first.add_row(line.name, *cells)
    if len(baselines) < 2:
        return [first]
    second = _table(f"{title}, baselines, {figure} {how}", [called(who).replace(" ", "\n") for who in baselines])
    for line in lines:
        cells = [line.told(who) if line.cells else "" for who in baselines]
        second.add_row(line.name, *cells)
    return [first, second]


def _best(line: Line) -> str:
    """The figure and the name of the strongest baseline."""
    if line.verdict is None or len(line.verdict["against"]) < 2:
        return ""
    from st_ssl.report.contestants import called

    who = line.verdict["against"][1]["name"]
    return f"{line.told(who)} {called(who)}"


def verdict_lines(result: dict[str, Any]) -> list[str]:
    """What the probe says, kind by kind, over all targets; and what it cannot say."""
    from st_ssl.core.verdict import Verdict
    from st_ssl.report.contestants import NAMES

    values = sum("range" in target for target in result["targets"].values())
    lines = []
    for key, verdict in result["overall"]["verdicts"].items():
        if verdict is not None:
            count = values if key in MEASURES else len(result["targets"]) - values
            mean = f", mean of {count} targets" if count > 1 else ""
            prepared = result["prepared"].get("retrieval" if key.startswith("R@") else key)
            told = Verdict.from_json(verdict).sentence(NAMES)
            lines.append(f"{key}{mean}: {told}{f'; features: {prepared}' if prepared else ''}")
    lines.append("ahead or behind: the 95 % interval of the paired difference, over seeds and test samples, excludes 0")
    if result["pretrainings"] == 1:
        lines.append("one pretraining: how much another would differ is not in these figures")
    return lines


def contestant(result: dict[str, Any]) -> str:
    """Which runs are judged on which data; runs of one name by their folders."""
    from st_ssl.engine.run_files import data_name

    names = [Path(run).absolute().name for run in result["runs"]]
    names = names if len(set(names)) == len(names) else result["runs"]
    return ", ".join(names) + (f" on {data_name(result['config']['data'])}" if "config" in result else "")


def _table(title: str, contestants: Iterable[str]) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("target", no_wrap=True)
    for column in contestants:
        words = column in ("best baseline", "verdict")
        table.add_column(column, justify="left" if words else "right", no_wrap=not words)
    return table


def _target(name: str, target: dict[str, Any]) -> str:
    return f"{name} ({extent(target).removesuffix(' classes')})"
