"""nuScenes' figures as nuscenes-devkit gives them for 40 made samples: with equal scores, boxes without points of LiDAR
or radar, boxes turned by half, unknown attributes and velocities, errors above 1, bicycle racks, a class that is not
there, and one that nobody found.

``nuscenes.npz`` has the boxes and the devkit's answers: see ``ask_nuscenes.py``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from st_ssl.core.boxes import Boxes
from st_ssl.data.sources.drives.nuscenes import CLASSES
from st_ssl.transfer.detection.nuscenes_metrics import nuscenes_scores


@pytest.fixture(scope="module")
def made() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "nuscenes.npz") as file:
        return dict(file)


def samples(rows: np.ndarray) -> list[Boxes]:
    """The boxes of each sample. Those found have no number of points."""
    every = []
    for sample in range(40):
        own = rows[rows[:, 0] == sample]
        attribute, points, radar = own[:, 3:6].astype(int).T
        facts = {"score": own[:, 2], "attribute": attribute, "points": points, "radar": radar}
        every.append(Boxes(own[:, 6:], own[:, 1].astype(int), facts))
    return every


def test_as_the_devkit_has_it(made: dict[str, np.ndarray]) -> None:
    answers = dict(zip(made["answer_names"].tolist(), made["answers"].tolist(), strict=True))
    racks = [made["racks"][made["racks"][:, 0] == sample, 1:] for sample in range(40)]
    boxes, vehicles = (samples(made["found"]), samples(made["true"])), made["vehicles"]
    figures = nuscenes_scores(*boxes, vehicles=vehicles, racks=racks)
    assert figures == pytest.approx(answers, abs=1e-3)
    assert figures["mAVE"] > 1, "of which the score takes no more than 1"
    assert 20 < figures["NDS"] < 80 and figures["AP_trailer"] == figures["AP_bus"] == 0
    without = nuscenes_scores(*boxes, vehicles=vehicles)
    assert without["AP_bicycle"] != figures["AP_bicycle"], "racks count"


def test_what_is_found_exactly_is_right(made: dict[str, np.ndarray]) -> None:
    true = [boxes.take(boxes.facts["points"] + boxes.facts["radar"] > 0) for boxes in samples(made["true"])]
    found = [replace(boxes, facts={**boxes.facts, "score": np.full(len(boxes), 0.5)}) for boxes in true]
    figures = nuscenes_scores(found, true, vehicles=made["vehicles"])
    assert figures["AP_car"] == pytest.approx(100)
    assert figures["mAP"] == pytest.approx(90), "there is no trailer, and so its precision is 0"
    # the errors of a class that is not there are 1: of 10, 10, 9, 8 and 8
    wanted = {"mATE": 1 / 10, "mASE": 1 / 10, "mAOE": 1 / 9, "mAVE": 1 / 8, "mAAE": 1 / 8}
    assert {name: figures[name] for name in wanted} == pytest.approx(wanted)


def test_boxes_of_other_classes_and_far_away_do_not_count() -> None:
    values = np.array([[10.0, 0, 0, 4, 2, 1.5, 0, 0, 0], [60.0, 0, 0, 4, 2, 1.5, 0, 0, 0]])
    true = Boxes(values, np.array([0, 0]))
    found = Boxes(values, np.array([0, -1]), {"score": np.array([0.9, 0.8])})
    assert nuscenes_scores([found], [true])["AP_car"] == pytest.approx(100)
    moved = nuscenes_scores([found], [true], vehicles=np.array([[30.0, 0.0]]))
    assert moved["AP_car"] < 50, "from there both cars are near, and one is not found"
    assert set(nuscenes_scores([found], [true])) == {
        "NDS",
        "mAP",
        *(f"m{e}" for e in ("ATE", "ASE", "AOE", "AVE", "AAE")),
    } | {f"AP_{name}" for name in CLASSES}
