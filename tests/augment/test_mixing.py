"""Mixup and cutmix of clips."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import beta, kstest
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torchvision.transforms import v2

from st_ssl.augment.mixing import MixConfig, mix, mixed_targets
from st_ssl.core.random import keyed_rng

MIXUP: dict[str, Any] = {"cutmix_alpha": 0}
CUTMIX: dict[str, Any] = {"mixup_alpha": 0}


def clips(batch: int = 4, size: int = 16, frames: int = 3) -> Tensor:
    return torch.randn(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(0))


def flat(batch: int, size: int = 16) -> Tensor:
    """Clip i is i everywhere."""
    return torch.arange(float(batch))[:, None, None, None, None].expand(batch, 3, 2, size, size).contiguous()


@pytest.mark.parametrize("mode", ["batch", "elem"])
def test_mixup_is_its_formula_and_that_of_torchvision(mode: Any) -> None:
    given = clips()
    before = given.clone()
    mixed, partner, weight = mix(given, MixConfig(**MIXUP, mode=mode), keyed_rng(3))
    assert torch.equal(given, before)
    assert partner.tolist() == [3, 0, 1, 2]
    assert weight.dtype == torch.float32 and 0 < float(weight.min()) <= float(weight.max()) < 1
    for i in range(4):
        torch.testing.assert_close(mixed[i], weight[i] * given[i] + (1 - weight[i]) * given[partner[i]])
    assert (len(set(weight.tolist())) == 1) == (mode == "batch")
    if mode == "batch":
        theirs = v2.MixUp(num_classes=5)
        drawn: dict[str, Any] = {"labels": torch.tensor([0, 1, 2, 3]), "batch_size": 4, "lam": float(weight[0])}
        torch.testing.assert_close(mixed.flatten(1, 2), theirs.transform(given.flatten(1, 2), drawn))
        labels = theirs._mixup_label(drawn["labels"], lam=drawn["lam"])
        torch.testing.assert_close(mixed_targets(drawn["labels"], partner, weight, 5), labels)


@pytest.mark.parametrize("mode", ["batch", "elem"])
def test_cutmix_takes_one_box_of_all_frames_and_weighs_by_its_area(mode: Any) -> None:
    for key in range(20):
        mixed, partner, weight = mix(flat(5), MixConfig(**CUTMIX, mode=mode), keyed_rng(key))
        inside = mixed != flat(5)
        for i in range(5):
            own = inside[i, 0, 0]
            assert torch.equal(inside[i], own.expand_as(inside[i]))
            assert (mixed[i][inside[i]] == partner[i]).all()
            rows, columns = own.any(1).nonzero(), own.any(0).nonzero()
            if len(rows):  # a box
                assert own[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
            assert float(weight[i]) == pytest.approx(1 - float(own.float().mean()))
        boxes = {tuple(inside[i, 0, 0].flatten().tolist()) for i in range(5)}
        assert mode == "elem" or len(boxes) == 1


def test_a_cutmix_is_that_of_torchvision() -> None:
    given = clips(size=20).flatten(1, 2)
    found = False
    for key in range(10):
        mixed, partner, weight = mix(clips(size=20), MixConfig(**CUTMIX), keyed_rng(key))
        changed = (mixed != clips(size=20))[0, 0, 0]
        if not changed.any():
            continue
        rows, columns = changed.any(1).nonzero().flatten(), changed.any(0).nonzero().flatten()
        box = tuple(int(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        theirs = v2.CutMix(num_classes=5)
        drawn: dict[str, Any] = {
            "labels": torch.tensor([4, 1, 2, 3]),
            "batch_size": 4,
            "box": box,
            "lam_adjusted": float(weight[0]),
        }
        assert torch.equal(mixed.flatten(1, 2), theirs.transform(given, drawn))
        labels = theirs._mixup_label(drawn["labels"], lam=drawn["lam_adjusted"])
        torch.testing.assert_close(mixed_targets(drawn["labels"], partner, weight, 5), labels)
        found = True
    assert found


def weights(size: int, **settings: Any) -> np.ndarray:
    """Of 1000 draws."""
    blank = torch.zeros(1000, 1, 1, size, size)
    return mix(blank, MixConfig(**settings, mode="elem"), keyed_rng("weights"))[2].numpy()


def test_shares_follow_the_beta_distribution() -> None:
    assert kstest(weights(1, **MIXUP), beta(0.8, 0.8).cdf).pvalue > 1e-4
    assert kstest(weights(1, mixup_alpha=0.2, cutmix_alpha=0), beta(0.8, 0.8).cdf).pvalue < 1e-4


def test_boxes_are_of_the_share_that_was_drawn_where_they_are_inside() -> None:
    """Of a box of side s (in sides of the frame) about a uniform centre, s - s² / 4 is inside on average."""
    found = weights(32, cutmix_alpha=1e6, mixup_alpha=0)  # always a share of 1/2, a side of 0.707
    side = np.sqrt(0.5)
    assert found.min() == pytest.approx(0.5, abs=0.05)
    assert 1 - found.mean() == pytest.approx((side - side**2 / 4) ** 2, abs=0.03)


def test_how_often_and_which() -> None:
    config = MixConfig(probability=0.6, switch_probability=0.25, mode="elem")
    mixed, _, weight = mix(flat(2000), config, keyed_rng(0))
    smooth = (mixed % 1 > 0).flatten(1).any(1)  # cutmix leaves whole numbers
    assert abs(float(smooth.float().mean()) - 0.45) < 0.045
    cut = (mixed != flat(2000)).flatten(1).any(1) & ~smooth
    assert 0.1 < float(cut.float().mean()) < 0.15 + 0.032  # of some boxes nothing is left
    assert (weight[~cut & ~smooth] > 0.999).all()


def test_a_function_of_the_key() -> None:
    one, again, other = (mix(clips(), MixConfig(), keyed_rng(key))[0] for key in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_a_single_clip_stays_what_it_is() -> None:
    given = clips(1)
    torch.testing.assert_close(mix(given, MixConfig(), keyed_rng(0))[0], given)


# --- targets -------------------------------------------------------------------------------------------------------


def test_targets_of_several_classes() -> None:
    targets = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    found = mixed_targets(targets, torch.tensor([1, 0]), torch.tensor([0.75, 0.25]), 3)
    torch.testing.assert_close(found, torch.tensor([[0.75, 0.25, 0.75], [0.75, 0.25, 0.75]]))


@pytest.mark.parametrize("several", [False, True])
def test_unlabelled_clips_spoil_those_they_are_in(several: bool) -> None:
    targets = torch.tensor([0, -1, 2, 1])
    if several:
        targets = torch.where(targets[:, None] < 0, -1.0, one_hot(targets.clamp_min(0), 3).float())
    partner = torch.tensor([1, 2, 1, 0])
    found = mixed_targets(targets, partner, torch.tensor([0.5, 0.5, 1.0, 0.5]), 3)
    assert found.tolist() == [[-1] * 3, [-1] * 3, [0, 0, 1], [0.5, 0.5, 0]]


def test_label_smoothing_in_the_loss_is_that_of_the_mixed_targets() -> None:
    scores = clips(1, 4, 1).flatten()[:20].view(4, 5)
    targets, partner, weight = torch.tensor([0, 3, 2, 4]), torch.tensor([3, 0, 1, 2]), torch.full((4,), 0.3)
    smooth = 0.9 * one_hot(targets, 5) + 0.1 / 5
    by_hand = -(scores.log_softmax(1) * (0.3 * smooth + 0.7 * smooth[partner])).sum(1).mean()
    found = cross_entropy(scores, mixed_targets(targets, partner, weight, 5), label_smoothing=0.1)
    torch.testing.assert_close(found, by_hand)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"mixup_alpha": 0, "cutmix_alpha": 0}, "leave mix out"),
        ({"mixup_alpha": -1}, "greater than or equal to 0"),
        ({"mode": "pairs"}, "'batch' or 'elem'"),
    ],
)
def test_bad_settings_are_refused_with_the_reason(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MixConfig(**bad)
