"""A study from its configuration to its result: cells made, cells read, and what they say together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from st_ssl.core.errors import ConfigError
from st_ssl.study.cells import Cell, Json
from st_ssl.study.compare import (
    PRETRAINED,
    UNTRAINED,
    Claim,
    Column,
    claim_of,
    compared,
    rows_of,
    value,
)
from st_ssl.study.config import told_changes
from st_ssl.study.grid import Grid, Group
from st_ssl.study.making import Making

_POLL = 2.0  # seconds between two looks at a cell that another process makes
Shard = tuple[int, int]
"""The number of this machine, from 0, and how many there are."""


def parse_shard(text: str) -> Shard:
    """``2/3`` to (1, 3)."""
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and 1 <= int(number) <= int(count)):
        raise ConfigError(f"--shard {text}: expected I/N, such as 1/3 for the first of three machines")
    return int(number) - 1, int(count)


def run_study(grid: Grid, making: Making, shard: Shard, tell: Callable[[str], None]) -> None:
    """Make the cells that are not done, of the groups of this ``shard``. Killed at any moment, the same call goes on
    within the cell that was under way."""
    store = grid.store

    def need(cell: Cell) -> None:
        while store.read(cell) is None:
            with store.claimed(cell) as work:
                if work is not None and store.read(cell) is None:  # or it was done in between
                    store.write(cell, *making.make(cell, work, tell))
            if work is None:
                tell(f"{cell.told}: another process makes it")
                time.sleep(_POLL)

    groups = [group for number, group in enumerate(grid.groups) if number % shard[1] == shard[0]]
    networks = dict.fromkeys(group.network for group in groups)
    arms = [arm for network in networks for arm in grid.arms(network)]
    if any(grid.budgets):
        for arm in arms:
            need(grid.pace(arm))
    tuned = [arm for arm in arms if grid.study.trials(arm)]
    for network in dict.fromkeys(map(grid.study.network, tuned)):
        need(grid.reference(network, grid.study.config.tuning.seed))
    for arm in tuned:
        for trial in grid.trials(arm):
            assert trial is not None, "the pace is known"
            need(trial)
    total = sum(1 for group in groups for _ in grid.of_group(group))
    done = 0
    for group in groups:
        for cell in grid.of_group(group):
            assert cell is not None, "pace and trials are known"
            done += 1
            if store.read(cell) is None:
                tell(f"cell {done} of {total}: {cell.told}")
            need(cell)
    ceilings = [(network, target) for network in networks for target in grid.targets(network)]
    for number, (network, target) in enumerate(ceilings):
        ceiling = grid.supervised(network, target)
        if ceiling is not None and number % shard[1] == shard[0]:
            need(ceiling)


@dataclass
class Cost:
    """What an arm cost in the mean over its cells: minutes of training, GiB of memory, clips a second, updates and
    epochs."""

    arm: str
    budget: str
    minutes: float
    memory: float
    clips_per_second: float
    steps: float
    epochs: float
    cells: int


@dataclass
class Trial:
    """One tuning trial: what it changes, its gain on the validation part in points, and whether it was chosen."""

    arm: str
    changes: str
    gain: float | None
    chosen: bool


@dataclass
class Findings:
    """All that a study says. ``missing``: cells that are not done; ``elsewhere``: how many cells were left out, since
    those that they would be held against are from other hardware."""

    title: str
    columns: list[Column] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    elsewhere: int = 0
    hardware: list[str] = field(default_factory=list)

    def as_json(self) -> Json:
        """All but the costs, which differ from run to run, under ``costs``."""
        return {
            "title": self.title,
            "claims": [claim.as_json() for claim in self.claims],
            "trials": [vars(trial) for trial in self.trials],
            "tables": [column.as_json() for column in self.columns],
            "missing": self.missing,
            "elsewhere": self.elsewhere,
            "hardware": self.hardware,
            "costs": [vars(cost) for cost in self.costs],
        }


@dataclass
class _Group:
    """What is known of a group on one hardware: the reference, and arms by name and budget."""

    reference: Json | None
    arms: dict[tuple[str, str], Json]


def findings(grid: Grid) -> Findings:
    """What the finished cells say. Of each group of cells those of one hardware count: that which has most of them."""
    study = grid.study
    found = Findings(study.config.title)
    elsewhere = [grid, *(grid.on(one) for one in grid.store.hardware() if one != grid.hardware)]
    known: dict[Group, _Group] = {}
    for group in grid.groups:
        known[group], others, where = _best(group, elsewhere)
        found.elsewhere += others
        found.hardware += [] if where in found.hardware else [where]
        missing = [] if known[group].reference is not None else [f"{group.network} untrained, seed {group.seed}"]
        for arm in grid.arms(group.network):
            names = [budget for budget in grid.budgets if (arm, budget) not in known[group].arms]
            missing += [f"{arm}, seed {group.seed}{name and f', equal {name}'}" for name in names]
        found.missing += missing
    for network in dict.fromkeys(group.network for group in known):
        own = {group.seed: one for group, one in known.items() if group.network == network}
        for budget in grid.budgets:
            found.columns += _columns(grid, elsewhere, network, budget, own)
    for claim in study.config.claims:
        network = study.network(claim.more if claim.more in study.config.arms else claim.less)
        seeds = {group.seed: one for group, one in known.items() if group.network == network}
        budget = grid.budgets[0]
        arms = {
            arm: {seed: one.arms[arm, budget]["result"] for seed, one in seeds.items() if (arm, budget) in one.arms}
            for arm in (claim.more, claim.less)
        }
        references = {seed: one.reference["result"] for seed, one in seeds.items() if one.reference is not None}
        found.claims.append(claim_of(claim, arms, references))
    found.costs = list(_costs(grid, known))
    for arm in study.config.arms:
        figures, chosen = grid.trial_figures(arm), grid.chosen_trial(arm)
        changes = [told_changes(trial) or "as it is" for trial in study.trials(arm)]
        pairs = enumerate(zip(changes, figures, strict=True))
        found.trials += [Trial(arm, change, figure, chosen == number) for number, (change, figure) in pairs]
    return found


def _best(group: Group, grids: list[Grid]) -> tuple[_Group, int, str]:
    """The group on the hardware that has most of it, of several the first; how many cells others have; which it is."""
    made = []
    for grid in grids:
        cells = [cell for cell in grid.of_group(group) if cell is not None]
        done = [(cell, read) for cell in cells if (read := grid.store.read(cell)) is not None]
        reference = next((read for cell, read in done if cell.kind == "reference"), None)
        arms = {(cell.arm, cell.budget): read for cell, read in done if cell.kind == "arm"}
        made.append((len(done), _Group(reference, arms), grid.hardware))
    count, best, where = max(made, key=lambda one: one[0])
    return best, sum(one[0] for one in made) - count, where


def _columns(grid: Grid, grids: list[Grid], network: str, budget: str, seeds: dict[int, _Group]) -> Iterator[Column]:
    """The tables of one network and budget, one for each row of the probes."""
    references = {seed: rows_of(one.reference["result"], "test") for seed, one in seeds.items() if one.reference}
    names = list(dict.fromkeys(pair for rows in references.values() for pair in rows))
    chances: dict[str, float] = next(
        (one.reference["result"]["test"]["chance"] for one in seeds.values() if one.reference), {}
    )
    arms = grid.arms(network)
    samples: list[str] = next(
        (one.reference["result"]["test"]["samples"] for one in seeds.values() if one.reference), []
    )
    for key in dict.fromkeys(key for _, key in names):
        targets = [target for target, own in names if own == key]
        column = Column(network, key, budget, targets, arms, chance=chances)
        column.supervised = {target: _ceiling(grids, network, target) for target in targets}
        for target in targets:
            rows = {seed: own[target, key] for seed, own in references.items() if (target, key) in own}
            column.untrained[target] = [value(who[UNTRAINED], key) for who in rows.values()]
            others = [who for who in next(iter(rows.values())) if who not in (UNTRAINED, "chance")]
            column.baselines[target] = {who: [value(own[who], key) for own in rows.values()] for who in others}
        for arm in arms:
            done = {seed: one.arms[arm, budget] for seed, one in seeds.items() if (arm, budget) in one.arms}
            both = [seed for seed in done if seed in references]
            column.seeds[arm] = len(both)
            column.figures[arm], column.gains[arm] = {}, {}
            for target in targets:
                mine = {seed: rows_of(done[seed]["result"], "test").get((target, key)) for seed in both}
                pairs = [(who[PRETRAINED], references[s][target, key][UNTRAINED]) for s, who in mine.items() if who]
                column.figures[arm][target] = [value(one, key) for one, _ in pairs]
                column.gains[arm][target] = compared([a for a, _ in pairs], [b for _, b in pairs], key, samples)
        column.chosen = _chosen(column, seeds)
        yield column


def _chosen(column: Column, seeds: dict[int, _Group]) -> dict[str, str]:
    """By target the arm with the best mean on the validation part, among those with all seeds."""
    means: dict[str, dict[str, float]] = {}
    for arm in column.arms:
        done = [one.arms[arm, column.budget] for one in seeds.values() if (arm, column.budget) in one.arms]
        if len(done) < len(seeds):
            continue
        tables = [rows_of(cell["result"], "val") for cell in done]
        for target in column.targets:
            if all((target, column.key) in rows for rows in tables):
                told = [value(rows[target, column.key][PRETRAINED], column.key) for rows in tables]
                means.setdefault(target, {})[arm] = float(np.mean(told))
    return {target: max(own, key=lambda arm: own[arm]) for target, own in means.items()}


def _ceiling(grids: list[Grid], network: str, target: str) -> float | None:
    """What the supervised network gets, on whichever hardware it was trained."""
    for grid in grids:
        cell = grid.supervised(network, target) if target in grid.targets(network) else None
        read = None if cell is None else grid.store.read(cell)
        if read is not None:
            figure: float = read["result"]["value"]
            return figure
    return None


def _costs(grid: Grid, known: dict[Group, _Group]) -> Iterator[Cost]:
    for arm in grid.study.config.arms:
        for budget in grid.budgets:
            cells = [one.arms[arm, budget]["cost"] for one in known.values() if (arm, budget) in one.arms]
            if cells:

                def mean(name: str, own: list[Any] = cells) -> float:
                    return float(np.mean([cost[name] for cost in own]))

                yield Cost(
                    arm,
                    budget,
                    mean("seconds") / 60,
                    mean("memory"),
                    mean("clips_per_second"),
                    mean("steps"),
                    mean("epochs"),
                    len(cells),
                )
