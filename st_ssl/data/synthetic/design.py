"""Balanced designs: factors that are independent because they are dealt like cards, and the table that tells them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from st_ssl.core.random import Key, keyed_rng


@lru_cache(maxsize=256)
def deal(values: tuple[str, ...], count: int, *key: Key) -> tuple[str, ...]:
    """One of ``values`` for each of ``count`` samples, each as often as any other (give or take one), in an order that
    depends on ``key`` alone."""
    raw = keyed_rng(*key).bit_generator.random_raw(count)
    return tuple(values[rank % len(values)] for rank in np.argsort(np.argsort(raw, kind="stable")).tolist())


def table_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV, the same bytes on every system."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
