"""Randomness as a function, not a stream: every draw is f(key), so a run can be resumed at any point and split over
any number of workers without changing a bit."""

from __future__ import annotations

import hashlib

import numpy as np

Key = int | str


def _digest(key: tuple[Key, ...]) -> bytes:
    return hashlib.blake2b(repr(key).encode(), digest_size=16).digest()


def keyed_seed(*key: Key) -> int:
    """A 63-bit seed that depends on ``key`` alone, e.g. ``keyed_seed(seed, "step", 12)``."""
    return int.from_bytes(_digest(key)[:8], "little") >> 1


def keyed_rng(*key: Key) -> np.random.Generator:
    """A fresh numpy generator that depends on ``key`` alone: (seed, epoch, sample, view) and the like."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_digest(key), "little")))
