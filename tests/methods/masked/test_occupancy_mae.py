from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.augment.voxel_masking import VoxelMaskConfig, visible_voxels
from st_ssl.core.errors import ConfigError
from st_ssl.methods.masked.occupancy_mae import recall_at_half
from tests.methods.steps import build, raw_views

SMALL: dict[str, Any] = {
    "encoder": {
        "name": "second",
        "range": [-1.6, -1.6, -1.6, 1.6, 1.6, 1.6],
        "voxel": [0.1, 0.1, 0.1],
        "widths": [8, 12],
        "out": 16,
    },
    "input": {"unit_sphere": False, "centre": False},
    "method": {"mask": {"edges": [0.3, 0.6], "hidden": [0.3, 0.2, 0.1]}, "stride": 2, "widths": [16]},
}


def views(method: Any, batch: int = 3) -> list[Any]:
    return method.views.prepare(raw_views(method, batch))


def test_the_loss_is_the_cross_entropy_of_every_cell() -> None:
    method = build("occupancy_mae", occupied_weight=3.0).eval()
    (view,) = views(method)
    visible = method.visible(method.encoder.voxelise(view.points), view.params["seed"][:, 0])
    logits = method._logits(visible).detach().double().numpy()
    sums = []
    for cloud in range(3):
        first, last = view.points.offsets[cloud : cloud + 2].tolist()
        occupied = np.zeros((16, 16, 16), bool)
        for x, y, z in view.points.xyz[first:last].double().tolist():
            cell = [int(np.floor((place + 1.6) / 0.2)) for place in (x, y, z)]
            if all(0 <= index < 16 for index in cell):
                occupied[cell[2], cell[1], cell[0]] = True
        probability = 1 / (1 + np.exp(-logits[cloud].reshape(16, 16, 16)))
        entropy = -np.where(occupied, 3 * np.log(probability), np.log(1 - probability))
        sums.append(entropy.mean())
    assert float(method([view]).loss) == pytest.approx(np.mean(sums), rel=1e-4)


def test_what_is_hidden_reaches_the_loss_alone() -> None:
    method = build("occupancy_mae").eval()
    (view,) = views(method)
    voxels = method.encoder.voxelise(view.points)
    visible = method.visible(voxels, view.params["seed"][:, 0])
    assert 0 < len(visible) < len(voxels)
    hidden = torch.ones(len(voxels), dtype=torch.bool)
    place = {tuple(row): number for number, row in enumerate(voxels.coordinates.tolist())}
    hidden[[place[tuple(row)] for row in visible.coordinates.tolist()]] = False
    voxels.features[hidden] = 1e3
    again = method.visible(voxels, view.params["seed"][:, 0])
    assert torch.equal(again.features, visible.features)


def test_shares_are_hidden_by_distance_whatever_else_is_in_the_batch() -> None:
    config = VoxelMaskConfig(edges=(10.0, 20.0), hidden=(0.8, 0.5, 0.0))
    distance = torch.linspace(0, 30, 301)[:300].repeat(2)
    cloud, number = torch.arange(2).repeat_interleave(300), torch.arange(300).repeat(2)
    kept = visible_voxels(config, distance, cloud, number, torch.tensor([5, 6]))
    for which in range(2):
        own = kept[cloud[kept] == which] - 300 * which
        counts = [int(((own >= 100 * band) & (own < 100 * band + 100)).sum()) for band in range(3)]
        assert counts == [20, 50, 100]
    alone = visible_voxels(config, distance[300:], cloud[300:] - 1, number[300:], torch.tensor([6]))
    assert torch.equal(alone, kept[cloud[kept] == 1] - 300)
    assert not torch.equal(alone, kept[cloud[kept] == 0])


@pytest.mark.parametrize(
    "wrong", [{"hidden": (0.5,)}, {"edges": (50.0, 30.0)}, {"hidden": (1.0, 0.3, 0.3)}], ids=["few", "falling", "all"]
)
def test_masks_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="hidden"):
        VoxelMaskConfig(**wrong)


def test_recall_at_half() -> None:
    score = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 1.0])
    truth = torch.tensor([True, False, True, False, True, False])
    assert recall_at_half(score, truth) == 100
    assert recall_at_half(score, ~truth) == pytest.approx(100)  # all six are the last point of the curve
    assert recall_at_half(-score, torch.tensor([True] + [False] * 5)) == 0


def test_figures_and_pictures() -> None:
    method = build("occupancy_mae").eval()
    (view,) = views(method)
    found = method.hidden_recall(view)
    assert set(found) == {"method", "dilation"} and all(0 <= value <= 100 for value in found.values())
    sweep, visible, filled = method.exhibits([view])
    assert len(visible.points.xyz) < len(sweep.points.xyz)
    assert filled.points.offsets.tolist()[-1] == int(method.occupied(view.points).sum())


def test_encoders_that_see_no_part_of_their_voxels() -> None:
    with pytest.raises(ConfigError, match="needs an encoder that can see a part of its voxels: second"):
        build("occupancy_mae", {"name": "sparse_unet", "variant": "tiny", "stem": 4})
    with pytest.raises(ConfigError, match="stride=8: cells wider"):
        build("occupancy_mae", stride=8)
