from __future__ import annotations

import numpy as np
import torch

from st_ssl.augment.object_moving import MoveObjects, MoveObjectsConfig
from st_ssl.augment.object_pasting import points_inside
from st_ssl.core.boxes import Boxes
from st_ssl.core.types import PointCloud
from st_ssl.ops.boxes import iou_bev
from tests.augment.test_object_pasting import sweep

STREET = sweep([(0, -12, 0), (0, -6, 1), (0, 0, 0), (1, 6, 2), (1, 7.5, 2)], seed=4)


def moved(seed: int, cloud: PointCloud = STREET, **settings: object) -> PointCloud:
    move = MoveObjects(MoveObjectsConfig.model_validate(settings))
    params = move.sample(np.random.default_rng(seed))
    (found,) = move.cut([cloud], params)
    (again,) = move.cut([cloud], params)
    np.testing.assert_array_equal(found.xyz, again.xyz)
    return found


def boxes_of(cloud: PointCloud) -> Boxes:
    assert cloud.boxes is not None
    return cloud.boxes


def test_points_stay_where_they_are_in_their_box() -> None:
    """The objects' own points have the same places in the axes of the box before and after; the ground stays."""
    for seed in range(10):
        found = moved(seed)
        old, new = boxes_of(STREET).values.astype(np.float64), boxes_of(found).values.astype(np.float64)
        assert (np.abs(new[:, :3] - old[:, :3]).max(1) > 1e-3).all()
        np.testing.assert_array_equal(new[:, 3:6], old[:, 3:6])
        for number in range(len(old)):
            own = slice(500 + 20 * number, 520 + 20 * number)
            places = []
            for cloud, box in ((STREET, old[number]), (found, new[number])):
                cos, sin = np.cos(box[6]), np.sin(box[6])
                away = cloud.xyz[own] - box[:3]
                places.append(away @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]))
            np.testing.assert_allclose(places[0], places[1], atol=1e-5)
            assert points_inside(found.xyz[own], new[[number]]).all()
        ground = ~points_inside(STREET.xyz, old).any(1)
        np.testing.assert_array_equal(found.xyz[ground], STREET.xyz[ground])


def test_no_two_objects_come_to_overlap() -> None:
    for seed in range(20):
        values = torch.from_numpy(boxes_of(moved(seed, shift=(3, 3, 0))).values[:, :7]).double()
        assert iou_bev(values, values).fill_diagonal_(0).max() == 0


def test_velocities_turn_with_their_objects() -> None:
    found = boxes_of(moved(1, shift=(0, 0, 0)))
    for old, new in zip(boxes_of(STREET).values, found.values, strict=True):
        turned = np.arctan2(new[8], new[7]) - np.arctan2(old[8], old[7])
        np.testing.assert_allclose(np.cos(turned), np.cos(new[6] - old[6]), atol=1e-5)
        np.testing.assert_allclose(np.sin(turned), np.sin(new[6] - old[6]), atol=1e-5)


def test_what_cannot_be_moved_is_left() -> None:
    """One without room stays; so does a box that is nowhere, and a sweep without boxes."""
    crowd = sweep([(0, 0, 0), (0, 0, 2.2)], seed=2)
    values = boxes_of(crowd).values
    values[:, 6] = 0
    crowd.boxes = boxes_of(crowd).joined(Boxes(np.full((1, 9), np.nan, np.float32), np.array([-1])))
    assert np.isnan(boxes_of(moved(0, crowd)).values[2]).all()
    tried = [boxes_of(moved(seed, crowd, shift=(0, 0.01, 0), tries=1)).values[:2] for seed in range(9)]
    assert any((found == values[:2]).all(1).any() for found in tried)
    bare = PointCloud(crowd.xyz)
    assert moved(0, bare) is bare
