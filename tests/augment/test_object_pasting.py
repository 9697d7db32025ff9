from __future__ import annotations

import numpy as np
import torch

from st_ssl.augment.object_pasting import PasteObjects, gather_objects
from st_ssl.core.boxes import Boxes
from st_ssl.core.types import PointCloud
from st_ssl.ops.boxes import iou_bev, points_in_boxes

SIZES = {0: (4.0, 2.0, 1.5), 1: (0.7, 0.7, 1.7)}


def sweep(places: list[tuple[int, float, float]], seed: int = 0, points: int = 20) -> PointCloud:
    """A ground of points with objects (class, x, y) on it, each of so many points, whose intensity is their seed."""
    rng = np.random.default_rng(seed)
    ground = np.column_stack([rng.uniform(-20, 20, (500, 2)), np.zeros(500)])
    clouds, rows = [ground], []
    for kind, x, y in places:
        size = np.array(SIZES[kind])
        centre, yaw = np.array([x, y, 0.1 + size[2] / 2]), rng.uniform(-3, 3)
        own = rng.uniform(-0.49, 0.49, (points, 3)) * size
        turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        clouds.append(own @ turn.T + centre)
        rows.append([*centre, *size, yaw, 1.0, 0.0])
    xyz = np.concatenate(clouds).astype(np.float32)
    attributes = {"intensity": np.full((len(xyz), 1), seed, np.float32)}
    values = np.array(rows, np.float32).reshape(-1, 9)
    boxes = Boxes(values, np.array([kind for kind, _, _ in places], np.int64), {"track": np.arange(len(places))})
    return PointCloud(xyz, attributes, {"segment": np.zeros(len(xyz), np.int64)}, boxes=boxes)


def test_objects_have_their_points_and_boxes() -> None:
    first, few = sweep([(0, 5, 5), (1, -5, 5)], 1), sweep([(0, 5, 5)], 2, points=4)
    few.boxes = few.boxes and few.boxes.joined(Boxes(np.full((1, 9), np.nan, np.float32), np.array([-1])))
    bank = gather_objects([first, few, PointCloud(first.xyz)], 5)
    assert {kind: len(own) for kind, own in bank.items()} == {0: 1, 1: 1}, "4 points are too few"
    (car,) = bank[0]
    np.testing.assert_array_equal(car.xyz, first.xyz[500:520])
    assert car.boxes is not None and car.boxes.values[0].tolist() == first.boxes.values[0].tolist()  # type: ignore[union-attr]


def test_pasted_objects_collide_with_nothing() -> None:
    rng = np.random.default_rng(3)
    spots = [(kind, *rng.uniform(-18, 18, 2)) for kind in (0, 1) for _ in range(12)]
    bank = gather_objects([sweep([spot], 10 + number) for number, spot in enumerate(spots)], 5)
    scene = sweep([(0, 0, 0), (1, 8, 8)], 1)
    paste = PasteObjects(bank, {0: 8, 1: 5})
    counts = []
    for draw in range(20):
        params = paste.sample(np.random.default_rng(draw))
        (found,) = paste.cut([scene], params)
        (again,) = paste.cut([scene], params)
        np.testing.assert_array_equal(found.xyz, again.xyz)
        boxes = found.boxes
        assert boxes is not None and scene.boxes is not None
        counts.append(np.bincount(boxes.classes))
        assert counts[-1][0] <= 8 and counts[-1][1] <= 5, "no more than there may be, with those that were there"
        np.testing.assert_array_equal(boxes.values[-2:], scene.boxes.values)
        overlap = iou_bev(*(torch.from_numpy(boxes.values[:, :7].astype(np.float64)),) * 2).numpy()
        assert (overlap[~np.eye(len(boxes), dtype=bool)] == 0).all()
        # Points within a pasted box are its own, all of them; others are as they were.
        inside = points_in_boxes(torch.from_numpy(found.xyz), torch.from_numpy(boxes.values[:, :7])).numpy()
        new = len(boxes) - 2
        assert (inside[:, :new].sum(0) == 20).all()
        assert (found.attributes["intensity"][inside[:, :new].any(1)] >= 10).all()
        rest = found.attributes["intensity"][:, 0] == 1
        assert rest.sum() == len(found) - 20 * new and found.labels["segment"].shape == (len(found),)
    assert np.mean(counts, 0)[0] > 4 and np.mean(counts, 0)[1] > 4


def test_where_enough_is_there_or_nobody_has_looked_nothing_is_pasted() -> None:
    bank = gather_objects([sweep([(0, 5, 5)], 2)], 5)
    scene = sweep([(0, -5, -5)], 1)
    rng = np.random.default_rng(0)
    assert PasteObjects(bank, {0: 1}).pasted(scene, rng) is scene
    assert PasteObjects(bank, {1: 3}).pasted(scene, rng) is scene, "the bank has none"
    unseen = PointCloud(scene.xyz)
    assert PasteObjects(bank, {0: 3}).pasted(unseen, rng) is unseen
    found = PasteObjects(bank, {0: 3}).pasted(scene, rng)
    assert found.boxes is not None and len(found.boxes) == 2
