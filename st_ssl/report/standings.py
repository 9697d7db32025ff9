"""Tables of who is ahead: a row for each question, contestants across, and the verdict in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from st_ssl.core.summary import KINDS, decimals, plus_minus
from st_ssl.core.verdict import FEWEST, Verdict, strongest
from st_ssl.report.contestants import FIRST, NAMES, called, listed

AHEAD = (
    "Ahead means that the 95 % bootstrap interval of the difference, over seeds and test samples, lies above 0 against "
    "the same network untrained and against the strongest trivial baseline."
)


@dataclass(frozen=True)
class Standing:
    """A verdict for people. ``words``: "ahead", "behind occupancy", "level with untrained and occupancy"; ``style``:
    ahead, level or behind; ``rivals``: the name of each with its interval; ``title``: all of it in a sentence;
    ``beaten_by``: who is ahead."""

    words: str
    style: str
    rivals: list[tuple[str, str]]
    title: str
    beaten_by: list[str]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Standing:
        """Of what ``Verdict.as_json`` gave."""
        verdict = Verdict.from_json(told)
        seeds = f"{verdict.seeds} seed{'s' * (verdict.seeds != 1)}"
        title = f"{verdict.sentence(NAMES)}; {verdict.samples} test samples, {seeds}"
        if verdict.samples < FEWEST or not verdict.against:
            return cls("undecided", "level", [("too few test samples:", f"{verdict.samples}")], title, [])
        d = verdict.digits
        rivals = [(called(one.name), f"{one.low:+z.{d}f} to {one.high:+z.{d}f}") for one in verdict.against]
        if verdict.standing == "ahead":
            return cls("ahead", "ahead", rivals, title, [])
        alone = {one.standing for one in verdict.against} == {"ahead"}
        if verdict.standing == "level" and alone:  # one rival is missing
            return cls(f"ahead of {listed(name for name, _ in rivals)} alone", "level", rivals, title, [])
        they = [called(one.name) for one in verdict.against if one.standing == verdict.standing]
        if verdict.standing == "behind":
            return cls(f"behind {listed(they)}", "behind", rivals, title, they)
        return cls(f"level with {listed(they)}", "level", rivals, title, [])

    @classmethod
    def unknown(cls, why: str) -> Standing:
        """Where no verdict could be made."""
        return cls("no verdict", "level", [(why, "")], why, [])


@dataclass(frozen=True)
class Question:
    """What was asked of all contestants: a ``key`` such as the kind of probe, of one ``target``. ``figures``: who to
    mean, standard deviation and values, in per cent or as ``MEASURES`` says; ``verdict`` as JSON, None where there is
    none."""

    target: str
    what: str
    key: str
    figures: Mapping[str, Mapping[str, Any]]
    chance: float
    verdict: Mapping[str, Any] | None = None

    @property
    def rival(self) -> str:
        """The strongest trivial baseline: that of the verdict, or by the means; chance may be it."""
        judged = [one["name"] for one in self.verdict["against"]] if self.verdict else []
        named = [who for who in judged if who not in FIRST]
        means = {who: figure["mean"] for who, figure in self.figures.items() if who not in FIRST}
        return named[0] if named else strongest(means | {"chance": self.chance}) or "chance"

    def mean(self, who: str) -> float:
        return float(self.chance if who == "chance" else self.figures[who]["mean"])


def probe_questions(target: str, told: Mapping[str, Any], what: str) -> Iterator[Question]:
    """Each row of a target of a probe's result, or of a section of it, which has one chance level, or one for each."""
    for key, figures in told["probes"].items():
        chance = told["chance"][key] if isinstance(told["chance"], Mapping) else told["chance"]
        yield Question(target, what, key, figures, chance, told.get("verdicts", {}).get(key))


def section_questions(targets: Mapping[str, Any], section: str) -> Iterator[Question]:
    """Each row of ``section`` of all targets that have it: "retrieval", "few_shot" or "curve"."""
    for name, target in targets.items():
        if told := target.get(section):
            what = f"{target['classes']} classes"
            if section == "few_shot":
                what = f"{told['ways']} classes, {told['shots']} shots, {told['episodes']} episodes"
            yield from probe_questions(name, told, what)


@dataclass(frozen=True)
class Cell:
    """A figure with its ``spread``; ``style``: won by pretraining, or the strongest baseline."""

    value: str
    spread: str = ""
    style: str = ""


@dataclass(frozen=True)
class Row:
    """One question. ``span``: how many rows its target has, 0 in all but the first."""

    target: str
    what: str
    span: int
    key: str
    cells: list[Cell]
    standing: Standing | None


@dataclass(frozen=True)
class Standings:
    """``contestants`` across (chance is the last), a row for each question; ``judged``: whether any has a verdict."""

    contestants: list[str]
    rows: list[Row]
    judged: bool

    @property
    def heads(self) -> list[str]:
        return [called(who) for who in self.contestants]


def standings(questions: Iterable[Question]) -> Standings | None:
    """The table of ``questions``, those of a target one after the other; None of none."""
    asked = list(questions)
    if not asked:
        return None
    there = dict.fromkeys([*FIRST, *(who for question in asked for who in question.figures)])
    contestants = [who for who in there if any(who in question.figures for question in asked)] + ["chance"]
    counts: dict[str, int] = {}
    for question in asked:
        counts[question.target] = counts.get(question.target, 0) + 1
    rows = []
    for question in asked:
        standing = Standing.of(question.verdict) if question.verdict else None
        won = standing is not None and standing.style == "ahead"
        rival = question.rival
        cells = [
            _cell(question, who, "won" if won and who == "pretrained" else "strongest" * (who == rival))
            for who in contestants
        ]
        span = counts.pop(question.target, 0)
        rows.append(Row(question.target, question.what, span, KINDS.get(question.key, question.key), cells, standing))
    return Standings(contestants, rows, any(row.standing for row in rows))


def _cell(question: Question, who: str, style: str) -> Cell:
    digits = decimals(question.key)
    if who == "chance":
        return Cell(f"{question.chance:.{digits}f}", "", style)
    if who not in question.figures:
        return Cell("–")
    value, _, spread = plus_minus(question.figures[who], digits).partition(" ± ")
    return Cell(value, spread and f"± {spread}", style)
