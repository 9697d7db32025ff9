"""What everyone got of every test sample, and what becomes of it: means over seeds, and who is ahead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from st_ssl.core.summary import MEASURES, RANK, decimals, summary
from st_ssl.core.verdict import Figure, Outcomes, judge, mean_figure, strongest, units_of

FIRST = ("pretrained", "random")
"""Who stands first in a table: the encoder, and the same network untrained. The baselines follow."""
CHANCE = "chance"
"""The name of guessing, where no baseline is better than it."""
Cell = tuple[str, str, str]
"""Target, kind of probe or row of one (``R@1``), and who was probed: pretrained, random, a baseline, or chance."""
VALUE_ROWS = {"knn": ("knn_r2", "knn_rank"), "linear": ("ridge_r2", "ridge_rank")}
"""The kinds of probes that there are for value targets, and the rows of each: R² and rank correlation."""


@dataclass
class Scores:
    """Of each cell and seed what the test ``samples`` (their names) add to its figure: float [M, 2], the sum of the
    scores of a sample, and how many there are. A score is in 0 … 1, but for value targets, of which the mean score is
    the measure. Both are 0 where a sample was not judged: it is broken, say, or has no label. ``intervals``: half the
    95 % interval over the episodes of each seed, of cells that have episodes."""

    samples: list[str]
    cells: dict[Cell, list[np.ndarray]] = field(default_factory=dict)
    intervals: dict[Cell, list[float]] = field(default_factory=dict)

    def add(self, cell: Cell, sums: np.ndarray, rows: np.ndarray, counts: np.ndarray | float = 1.0) -> None:
        """One more seed: the ``sums`` of so many scores each (``counts``), of the samples with the numbers ``rows``."""
        parts = np.zeros((len(self.samples), 2))
        np.add.at(parts, rows, np.stack(np.broadcast_arrays(sums.astype(np.float64), counts), -1))
        self.cells.setdefault(cell, []).append(parts)

    def baselines(self, target: str, key: str) -> list[str]:
        """The names of the trivial baselines that were probed in a row of a target."""
        return [who for name, own, who in self.cells if (name, own) == (target, key) and who not in (*FIRST, CHANCE)]

    def row(self, target: str, key: str) -> dict[str, dict[str, Any]]:
        """Who was probed to mean, standard deviation and single values over the seeds, in per cent (``MEASURES``: as
        they are)."""
        everyone = [who for who in (*FIRST, *self.baselines(target, key)) if (target, key, who) in self.cells]
        figure = _figure(key) if key in MEASURES else mean_figure
        return {who: summary([float(figure(p.sum(0))) for p in self.cells[target, key, who]]) for who in everyone}

    def judged(self, target: str) -> int:
        """How many test samples were judged for a target in some seed."""
        counts = [parts[:, 1] for (name, _, _), seeds in self.cells.items() if name == target for parts in seeds]
        return int(np.any(counts, 0).sum()) if counts else 0

    def verdict(self, targets: Sequence[str], key: str, chance: float) -> dict[str, Any] | None:
        """The pretrained encoder against the untrained one and the strongest baseline, by the mean over ``targets``, as
        ``Verdict.as_json`` has it; ``chance`` is a baseline too: a fixed figure, or what guessing gets of each sample
        where that is known. None where there is no such pair, and for rank correlations: R² decides."""
        if MEASURES.get(key) == RANK:
            return None
        ours, theirs = (self.outcomes(targets, key, who) for who in FIRST)
        if ours is None or theirs is None:
            return None
        rivals = {who: self.outcomes(targets, key, who) for who in self.baselines(targets[0], key)}
        known = {who: outcomes for who, outcomes in rivals.items() if outcomes is not None}
        means = {who: float(np.nanmean(outcomes.values())) for who, outcomes in known.items()} | {CHANCE: chance}
        best = strongest(means) or CHANCE
        if best == CHANCE:
            guessed = self.outcomes(targets, key, CHANCE)
            known[CHANCE] = guessed or Outcomes(ours.parts, partial(_always, chance))
        return judge(ours, {"random": theirs, best: known[best]}, decimals(key)).as_json()

    def outcomes(self, targets: Sequence[str], key: str, who: str) -> Outcomes | None:
        """What ``who`` got, by the mean over ``targets``; None where one of these was not probed."""
        if any((name, key, who) not in self.cells for name in targets):
            return None
        each = [np.stack(self.cells[name, key, who]) for name in targets]
        return Outcomes(np.concatenate(each, 2), _figure(key)).together(units_of(self.samples))


def joined(tables: Sequence[Scores]) -> Scores:
    """Those of several official splits as one: the seeds of all, and the samples of all, each of which counts in the
    seeds of the splits that test on it."""
    samples = list(dict.fromkeys(name for table in tables for name in table.samples))
    column = {name: number for number, name in enumerate(samples)}
    whole = Scores(samples)
    for table in tables:
        rows = np.array([column[name] for name in table.samples])
        for cell, seeds in table.cells.items():
            if all(cell in other.cells for other in tables):
                for parts in seeds:
                    whole.add(cell, parts[:, 0], rows, parts[:, 1])
    return whole


SECTIONS = ("retrieval", "few_shot", "curve")
"""Kinds that have several rows for a target, and a place of their own in the result."""


def rows_of(section: str, key: str) -> str:
    """The key in ``Scores`` of a row of one of ``SECTIONS`` as a result names it: ``R@1``, ``centroid``, ``10 %``."""
    return {"few_shot": "few_shot ", "curve": "curve "}.get(section, "") + key


def add_verdicts(result: dict[str, Any], scores: Scores) -> None:
    """Give ``result``, as ``probe_runs`` describes it, a verdict beside every row of figures, and ``overall``: means
    and verdicts over all targets with classes, for each kind and the first row of retrieval, and over all value
    targets, for each of ``VALUE_ROWS``."""
    targets = result["targets"]
    for name, target in targets.items():
        for section, own in [("", target), *((section, target[section]) for section in SECTIONS if section in target)]:
            own["verdicts"] = _verdicts(own, scores, name, section)
    rows = {name: {key: (cells, chance) for key, cells, chance in _summarised(own)} for name, own in targets.items()}
    overall: dict[str, Any] = {"probes": {}, "verdicts": {}}
    for key in dict.fromkeys(key for own in rows.values() for key in own):
        alike = [name for name, target in targets.items() if ("classes" in target) == (key not in MEASURES)]
        if not all(key in rows[name] for name in alike):
            continue
        found = [rows[name][key] for name in alike]
        everyone = [who for who in found[0][0] if all(who in cells for cells, _ in found)]
        overall["probes"][key] = {
            who: summary(np.mean(np.array([cells[who]["values"] for cells, _ in found], dtype=float), 0).tolist())
            for who in everyone
        }
        chance = float(np.mean([level for _, level in found]))
        overall["verdicts"][key] = scores.verdict(alike, key, chance)
    result["overall"] = overall


def _verdicts(own: Mapping[str, Any], scores: Scores, target: str, section: str) -> dict[str, Any]:
    """Of each row of ``own``, which has a chance level for each or one for all."""
    found = {}
    for key in own["probes"]:
        chance = own["chance"][key] if isinstance(own["chance"], Mapping) else own["chance"]
        found[key] = scores.verdict([target], rows_of(section, key), float(chance))
    return {key: verdict for key, verdict in found.items() if verdict is not None}


def _summarised(target: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], float]]:
    """Of a target the rows that are averaged over targets: their keys, who got what, and by chance."""
    for kind, cells in target["probes"].items():
        yield kind, cells, target["chance"]
    if "retrieval" in target:
        key, cells = next(iter(target["retrieval"]["probes"].items()))
        yield key, cells, target["retrieval"]["chance"][key]


def _figure(key: str) -> Figure:
    """What makes the figure of a row of one or several targets: per cent, but for ``MEASURES``."""
    return partial(_mean_over_targets, 1.0 if key in MEASURES else 100.0)


def _mean_over_targets(unit: float, totals: np.ndarray) -> np.ndarray:
    """From the sums and counts of T targets [..., 2 T] to the mean of their means in ``unit``s [...]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return unit * (totals[..., ::2] / totals[..., 1::2]).mean(-1)


def _always(level: float, totals: np.ndarray) -> np.ndarray:
    return np.full(totals.shape[:-1], level)
