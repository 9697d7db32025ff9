"""``finetune --find-steps``: how many steps a network from scratch needs, as a line for the recipe."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from rich.table import Column, Table

from st_ssl.cli.finetune.fits import looking
from st_ssl.core.summary import plus_minus, summary
from st_ssl.data.base import DATA, of_split
from st_ssl.engine.console import PlainConsole, console
from st_ssl.engine.runtime import Runtime
from st_ssl.transfer.fitting.find_steps import LEARNED, Budget, find_steps
from st_ssl.transfer.fitting.finetune_config import FinetuneConfig
from st_ssl.transfer.fitting.finetune_setup import Setup


def find_and_print(file: Path, runs: list[Path], config: FinetuneConfig, runtime: Runtime, start: int) -> None:
    """Search, of several official splits on the first, and print each budget as it is done, all of them in a table,
    and what to write into ``file``. Of several processes the main one prints."""

    def told(budget: Budget) -> None:
        if runtime.is_main:
            console.print(f"find-steps: {budget.steps:,} steps: {budget.mean:.1f}")

    source = of_split(config.data, config.splits[0]) if config.splits else DATA.build(config.data)
    with ExitStack() as stack:
        setup = Setup.of(source, runs, config, runtime.device, looked=looking(stack, runtime))
        found = find_steps(setup, start, told)
    if not runtime.is_main:
        return
    labels = f"{100 * found.share:g} % of the labels ({found.labels})"
    title = f"scratch, {labels}: {found.metric}, %, on {found.samples} training samples outside of them"
    mean, each = Column("mean", justify="right", no_wrap=True), Column("each draw of labels", no_wrap=True)
    table = Table(Column("steps", justify="right"), mean, each, title=title, title_justify="left")
    for budget in found.tried:
        told_each = ", ".join(f"{value:.1f}" for value in budget.values)
        table.add_row(f"{budget.steps:,}", plus_minus(summary(budget.values)), told_each)
    PlainConsole().print(table)
    most = found.tried[-1].steps
    if found.steps is None:
        print(
            f"no budget up to {most:,} steps is enough: scratch is still improving, or is not yet {LEARNED:g} points "
            f"above chance. Go on with --start {most}, or with another learning rate"
        )
    else:
        print(f"for {file}:\nsteps: {found.steps}\nscratch_steps: {found.steps}")
