"""Random erasing of clips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from st_ssl.augment.erasing import EraseConfig, draw, erase_
from st_ssl.augment.finetune import FinetuneAugment, FinetuneAugmentConfig
from st_ssl.core.random import keyed_rng
from tests.augment.video import batch_params, pixels


def boxes(size: int, count: int = 4000, **settings: Any) -> np.ndarray:
    config = EraseConfig(**settings)
    return np.concatenate([draw(config, keyed_rng("erase", i), size)["erase"] for i in range(count)])


def test_boxes_are_as_often_as_large_and_as_long_as_the_settings_say() -> None:
    found = boxes(200, probability=0.25, area=(0.02, 0.3333), aspect=(0.3, 3.3333))
    erased = found[found[:, 2] > 0]
    assert abs(len(erased) / 4000 - 0.25) < 4 * np.sqrt(0.1875 / 4000)
    assert (found[found[:, 2] == 0] == 0).all()
    top, left, height, width = erased.T
    assert (top >= 0).all() and (top + height <= 200).all() and (left >= 0).all() and (left + width <= 200).all()
    area, aspect = height * width / 200**2, width / height
    assert area.min() > 0.019 and area.max() < 0.337
    assert area.mean() == pytest.approx((0.02 + 0.3333) / 2, abs=0.012)  # 4.2 deviations of the mean
    assert aspect.min() > 0.29 and aspect.max() < 3.45
    assert abs(np.log(aspect).mean()) < 0.1
    room = left / (200 - width)
    assert room.mean() == pytest.approx(0.5, abs=0.04)


def test_settings_do_not_change_how_much_is_drawn() -> None:
    generators = [keyed_rng("draws") for _ in range(2)]
    for config, rng in zip((EraseConfig(probability=0), EraseConfig(probability=1)), generators, strict=True):
        draw(config, rng, 16)
    assert len({float(rng.random()) for rng in generators}) == 1


def params(*rows: list[int], seed: int = 0) -> dict[str, Tensor]:
    return {"erase": torch.tensor(rows)[:, None], "erase_seed": torch.arange(seed, seed + len(rows))[:, None, None]}


@pytest.mark.parametrize("mode", ["pixel", "const"])
def test_the_same_box_in_all_frames_and_nothing_else(mode: Any) -> None:
    clips = torch.full((3, 3, 4, 20, 20), 9.0)
    erase_(clips, params([2, 3, 10, 12], [0, 0, 0, 0], [0, 0, 20, 5]), mode)
    inside = torch.zeros(3, 20, 20, dtype=torch.bool)
    inside[0, 2:12, 3:15] = True
    inside[2, :, :5] = True
    changed = clips != 9
    assert torch.equal(changed, inside[:, None, None].expand_as(changed))
    if mode == "const":
        assert (clips[changed] == 0).all()
    else:
        noise = clips[changed]
        assert abs(float(noise.mean())) < 0.1 and float(noise.std()) == pytest.approx(1, abs=0.08)
        assert not torch.equal(clips[0, :, 0], clips[0, :, 1])


def test_noise_is_a_function_of_its_seed() -> None:
    one, again, other = (erase_(torch.zeros(1, 3, 2, 8, 8), params([0, 0, 4, 4], seed=s), "pixel") for s in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_it_comes_after_all_else() -> None:
    settings: dict[str, Any] = {"crop": "centre", "flip": 1, "jitter": 1, "blur": 1}
    plain, erasing = (
        FinetuneAugment(FinetuneAugmentConfig(**settings, erase=erase), 24)
        for erase in (None, EraseConfig(probability=1, mode="const"))
    )
    frames, drawn = torch.from_numpy(pixels(2, 3, 24, 24, 3)), batch_params(erasing, 2, 3)
    before, after = plain.apply(frames, drawn), erasing.apply(frames, drawn)
    for b, (top, left, height, width) in enumerate(drawn["erase"][:, 0].tolist()):
        box = (b, slice(None), slice(None), slice(top, top + height), slice(left, left + width))
        assert height > 0 and (after[box] == 0).all()
        before[box] = 0
    assert torch.equal(before, after)
