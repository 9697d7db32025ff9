"""Boxes made wrong are named for what they are, and right ones are never accused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from st_ssl.core.boxes import Boxes
from st_ssl.data.box_checks import Frame, check_boxes
from st_ssl.data.synthetic.drives import CLASSES
from tests.data.box_checks.made import MISTAKES, emptied, frames, noisy, spoilt

ALONG = frames(drives=(0,), sweeps=(0, 4, 8, 11))
TURNED = frames()
SETTINGS: dict[str, tuple[list[Frame], Callable[[list[Frame]], list[Frame]], tuple[int, ...]]] = {
    "as they are": (TURNED, list, (0, 1, 2)),
    "noise": (TURNED, noisy, (0, 1, 2)),
    "three of ten are empty": (TURNED, emptied, (0, 1, 2)),
    "a drive along the axes": (ALONG + TURNED[:4], list, (0, 1, 2)),
    "only cars": (TURNED, list, (0,)),
    "all of it": (ALONG + TURNED[:4], lambda made: noisy(emptied(made)), (0, 1, 2)),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_nine_of_ten_mistakes_are_named(setting: str) -> None:
    made, worn, classes = SETTINGS[setting]
    named = {}
    for mistake, wrong in MISTAKES.items():
        report = check_boxes(spoilt(worn(made), wrong, classes), CLASSES)
        named[mistake] = [finding.name for finding in report.mistakes]
        if classes == (0,):
            assert all(" of class car " in finding.guess for finding in report.mistakes)
    right = [mistake for mistake, names in named.items() if names == [mistake]]
    assert len(right) >= 9, named


@pytest.mark.parametrize("setting", SETTINGS)
def test_right_boxes_are_not_accused(setting: str) -> None:
    made, worn, _ = SETTINGS[setting]
    assert check_boxes(worn(made), CLASSES).mistakes == []


def test_what_a_drive_along_the_axes_cannot_tell_is_not_guessed() -> None:
    straight = spoilt(ALONG, lambda v: np.column_stack([v[:, :6], np.round(v[:, 6] / (np.pi / 2)) * np.pi / 2]))
    assert check_boxes(straight, CLASSES).mistakes == []
    assert check_boxes(spoilt(straight, MISTAKES["sign"]), CLASSES).mistakes == []
    (either,) = check_boxes(spoilt(straight, MISTAKES["other axis"]), CLASSES).mistakes
    assert either.name == "unclear"
    assert "turned by 90°" in either.guess and "90° less their angle" in either.guess


def test_degrees_are_seen_of_what_is_round() -> None:
    made = spoilt(TURNED, MISTAKES["degrees"], (1,))
    (found,) = check_boxes(made, CLASSES).mistakes
    assert found.name == "degrees" and f"of class {CLASSES[1]} are turned by more than a whole turn" in found.guess
    assert found.repair is not None
    for (_, _, wrong), (_, _, right) in zip(made, TURNED, strict=True):
        np.testing.assert_allclose(found.repair(wrong).values, right.values, atol=1e-5)


def test_boxes_from_another_height_are_too_low_or_too_high() -> None:
    (low,) = check_boxes(spoilt(TURNED, lambda v: v - np.array([0, 0, 1.8, 0, 0, 0, 0])), CLASSES).mistakes
    assert low.name == "height"
    assert "too low" in low.guess and "raised by" in low.guess


def test_boxes_in_the_axes_of_the_world_are_lost() -> None:
    report = check_boxes(spoilt(TURNED, lambda v: v + np.array([900.0, 400, 0, 0, 0, 0, 0])), CLASSES)
    assert {finding.name for finding in report.mistakes} == {"lost"}
    (outside,) = [finding for finding in report.findings if finding.name == "outside"]
    assert outside.count == report.boxes


def test_what_is_odd_in_itself_is_told_with_an_example() -> None:
    made = TURNED[:3]
    name, xyz, boxes = made[1]
    twice = boxes.joined(boxes.take(np.array([4])))
    twice.values[2, 3] = np.nan
    twice.classes[0] = -1
    report = check_boxes([made[0], (name, xyz, twice), made[2]], (*CLASSES, "tram"))
    found = {finding.name: finding for finding in report.findings if finding.name not in ("few", "empty")}
    assert {kind: (one.count, one.example) for kind, one in found.items()} == {
        "nonsense": (1, (name, 2)),
        "duplicates": (1, (name, len(boxes))),
    }
    assert "no box is of class tram" in [finding.guess for finding in report.findings]
    assert report.boxes == sum(len(frame[2]) for frame in made)


def test_boxes_are_counted_and_anchors_proposed() -> None:
    report = check_boxes(TURNED, CLASSES)
    values, classes = (np.concatenate([getattr(boxes, key) for _, _, boxes in TURNED]) for key in ("values", "classes"))
    assert report.proposal is not None
    for number, name in enumerate(CLASSES):
        own = values[classes == number]
        assert sum(row.boxes for row in report.rows if row.name == name) == len(own)
        assert report.proposal.sizes[name] == pytest.approx([*own[:, 3:6].mean(0), own[:, 2].mean(), len(own)], 1e-4)
    inside = np.all((values[:, :3] > report.proposal.extent[:3]) & (values[:, :3] < report.proposal.extent[3:]), axis=1)
    assert inside.mean() > 0.98
    near, far = (next(row for row in report.rows if row.name == "car" and row.near == at) for at in (0, 20))
    assert near.points > far.points > 0


def test_few_boxes_are_not_judged() -> None:
    name, xyz, boxes = TURNED[0]
    few = spoilt([(name, xyz, boxes.take(np.arange(5)))], MISTAKES["bottom"])
    for made in (few, [(name, xyz, Boxes.none())], []):
        report = check_boxes(made, CLASSES)
        assert report.mistakes == []
        assert "too few" in {finding.name for finding in report.findings}
