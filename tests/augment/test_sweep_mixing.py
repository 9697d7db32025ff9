from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from st_ssl.augment.sweep_mixing import SweepMixConfig, mix_sweeps
from st_ssl.core.types import Entry, PointBatch, View
from st_ssl.transfer.tasks.ballot import Shown
from st_ssl.transfer.tasks.base import TASKS

KEYS = [(1, 0, row) for row in range(3)]


def batch(sizes: tuple[int, ...] = (300, 200, 250)) -> PointBatch:
    """Clouds all around; ``whose`` says of which a point is, ``segment`` is 0 to 3."""
    rng = np.random.default_rng(0)
    count = sum(sizes)
    angle, pitch, far = (
        rng.uniform(-np.pi, np.pi, count),
        np.radians(rng.uniform(-30, 8, count)),
        rng.uniform(2, 30, count),
    )
    xyz = np.stack([np.cos(angle) * np.cos(pitch), np.sin(angle) * np.cos(pitch), np.sin(pitch)], 1) * far[:, None]
    whose = np.repeat(np.arange(len(sizes)), sizes)
    labels = {"segment": torch.from_numpy(rng.integers(0, 4, count)), "whose": torch.from_numpy(whose)}
    points = torch.from_numpy(xyz.astype(np.float32))
    return PointBatch(points, torch.tensor([0, *np.cumsum(sizes)]), {"intensity": points[:, :1].clone()}, labels)


def clouds(points: PointBatch) -> list[dict[str, np.ndarray]]:
    found = []
    for low, high in zip(points.offsets[:-1].tolist(), points.offsets[1:].tolist(), strict=True):
        own = {name: value[low:high].numpy() for name, value in points.labels.items()}
        found.append(
            {"xyz": points.xyz[low:high].numpy(), "was": points.attributes["intensity"][low:high, 0].numpy(), **own}
        )
    return found


def mixed(**config: Any) -> list[dict[str, np.ndarray]]:
    return clouds(mix_sweeps(batch(), SweepMixConfig(**config), KEYS))


def test_a_union_has_both() -> None:
    before = clouds(batch())
    for row, cloud in enumerate(mixed(name="union")):
        other = (row + 1) % 3
        assert (cloud["whose"] == row).sum() == len(before[row]["xyz"])
        assert (cloud["whose"] == other).sum() == len(before[other]["xyz"])
        np.testing.assert_array_equal(cloud["xyz"][cloud["whose"] == other], before[other]["xyz"])
        np.testing.assert_array_equal(cloud["segment"][cloud["whose"] == other], before[other]["segment"])


def test_areas_take_turns() -> None:
    before = clouds(batch())
    for row, cloud in enumerate(mixed(name="laser", areas=(4,), pitch=(-25.0, 3.0))):
        xyz = cloud["xyz"].astype(np.float64)
        pitch = np.degrees(np.arctan2(xyz[:, 2], np.hypot(xyz[:, 0], xyz[:, 1])))
        area = np.clip(((pitch + 25) // 7), 0, 3)
        own = cloud["whose"] == row
        clear = abs((pitch + 25) % 7 - 3.5) < 3.49
        assert (own == (area % 2 == 0))[clear].all()
        total = len(before[row]["xyz"]) + len(before[(row + 1) % 3]["xyz"])
        assert 0.4 * total < len(xyz) < 0.6 * total


def test_sectors_and_things() -> None:
    before, swapped = clouds(batch()), 0
    for draw in range(12):
        keys = [(draw, 0, row) for row in range(3)]
        found = clouds(mix_sweeps(batch(), SweepMixConfig(name="polar", instances=(2,)), keys))
        for row, cloud in enumerate(found):
            own, other = cloud["whose"] == row, before[(row + 1) % 3]
            things = other["segment"] == 2
            pasted = cloud["xyz"][len(cloud["xyz"]) - 3 * things.sum() :].reshape(3, -1, 3)
            np.testing.assert_array_equal(pasted[0], other["xyz"][things])
            first, second = (np.arctan2(*turned[:, 1::-1].T) for turned in (pasted[1], pasted[2]))
            apart = (second - first) % (2 * np.pi)
            np.testing.assert_allclose(apart, 2 * np.pi / 3, atol=1e-3)
            np.testing.assert_allclose(np.linalg.norm(pasted[1], axis=1), np.linalg.norm(pasted[0], axis=1), rtol=1e-4)
            rest = cloud["xyz"][: len(cloud["xyz"]) - 3 * things.sum()]
            kept = own[: len(rest)]
            if kept.all():
                assert len(rest) == len(before[row]["xyz"])
                continue
            swapped += 1
            theirs = np.sort(np.arctan2(rest[~kept, 1], rest[~kept, 0]))
            gaps = np.diff(np.append(theirs, theirs[0] + 2 * np.pi))
            assert gaps.max() > np.pi * 0.95, "theirs are of one half"
    assert 6 < swapped < 30, "one time in two"


def test_draws_are_of_the_key() -> None:
    config = SweepMixConfig(name="laser", p=0.5)
    first, again = (mix_sweeps(batch(), config, KEYS) for _ in range(2))
    torch.testing.assert_close(first.xyz, again.xyz, rtol=0, atol=0)
    kept = [
        (clouds(mix_sweeps(batch(), config, [(seed, 0, row) for row in range(3)]))[0]["whose"] == 0).all()
        for seed in range(40)
    ]
    assert 8 < sum(kept) < 32
    alone = batch((50,))
    torch.testing.assert_close(mix_sweeps(alone, config, KEYS[:1]).xyz, alone.xyz)
    with pytest.raises(ValidationError, match="expected two rising angles"):
        SweepMixConfig(name="laser", pitch=(3.0, -25.0))


def test_segmentation_learns_from_mixed_clouds() -> None:
    task: Any = TASKS.build(TASKS.config("segment").model_validate({"num_classes": 4, "mix": {"name": "union"}}))
    assert task.num_classes == 4
    shown = Shown(View(batch(), torch.zeros(3, 1, dtype=torch.int64)), [Entry(str(row)) for row in range(3)])
    varied = task.augmented(shown, KEYS)
    assert varied.view.points.offsets.tolist() == [0, 500, 950, 1500]
    torch.testing.assert_close(task.training_targets(varied, 0), varied.view.points.labels["segment"])
    with pytest.raises(ValidationError, match="the same points in every epoch: no mix"):
        TASKS.config("segment").model_validate({"label_points": 20, "mix": {"name": "union"}})
