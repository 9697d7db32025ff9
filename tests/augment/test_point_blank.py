from __future__ import annotations

import numpy as np
import torch

from st_ssl.augment.point_blank import BlankColour
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import PointBatch


def batch(*counts: int) -> PointBatch:
    offsets = torch.tensor([0, *np.cumsum(counts).tolist()])
    generator = torch.Generator().manual_seed(0)
    color = torch.rand(int(offsets[-1]), 3, generator=generator)
    return PointBatch(torch.rand(len(color), 3, generator=generator), offsets, {"color": color})


def params(blank: BlankColour, keys: range) -> dict[str, torch.Tensor]:
    drawn = [blank.sample(keyed_rng(key)) for key in keys]
    return {name: torch.from_numpy(np.stack([one[name] for one in drawn])) for name in drawn[0]}


def test_all_channels_are_ones_with_normal_noise() -> None:
    blank = BlankColour(sigma=0.1, probability=1.0)
    points = batch(4000, 2000)
    noise = blank.apply(points, params(blank, range(2))).attributes["color"] - 1
    assert abs(noise.mean()) < 0.003
    assert abs(noise.std() - 0.1) < 0.003
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.05  # each number has its own
    shares = [float(blank.sample(keyed_rng(i))["blank_noise"][0] != 0) for i in range(50)]
    assert shares == [1.0] * 50
    off = BlankColour(probability=0.0)
    assert (off.apply(points, params(off, range(2))).attributes["color"] == 1).all()


def test_a_cloud_has_the_same_noise_in_any_batch() -> None:
    blank, points = BlankColour(), batch(50, 70)
    both = params(blank, range(2))
    together = blank.apply(points, both).attributes["color"]
    one = PointBatch(points.xyz[50:], torch.tensor([0, 70]), {"color": points.attributes["color"][50:]})
    alone = blank.apply(one, {name: value[1:] for name, value in both.items()}).attributes["color"]
    assert torch.equal(alone, together[50:])
    assert not torch.equal(together[:50], together[50:100])


def test_clouds_without_colours_stay_as_they_are() -> None:
    blank, points = BlankColour(), batch(5)
    points.attributes.clear()
    assert blank.apply(points, params(blank, range(1))) is points
