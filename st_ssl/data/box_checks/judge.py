"""Which guess, if any, explains how boxes fit their points. N boxes, H guesses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from st_ssl.data.box_checks.guesses import GUESSES, Guess

ENOUGH = 10
"""Boxes with points that it takes to judge."""
_POINTS = 8  # in or close to a box that is looked at
_CLEAR = 0.05  # a difference in fit that counts
_GAIN, _SHARE, _SURE = 0.1, 0.75, 3.0  # mean gain, share of the boxes that differ, and deviations from as many each
_GOOD = 0.3  # how well boxes fit that are right, at least


@dataclass(frozen=True)
class Fitted:
    """Boxes ``values`` [N, 7] with their ``classes`` [N], the number of the ``frame`` [N] and of the ``box`` in it [N],
    how well they ``fit`` [N, 1 + H], as given and by each guess, and the points that were ``seen`` [N, 1 + H]."""

    values: np.ndarray
    classes: np.ndarray
    frame: np.ndarray
    box: np.ndarray
    fit: np.ndarray
    seen: np.ndarray

    def take(self, index: np.ndarray) -> Fitted:
        """The boxes ``index``."""
        return Fitted(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    @property
    def judged(self) -> np.ndarray:
        """Whether boxes have points enough, as given or by some guess, bool [N]."""
        return self.seen.max(1, initial=0) >= _POINTS


@dataclass(frozen=True)
class Verdict:
    """``guess``: what is wrong (None: nothing that we know of); ``better`` of ``differing`` boxes fit better by it.
    ``example``: the row of the box that gains most. ``others`` fit as well. ``possible``: the names of all of them,
    swapped sizes being a "quarter"."""

    guess: Guess | None
    better: int = 0
    differing: int = 0
    example: int = -1
    others: tuple[Guess, ...] = ()
    possible: frozenset[str] = frozenset()


def judge(fitted: Fitted) -> Verdict:
    """What is wrong with these boxes as a whole."""
    rows = np.flatnonzero(fitted.judged)
    fit = fitted.fit[rows]
    good = [place for place in range(len(GUESSES)) if _beats(fit, place + 1, 0) and _fine(fit, place + 1)]
    if len(rows) < ENOUGH or not good:
        return Verdict(None)

    def as_good(best: int) -> list[int]:
        return [place for place in good if not _beats(fit, best + 1, place + 1, gain=_CLEAR)]

    def mean(place: int) -> float:
        return float(fit[:, place + 1].mean())

    best = max(good, key=mean)
    plain = [place for place in as_good(best) if not GUESSES[place].vague]
    best = max(plain, key=mean) if plain else best
    guess = GUESSES[best]
    rivals = [GUESSES[place] for place in as_good(best)]
    others = [other for other in rivals if other.mistake != guess.mistake and not other.vague]
    gain = fit[:, best + 1] - fit[:, 0]
    distinct = {other.mistake: other for other in others}
    possible = frozenset((guess.mistake, *distinct))
    if guess.mistake == "quarter":
        guess = _turned_or_swapped(guess, fitted.values[rows[gain > _CLEAR]])
    return Verdict(
        guess,
        int((gain > _CLEAR).sum()),
        int((np.abs(gain) > _CLEAR).sum()),
        int(rows[gain.argmax()]),
        tuple(distinct.values()),
        possible,
    )


def contradicts(fitted: Fitted, own: Verdict, whole: Verdict) -> bool:
    """Whether these boxes, of which ``own`` is said, are enough to tell that what is said of the ``whole`` is not so of
    them."""
    if own.guess is not None:
        return not own.possible & whole.possible
    fit = fitted.fit[fitted.judged]
    columns = [place + 1 for place, guess in enumerate(GUESSES) if guess.mistake in whole.possible]
    return bool(columns) and all(_beats(fit, 0, column) for column in columns)


def _beats(fit: np.ndarray, first: int, second: int, gain: float = _GAIN) -> bool:
    """Whether boxes fit clearly and significantly better by the column ``first`` than by ``second``, over those that
    differ."""
    more = fit[:, first] - fit[:, second]
    more = more[np.abs(more) > _CLEAR]
    better = int((more > 0).sum())
    sure = (2 * better - len(more)) / max(len(more), 1) ** 0.5
    return len(more) >= ENOUGH and better >= _SHARE * len(more) and sure >= _SURE and float(more.mean()) >= gain


def _fine(fit: np.ndarray, column: int) -> bool:
    """Whether boxes fit well by ``column`` where they fit better."""
    better = fit[:, column] - fit[:, 0] > _CLEAR
    return float(np.median(fit[better, column])) >= _GOOD


def _turned_or_swapped(guess: Guess, values: np.ndarray) -> Guess:
    """Both are the same solid: boxes that are wider than long have their sizes swapped."""
    if np.mean(values[:, 3] < values[:, 4]) <= 0.5:
        return guess
    return Guess("swapped", "length and width look swapped", "with these swapped", guess.repair)
