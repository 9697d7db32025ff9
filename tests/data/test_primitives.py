from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate
from scipy.spatial.transform import Rotation

from st_ssl.core.random import keyed_rng
from st_ssl.data.synthetic.primitives import Solid

TURN = Rotation.from_euler("xyz", [0.4, 1.1, -0.6]).as_matrix()
KINDS = {
    "box": Solid("box", 0, np.array([1.0, 2, 3]), np.array([0.5, 1.0, 0.2]), TURN),
    "cylinder": Solid("frustum", 0, np.array([1.0, 2, 3]), np.array([0.5, 0.5, 0.9]), TURN),
    "cone": Solid("frustum", 0, np.zeros(3), np.array([0.6, 0.6, 0.5]), TURN, (0.0, 1.0)),
    "flared": Solid("frustum", 0, np.zeros(3), np.array([0.5, 0.5, 0.7]), TURN, (1.6, 1.0)),
    "sphere": Solid("ellipsoid", 0, np.ones(3), np.array([0.7, 0.7, 0.7]), TURN),
    "spheroid": Solid("ellipsoid", 0, np.ones(3), np.array([0.3, 0.3, 1.2]), TURN),
    "round superquadric": Solid("superquadric", 0, np.ones(3), np.array([0.3, 0.3, 1.2]), TURN, (1.0, 1.0)),
    "boxy superquadric": Solid("superquadric", 0, np.zeros(3), np.array([1.0, 1.0, 1.0]), TURN, (0.1, 0.1)),
    "torus": Solid("torus", 0, np.zeros(3), np.array([1.0, 1.0, 0.25]), TURN, (0.25, 1.0)),
}


def _area(name: str) -> float:
    """From textbooks, or by quadrature; of the boxy superquadric about that of a box."""
    if name == "box":
        return 8 * (0.5 * 1.0 + 1.0 * 0.2 + 0.2 * 0.5)
    if name == "cylinder":
        return 2 * np.pi * 0.5 * (0.5 + 1.8)
    if name == "cone":
        return np.pi * 0.6 * (0.6 + np.hypot(0.6, 1.0))
    if name == "flared":
        return np.pi * (0.5**2 + 0.8**2 + (0.5 + 0.8) * np.hypot(0.3, 1.4))
    if name == "sphere":
        return 4 * np.pi * 0.7**2
    if "1.2" in str(KINDS[name].size):
        ring = lambda z: 2 * np.pi * 0.3 * np.sqrt(1 - (z / 1.2) ** 2 + (0.3 * z / 1.2**2) ** 2)  # noqa: E731
        return float(integrate.quad(ring, -1.2, 1.2)[0])
    if name == "torus":
        return 4 * np.pi**2 * 0.75 * 0.25
    return 24.0


@pytest.mark.parametrize("name", KINDS)
def test_areas_are_those_of_textbooks(name: str) -> None:
    _, _, area = KINDS[name].surface(40_000, keyed_rng("area", name))
    assert (area >= 0).all()
    assert np.isclose(area.sum(), _area(name), rtol=0.08 if "boxy" in name else 0.02)


@pytest.mark.parametrize("name", KINDS)
def test_points_lie_on_the_surface_and_normals_point_out(name: str) -> None:
    points, normals, _ = KINDS[name].surface(2000, keyed_rng("surface", name))
    assert np.allclose(np.linalg.norm(normals, axis=1), 1)
    step = 2e-3
    assert KINDS[name].inside(points - step * normals).mean() > 0.98, "an edge may be closer than a step"
    assert not KINDS[name].inside(points + step * normals).any()


@pytest.mark.parametrize("name", ["spheroid", "round superquadric", "torus", "cone"])
def test_normals_are_those_of_differences(name: str) -> None:
    """The normal of the level surface through a point, by differences of ``inside``'s own coordinates."""
    solid = KINDS[name]
    points, normals, area = solid.surface(400, keyed_rng("normals", name))
    points, normals = points[area > 0], normals[area > 0]  # the tip of a cone has none
    rng = keyed_rng("tangent", name)
    along = np.cross(normals, rng.normal(size=normals.shape))
    along *= 1e-2 / np.linalg.norm(along, axis=1, keepdims=True)
    # A step along the surface leaves it by the square of the step only (edges and the tip aside).
    lifted, sunk = (solid.inside(points + along + lift * normals) for lift in (2e-3, -2e-3))
    assert lifted.mean() < 0.06 and sunk.mean() > 0.94


def test_a_moved_solid_is_moved() -> None:
    solid, turn = KINDS["cone"], Rotation.from_euler("z", 0.7).as_matrix()
    moved = solid.moved(turn, np.array([1.0, 2.0, 3.0]), 1.5)
    points, _, _ = solid.surface(100, keyed_rng("moved"))
    again, _, _ = moved.surface(100, keyed_rng("moved"))
    assert np.allclose(again, (points * 1.5) @ turn.T + [1.0, 2.0, 3.0])


@pytest.mark.parametrize("name", ["box", "cylinder", "cone", "flared", "sphere", "spheroid"])
@pytest.mark.parametrize("origin", [(3.0, 2.0, 5.0), (-2.0, 1.0, -1.0), (0.3, 0.2, 6.0)])
def test_rays_meet_what_small_steps_meet(name: str, origin: tuple[float, float, float]) -> None:
    solid, start = KINDS[name], np.array(origin)
    aim = solid.centre + keyed_rng("rays", name).uniform(-1.5, 1.5, (300, 3))
    rays = (aim - start) / np.linalg.norm(aim - start, axis=1, keepdims=True)
    distance, normals = solid.cast(start, rays)
    steps = np.arange(0, 12, 2e-3)
    for ray, found, normal in zip(rays, distance, normals, strict=True):
        inside = solid.inside(start + steps[:, None] * ray)
        if inside.sum() < 5:  # missed, or grazed
            assert not np.isfinite(found) or inside.sum() > 0 or not solid.inside((start + (found + 1e-2) * ray)[None])
            continue
        assert abs(found - steps[inside.argmax()]) < 6e-3
        assert np.isclose(np.linalg.norm(normal), 1) and normal @ ray < 0
        hit = start + found * ray
        assert not solid.inside((hit + 2e-3 * normal)[None])[0]
    assert np.isfinite(distance).sum() > 20


def test_rays_that_look_away_meet_nothing() -> None:
    for name in ("box", "cylinder", "cone", "sphere"):
        distance, _ = KINDS[name].cast(np.array([9.0, 9.0, 9.0]), np.array([[1.0, 0.2, 0.3], [0.0, 0.0, 1.0]]))
        assert not np.isfinite(distance).any()
