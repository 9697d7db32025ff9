"""What a study says: gains over the untrained network, claims with their verdicts, and the method of choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from scipy import stats

from st_ssl.core.summary import MEASURES, RANK
from st_ssl.core.verdict import Difference, judge, units_of
from st_ssl.study.cells import Json, outcomes
from st_ssl.study.config import NO_ARM, ClaimConfig, TuningConfig
from st_ssl.transfer.probes.scores import FIRST

PRETRAINED, UNTRAINED = FIRST
EQUAL = 3.0
"""Points within which two arms are called equal: the whole interval must lie within."""

Word = Literal["holds", "the opposite holds", "no difference", "undecided"]


@dataclass(frozen=True)
class Comparison:
    """How far one contestant is ahead of another: the ``mean`` of the seeds' ``values``, and the 95 % interval ``low``
    to ``high`` of the paired difference over seeds and test samples."""

    mean: float
    low: float
    high: float
    values: tuple[float, ...]

    @property
    def sure(self) -> bool:
        """Whether the interval excludes 0 and all seeds agree in sign."""
        signs = {np.sign(value) for value in self.values}
        return (self.low > 0 or self.high < 0) and len(signs) == 1

    def word(self, equal: float = EQUAL) -> Word:
        """The verdict, by the rule of ``Claim``; ``equal``: points within which there is no difference."""
        if self.sure:
            return "holds" if self.mean > 0 else "the opposite holds"
        return "no difference" if -equal <= self.low and self.high <= equal else "undecided"


@dataclass(frozen=True)
class Claim:
    """A claim and what came of it. It holds where all seeds agree in sign and the paired 95 % interval excludes 0.
    There is no difference where the interval lies within ± 3 points. Otherwise it is undecided. ``figures``: what the
    two arms got, seed by seed. ``passed``: of a control, whether it came out as it must."""

    config: ClaimConfig
    found: Comparison | None
    figures: tuple[tuple[float, ...], tuple[float, ...]]
    seeds: int

    @property
    def word(self) -> str:
        if self.found is None:
            return "not done"
        return self.found.word(0.0 if self.config.metric is not None else EQUAL)

    @property
    def passed(self) -> bool | None:
        if not self.config.control or self.found is None:
            return None
        return (self.word == "holds") == (self.config.expect == "more")

    def as_json(self) -> Json:
        told = {"verdict": self.word, "figures": [list(own) for own in self.figures], "seeds": self.seeds}
        if self.config.control:
            told["control"] = self.passed
        return {**self.config.model_dump(mode="json", exclude={"control"}), **told, "difference": _json(self.found)}


def _json(found: Comparison | None) -> Json | None:
    return None if found is None else asdict(found)


def compared(
    ours: Sequence[Any], theirs: Sequence[Any], key: str = "", samples: Sequence[str] = ()
) -> Comparison | None:
    """Two contestants by what each of the same samples got, seed by seed, as ``cells.packed`` writes it. ``key``: the
    row of the probe; ``samples``: their names, by which windows of one recording are drawn together."""
    if not ours:
        return None
    unit = 1.0 if key in MEASURES else 100.0
    mine, other = outcomes(ours, unit), outcomes(theirs, unit)
    units = units_of(samples) if samples else np.arange(mine.parts.shape[1])
    against = judge(mine.together(units), {"": other.together(units)}).against
    if not against:
        return None
    (found,) = against
    return _comparison(found, mine.values() - other.values())


def _comparison(found: Difference, values: np.ndarray) -> Comparison:
    return Comparison(found.mean, found.low, found.high, tuple(map(float, values)))


def compared_metric(ours: Sequence[float], theirs: Sequence[float]) -> Comparison | None:
    """Two arms by a figure of each seed: the interval is that of Student's t of the paired differences."""
    values = np.subtract(ours, theirs)
    if len(values) < 2:
        return None
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)
    mean = float(values.mean())
    return Comparison(mean, mean - half, mean + half, tuple(map(float, values)))


def rows_of(result: Json, part: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Of a cell's result on a part: by target and row of a probe what each contestant got. Rank correlations are left
    out: R² decides."""
    scores = result[part]["scores"]
    return {
        (target, key): who for target, keys in scores.items() for key, who in keys.items() if MEASURES.get(key) != RANK
    }


def value(told: Any, key: str) -> float:
    """A figure: per cent right, or R²."""
    return float(outcomes([told], 1.0 if key in MEASURES else 100.0).values()[0])


def mean_gain(arm: Json, reference: Json, tuning: TuningConfig) -> float:
    """The mean gain of an arm over the untrained network on the validation part, in points, over the targets and kinds
    that ``tuning`` names."""
    mine, other = rows_of(arm["result"], "val"), rows_of(reference["result"], "val")
    gains = [
        (value(who[PRETRAINED], key) - value(other[target, key][UNTRAINED], key)) * (100 if key in MEASURES else 1)
        for (target, key), who in mine.items()
        if (tuning.targets is None or target in tuning.targets) and (tuning.kinds is None or key in tuning.kinds)
    ]
    return float(np.mean(gains)) if gains else float("-inf")


@dataclass
class Column:
    """One network with one kind of probe and one budget: the heat map that arms × targets make. ``gains`` by arm and
    target, on the test part; ``chosen``: by target the arm that gains most on the validation part."""

    network: str
    key: str
    budget: str
    targets: list[str]
    arms: list[str]
    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    gains: dict[str, dict[str, Comparison | None]] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)
    untrained: dict[str, list[float]] = field(default_factory=dict)
    baselines: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    supervised: dict[str, float | None] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)

    def best_baseline(self, target: str) -> tuple[str, float] | None:
        """The strongest baseline of a target, and what it gets."""
        found = {who: float(np.mean(values)) for who, values in self.baselines.get(target, {}).items()}
        if not found:
            return None
        best = max(found, key=lambda who: found[who])
        return best, found[best]

    def share(self, arm: str, target: str) -> float | None:
        """Which share of the way from the untrained network to the supervised one an arm goes."""
        gain, ceiling = self.gains[arm].get(target), self.supervised.get(target)
        floor = self.untrained.get(target)
        if gain is None or ceiling is None or not floor or ceiling <= np.mean(floor):
            return None
        return gain.mean / (ceiling - float(np.mean(floor)))

    def as_json(self) -> Json:
        told = {name: own for name, own in vars(self).items() if name != "gains"}
        gains = {arm: {t: _json(found) for t, found in own.items()} for arm, own in self.gains.items()}
        return {**told, "gains": gains}


def claim_of(config: ClaimConfig, arms: Mapping[str, Mapping[int, Json]], references: Mapping[int, Json]) -> Claim:
    """What came of a claim: ``arms`` are results by arm and seed, ``references`` those of the untrained network."""
    known: list[Mapping[int, Json]] = [
        references if name == NO_ARM else arms[name] for name in (config.more, config.less)
    ]
    seeds = [seed for seed in known[0] if seed in known[1]]
    if config.metric is not None:
        pairs = [[own[seed]["metrics"].get(config.metric) for seed in seeds] for own in known]
        if any(figure is None for own in pairs for figure in own):
            return Claim(config, None, ((), ()), len(seeds))
        found = compared_metric(*pairs)
        return Claim(config, found, (tuple(pairs[0]), tuple(pairs[1])), len(seeds))
    told: list[list[Any]] = []
    for name, own in zip((config.more, config.less), known, strict=True):
        who = UNTRAINED if name == NO_ARM else PRETRAINED
        told.append([rows_of(own[seed], "test").get((config.target or "", config.kind), {}).get(who) for seed in seeds])
    if not seeds or any(one is None for own in told for one in own):
        return Claim(config, None, ((), ()), len(seeds))
    figures = [tuple(value(one, config.kind) for one in own) for own in told]
    samples = next(iter(known[0].values()))["test"]["samples"]
    return Claim(config, compared(told[0], told[1], config.kind, samples), (figures[0], figures[1]), len(seeds))
