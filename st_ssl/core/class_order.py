"""The order of classes, the same wherever classes are numbered or listed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


def in_order(names: Iterable[str]) -> list[str]:
    """The distinct ``names``, sorted: by value where all of them are numbers (0, 1, 2, 10), or else by name.

    >>> in_order(["10", "2", "0"])
    ['0', '2', '10']
    """
    distinct = sorted(set(names))
    if not all(map(_NUMBER.fullmatch, distinct)):
        return distinct
    return sorted(distinct, key=Decimal)
