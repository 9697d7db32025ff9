"""Ours and OpenPCDet's must give the same numbers: a convention that is wrong in targets and in decoding alike is right
by every other test. ``ask_openpcdet.py`` asked it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from st_ssl.core.boxes import BoxBatch, Boxes
from st_ssl.core.inputs import PointInputConfig
from st_ssl.encoders.second import Second, SecondConfig
from st_ssl.ops.volumes import Voxels
from st_ssl.parts.bev_network import BevNetwork, BevNetworkConfig
from st_ssl.transfer.detection.anchor_head import IGNORED, AnchorHead, AnchorHeadConfig, AnchorPredictions
from st_ssl.transfer.detection.centre_head import CentreHead, CentreHeadConfig
from st_ssl.transfer.detection.head import Ground
from tests.transfer.detection import made

THEIRS = dict(np.load(Path(__file__).with_name("openpcdet.npz")))
GROUND = Ground(made.RANGE, (made.VOXEL[0] * made.STRIDE, made.VOXEL[1] * made.STRIDE))
CLOSE = 1e-5


def assert_same(name: str, at: int, ours: Tensor | np.ndarray) -> None:
    """``ours`` has the numbers that OpenPCDet's had: their weighted sums differ by no more than ``CLOSE`` of their
    length."""
    theirs = THEIRS[name][at]
    found = made.seen_as(ours.detach().numpy() if isinstance(ours, Tensor) else ours)
    assert found[4] == theirs[4], f"{name} {at}: {found[4]:g} numbers are not 0, {theirs[4]:g} of theirs"
    np.testing.assert_allclose(found[:4], theirs[:4], rtol=CLOSE, atol=CLOSE * theirs[3] ** 0.5 + 1e-9)


def batch(first: int) -> BoxBatch:
    return BoxBatch.of([Boxes(*made.made_boxes(first + number)) for number in range(made.BATCH)])


def leaf(*args: Any) -> Tensor:
    return torch.from_numpy(made.made_map(*args)).requires_grad_()


def assert_same_boxes(name: str, first: int, found: BoxBatch) -> None:
    for number in range(made.BATCH):
        boxes = found.boxes(number)
        frame, yaw = first + number, boxes.values[:, 6]
        assert len(boxes) == THEIRS[f"{name}.number"][frame]
        assert_same(f"{name}.found", frame, boxes.values[:, :6])
        assert_same(f"{name}.turns", frame, np.stack([np.cos(yaw), np.sin(yaw)]))
        assert_same(f"{name}.scores", frame, boxes.facts["score"])
        assert_same(f"{name}.labels", frame, boxes.classes + (name != "anchor"))


def centre_head(name: str) -> CentreHead:
    two = name == "two"
    config = CentreHeadConfig(
        groups=made.GROUPS[name],
        width=6,
        velocity=two,
        box_weight=0.25 if two else 2.0,
        turn_weight=0.2 if two else 1.0,
        velocity_weight=0.7,
        candidates=60,
        most=20,
    )
    return CentreHead(config, 5, made.CLASSES, GROUND)


@pytest.mark.parametrize("name", ["one", "two"])
def test_centre_head(name: str) -> None:
    head = centre_head(name)
    names = [quantity.name for quantity in head.quantities]
    groups = len(head.groups)
    for number, first in enumerate(range(0, made.FRAMES, made.BATCH)):
        boxes = batch(first)
        targets = head.targets(boxes)
        for group, target in enumerate(targets):
            assert_same(f"{name}.heat", groups * number + group, target.heat)
            assert_same(f"{name}.cells", groups * number + group, target.cell)
            assert_same(f"{name}.codes", groups * number + group, target.codes)
        maps = []
        for group, classes in enumerate(head.groups):
            seed = 7 * first + 1000 * group
            drawn = {quantity.name: leaf(quantity.width, seed + n) for n, quantity in enumerate(head.quantities)}
            maps.append(drawn | {"hm": leaf(len(classes), seed + 9, -4.0, 1.0)})
        loss, parts = head.loss(maps, targets)
        ours = [loss.item(), parts["heat"].item(), parts["box"].item()]
        np.testing.assert_allclose(ours, THEIRS[f"{name}.losses"][number], rtol=CLOSE)
        gradients = torch.autograd.grad(loss, [group[key] for group in maps for key in (*names, "hm")])
        assert_same(f"{name}.gradients", number, torch.cat([gradient.flatten() for gradient in gradients]))
        assert_same_boxes(name, first, head.decode(maps))


def test_anchor_head() -> None:
    head = AnchorHead(AnchorHeadConfig(candidates=300, most=100), 5, made.CLASSES, GROUND)
    for number, first in enumerate(range(0, made.FRAMES, made.BATCH)):
        targets = head.targets(batch(first))
        labels = torch.where(targets.labels == IGNORED, -1, targets.labels + 1)
        assert_same("anchor.box_cls_labels", number, labels)
        assert_same("anchor.box_reg_targets", number, targets.codes)
        maps = [leaf(18, 7 * first, -4.0, 1.0), leaf(42, 7 * first + 1, 0.0, 0.2), leaf(12, 7 * first + 2)]
        shaped = (x.permute(0, 2, 3, 1).reshape(made.BATCH, len(head.anchors), -1) for x in maps)
        predictions = AnchorPredictions(*shaped)
        loss, parts = head.loss(predictions, targets)
        ours = [loss.item(), *(parts[key].item() for key in ("class", "box", "direction"))]
        np.testing.assert_allclose(ours, THEIRS["anchor.losses"][number], rtol=CLOSE, atol=1e-7)
        gradients = torch.autograd.grad(loss, maps)
        assert_same("anchor.gradients", number, torch.cat([gradient.flatten() for gradient in gradients]))
        assert_same_boxes("anchor", first, head.decode(predictions))


def filled(name: str, network: nn.Module) -> nn.Module:
    """The network with the made weights, in evaluation; it has the names and shapes of OpenPCDet's."""
    shapes = [(key, tuple(value.shape)) for key, value in network.state_dict().items()]
    assert [f"{key} {' '.join(map(str, shape))}" for key, shape in sorted(shapes)] == THEIRS[f"{name}.weights"].tolist()
    network.load_state_dict({key: torch.from_numpy(value) for key, value in made.made_weights(shapes).items()})
    return network.eval()


@torch.no_grad()
def test_networks_seen_from_above() -> None:
    x = torch.from_numpy(made.made_map(5, 3))
    config = BevNetworkConfig(layers=(2, 1), strides=(1, 2), widths=(6, 8), up_strides=(1, 2), up_widths=(4, 7))
    assert_same("bev.answer", 0, filled("bev", BevNetwork(config, 5))(x))
    for name in ("one", "two"):
        maps = filled(name, centre_head(name))(x)
        assert_same(f"{name}.answer", 0, torch.cat([group[key].flatten() for group in maps for key in sorted(group)]))
    head = filled("anchor", AnchorHead(AnchorHeadConfig(), 5, made.CLASSES, GROUND))
    assert_same("anchor.answer", 0, torch.cat([part.flatten() for part in head(x)]))


@torch.no_grad()
@pytest.mark.parametrize("name", ["plain", "residual"])
def test_sparse_backbones(name: str) -> None:
    widths = (16, 32, 64, 128) if name == "residual" else (16, 32, 64, 64)
    config = SecondConfig(
        range=(0, 0, 0, 64, 96, 40), voxel=(1, 1, 1), widths=widths, residual=name == "residual", backend="torch"
    )
    encoder = filled(name, Second(config, PointInputConfig(attributes=("intensity",))))
    assert isinstance(encoder, Second)
    coordinates, features = (torch.from_numpy(part) for part in made.made_voxels())
    counts = torch.ones(len(features), dtype=torch.int64)
    voxels = Voxels(features, coordinates.long(), counts, counts, made.BATCH)
    assert_same(f"{name}.answer", 0, encoder.volume_of(voxels).values)
