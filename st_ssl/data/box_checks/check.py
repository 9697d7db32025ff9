"""All checks of the boxes of a log, and what they find, in plain words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np

from st_ssl.core.boxes import Boxes
from st_ssl.data.box_checks.counts import Counted, Proposal, Row, count, propose, rows
from st_ssl.data.box_checks.fit import above_ground, fits
from st_ssl.data.box_checks.guesses import GUESSES, Guess, beyond_a_turn
from st_ssl.data.box_checks.judge import ENOUGH, Fitted, Verdict, contradicts, judge

Frame = tuple[str, np.ndarray, Boxes]
"""The name of a sweep, its points [P, 3] and its boxes."""
_FEW = 50  # boxes of a class are few
_LOST = 0.7  # the share of a class without a point that cannot be chance


@dataclass(frozen=True)
class Finding:
    """``kind``: a "mistake" in the boxes, or a "note". ``name``: of the check, or of the mistake (``guesses.py``).
    ``count``: of boxes. ``example``: the name of a frame and the place of a box in it. ``guess``: one sentence.
    ``repair``: what makes boxes right, if it is so."""

    kind: Literal["mistake", "note"]
    name: str
    count: int
    example: tuple[str, int] | None
    guess: str
    repair: Callable[[Boxes], Boxes] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class BoxReport:
    """``findings``, mistakes first; ``rows`` of counts by class and range; a ``proposal`` for detectors (None without
    boxes); how many ``frames`` and ``boxes`` were looked at."""

    findings: list[Finding]
    rows: list[Row]
    proposal: Proposal | None
    frames: int
    boxes: int

    @property
    def mistakes(self) -> list[Finding]:
        """The findings that are mistakes."""
        return [finding for finding in self.findings if finding.kind == "mistake"]


def check_boxes(frames: Iterable[Frame], classes: Sequence[str]) -> BoxReport:
    """Look at the boxes of ``frames``, each of which is read once; those of no class (-1) are left out. ``classes`` are
    the names of the others, by their numbers.

    A mistake is named only where boxes fit their points clearly and significantly better by its repair, paired, than
    as they are and than by every other repair.
    """
    names = tuple(classes)
    seen, fitted, counted = [], [], []
    for number, (name, xyz, boxes) in enumerate(frames):
        seen.append(name)
        places = np.flatnonzero(boxes.classes >= 0)
        known = boxes.take(places)
        counted.append(count(xyz, known))
        fitted.append(_fitted(number, xyz, known, places))
    if not seen:
        return BoxReport([_too_few(0)], [], None, 0, 0)
    everything = Fitted(*(np.concatenate([getattr(one, name) for one in fitted]) for name in Fitted.__annotations__))
    counts = Counted(*(np.concatenate([getattr(one, name) for one in counted]) for name in Counted.__annotations__))
    findings = _mistakes(everything, names, seen)
    findings += _lost(everything, counts.points, names, seen) if not _accused(findings) else []
    findings += _oddities(everything, counts, names, seen)
    sound = ~counts.nonsense
    return BoxReport(
        sorted(findings, key=lambda finding: finding.kind),
        rows(everything.classes, counts.points, counts.distance, names),
        propose(everything.values[sound], everything.classes[sound], names),
        len(seen),
        len(sound),
    )


def _fitted(number: int, xyz: np.ndarray, boxes: Boxes, places: np.ndarray) -> Fitted:
    values = boxes.values[:, :7].astype(np.float64)
    with np.errstate(invalid="ignore"):
        guessed = np.stack([values, *(guess.repair(values) for guess in GUESSES)])
    fit, points = fits(above_ground(xyz), guessed)
    return Fitted(values, boxes.classes, np.full(len(values), number), places, fit.T, points.T)


def _mistakes(fitted: Fitted, names: tuple[str, ...], seen: list[str]) -> list[Finding]:
    """What is wrong with all boxes, or else with those of one class."""
    judged = int(fitted.judged.sum())
    if judged < ENOUGH:
        return [_too_few(judged)]
    whole = judge(fitted)
    parts = {name: fitted.take(np.flatnonzero(fitted.classes == number)) for number, name in enumerate(names)}
    verdicts = {name: judge(part) for name, part in parts.items()}
    if whole.guess is not None and not any(contradicts(part, verdicts[name], whole) for name, part in parts.items()):
        return [_told(whole, whole.guess, fitted, "", None, seen)]
    found = []
    for number, (name, verdict) in enumerate(verdicts.items()):
        own = parts[name]
        large = np.flatnonzero(beyond_a_turn(own.values))
        if verdict.guess is not None:
            found.append(_told(verdict, verdict.guess, own, name, number, seen))
        elif len(own.values) >= ENOUGH and len(large) > len(own.values) / 2:  # round objects fit at any angle
            share = f"{100 * len(large) / len(own.values):.0f} % of {len(own.values)} boxes of class {name}"
            example = seen[own.frame[large[0]]], int(own.box[large[0]])
            told = f"angles look like degrees: {share} are turned by more than a whole turn"
            (guess,) = [guess for guess in GUESSES if guess.mistake == "degrees"]
            repair = partial(_repaired, guess, number)
            found.append(Finding("mistake", "degrees", len(large), example, told, repair))
    return found


def _told(verdict: Verdict, guess: Guess, fitted: Fitted, name: str, number: int | None, seen: list[str]) -> Finding:
    """The finding on the boxes of a class, its ``name`` and ``number``, or on all."""
    row = verdict.example
    example = seen[fitted.frame[row]], int(fitted.box[row])
    of = f" of class {name}" if name else ""
    share = f"{100 * verdict.better / verdict.differing:.0f} % of {verdict.differing} boxes{of}"
    if verdict.others:
        also = ", or ".join(other.how for other in (guess, *verdict.others))
        return Finding("mistake", "unclear", verdict.better, example,
                       f"boxes{of} do not fit their points, and which mistake it is cannot be told: {share} fit better "
                       f"{also}")  # fmt: skip
    told = f"{guess.told}: {share} fit their points better {guess.how}"
    return Finding("mistake", guess.mistake, verdict.better, example, told, partial(_repaired, guess, number))


def _repaired(guess: Guess, number: int | None, boxes: Boxes) -> Boxes:
    """``boxes`` with those of the class ``number`` repaired, or all."""
    values = boxes.values.copy()
    own = np.full(len(values), True) if number is None else boxes.classes == number
    values[own, :7] = guess.repair(values[own, :7].astype(np.float64))
    return Boxes(values, boxes.classes, boxes.facts)


def _accused(findings: list[Finding]) -> bool:
    return any(finding.kind == "mistake" for finding in findings)


def _lost(fitted: Fitted, points: np.ndarray, names: tuple[str, ...], seen: list[str]) -> list[Finding]:
    """Classes of which nearly all boxes are empty, and no guess tells why."""
    found = []
    for number, name in enumerate(names):
        own = np.flatnonzero(fitted.classes == number)
        empty = own[points[own] == 0]
        if len(own) >= ENOUGH and len(empty) > _LOST * len(own):
            told = f"{100 * len(empty) / len(own):.0f} % of the boxes of class {name} hold no point"
            example = seen[fitted.frame[empty[0]]], int(fitted.box[empty[0]])
            told += ": they are of another sweep, in the world's axes, or in other units"
            found.append(Finding("mistake", "lost", len(empty), example, told))
    return found


def _too_few(judged: int) -> Finding:
    return Finding("note", "too few", judged, None, f"too few boxes to judge: {judged} have points, of {ENOUGH} needed")


def _oddities(fitted: Fitted, counts: Counted, names: tuple[str, ...], seen: list[str]) -> list[Finding]:
    """Boxes that are odd in themselves, and classes."""
    found = []

    def add(kind: Literal["mistake", "note"], name: str, which: np.ndarray, told: str) -> None:
        if which.any():
            row = int(np.flatnonzero(which)[0])
            example = seen[fitted.frame[row]], int(fitted.box[row])
            found.append(Finding(kind, name, int(which.sum()), example, told))

    empty = counts.points == 0
    total = len(empty)
    add("mistake", "nonsense", counts.nonsense, "boxes are not finite, or have no size")
    add("mistake", "duplicates", counts.twice, "two boxes of a class are around one object: labels merged twice?")
    far = f"up to {counts.distance[counts.outside].max(initial=0):.0f} m away"
    add(
        "note",
        "outside",
        counts.outside,
        f"centres are beyond all points ({far}): other axes, or the world's?",
    )
    empty_share = f"{100 * empty.sum() / max(total, 1):.0f} % of {total} boxes"
    add("note", "empty", empty, f"{empty_share} hold no point: hidden objects, or labels of another sweep?")
    for number, name in enumerate(names):
        own = fitted.classes == number
        boxes = "1 box" if own.sum() == 1 else f"{own.sum()} boxes"
        few = f"class {name} has only {boxes}: a detector will hardly learn it"
        if not own.any():
            found.append(Finding("note", "few", 0, None, f"no box is of class {name}"))
        elif own.sum() < _FEW:
            add("note", "few", own, few)
    return found
