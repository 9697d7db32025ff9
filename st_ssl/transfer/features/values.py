"""Which targets are values: numbers to be predicted, where other targets have classes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.sources.video import target_names

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def value_targets(train: Sequence[Entry], test: Sequence[Entry], told: Mapping[str, bool]) -> list[str]:
    """The names of the targets that are values, in order of appearance.

    ``told`` (``probe.values``) says of a target whether it is one. Of any other the training labels decide: it is a
    value where all of them are numbers, and some have a fraction (12.5) or an exponent (1e-3). Whole numbers, also
    those written as 3.0, are classes. Raises ``DataError`` where a value target has a label that is no number, or
    labels mix fractions with text.
    """
    names = target_names([*train, *test])
    return [name for name in names if told.get(name, True) and _is_value(name, train, test, told.get(name, False))]


def _is_value(name: str, train: Sequence[Entry], test: Sequence[Entry], told: bool) -> bool:
    fraction = next((entry for entry in train if _has_fraction(entry.labels.get(name, ""))), None)
    if fraction is None and not told:
        return False
    labelled = [entry for entry in [*train, *test] if name in entry.labels]
    text = next((entry for entry in labelled if math.isnan(number(entry.labels[name]))), None)
    if text is not None:
        other = "" if fraction is None else f", while {fraction.shown} has {fraction.labels[name]!r}"
        said = "its labels mix numbers and text" if fraction is not None else "probe.values says that it is a value"
        raise DataError(
            f"target {name!r}: {said}: {text.shown} has {text.labels[name]!r}{other}. Leave a cell without a number "
            f"empty, or set probe.values.{name}=false: then each distinct text is a class"
        )
    return True


def number(label: str) -> float:
    """The finite number that ``label`` is; NaN for text, with which ``nan`` and ``inf`` count."""
    value = float(label) if _NUMBER.fullmatch(label) else math.nan
    return value if math.isfinite(value) else math.nan


def are_values(labels: Iterable[str]) -> bool:
    """Whether all of ``labels`` are numbers, and some have a fraction or an exponent.

    >>> are_values(["0.5", "2"]), are_values(["1", "2"])
    (True, False)
    """
    distinct = set(labels)
    return any(map(_has_fraction, distinct)) and not any(math.isnan(number(label)) for label in distinct)


def _has_fraction(label: str) -> bool:
    value = number(label)
    return not math.isnan(value) and ("e" in label.lower() or not value.is_integer())


def numbers_of(entries: Sequence[Entry], name: str) -> np.ndarray:
    """The values of a target, float64 [N]; NaN for an entry without one."""
    return np.array([number(entry.labels.get(name, "")) for entry in entries], dtype=np.float64)


def known_numbers(entries: Sequence[Entry], name: str) -> np.ndarray:
    """``numbers_of`` the entries that have one, float64 [≤ N]."""
    values = numbers_of(entries, name)
    return values[~np.isnan(values)]
