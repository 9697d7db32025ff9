from __future__ import annotations

import numpy as np
import pytest
import torch

from st_ssl.augment.points import PointAugment, PointAugmentConfig
from st_ssl.core.boxes import BoxBatch, Boxes
from st_ssl.core.types import PointBatch, PointCloud
from st_ssl.data.views import packed
from st_ssl.ops.boxes import box_corners, points_in_boxes


def made(count: int, seed: int = 0) -> Boxes:
    rng = np.random.default_rng(seed)
    values = rng.uniform(-3, 3, (count, 9)).astype(np.float32)
    values[:, 3:6] = rng.uniform(1, 4, (count, 3))
    return Boxes(values, rng.integers(-1, 3, count), {"track": np.arange(count)})


def cloud(boxes: Boxes | None, seed: int = 0) -> PointCloud:
    xyz = np.random.default_rng(seed).uniform(-6, 6, (500, 3)).astype(np.float32)
    return PointCloud(xyz, pose=np.eye(4), boxes=boxes)


def test_parts_joined_are_the_whole() -> None:
    batch = packed([cloud(made(2)), cloud(Boxes.none()), cloud(made(3, 1))])
    assert batch.boxes is not None and batch.boxes.cloud.tolist() == [0, 0, 2, 2, 2]
    parts = [batch.part(0, 1), batch.part(1, 3)]
    again = parts[0].joined(parts[1:]).boxes
    assert again is not None and torch.equal(again.values, batch.boxes.values)
    assert again.offsets.tolist() == [0, 2, 2, 5]
    assert again.boxes(2).values.tolist() == made(3, 1).values.tolist()
    assert again.facts == {}  # the cloud without objects knows no tracks


def test_facts_that_all_clouds_have_are_kept() -> None:
    batch = BoxBatch.of([made(2), made(1)])
    assert batch.facts["track"].tolist() == [0, 1, 0]
    assert batch.boxes(1).facts["track"].tolist() == [0]


def test_a_cloud_that_nobody_labelled_makes_a_batch_without_boxes() -> None:
    assert packed([cloud(made(2)), cloud(None)]).boxes is None


@pytest.mark.parametrize("flip", [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, 0.0)])
def test_boxes_and_velocities_move_with_their_points(flip: tuple[float, float, float]) -> None:
    config = PointAugmentConfig(rotation="z", scale=(0.8, 1.2), translation=0.5, flip=flip)
    augment = PointAugment(config, None, unit_sphere=False, centre=False)
    params = augment.sample(np.random.default_rng(3))
    before = packed([augment.choose(cloud(made(3)), params), augment.choose(cloud(made(2, 1), 1), params)])
    after = augment.apply(
        before, {name: torch.from_numpy(value)[None].repeat_interleave(2, 0) for name, value in params.items()}
    )
    assert before.boxes is not None and after.boxes is not None
    for number in range(2):
        (old, new), (was, now) = (
            [b.part(number, number + 1) for b in pair] for pair in ((before, after), (before, after))
        )
        assert old.boxes is not None and new.boxes is not None
        inside = points_in_boxes(was.xyz.double(), old.boxes.values[:, :7].double())
        assert inside.any()
        assert torch.equal(inside, points_in_boxes(now.xyz.double(), new.boxes.values[:, :7].double()))
        # A box that has gone on for a second has gone on along its moved velocity.
        later = old.boxes.values.clone()
        later[:, :2] += later[:, 7:9]
        moved = BoxBatch(later, old.boxes.classes, old.boxes.offsets).moved(torch.from_numpy(params["affine"])[None])
        torch.testing.assert_close(moved.values[:, :2], new.boxes.values[:, :2] + new.boxes.values[:, 7:9])


def test_corners_move_as_points_do() -> None:
    angle, factor = 0.7, 1.3
    matrix = np.eye(4)
    matrix[:2, :2] = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix[2, 2], matrix[:3, 3] = factor, (1, -2, 0.5)
    boxes = made(4)
    corners = box_corners(torch.from_numpy(boxes.values[:, :7]).double()).numpy()
    moved = box_corners(torch.from_numpy(boxes.moved(matrix).values[:, :7]).double()).numpy()
    np.testing.assert_allclose(corners @ matrix[:3, :3].T + matrix[:3, 3], moved, atol=1e-5)


@pytest.mark.parametrize(
    "setting", [{"rotation": "so3"}, {"tilt": 5.0}, {"elastic": ((1.0, 1.0),)}, {"anisotropic": True}]
)
def test_boxes_that_cannot_follow_are_left_out(setting: dict[str, object]) -> None:
    augment = PointAugment(PointAugmentConfig.model_validate(setting), None, unit_sphere=False, centre=False)
    params = {name: torch.from_numpy(value)[None] for name, value in augment.sample(np.random.default_rng(0)).items()}
    batch: PointBatch = packed([cloud(made(2))])
    assert augment.apply(batch, params).boxes is None


def test_a_cloud_above_the_origin_has_its_boxes_there() -> None:
    augment = PointAugment(PointAugmentConfig(rotation="none"), None, unit_sphere=False)
    seen = augment.choose(cloud(made(2)), augment.sample(np.random.default_rng(0)))
    assert seen.pose is not None and seen.boxes is not None
    np.testing.assert_allclose(seen.boxes.values[:, :3] + seen.pose[:3, 3], made(2).values[:, :3], atol=1e-5)
