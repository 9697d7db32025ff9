from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.spatial import ConvexHull, Delaunay, HalfspaceIntersection
from scipy.spatial.transform import Rotation
from torchvision.ops import box_iou
from torchvision.ops import nms as torchvision_nms

from st_ssl.ops.boxes import box_corners, iou_3d, iou_bev, nms, points_in_boxes


def random_boxes(number: int, seed: int, spread: float = 2.0, yaw: bool = True) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(number, 3)) * spread, rng.uniform(0.5, 4, (number, 3)), rng.uniform(-7, 7, (number, 1))]
    return torch.from_numpy(np.hstack(parts if yaw else parts[:2]))


def volume_of_overlap(a: np.ndarray, b: np.ndarray) -> float:
    """What two convex bodies [n, d] share, by the intersection of the half-spaces of their hulls."""
    planes = np.vstack([ConvexHull(a).equations, ConvexHull(b).equations])
    normals, shift = planes[:, :-1], planes[:, -1]
    reach = np.append(np.zeros(normals.shape[1]), -1)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    bounds = [(None, None)] * normals.shape[1] + [(0, None)]
    ball = linprog(reach, A_ub=np.hstack([normals, lengths]), b_ub=-shift, bounds=bounds)  # the largest ball inside
    if ball.status != 0 or ball.x[-1] < 1e-9:
        return 0.0
    return float(ConvexHull(HalfspaceIntersection(planes, ball.x[:-1]).intersections).volume)


def test_corners() -> None:
    boxes = random_boxes(5, 0)
    for box, corners in zip(boxes.numpy(), box_corners(boxes).numpy(), strict=True):
        turn = Rotation.from_euler("z", box[6])
        signs = [[x, y, z] for z in (-1, 1) for x, y in ((1, 1), (-1, 1), (-1, -1), (1, -1))]
        np.testing.assert_allclose(corners, turn.apply(np.array(signs) / 2 * box[3:6]) + box[:3])
    assert torch.autograd.gradcheck(box_corners, (boxes.requires_grad_(),))


def test_points_in_boxes() -> None:
    boxes = random_boxes(6, 1)
    points = torch.from_numpy(np.random.default_rng(2).normal(size=(500, 3)) * 2)
    inside = points_in_boxes(points, boxes)
    for number, corners in enumerate(box_corners(boxes).numpy()):
        expected = Delaunay(corners).find_simplex(points.numpy()) >= 0
        assert 0 < expected.sum() < 500
        np.testing.assert_array_equal(inside[:, number].numpy(), expected)
    assert points_in_boxes(points, boxes[:0]).shape == (500, 0)


def test_the_border_is_inside() -> None:
    box = torch.tensor([[1.0, 2.0, 3.0, 2.0, 4.0, 6.0]])
    assert points_in_boxes(box_corners(box)[0], box).all()


@pytest.mark.parametrize("seed", range(4))
def test_overlap_of_turned_boxes(seed: int) -> None:
    a, b = random_boxes(6, seed), random_boxes(7, seed + 100)
    flat, solid = iou_bev(a, b), iou_3d(a, b)
    assert (flat > 0.01).sum() > 5
    for i, left in enumerate(box_corners(a).numpy()):
        for j, right in enumerate(box_corners(b).numpy()):
            area = volume_of_overlap(left[:4, :2], right[:4, :2])
            union = a[i, 3:5].prod() + b[j, 3:5].prod() - area
            assert flat[i, j].item() == pytest.approx(area / union.item(), abs=1e-9)
            volume = volume_of_overlap(left, right)
            union = a[i, 3:6].prod() + b[j, 3:6].prod() - volume
            assert solid[i, j].item() == pytest.approx(volume / union.item(), abs=1e-9)


def test_overlap_of_boxes_that_are_not_turned() -> None:
    a, b = random_boxes(20, 0, yaw=False), random_boxes(30, 1, yaw=False)
    flat = [torch.cat([x[:, :2] - x[:, 3:5] / 2, x[:, :2] + x[:, 3:5] / 2], 1) for x in (a, b)]
    torch.testing.assert_close(iou_bev(a, b), box_iou(*flat))


@settings(max_examples=60)
@given(st.floats(-7, 7), st.floats(0.1, 50), st.floats(0.1, 50), st.floats(-1e4, 1e4), st.sampled_from([0, 1, 2, 4]))
def test_overlap_with_itself_and_with_what_touches(yaw: float, dx: float, dy: float, at: float, turns: int) -> None:
    """Coincident sides and corners, where clipping goes wrong if it does; a turn by half a circle changes nothing."""
    box = torch.tensor([[at, -at, at, dx, dy, 2.0, yaw]], dtype=torch.float64)
    same = box.clone()
    same[:, 6] += turns * np.pi
    assert iou_bev(box, same).item() == pytest.approx(1, abs=1e-6)
    assert iou_3d(box, same).item() == pytest.approx(1, abs=1e-6)
    for share, expected in ((1.0, 0.0), (0.5, 1 / 3)):  # moved along its own length: beside it, and half over it
        moved = same.clone()
        moved[:, 0] += share * dx * np.cos(yaw)
        moved[:, 1] += share * dx * np.sin(yaw)
        assert iou_bev(box, moved).item() == pytest.approx(expected, abs=1e-6)


def test_overlap_in_single_precision_far_from_the_origin() -> None:
    box = torch.tensor([[4000.0, -3000.0, 0, 4, 2, 2, 0.3]])
    inner = box.clone()
    inner[:, 3:5] /= 2
    assert iou_bev(box, inner).item() == pytest.approx(0.25, abs=1e-6)
    assert iou_bev(box, inner).dtype == torch.float32


def test_boxes_without_size_or_number() -> None:
    flat = torch.tensor([[0.0, 0, 0, 0, 0, 0, 0]])
    assert iou_bev(flat, flat).item() == iou_3d(flat, flat).item() == 0
    assert iou_bev(flat[:0], flat).shape == (0, 1)
    assert nms(flat[:0], torch.empty(0), 0.5).shape == (0,)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.6])
def test_nms_is_that_of_torchvision(threshold: float) -> None:
    boxes = random_boxes(300, 0, yaw=False)
    scores = torch.rand(300, generator=torch.Generator().manual_seed(0)).double()
    corners = torch.cat([boxes[:, :2] - boxes[:, 3:5] / 2, boxes[:, :2] + boxes[:, 3:5] / 2], 1)
    assert nms(boxes, scores, threshold).tolist() == torchvision_nms(corners, scores, threshold).tolist()


def test_nms_in_space_keeps_what_is_above() -> None:
    boxes = torch.tensor([[0.0, 0, 0, 2, 2, 2, 0.1], [0, 0, 5, 2, 2, 2, 0.1], [0, 0, 0.1, 2, 2, 2, 0.1]])
    scores = torch.tensor([0.5, 0.9, 0.5])
    assert nms(boxes, scores, 0.5, "bev").tolist() == [1]
    assert nms(boxes, scores, 0.5, "3d").tolist() == [1, 0]


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"boxes has the shape \[2, 5\]; expected \[N, 6\] or, with a yaw, \[N, 7\]"):
        box_corners(torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"b has a box of size \[1.0, -1.0, 1.0\]"):
        iou_3d(torch.zeros(1, 6), torch.tensor([[0.0, 0, 0, 1, -1, 1]]))
    with pytest.raises(ValueError, match=r"scores \[1\] of 2 boxes"):
        nms(torch.zeros(2, 7), torch.zeros(1), 0.5)
