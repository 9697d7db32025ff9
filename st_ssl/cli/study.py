"""Compare methods: a grid of methods × seeds, each cell a pretraining and its probes, and a page with a heat map.

CONFIG is a YAML file with the networks, the arms (a method on a network each), seeds, a budget, and claims: see
configs/studies. All arms of a study get the same wall time, or see as many frames, or train as long as they say.

A finished cell is one small JSON file in the store, named after a hash of its configuration, the code it depends on and
the hardware. Studies share them. Stop or kill the command at any time: the same command goes on, and loses at most the
last seconds of the cell under way. Cells from different hardware are never held against each other.

examples:
  st-ssl study configs/studies/smoke.yaml
  st-ssl study configs/studies/controls.yaml --dry-run        # which cells there are, and which are done
  st-ssl study configs/studies/controls.yaml seeds=[0,1]
  st-ssl study configs/studies/controls.yaml --shard 1/3      # on the first of three; copy the stores together,
  st-ssl study configs/studies/controls.yaml --page           # and write the page of all of them
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from st_ssl.cli import Parser, config_file

if TYPE_CHECKING:
    from st_ssl.study.cells import Cell
    from st_ssl.study.grid import Grid
    from st_ssl.study.study import Findings


def _arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("config", type=Path, help="a YAML file, or a name that `configs` lists")
    overrides = "dotted keys that replace those of the file"
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help=overrides)
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="make the part of this machine: 1/3, 2/3, 3/3")
    parser.add_argument("--page", action="store_true", help="make no cell: write the page of those that are done")
    parser.add_argument("--dry-run", action="store_true", help="list the cells and which are done, and stop")
    return parser.parse()


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    file = config_file(arguments.config)
    from st_ssl.core.errors import ConfigError
    from st_ssl.core.files import check_writable
    from st_ssl.engine.console import console
    from st_ssl.engine.runtime import start_runtime
    from st_ssl.report.figures import require_matplotlib
    from st_ssl.report.study import print_findings, write_study_page
    from st_ssl.study.cells import Store
    from st_ssl.study.code import hardware
    from st_ssl.study.config import load_study
    from st_ssl.study.grid import Grid
    from st_ssl.study.making import Making
    from st_ssl.study.study import findings, parse_shard, run_study

    study = load_study(file, arguments.overrides)
    shard = parse_shard(arguments.shard)
    device = study.run_config(next(iter(study.config.arms)), 0).engine.device
    with start_runtime(device, "run.engine.device=") as runtime:
        if runtime.world_size > 1:
            raise ConfigError("study runs in one process: with several machines or GPUs use --shard I/N on each")
        grid = Grid(study, Store(Path(study.config.store)), hardware(runtime.device))
        if arguments.dry_run:
            _print_cells(grid)
            return
        require_matplotlib()
        output = Path(study.config.output_dir)
        check_writable(output, "output_dir=")
        check_writable(grid.store.folder, "store=")
        if not arguments.page:
            run_study(grid, Making(grid, runtime), shard, console.print)
        found = findings(grid)
        _write(found, output)
        print_findings(found)
        print(f"page: {write_study_page(found, output / 'report.html')}")


def _write(found: Findings, output: Path) -> None:
    from st_ssl.core.files import replace_text

    output.mkdir(parents=True, exist_ok=True)
    replace_text(output / "study.json", json.dumps(found.as_json(), indent=1) + "\n")
    print(f"written to {output / 'study.json'}")


def _print_cells(grid: Grid) -> None:
    """Print every cell, and whether it is done."""
    from rich.table import Table

    from st_ssl.engine.console import PlainConsole

    cells: list[tuple[str, Cell | None]] = []
    for arm in grid.study.config.arms:
        if any(grid.budgets):
            cells.append((f"{arm}: how long an epoch takes", grid.pace(arm)))
        cells += [(f"{arm}, trial {number + 1}", trial) for number, trial in enumerate(grid.trials(arm))]
    for group in grid.groups:
        cells += [(f"{group.network}, seed {group.seed}: another cell", cell) for cell in grid.of_group(group)]
    for network in dict.fromkeys(group.network for group in grid.groups):
        ceilings = ((target, grid.supervised(network, target)) for target in grid.targets(network))
        cells += [(f"{network} supervised, {target}", cell) for target, cell in ceilings if cell is not None]
    table = Table("cell", "file", "")
    done = 0
    for name, cell in cells:
        known = cell is not None and grid.store.read(cell) is not None
        done += known
        table.add_row(
            cell.told if cell else name, f"{cell.key}.json" if cell else "not known yet", "done" if known else ""
        )
    PlainConsole().print(table)
    print(f"{done} of {len(cells)} cells are done, in {grid.store.folder}")
