from __future__ import annotations

import numpy as np
import pytest

from st_ssl.augment.point_segments import SegmentsConfig, _Net, _pieces, oversegment, segmented
from st_ssl.core.types import PointCloud
from st_ssl.data.synthetic.rooms import SyntheticRoomConfig, scan_room


def grid(origin: tuple[float, ...], along: tuple[float, ...], up: tuple[float, ...], step: float = 0.05) -> np.ndarray:
    """Points of a rectangle that ``along`` and ``up`` span from ``origin``."""
    sides = [np.linspace(0, 1, 1 + round(float(np.linalg.norm(side)) / step)) for side in (along, up)]
    a, b = np.meshgrid(*sides, indexing="ij")
    points: np.ndarray = np.array(origin) + a.reshape(-1, 1) * np.array(along) + b.reshape(-1, 1) * np.array(up)
    return points.astype(np.float32)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A floor and a wall of 4 m, and two boxes of 0.5 m on the floor, 1 m apart: points and which of the four."""
    x_side, y_side, z_side = (0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5)
    box = [((0, 0, 0.5), x_side, y_side), ((0, 0, 0), x_side, z_side), ((0, 0, 0), y_side, z_side)]
    parts = [grid((0, 0, 0), (4, 0, 0), (0, 4, 0)), grid((0, 4, 0), (4, 0, 0), (0, 0, 2.5))]
    for x in (1.0, 2.5):
        parts.append(np.concatenate([grid((x + o[0], 1 + o[1], o[2]), a, b) for o, a, b in box]))
    return np.concatenate(parts), np.repeat(np.arange(4), [len(part) for part in parts])


def test_what_stands_on_the_floor_is_foreground_and_each_thing_a_segment() -> None:
    xyz, thing = scene()
    region, foreground = oversegment(xyz, SegmentsConfig(size=10.0))
    assert foreground[thing < 2].mean() < 0.01
    for box in (2, 3):
        assert foreground[thing == box].mean() > 0.8  # but for where it stands
    a, b = (np.unique(region[foreground & (thing == box)]) for box in (2, 3))
    assert len(a) == len(b) == 1
    assert a != b
    assert np.bincount(region[thing == 0]).argmax() != np.bincount(region[thing == 1]).argmax()


def test_segments_are_no_wider_than_asked_for() -> None:
    xyz, _ = scene()
    counts = []
    for size in (0.4, 1.0):
        region, foreground = oversegment(xyz, SegmentsConfig(size=size))
        for number in range(region.max() + 1):
            own = xyz[region == number]
            assert len(own) >= 8
            assert len(np.unique(foreground[region == number])) == 1
            spread = np.sqrt(((own[:, None] - own[None]) ** 2).sum(-1)).max()
            assert spread <= 2 * (size + 0.1)  # a seed is not farther than size, up to a voxel
        counts.append(region.max() + 1)
    assert counts[0] > 2 * counts[1]


def test_segments_do_not_depend_on_the_order_of_points() -> None:
    xyz, _ = scene()
    region, foreground = oversegment(xyz, SegmentsConfig())
    order = np.random.default_rng(0).permutation(len(xyz))
    shuffled = oversegment(xyz[order], SegmentsConfig())
    assert np.array_equal(shuffled[0], region[order])
    assert np.array_equal(shuffled[1], foreground[order])


def test_planted_furniture_is_found_without_its_labels() -> None:
    cloud = scan_room(SyntheticRoomConfig(num_train=4, num_points=30_000), "train", 0).cloud
    region, foreground = oversegment(cloud.xyz, SegmentsConfig())
    segment, instance = cloud.labels["segment"], cloud.labels["instance"]
    shell, furniture = segment < 3, segment > 4  # doors and windows lie in a wall
    assert foreground[shell].mean() < 0.05
    assert foreground[furniture].mean() > 0.8
    most = sum(np.bincount(instance[region == r] + 1).max() for r in np.unique(region[foreground]))
    assert most / foreground.sum() > 0.8  # few segments hold two objects


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_handful_of_points_has_no_segments(count: int) -> None:
    region, foreground = oversegment(np.eye(5, 3, dtype=np.float32)[:count], SegmentsConfig())
    assert (region == -1).all()
    assert not foreground.any()
    assert oversegment(np.zeros((20, 3), dtype=np.float32), SegmentsConfig())[0].tolist() == [-1] * 20


def test_labels_are_added_to_those_there_are() -> None:
    xyz, thing = scene()
    cloud = segmented(PointCloud(xyz, labels={"segment": thing}), SegmentsConfig())
    region, foreground = oversegment(xyz, SegmentsConfig())
    assert list(cloud.labels) == ["segment", "region", "foreground"]
    assert np.array_equal(cloud.labels["region"], region)
    assert np.array_equal(cloud.labels["foreground"], foreground)
    assert cloud.labels["foreground"].dtype == cloud.labels["region"].dtype == np.int64


def tile(side: int, step: float = 0.2, seed: int = 0) -> np.ndarray:
    """A rough ground of ``side`` x ``side`` points, with as many points scattered above a quarter of it."""
    a, b = np.meshgrid(np.arange(side) * step, np.arange(side) * step, indexing="ij")
    rng = np.random.default_rng(seed)
    ground = np.stack([a, b, 0.02 * rng.standard_normal(a.shape)], -1).reshape(-1, 3)
    trees = rng.uniform(0, 1, (side * side // 4, 3)) * [side * step / 2, side * step / 2, 3.0] + [0, 0, 0.5]
    return np.concatenate([ground, trees])


def test_seeds_of_a_part_are_apart_and_near_all_its_voxels() -> None:
    place = tile(60)
    part = (place[:, 0] > 5).astype(np.int64) * 7 + (place[:, 2] > 0.25)
    size = 1.5
    seed = _pieces(place, part, size)
    assert np.array_equal(part[seed], part)
    away = np.linalg.norm(place - place[seed], axis=1)
    assert away.max() <= size * 1.001
    for own in np.unique(part):
        seeds = np.unique(seed[part == own])
        distances = np.linalg.norm(place[seeds][:, None] - place[seeds][None], axis=-1)
        assert (distances + np.where(np.eye(len(seeds)), np.inf, 0)).min() >= size * 0.999
        nearest = np.linalg.norm(place[part == own][:, None] - place[seeds][None], axis=-1).min(1)
        assert np.allclose(nearest, away[part == own], atol=1e-3)


def test_the_cost_of_pieces_grows_with_the_points_alone() -> None:
    compared = []
    for side in (20, 40, 80, 160):
        place = tile(side)
        net = _Net(place, np.zeros(len(place), dtype=np.int64), 1.0)
        rounds = 0
        while net.open.any():
            for colour in range(8):
                net.sow(colour)
            rounds += 1
        assert rounds <= 8
        compared.append(net.compared / len(place))
    assert max(compared) < 27
    assert compared[-1] < 1.3 * compared[1]  # of the small ones more is rim


def test_a_stray_point_makes_no_wide_grid() -> None:
    place = np.concatenate([tile(20), [[-5e5, -5e6, 0.0]]])
    part = np.zeros(len(place), dtype=np.int64)
    alone = _pieces(place[:-1], part[:-1], 1.0)
    seed = _pieces(place, part, 1.0)
    assert seed[-1] == len(place) - 1
    assert abs(len(np.unique(seed)) - 1 - len(np.unique(alone))) < 0.2 * len(np.unique(alone))
