from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from st_ssl.augment.local_warp import LocalWarp, LocalWarpConfig, sources
from st_ssl.core.random import keyed_rng


def warps(count: int, **settings: Any) -> np.ndarray:
    """[count, most, 4]."""
    warp = LocalWarp(LocalWarpConfig(**settings))
    return np.stack([warp.sample(keyed_rng("warp", i), None, 8)["warp"].reshape(-1, 4) for i in range(count)])


def params(*rows: tuple[float, float, float, float]) -> dict[str, Tensor]:
    return {"warp": torch.tensor([[value for row in rows for value in row]])[None]}


def test_warps_are_those_of_the_paper() -> None:
    found = warps(1500)
    used = found[..., 2] > 0
    assert (np.sort(used, 1)[:, ::-1] == used).all()
    assert np.bincount(used.sum(1), minlength=4)[1:] / 1500 == pytest.approx(1 / 3, abs=0.05)
    assert not found[~used].any()
    pixels = 224 * found[used]
    for column, (low, high) in enumerate([(60, 139), (60, 139), (10, 19), (10, 19)]):
        assert low - 1e-3 < pixels[:, column].min() < low + 0.2 * (high - low)
        assert high - 0.2 * (high - low) < pixels[:, column].max() < high + 1e-3
        assert pixels[:, column].mean() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
    assert np.abs(np.corrcoef(pixels.T) - np.eye(4)).max() < 0.1


def test_sources_by_hand() -> None:
    rows = [(0.3, 0.4, 0.05, 0.08), (0.5, 0.35, 0.07, 0.045), (0.0, 0.0, 0.0, 0.0)]
    found = sources(torch.tensor([rows], dtype=torch.float64), 20)[0]

    def pulled(x: float, y: float, row: tuple[float, ...]) -> tuple[float, float]:
        cx, cy, sx, sy = row
        ratio = np.hypot(x - cx - sx, y - cy - sy) / np.hypot(sx, sy)
        strength = 0.5 / (3 * ratio**4 + 1)
        return x - strength * sx, y - strength * sy

    for i in range(20):
        for j in range(20):
            place = ((j + 0.5) / 20, (i + 0.5) / 20)
            expected = pulled(*pulled(*place, rows[1]), rows[0])  # the second warp takes its colours from the first's
            assert found[i, j].tolist() == pytest.approx(expected, abs=1e-12)


def test_what_is_at_a_centre_moves_by_half_a_shift_and_far_off_nothing_moves() -> None:
    size = 112
    clip = torch.zeros(1, 3, 2, size, size)
    y, x = torch.meshgrid(*[torch.arange(size)] * 2, indexing="ij")
    clip[:] = torch.exp(-((x - 50.0) ** 2 + (y - 55.0) ** 2) / 8)
    shift = 9.5 / size
    # The pixel c + s takes its colour from c + s / 2.
    centre = ((50.5 - 4.75) / size, (55.5 - 4.75) / size)
    warped = LocalWarp(LocalWarpConfig()).apply(clip, params((*centre, shift, shift)))
    peak = divmod(int(warped[0, 0, 0].argmax()), size)
    assert abs(peak[0] - 59.75) <= 1 and abs(peak[1] - 54.75) <= 1
    noise = torch.rand(1, 3, 2, size, size)
    moved = (LocalWarp(LocalWarpConfig()).apply(noise, params((*centre, shift, shift))) - noise).abs().amax((0, 1, 2))
    assert moved[50:65, 45:60].mean() > 0.2
    assert moved[:, 100:].max() < 0.05


def test_all_frames_are_warped_alike_each_sample_by_itself_and_no_warp_changes_nothing() -> None:
    clips = torch.rand(3, 3, 4, 16, 16)
    clips[:, :, 1:] = clips[:, :, :1]
    rows = [(0.4, 0.4, 0.08, 0.08), (0.0,) * 4, (0.6, 0.3, 0.05, 0.08)]
    batch = {"warp": torch.tensor(rows)[:, None]}
    warp = LocalWarp(LocalWarpConfig())
    found = warp.apply(clips, batch)
    assert found.shape == clips.shape
    torch.testing.assert_close(found[:, :, 1:], found[:, :, :1].expand(-1, -1, 3, -1, -1))
    torch.testing.assert_close(found[1], clips[1], atol=1e-5, rtol=0)
    for i in (0, 2):
        alone = warp.apply(clips[i : i + 1], {"warp": batch["warp"][i : i + 1]})
        torch.testing.assert_close(found[i : i + 1], alone)
        assert (found[i] - clips[i]).abs().max() > 0.05
    torch.testing.assert_close(warp.apply(torch.full((1, 3, 1, 8, 8), 0.7), params(rows[0])).min(), torch.tensor(0.7))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"centre": (0.6, 0.3)}, "centre needs 0 <= low <= high <= 1"),
        ({"shift": (0.1, 1.5)}, "shift needs 0 <= low <= high <= 1"),
        ({"shift": (0.0, 0.1)}, "shift must be above 0"),
    ],
)
def test_ranges_are_checked(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        LocalWarpConfig(**settings)
