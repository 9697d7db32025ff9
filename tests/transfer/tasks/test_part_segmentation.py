"""Part segmentation by the protocol of ShapeNetPart: the category is known, and only its own parts are chosen among."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from st_ssl.core.types import Entry, PointBatch, View
from st_ssl.encoders.base import random_encoder
from st_ssl.transfer.tasks.ballot import Shown
from st_ssl.transfer.tasks.part_segmentation import PartConfig, PartHead, PartMeter
from tests.transfer.clouds import INPUT, TinyEncoderConfig, tiny_registered

__all__ = ["tiny_registered"]


def shape(category: str) -> Entry:
    return Entry(category, "test", {"kind": category})


def test_figures_by_hand() -> None:
    """A lamp has the parts 0, 1 and 2, a mug 3 and 4. What scores best at first is another category's in every row."""
    meter = PartMeter({"lamp": (0, 1, 2), "mug": (3, 4)}, "kind")
    wanted = np.array([0, 0, 1, 1, 3, 3, 4, 3, 0, 0])  # the best of the own parts
    scores = np.eye(5)[wanted] + 9 * np.eye(5)[np.where(wanted < 3, 4, 0)]
    truth = np.array([0, 0, 0, 1, 3, 3, 4, 4, 2, -1])
    sample = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    meter.add(scores, truth, sample, [shape("lamp"), shape("mug"), shape("lamp")])
    meter.add(np.eye(5)[:2], np.array([-1, -1]), np.zeros(2, dtype=int), [shape("mug")])  # has no say
    first = (2 / 3 + 1 / 2 + 1) / 3  # part 2 is neither there nor found: 1
    mug = (2 / 3 + 1 / 2) / 2
    second = (0 + 1 + 0) / 3  # a single labelled point: part 2, taken for 0; part 1 is neither there nor found
    assert meter.result() == {
        "instance_mIoU": pytest.approx(100 * (first + mug + second) / 3),
        "class_mIoU": pytest.approx(100 * ((first + second) / 2 + mug) / 2),
    }


def test_scores_depend_on_the_category() -> None:
    encoder = random_encoder(TinyEncoderConfig(), INPUT, 0)
    config = PartConfig(hidden=(), dropout=0.0)
    torch.manual_seed(0)
    head = PartHead(encoder, config, {"lamp": 0, "mug": 1}, "kind", 5).eval()
    xyz = torch.randn(6, 3).repeat(2, 1)
    points = PointBatch(xyz, torch.tensor([0, 6, 12]))
    view = View(points, torch.zeros(2, 1, dtype=torch.int64))
    with torch.no_grad():
        features = encoder(points)
        both = head(features, Shown(view, [shape("lamp"), shape("mug")]))
        turned = head(features, Shown(view, [shape("mug"), shape("lamp")]))
    assert (both[:6] - both[6:]).abs().min() > 1e-4  # the same points, as a lamp and as a mug
    torch.testing.assert_close(both[:6], turned[6:])
    torch.testing.assert_close(both[6:], turned[:6])
