from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.core.boxes import BoxBatch, Boxes
from st_ssl.core.errors import ConfigError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.types import PointBatch
from st_ssl.encoders.base import ENCODERS, count_parameters
from st_ssl.ops.boxes import iou_3d
from st_ssl.transfer.detection.anchor_head import AnchorConfig, AnchorHead, AnchorHeadConfig, AnchorPredictions
from st_ssl.transfer.detection.centre_head import CentreHead, CentreHeadConfig
from st_ssl.transfer.detection.detector import PRESETS, Detector, DetectorConfig
from st_ssl.transfer.detection.head import Ground, within

STEPS = 90
CLASSES = ("car", "cyclist", "pedestrian")
ANCHORS = {
    "car": AnchorConfig(size=(4.0, 1.8, 1.6), bottom=-1.6, matched=0.5, unmatched=0.3),
    "cyclist": AnchorConfig(size=(1.8, 0.7, 1.7), bottom=-1.6, matched=0.4, unmatched=0.3),
    "pedestrian": AnchorConfig(size=(0.8, 0.7, 1.7), bottom=-1.6, matched=0.4, unmatched=0.3),
}
GROUND = Ground((-12.8, -12.8, -3, 12.8, 12.8, 3.4), (0.8, 0.8))
HEADS: dict[str, Any] = {
    "centre": CentreHeadConfig(velocity=True),
    "grouped": CentreHeadConfig(groups=(("pedestrian", "car"), ("cyclist",)), velocity=True),
    "anchor": AnchorHeadConfig(anchors=ANCHORS),
}


def frame(*rows: tuple[float, ...]) -> Boxes:
    """Boxes of x, y, yaw and a class each."""
    sizes = ((4.2, 1.7, 1.5), (1.8, 0.7, 1.7), (0.7, 0.7, 1.8))
    values = [(x, y, -0.8, *sizes[max(0, int(c))], yaw, 3.0, -1.0) for x, y, yaw, c in rows]
    return Boxes(np.array(values, np.float32).reshape(-1, 9), np.array([row[3] for row in rows], np.int64))


STREET = BoxBatch.of(
    [
        frame((5, 2, 0.3, 0), (-6.1, 3.3, 3.0, 0), (8.3, -7.7, -1.2, 1), (0.1, -0.2, 2.2, 2)),
        frame(),
        frame((-11.2, 11.9, -2.6, 0), (3.9, 3.9, 0.78, 1)),
    ]
)


def head(name: str) -> Any:
    config = HEADS[name]
    if isinstance(config, AnchorHeadConfig):
        return AnchorHead(config, 4, CLASSES, GROUND)
    return CentreHead(config, 4, CLASSES, GROUND)


def perfect(head: CentreHead | AnchorHead, boxes: BoxBatch) -> Any:
    """Predictions that are the targets."""
    if isinstance(head, AnchorHead):
        targets = head.targets(boxes)
        right = targets.labels >= 0
        logits = torch.full((*right.shape, 3), -20.0)
        logits[right] = torch.where(torch.arange(3) == targets.labels[right][:, None], 20.0, -20.0)
        directions = torch.nn.functional.one_hot(targets.directions, 2) * 9.0
        return AnchorPredictions(logits, targets.codes, directions)
    predictions = []
    for target in head.targets(boxes):
        maps = {"hm": torch.where(target.heat == 1, 20.0, -20.0)}
        cloud, y, x = target.cell.T
        start = 0
        for quantity in head.quantities:
            maps[quantity.name] = torch.zeros(len(boxes), quantity.width, 32, 32)
            maps[quantity.name][cloud, :, y, x] = target.codes[:, start : start + quantity.width]
            start += quantity.width
        predictions.append(maps)
    return predictions


@pytest.mark.parametrize("name", HEADS)
def test_targets_are_decoded_to_their_boxes(name: str) -> None:
    net = head(name)
    found = net.decode(perfect(net, STREET))
    assert found.offsets.diff().tolist() == STREET.offsets.diff().tolist()
    for cloud in range(3):
        truth, ours = STREET.boxes(cloud), found.boxes(cloud)
        for box, number in zip(truth.values, truth.classes, strict=True):
            at = np.linalg.norm(ours.values[:, :2] - box[:2], axis=1).argmin()
            assert ours.classes[at] == number
            np.testing.assert_allclose(ours.values[at, :6], box[:6], atol=1e-4)
            assert abs(math.remainder(ours.values[at, 6] - box[6], 2 * math.pi)) < 1e-4
            assert ours.facts["score"][at] > 0.99
            if name == "anchor":
                assert np.isnan(ours.values[at, 7:]).all()
            else:
                np.testing.assert_allclose(ours.values[at, 7:], box[7:], atol=1e-4)


@pytest.mark.parametrize("name", HEADS)
def test_the_loss_of_targets_is_almost_nothing(name: str) -> None:
    net = head(name)
    loss, parts = net.loss(perfect(net, STREET), net.targets(STREET))
    torch.testing.assert_close(loss, torch.stack([*parts.values()]).sum())
    assert 0 <= loss < 1e-3


@pytest.mark.parametrize("name", HEADS)
def test_a_batch_without_boxes_trains_all_weights(name: str) -> None:
    net = head(name)
    empty = BoxBatch.of([frame(), frame()])
    loss, parts = net.loss(net(torch.randn(2, 4, 32, 32)), net.targets(empty))
    loss.backward()
    assert parts["box"] == 0
    assert loss > 0
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


def test_unknown_velocities_are_not_asked_for() -> None:
    net = head("centre")
    boxes = STREET.map(torch.clone)
    boxes.values[0, 7:] = torch.nan
    maps = net(torch.randn(3, 4, 32, 32))
    loss, _ = net.loss(maps, net.targets(boxes))
    known, _ = net.loss(maps, net.targets(STREET))
    assert loss.isfinite() and loss < known
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters() if parameter.grad is not None)


def test_targets_of_a_mirrored_street_are_mirrored() -> None:
    net = head("centre")
    mirror = torch.diag(torch.tensor([1.0, -1.0, 1.0, 1.0])).expand(3, 4, 4)
    (there,), (back,) = net.targets(STREET), net.targets(STREET.moved(mirror))
    torch.testing.assert_close(there.heat.flip(2), back.heat)
    torch.testing.assert_close(there.codes[:, 1], 1 - back.codes[:, 1], rtol=0, atol=1e-4)
    torch.testing.assert_close(there.codes[:, 7], -back.codes[:, 7], rtol=0, atol=1e-4)


def test_boxes_that_nobody_can_learn_from() -> None:
    boxes = BoxBatch.of([frame((5, 2, 0, -1), (14.2, 0, 0, 0), (15.5, 0, 0, 0), (30, 0, 0, 0)), frame((1, 1, 1, 2))])
    boxes.values = torch.cat([boxes.values, boxes.values[-1:]])
    boxes.classes = torch.cat([boxes.classes, boxes.classes[-1:]])
    boxes.offsets = torch.tensor([0, 4, 6])
    boxes.values[5, 4] = 0
    kept = within(boxes, GROUND.range)
    assert kept.offsets.tolist() == [0, 1, 2]
    assert kept.values[:, 0].tolist() == pytest.approx([14.2, 1])


def sweep() -> tuple[PointBatch, BoxBatch]:
    """Points on the sides of the boxes of two clouds, and on the ground."""
    generator = torch.Generator().manual_seed(0)
    boxes = BoxBatch.of([STREET.boxes(0), STREET.boxes(2)])
    parts, counts = [], [0, 0]
    for box, cloud in zip(boxes.values, boxes.cloud.tolist(), strict=True):
        local = (torch.rand(150, 3, generator=generator) - 0.5) * box[3:6]
        local[:, 0] = torch.where(local[:, 0] > 0, box[3] / 2, local[:, 0])
        cos, sin = box[6].cos(), box[6].sin()
        turned = torch.stack([local[:, 0] * cos - local[:, 1] * sin, local[:, 0] * sin + local[:, 1] * cos], 1)
        parts.append(torch.cat([turned, local[:, 2:]], 1) + box[:3])
        counts[cloud] += 150
    offsets = torch.tensor([0, counts[0], sum(counts)])
    return PointBatch(torch.cat(parts), offsets), boxes


def small_encoder(name: str = "second") -> Any:
    changes: dict[str, Any] = {"range": GROUND.range, "voxel": (0.2, 0.2, 0.2), "widths": (8, 12, 16), "out": 16}
    if name == "pillars":
        changes = {"range": GROUND.range, "pillar": (0.4, 0.4), "widths": (16,)}
    torch.manual_seed(0)
    config = ENCODERS.config(name).model_validate({"name": name, **changes})
    return ENCODERS.build(config, PointInputConfig(num_points=None, unit_sphere=False))


@pytest.mark.parametrize(
    ("encoder", "config"),
    [
        ("second", {"bev": {"layers": (1,), "widths": (24,)}, "head": {"name": "centre", "width": 16}}),
        ("pillars", {"bev": {"layers": (1,), "widths": (24,), "strides": (2,)}, "head": {"name": "centre"}}),
        ("second", {"bev": {"layers": (1,), "widths": (24,)}, "head": {"name": "anchor", "anchors": ANCHORS}}),
    ],
)
def test_it_learns_two_sweeps_by_heart(encoder: str, config: dict[str, Any]) -> None:
    points, boxes = sweep()
    network = small_encoder(encoder)
    net = Detector(network, DetectorConfig.model_validate(config), CLASSES)
    both = torch.nn.ModuleList([network, net])
    optimiser = torch.optim.AdamW(both.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.01, total_steps=STEPS)
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss, _ = net.loss(net(network.volume(points)), boxes)
        loss.backward()
        optimiser.step()
        schedule.step()
    both.eval()
    found = net.decode(net(network.volume(points)))
    for cloud in range(2):
        truth, ours = boxes.boxes(cloud), found.boxes(cloud)
        overlap = iou_3d(torch.from_numpy(truth.values[:, :7]), torch.from_numpy(ours.values[:, :7]))
        same = torch.from_numpy(truth.classes[:, None] == ours.classes)
        assert (overlap * same).amax(1).min() > 0.7
        assert (np.sort(ours.facts["score"])[-len(truth) :] > 0.3).all()


@pytest.mark.parametrize("name", HEADS)
def test_predictions_are_packed_and_unpacked(name: str) -> None:
    of = head(name)
    made = perfect(of, STREET)
    again = of.unpack(of.pack(made))
    if isinstance(made, list):
        for maps, same in zip(made, again, strict=True):
            assert all(torch.equal(maps[key], same[key]) for key in maps)
    else:
        assert all(torch.equal(a, b) for a, b in zip(made, again, strict=True))


def test_an_encoder_without_a_volume() -> None:
    encoder = ENCODERS.build(ENCODERS.config("dgcnn")(), PointInputConfig())
    with pytest.raises(ConfigError, match=r"'dgcnn' gives no volume to detect in: .*'pillars', 'second'"):
        Detector(encoder, PRESETS["small"], CLASSES)


def test_cells_that_do_not_fill_the_range() -> None:
    config = ENCODERS.config("second").model_validate({"range": (0, 0, -3, 50.2, 40, 1), "voxel": (0.1, 0.1, 0.1)})
    with pytest.raises(ConfigError, match=r"0 to 50.2 along x is 62.75 cells of the detector's map"):
        Detector(ENCODERS.build(config, PointInputConfig()), PRESETS["second"], ("Car",))


def test_groups_and_anchors_of_other_classes() -> None:
    with pytest.raises(ConfigError, match="'bus', which is no class"):
        CentreHead(CentreHeadConfig(groups=(CLASSES, ("bus",))), 4, CLASSES, GROUND)
    with pytest.raises(ConfigError, match=r"expected each of .* once"):
        CentreHead(CentreHeadConfig(groups=(CLASSES[:2],)), 4, CLASSES, GROUND)
    with pytest.raises(ConfigError, match="none of class 'bus'"):
        AnchorHead(AnchorHeadConfig(), 4, ("bus",), GROUND)
    assert len(AnchorHead(AnchorHeadConfig(), 4, ("Car", "cyclist"), GROUND).classes) == 2, "however they are written"


def test_published_sizes() -> None:
    """Of OpenPCDet's SECOND and CenterPoint for KITTI, millions of parameters by part."""
    input = PointInputConfig(attributes=("intensity",))
    encoder = ENCODERS.build(ENCODERS.config("second")(), input)
    net = Detector(encoder, PRESETS["second"], ("Car", "Pedestrian", "Cyclist"))
    sizes = [count_parameters(part) / 1e6 for part in (encoder, net.bev, net.head)]
    assert [round(size, 2) for size in sizes] == [0.71, 4.58, 0.04]
    assert isinstance(net.head, AnchorHead)
    assert len(net.head.anchors) == 176 * 200 * 6
