"""Randomness as a function, not a stream: every draw is f(key), so a run can be resumed at any point and split over
any number of workers without changing a bit."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

Key = int | str


def _digest(key: tuple[Key, ...]) -> bytes:
    return hashlib.blake2b(repr(key).encode(), digest_size=16).digest()


def keyed_seed(*key: Key) -> int:
    """A 63-bit seed that depends on ``key`` alone, e.g. ``keyed_seed(seed, "step", 12)``."""
    return int.from_bytes(_digest(key)[:8], "little") >> 1


class _Digest(ISeedSequence):
    """Hands Philox the digest as its key. ``Philox(key=…)`` first asks the system for a seed that it does not use."""

    def __init__(self, digest: bytes) -> None:
        self.digest = digest

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        """The first ``n_words`` words of it."""
        return np.frombuffer(self.digest, dtype, n_words)


def keyed_rng(*key: Key) -> np.random.Generator:
    """A fresh numpy generator that depends on ``key`` alone: (seed, epoch, sample, view) and the like."""
    words: Any = _Digest(_digest(key))  # numpy takes any ``ISeedSequence``, and its type hints only some
    return np.random.Generator(np.random.Philox(words))
