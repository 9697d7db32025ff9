"""Balanced designs: factors that are independent because they are dealt like cards, and how many samples there are."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from st_ssl.core.config import Config
from st_ssl.core.errors import DataError, nearest
from st_ssl.core.random import Key, keyed_rng


@lru_cache(maxsize=256)
def deal(values: tuple[str, ...], count: int, *key: Key) -> tuple[str, ...]:
    """One of ``values`` for each of ``count`` samples, each as often as any other (give or take one), in an order that
    depends on ``key`` alone."""
    raw = keyed_rng(*key).bit_generator.random_raw(count)
    return tuple(values[rank % len(values)] for rank in np.argsort(np.argsort(raw, kind="stable")).tolist())


class PlantedConfig(Config):
    """Has ``num_train``, ``num_test`` and perhaps ``num_val``: how many samples there are of each split."""

    def count(self, split: str) -> int:
        """Number of samples of a split; ``DataError`` where there is no such split."""
        counts = {name: getattr(self, f"num_{name}", None) for name in ("train", "val", "test")}
        known = [name for name, count in counts.items() if count is not None]
        if split not in known:
            raise DataError(f"split {split!r} is not one of {', '.join(known)}{nearest(split, known)}")
        return int(counts[split] or 0)
