"""Nearest neighbours: on one footing for all contestants, and judged like everything else."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch

from st_ssl.core.types import Entry
from st_ssl.report.embedding import Embedding, _agreement, nearest
from st_ssl.transfer.probes.classifiers import centred

LABELS = np.arange(60) % 4


def features(spread: float, seed: int, count: int = 60) -> torch.Tensor:
    """A cluster for each of four labels, all far to one side."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(3 * np.eye(8)[LABELS[:count]] + spread * rng.normal(size=(count, 8)))


class Clips:
    """Labels without any video."""

    def __init__(self, labels: np.ndarray) -> None:
        self.targets = {"shape": labels}
        self.entries = [Entry(f"{row}.mp4", "train", {}) for row in range(len(labels))]

    def __len__(self) -> int:
        return len(self.entries)


def embedding(spreads: dict[str, float], shift: float = 0.0, truth: np.ndarray = LABELS) -> Embedding:
    """Clusters of each contestant, the more spread the less they tell."""
    pairs = {who: (features(spread, 1), features(spread, 2)) for who, spread in spreads.items()}
    moved = {who: centred(train + shift, test + shift) for who, (train, test) in pairs.items()}
    train, test = (cast(Any, Clips(labels)) for labels in (LABELS, truth))
    return Embedding(train, test, {"shape": list("abcd")}, moved)


def test_a_shifted_space_has_the_same_neighbours() -> None:
    spreads = {"pretrained": 0.3, "random": 9.0}
    for who in spreads:
        (best, index), (moved, same) = (nearest(embedding(spreads, shift), who) for shift in (0.0, 1e6))
        np.testing.assert_array_equal(index, same)
        np.testing.assert_allclose(best, moved, atol=1e-6)
        assert np.ptp(best) > 0.02  # as it would not be if all pointed to where the cloud lies


def test_features_are_centred_on_those_of_training() -> None:
    train, test = centred(features(1.0, 1).float() + 5, features(1.0, 2).float())
    assert train.dtype == test.dtype == torch.float64
    assert abs(train.mean(0)).max() < 1e-12 and (test.mean(0) < -4).all()


def words(asked: Any) -> tuple[str, list[str]]:
    return asked.verdict["standing"], [one["name"] for one in asked.verdict["against"]]


@pytest.mark.parametrize(("occupancy", "standing"), [(2.0, "ahead"), (0.3, "level"), (0.0, "behind")])
def test_agreement_is_judged_against_the_strongest_baseline(occupancy: float, standing: str) -> None:
    spreads = {"pretrained": 0.3, "random": 9.0, "raw": 20.0, "occupancy": occupancy}
    if standing == "behind":
        spreads["pretrained"] = 2.0
    found = embedding(spreads)
    asked = _agreement(found, "shape", {who: nearest(found, who)[1] for who in spreads})
    best = asked.figures["occupancy"]["mean"]
    assert asked.chance == pytest.approx(25) and best == max(asked.mean(who) for who in ("raw", "occupancy"))
    assert words(asked) == (standing, ["random", "occupancy"])


def test_chance_may_be_the_strongest_and_unlabelled_samples_do_not_count() -> None:
    truth = np.where(np.arange(60) < 20, LABELS, -1)
    spreads = {"pretrained": 0.3, "random": 9.0}
    found = embedding(spreads, truth=truth)
    indices = {who: nearest(found, who)[1] for who in spreads}
    asked = _agreement(found, "shape", indices)
    assert words(asked) == ("ahead", ["random", "chance"])
    by_hand = 100 * np.mean([np.mean(LABELS[indices["random"][row]] == LABELS[row]) for row in range(20)])
    assert asked.mean("random") == pytest.approx(by_hand)
    assert asked.rival == "chance"
