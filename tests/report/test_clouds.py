from __future__ import annotations

import numpy as np

from st_ssl.report.clouds import render

RED, BLUE = np.array([[1.0, 0, 0]]), np.array([[0, 0, 1.0]])


def shows(picture: np.ndarray, channel: int) -> np.ndarray:
    """Which pixels are of a colour: that channel above both others."""
    others = np.delete(picture.astype(int), channel, axis=2).max(-1)
    return picture[..., channel].astype(int) - others > 50


def test_the_nearer_point_hides_the_farther() -> None:
    turn = np.pi / 6  # of the first side; the eye looks along (-sin, cos) and a little down
    eye = np.array(
        [-np.sin(turn) * np.cos(np.deg2rad(25)), np.cos(turn) * np.cos(np.deg2rad(25)), -np.sin(np.deg2rad(25))]
    )
    line = np.stack([-eye, eye])  # near and far, one behind the other
    for order in ([0, 1], [1, 0]):
        picture = render(line[order], np.concatenate([RED, BLUE])[order], sides=1)[0]
        assert shows(picture, 0).sum() == 4  # near is red
        assert shows(picture, 2).sum() == 0


def test_up_is_up_from_every_side() -> None:
    points, colours = np.array([[0.0, 0, 1], [0, 0, -1]]), np.concatenate([RED, BLUE])
    for picture in render(points, colours, sides=3, size=64):
        top, bottom = (np.argwhere(shows(picture, channel))[:, 0].mean() for channel in (0, 2))
        assert top < 16
        assert bottom > 48


def test_one_scale_for_several_clouds_and_none_for_nothing() -> None:
    points = np.random.default_rng(0).normal(size=(500, 3))
    small = render(points * 0.2, frame=points, sides=1)[0]
    assert 0 < (small != 255).any(-1).sum() < (render(points, sides=1)[0] != 255).any(-1).sum()
    assert (render(np.empty((0, 3))) == 255).all()
    assert (render(np.zeros((1, 3))) != 255).any()
