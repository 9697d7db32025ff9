from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.transform import Rotation

from st_ssl.augment.point_colour import PointColourConfig
from st_ssl.augment.point_noise import turn_normals
from st_ssl.augment.point_pairs import correspondences
from st_ssl.augment.points import PointAugment, PointAugmentConfig, plain
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import PointCloud
from st_ssl.data.views import packed
from tests.augment.points import OFF, WILD, make_cloud, source_of, stack, view

# --- maps and normals


@settings(max_examples=30)
@given(key=st.integers(0, 10_000))
def test_normals_stay_perpendicular_and_outside(key: int) -> None:
    cloud = make_cloud(300, plane=True)
    augment = PointAugment(PointAugmentConfig(**WILD), num_points=None)
    batch, out, params = view(augment, cloud, key)
    xyz, normals = out.xyz.double().numpy(), out.attributes["normal"].numpy()
    assert np.allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    assert np.abs((xyz - xyz.mean(0)) @ normals[0]).max() < 1e-4, "not the normal of the plane any more"
    # A point a little way along the normal has to be on the side the new normal points to.
    affine = params["affine"][0].double().numpy()
    outside = batch.xyz[0].double().numpy() + 0.1 * batch.attributes["normal"][0].double().numpy()
    assert (affine[:3, :3] @ outside + affine[:3, 3] - xyz[0]) @ normals[0] > 0


def test_unknown_normals_stay_unknown() -> None:
    matrix = torch.diag(torch.tensor([1.0, 2.0, -3.0])).expand(2, 3, 3)
    turned = turn_normals(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), matrix)
    assert turned.tolist() == [[0, 0, 0], [0, 0, -1]]


@settings(max_examples=30)
@given(key=st.integers(0, 10_000), angle=st.floats(1, 180), axis=st.sampled_from(["y", "z", "so3"]))
def test_rotations_are_rotations_of_at_most_the_angle(key: int, angle: float, axis: Any) -> None:
    config = PointAugmentConfig(rotation=axis, max_angle=angle)
    turn = PointAugment(config).sample(keyed_rng(key))["affine"][:3, :3].astype(np.float64)
    assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-6) and np.linalg.det(turn) > 0
    assert np.degrees(Rotation.from_matrix(turn).magnitude()) <= angle + 1e-3
    if axis in ("y", "z"):
        assert np.allclose(turn["xyz".index(axis)], np.eye(3)["xyz".index(axis)])


def test_so3_is_spread_evenly() -> None:
    augment = PointAugment(PointAugmentConfig(rotation="so3"))
    turns = Rotation.from_matrix([augment.sample(keyed_rng(i))["affine"][:3, :3] for i in range(2000)])
    others = Rotation.random(2000, random_state=0)
    assert stats.ks_2samp(turns.magnitude(), others.magnitude()).pvalue > 1e-3
    for axis in np.eye(3):  # where a vector lands is uniform on the sphere, whose heights are uniform
        assert stats.kstest((turns.apply(axis)[:, 2] + 1) / 2, "uniform").pvalue > 1e-3


def test_an_axis_from_a_cube_is_turned_about_by_a_uniform_angle() -> None:
    config = PointAugmentConfig(rotation="axis", max_angle=120)
    affines = np.stack([PointAugment(config).sample(keyed_rng(i))["affine"] for i in range(1000)])
    turns = Rotation.from_matrix(affines[:, :3, :3])
    assert stats.kstest(np.degrees(turns.magnitude()) / 120, "uniform").pvalue > 1e-3
    axes = np.abs(turns.as_rotvec() / turns.magnitude()[:, None])
    drawn = np.random.default_rng(0).random((1000, 3)) - 0.5
    expected = np.abs(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
    for axis in range(3):
        assert stats.ks_2samp(axes[:, axis], expected[:, axis]).pvalue > 1e-3
    assert stats.kstest(axes[:, 2], "uniform").pvalue < 1e-3  # as uniform directions would be


def test_scale_flip_and_translation_lie_in_their_ranges() -> None:
    config = PointAugmentConfig(rotation="none", scale=(0.8, 1.25), anisotropic=True, flip=(0.5, 0, 1), translation=0.2)
    affines = np.stack([PointAugment(config).sample(keyed_rng(i))["affine"] for i in range(400)])
    diagonal = affines[:, [0, 1, 2], [0, 1, 2]]
    assert np.allclose(affines[:, :3, :3], diagonal[:, :, None] * np.eye(3))
    assert (np.abs(diagonal) >= 0.8 - 1e-6).all() and (np.abs(diagonal) <= 1.25 + 1e-6).all()
    assert 0.4 < (diagonal[:, 0] < 0).mean() < 0.6 and (diagonal[:, 1] > 0).all() and (diagonal[:, 2] < 0).all()
    assert np.ptp(np.abs(diagonal), axis=1).max() > 0.1
    assert np.abs(affines[:, :3, 3]).max() <= 0.2 and np.abs(affines[:, :3, 3]).max() > 0.19
    same = PointAugment(PointAugmentConfig(rotation="none", scale=(0.8, 1.25))).sample(keyed_rng(0))["affine"]
    assert same[0, 0] == same[1, 1] == same[2, 2] != 1


def test_a_setting_does_not_shift_the_draws_of_another() -> None:
    other = PointAugmentConfig(rotation="z", jitter=0.1, dropout=(0.1, 0.2), elastic=((0.2, 0.4),), crop="sphere")
    small, more = (PointAugment(c).sample(keyed_rng(1)) for c in (PointAugmentConfig(rotation="z"), other))
    assert np.array_equal(small["affine"], more["affine"]) and small["seed"] == more["seed"]
    assert small.keys() == more.keys()


# --- cuts


def cut(config: dict[str, Any], cloud: PointCloud, key: int = 0, **fixed: Any) -> tuple[PointCloud, np.ndarray]:
    augment = PointAugment(PointAugmentConfig(**{**OFF, **config}), **{"num_points": None, **fixed})
    part = augment.choose(cloud, augment.sample(keyed_rng(key)))
    return part, source_of(part)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"crop": "sphere"},
        {"crop": "cuboid"},
        {"crop": "frustum", "crop_share": (0.05, 1.0)},
        {"crop": "frustum", "occlusion": True, "crop_share": (0.05, 1.0)},
        {"dropout": (0.2, 0.4)},
        {"beam_dropout": (0.2, 0.4)},
        {"fade": (1.0, 2.0)},
    ],
)
def test_what_is_cut_is_what_the_index_says(config: dict[str, Any]) -> None:
    cloud = make_cloud()
    part, source = cut(config, cloud)
    again, same = cut(config, cloud)
    assert source.dtype == np.int64 and np.array_equal(source, same) and np.array_equal(part.xyz, again.xyz)
    assert len(np.unique(source)) == len(source) == len(part)
    assert (len(source) == len(cloud)) == (not config)
    assert np.array_equal(part.labels["segment"], cloud.labels["segment"][source])
    assert np.array_equal(part.attributes["normal"], cloud.attributes["normal"][source])
    assert part.pose is not None
    assert np.allclose(part.xyz @ part.pose[:3, :3].T + part.pose[:3, 3], cloud.xyz[source], atol=1e-5)
    if config:
        assert not np.array_equal(cut(config, cloud, key=1)[1], source)


def lidar(beams: int = 16, rays: int = 3600) -> PointCloud:
    """A LiDAR whose beams lie 2° apart; every return at a distance of its own. The label of a point is its beam."""
    pitch = np.deg2rad(np.arange(beams) * 2.0 - 15.0).repeat(rays)
    yaw = np.tile(np.linspace(-np.pi, np.pi, rays, endpoint=False), beams)
    away = np.random.default_rng(0).uniform(1, 80, beams * rays)
    ahead = np.cos(pitch) * away
    xyz = np.column_stack([ahead * np.cos(yaw), ahead * np.sin(yaw), np.sin(pitch) * away]).astype(np.float32)
    return PointCloud(xyz, {}, {"beam": np.arange(beams).repeat(rays)})


def test_beams_are_lost_as_a_whole_and_the_same_ones_in_every_sweep() -> None:
    sweep, shares = lidar(), []
    for key in range(40):
        part, _ = cut({"beam_dropout": (0.3, 0.3)}, sweep, key, unit_sphere=False, centre=False)
        count = np.bincount(part.labels["beam"], minlength=16)
        assert set(count.tolist()) <= {0, 3600}
        shares.append((count == 0).mean())
        half = sweep.take(np.arange(0, len(sweep), 2))
        other, _ = cut({"beam_dropout": (0.3, 0.3)}, half, key, unit_sphere=False, centre=False)
        assert set(other.labels["beam"].tolist()) == set(part.labels["beam"].tolist())
    assert 0.2 < np.mean(shares) < 0.4 and np.std(shares) > 0


def test_far_points_fade_by_half_with_every_so_many_metres() -> None:
    sweep = lidar()
    _, source = cut({"fade": (20, 20)}, sweep, unit_sphere=False, centre=False)
    away, kept = np.linalg.norm(sweep.xyz, axis=1), np.zeros(len(sweep), bool)
    kept[source] = True
    for low in (1, 19, 39, 59):
        own = (away > low) & (away < low + 2)
        assert abs(kept[own].mean() - 0.5 ** ((low + 1) / 20)) < 0.05


def test_a_sweep_keeps_a_point_in_any_weather() -> None:
    assert len(cut({"fade": (0.001, 0.001)}, lidar(), unit_sphere=False, centre=False)[0]) == 1


def test_a_sphere_is_a_sphere_and_a_cuboid_a_box() -> None:
    cloud = make_cloud()
    _, source = cut({"crop": "sphere", "crop_share": (0.3, 0.3)}, cloud)
    assert len(source) == 150
    rest = np.setdiff1d(np.arange(500), source)
    distance = np.linalg.norm(cloud.xyz[:, None] - cloud.xyz[None], axis=2)
    assert any(row[source].max() <= row[rest].min() for row in distance), "no centre has these as its nearest"
    _, source = cut({"crop": "cuboid", "crop_share": (0.3, 0.3)}, cloud)
    assert len(source) == 150
    low, high = cloud.xyz[source].min(0), cloud.xyz[source].max(0)
    inside = np.flatnonzero(((cloud.xyz >= low) & (cloud.xyz <= high)).all(1))
    assert np.array_equal(inside, source)
    assert len(cut({"crop": "sphere", "crop_points": 70}, cloud)[1]) == 70


def test_a_frustum_with_occlusion_sees_the_near_side_of_a_sphere() -> None:
    """A sphere's points are in front exactly if their normal looks towards the camera."""
    at = keyed_rng("sphere").normal(size=(4000, 3))
    at /= np.linalg.norm(at, axis=1, keepdims=True)
    cloud = PointCloud(at.astype(np.float32))
    shared: dict[str, Any] = {"crop": "frustum", "camera_distance": (4.0, 4.0), "field_of_view": 90}
    _, all_of_it = cut({**shared, "crop_share": (0.9, 1.0)}, cloud)
    _, front = cut({**shared, "crop_share": (0.2, 1.0), "occlusion": True}, cloud)
    assert len(all_of_it) == 4000
    away = at[front].mean(0) / np.linalg.norm(at[front].mean(0))
    facing = at @ away
    assert (facing[front] > -0.2).all()
    seen = np.isin(np.flatnonzero(facing > 0.5), front)
    assert seen.mean() > 0.95


def test_one_point_a_voxel_of_the_turned_and_scaled_view() -> None:
    cloud = make_cloud(5000)
    augment = PointAugment(PointAugmentConfig(rotation="z", scale=(0.5, 0.5)), None, False, voxel_size=0.2)
    batch, _, params = view(augment, cloud, 3)
    everything = augment.apply(packed([cloud]), params)
    low = everything.xyz.min(0).values
    voxels = torch.floor((everything.xyz[batch.source] - low) / 0.2 + 1e-4)
    occupied = torch.unique(torch.floor((everything.xyz - low) / 0.2 + 1e-4), dim=0)
    assert abs(len(torch.unique(voxels, dim=0)) - len(voxels)) <= 0.02 * len(voxels)  # rounding at the faces
    assert abs(len(occupied) - len(voxels)) <= 0.02 * len(voxels)


@pytest.mark.parametrize("count", [100, 500, 800])
def test_a_fixed_number_of_points(count: int) -> None:
    _, source = cut({}, make_cloud(), num_points=count)
    assert len(source) == count
    assert len(np.unique(source)) == min(count, 500)


def test_objects_fill_the_unit_sphere_and_scenes_stand_on_the_floor() -> None:
    cloud = make_cloud()
    cloud.pose = np.diag([2.0, 2.0, 2.0, 1.0])
    part = plain(300, unit_sphere=True).choose(cloud, plain(300, True).sample(keyed_rng(0)))
    assert np.allclose(part.xyz.mean(0), 0, atol=1e-6) and np.isclose(np.linalg.norm(part.xyz, axis=1).max(), 1)
    assert part.pose is not None
    assert np.allclose(part.xyz @ part.pose[:3, :3].T + part.pose[:3, 3], 2 * cloud.xyz[source_of(part)], atol=1e-4)
    scene, _ = cut({}, cloud, unit_sphere=False)
    assert np.allclose((scene.xyz.min(0) + scene.xyz.max(0))[:2], 0, atol=1e-5) and scene.xyz[:, 2].min() == 0
    untouched, _ = cut({}, cloud, unit_sphere=False, centre=False)
    assert np.array_equal(untouched.xyz, cloud.xyz)
    alone = PointCloud(np.ones((1, 3), np.float32))
    assert np.array_equal(cut({}, alone, num_points=4)[0].xyz, np.zeros((4, 3)))


# --- batches


def test_a_cloud_is_the_same_in_any_batch() -> None:
    config = PointAugmentConfig(
        **WILD,
        jitter=0.01,
        elastic=((0.2, 0.4), (0.8, 1.6)),
        colour=PointColourConfig(jitter=1, auto_contrast=1, translation=1, noise=1),
    )
    augment = PointAugment(config, num_points=200)
    params = [augment.sample(keyed_rng(i)) for i in range(3)]
    views = [augment.choose(make_cloud(seed=i), p) for i, p in enumerate(params)]
    together = augment.apply(packed(views), stack(params))
    for i in range(3):
        alone = augment.apply(packed(views[i : i + 1]), stack(params[i : i + 1]))
        part = slice(200 * i, 200 * (i + 1))
        assert torch.equal(alone.xyz, together.xyz[part])
        for name in ("normal", "color"):
            assert torch.allclose(alone.attributes[name], together.attributes[name][part], atol=1e-6)
    assert (
        together.source is not None
        and together.source.tolist() == np.concatenate([source_of(cloud) for cloud in views]).tolist()
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_does_the_same() -> None:
    colour = PointColourConfig(jitter=1, auto_contrast=1, translation=1, noise=1)
    augment = PointAugment(PointAugmentConfig(**WILD, jitter=0.01, elastic=((0.2, 0.4),), colour=colour), None)
    params = [augment.sample(keyed_rng(i)) for i in range(3)]
    views = [augment.choose(make_cloud(seed=i), p) for i, p in enumerate(params)]
    batch, far = packed(views), packed(views)
    assert batch.source is not None
    far.xyz, far.offsets, far.source = far.xyz.cuda(), far.offsets.cuda(), batch.source.cuda()
    far.attributes = {name: values.cuda() for name, values in far.attributes.items()}
    here, there = augment.apply(batch, stack(params)), augment.apply(far, stack(params))
    assert torch.allclose(here.xyz, there.xyz.cpu(), atol=1e-5)
    assert torch.allclose(here.attributes["color"], there.attributes["color"].cpu(), atol=1e-4)
    close = (here.attributes["normal"] - there.attributes["normal"].cpu()).abs().amax(1) < 1e-2
    assert close.float().mean() > 0.99  # a normal that was bent to a fold is not well defined
    assert torch.equal(correspondences(here, here), correspondences(there, there).cpu())


def test_nothing_asked_nothing_changed() -> None:
    augment = plain(None, unit_sphere=False)
    batch, out, _ = view(augment, make_cloud(), 1)
    assert torch.equal(batch.xyz, out.xyz)
    assert torch.equal(batch.attributes["color"], out.attributes["color"])
    assert torch.allclose(batch.attributes["normal"], out.attributes["normal"], atol=1e-6)


def test_jitter_is_normal_and_clipped() -> None:
    augment = PointAugment(PointAugmentConfig(rotation="none", jitter=0.02, jitter_clip=0.03), None, False)
    batch, out, _ = view(augment, make_cloud(20_000), 1)
    moved = (out.xyz - batch.xyz).numpy()
    assert np.abs(moved).max() <= 0.03 + 1e-6
    inner = moved[np.abs(moved) < 0.029] / 0.02
    assert stats.kstest(inner, stats.truncnorm(-1.45, 1.45).cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(moved.T) - np.eye(3)).max() < 0.03


def test_the_colours() -> None:
    cloud = make_cloud(400)
    cloud.attributes["color"] = cloud.attributes["color"] * 0.5 + 0.2

    def coloured(**colour: float) -> tuple[np.ndarray, np.ndarray]:
        augment = PointAugment(PointAugmentConfig(rotation="none", colour=PointColourConfig(**colour)), None)
        before, after, _ = view(augment, cloud, 4)
        return before.attributes["color"].numpy(), after.attributes["color"].numpy()

    before, after = coloured(drop=1)
    assert (after == 0).all()
    before, after = coloured(grayscale=1)
    assert np.allclose(after, (before @ [0.2989, 0.587, 0.114])[:, None], atol=1e-5)
    before, after = coloured(translation=1, translation_range=0.1)
    assert np.ptp(after - before, axis=0).max() < 1e-6 and 0 < np.abs(after - before).max() <= 0.1
    before, after = coloured(noise=1, noise_sigma=0.01)
    assert 0.009 < (after - before).std() < 0.011
    before, after = coloured(auto_contrast=1)
    low, high = before.min(0), before.max(0)
    share = (after - before) / ((before - low) / (high - low) - before)
    assert 0 < np.median(share) < 1 and np.abs(share - np.median(share)).max() < 0.05
    before, after = coloured(jitter=1, brightness=0, saturation=0, hue=0, contrast=0.5)
    grey = float((before @ [0.2989, 0.587, 0.114]).mean())
    factor = (after - grey) / (before - grey)
    assert abs(np.median(factor) - 1) > 0.01 and np.ptp(factor[np.abs(before - grey) > 0.01]) < 1e-3


# --- settings


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"scale": (0, 1)}, "0 < low <= high"),
        ({"crop": "sphere", "crop_share": (0.5, 1.2)}, "share of the points"),
        ({"dropout": (0.5, 1.0)}, "share to leave out"),
        ({"beam_dropout": (0.5, 1.0)}, "share to leave out"),
        ({"fade": (0.0, 1.0)}, "0 < low <= high"),
        ({"elastic": ((0.0, 0.4),)}, "granularity > 0"),
        ({"rotatoin": "z"}, "rotatoin"),
    ],
)
def test_wrong_settings_are_named(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PointAugmentConfig(**settings_)


def test_an_ignored_setting_is_a_warning() -> None:
    with pytest.warns(UserWarning, match="occlusion is ignored with crop: sphere"):
        PointAugmentConfig(crop="sphere", occlusion=True)
