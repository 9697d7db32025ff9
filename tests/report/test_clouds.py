"""Stills of clouds: what hides what, where up is, which points are shown, and what the viewer in the page is given."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest

from st_ssl.report.clouds import Eye, draw, fit, render
from st_ssl.report.scenes import Cloud, Links, Scene, choose
from st_ssl.report.turnable import turnable, viewer_script

RED, BLUE = np.array([[1.0, 0, 0]]), np.array([[0, 0, 1.0]])


def shows(picture: np.ndarray, channel: int) -> np.ndarray:
    """Which pixels are of a colour: that channel above both others, and not transparent."""
    others = np.delete(picture[..., :3].astype(int), channel, axis=2).max(-1)
    return (picture[..., channel].astype(int) - others > 50) & (picture[..., 3] > 0)


def test_the_nearer_point_hides_the_farther() -> None:
    near, far = [0.01, -1.0, 0.01], [0.01, 1.0, 0.01]  # the eye looks along y; not on the border of two pixels
    for order in ([0, 1], [1, 0]):
        line = np.array([near, far])[order]
        picture = draw(line, np.concatenate([RED, BLUE])[order], Eye(0, 0), 64)
        assert shows(255 * picture, 0).sum() == (picture[..., 3] > 0).sum() > 0  # near is red, and all there is


def test_balls_that_overlap_hide_each_other_by_depth() -> None:
    near, beside = np.array([[0.01, -1.0, 0.01]]), np.array([[0.08, 1.0, 0.03]])
    alone = shows(255 * draw(near, RED, Eye(0, 0), 440, most=2), 0)
    both = 255 * draw(np.concatenate([near, beside]), np.concatenate([RED, BLUE]), Eye(0, 0), 440)
    np.testing.assert_array_equal(shows(both, 0), alone)
    assert 0 < shows(both, 2).sum() < alone.sum()


def test_up_is_up_from_every_side() -> None:
    points, colours = np.array([[0.0, 0, 1], [0, 0, -1]]), np.concatenate([RED, BLUE])
    for picture in render(points, colours, sides=3, size=64):
        top, bottom = (np.argwhere(shows(picture, channel))[:, 0].mean() for channel in (0, 2))
        assert top < 16
        assert bottom > 48


def test_one_scale_for_several_clouds_and_none_for_nothing() -> None:
    points = np.random.default_rng(0).normal(size=(500, 3))
    small = render(points * 0.2, frame=points, sides=1)[0, ..., 3]
    assert 0 < (small > 0).sum() < (render(points, sides=1)[0, ..., 3] > 0).sum()
    assert (render(np.empty((0, 3)))[..., 3] == 0).all()
    assert (render(np.zeros((1, 3)))[..., 3] > 0).any()


def test_tails_leave_the_picture_and_objects_do_not() -> None:
    rng = np.random.default_rng(0)
    ball = rng.normal(size=(1000, 3))
    ball /= np.linalg.norm(ball, axis=1, keepdims=True)
    assert fit(ball)[1] == pytest.approx(1.0, abs=0.05)
    tail = np.concatenate([ball, rng.normal(size=(50, 3)) * 40])
    assert fit(tail)[1] < 2
    assert fit(ball * [1, 1, 0])[1] == pytest.approx(1.0, abs=0.05)


def test_points_are_chosen_evenly_in_space_below_a_ceiling() -> None:
    rng = np.random.default_rng(0)
    floor, ceiling = (np.c_[rng.random((3000, 2)) * 4, np.full(3000, height)] for height in (0.0, 2.5))
    walls = np.c_[rng.random(3000) * 4, np.zeros(3000), rng.random(3000) * 2.5]
    dense = np.c_[rng.random((20_000, 2)) * 0.5, np.zeros(20_000)]
    room = np.concatenate([floor, walls, dense, ceiling])
    chosen = choose(room, unit_sphere=False, most=2000)
    assert 1000 < len(chosen) <= 2000 and (np.diff(chosen) > 0).all()
    assert room[chosen, 2].max() < 2.4
    assert np.isin(chosen, np.arange(6000, 26_000)).mean() < 0.1  # 20,000 of 26,000 are in a corner of the floor
    assert choose(room[:26_000], unit_sphere=False, most=10**6).tolist() == list(range(26_000))  # no ceiling
    assert choose(room, unit_sphere=True, most=10**6).tolist() == list(range(len(room)))  # objects have none
    assert len(choose(room, unit_sphere=True, most=500)) == 500


def test_the_viewer_is_given_places_and_colours() -> None:
    rng = np.random.default_rng(0)
    xyz, other = rng.uniform(-3, 3, (40, 3)), rng.uniform(-3, 3, (7, 3)) + 5
    colour = rng.random((40, 3))
    links = Links(xyz[:2], other[:2], np.concatenate([RED, BLUE]))
    clouds = [Cloud(["a"], xyz, colour), Cloud(["b"], other, colour[:7])]
    scene = Scene("s", [], clouds, Eye(10, 20), links, shared=False)
    shown = turnable(scene)
    (middle, radius), (second, same) = scene.frames()
    assert radius == same and not np.allclose(middle, second)

    def numbers(text: str, kind: str) -> np.ndarray:
        return np.frombuffer(base64.b64decode(text), kind).reshape(-1, 3)

    for text, own, centre in zip(shown.clouds.split(","), clouds, (middle, second), strict=True):
        places, rgb = text.split(":")
        step = 4 / 32767 * radius
        np.testing.assert_allclose(numbers(places, "<i2") * step + centre, own.xyz, atol=step)
        np.testing.assert_allclose(numbers(rgb, "u1") / 255, own.colour, atol=0.003)
    ends, rgb = shown.links.split(":")
    np.testing.assert_allclose(numbers(ends, "<i2")[1::2] * step + second, other[:2], atol=step)
    assert numbers(rgb, "u1").tolist() == [[255, 0, 0], [0, 0, 255]]
    assert shown.eye == "10,20"
    from PIL import Image

    still = Image.open(io.BytesIO(base64.b64decode(shown.still.uri.partition(",")[2])))
    assert still.mode == "RGBA" and still.size == (shown.still.width, shown.still.height)
    assert still.width == 2 * still.height


def test_places_that_clouds_share_are_stored_once() -> None:
    xyz = np.random.default_rng(0).random((50, 3))
    clouds = [Cloud([who], xyz, np.random.default_rng(1).random((50, 3))) for who in "abc"]
    parts = turnable(Scene("s", [], clouds, Eye())).clouds.split(",")
    assert [part.split(":")[0] == "=" for part in parts] == [False, True, True]
    apart = turnable(Scene("s", [], clouds, Eye(), shared=False)).clouds.split(",")
    assert [part.split(":")[0] == "=" for part in apart] == [False, False, False]


def test_the_viewer_draws_with_the_numbers_of_the_stills() -> None:
    from st_ssl.report import clouds

    text = viewer_script()[0]
    line = next(line for line in text.splitlines() if line.strip().startswith("const DISTANCE"))
    given = dict(re.findall(r"([A-Z]+) = ([\d.]+)", line))
    for name in ("DISTANCE", "FILL", "RIM", "HAZE", "LARGEST", "POINT"):
        assert float(given[name]) == getattr(clouds, name), name
    assert len(text.splitlines()) < 150
    assert not any(word in text for word in ("http", "fetch", "import", "innerHTML", "</"))
