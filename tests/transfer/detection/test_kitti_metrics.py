"""Average precision as OpenPCDet's evaluator gives it for 80 made frames with equal scores, vans, persons who sit,
regions that nobody labelled, and results that are too low.

``kitti.npz`` has the frames and its answers: those of ``do_eval`` in ``kitti_object_eval_python/eval.py`` (8caccce),
run as it is at the two sets of overlaps, but for ``rotate_iou_gpu_eval``, in whose place rectangles of the same corners
were overlapped by shapely.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.core.boxes import Boxes
from st_ssl.core.errors import SampleError
from st_ssl.data.sources.drives.kitti import read_boxes, to_camera
from st_ssl.data.streams.points.drives import Camera
from st_ssl.transfer.detection.kitti_metrics import OVERLAPS, Kind, kitti_scores
from st_ssl.transfer.detection.kitti_objects import KittiObjects, in_camera, read_objects, result_text

LOOSE = {"Car": 0.5, "Pedestrian": 0.25, "Cyclist": 0.25}
PROJECTION = np.array([[721.5, 0, 609.6, 44.9], [0, 721.5, 172.9, 0.2], [0, 0, 1, 0.003]])
TILTED = np.array([[0.01, -0.99995, 0, -0.02], [0.005, 0, -0.99999, -0.06], [0.99993, 0.01, 0.005, -0.33]])


@pytest.fixture(scope="module")
def made() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "kitti.npz") as file:
        return dict(file)


def frames(made: dict[str, np.ndarray], part: str) -> list[KittiObjects]:
    ends = made[f"{part}_counts"].astype(int).cumsum()[:-1]
    names, rows = (np.split(made[key], ends) for key in (f"{part}_names", f"{part}s"))
    return [KittiObjects.of_rows(made["names"][own].tolist(), r) for own, r in zip(names, rows, strict=True)]


@pytest.mark.parametrize(("prefix", "overlaps"), [("", OVERLAPS), ("loose ", LOOSE)])
def test_as_openpcdet_has_it(made: dict[str, np.ndarray], prefix: str, overlaps: dict[str, float]) -> None:
    answers = dict(zip(made["answer_names"].tolist(), made["answers"].tolist(), strict=True))
    kinds: tuple[Kind, ...] = ("bev", "3d") if prefix else ("2d", "bev", "3d")  # in the image both sets are the same
    figures = kitti_scores(frames(made, "result"), frames(made, "label"), overlaps, kinds=kinds)
    assert len(figures) == 18 * len(kinds)
    assert figures == pytest.approx({name: answers[prefix + name] for name in figures}, abs=1e-3)
    assert sum(5 < value < 95 for value in figures.values()) > 0.8 * len(figures)


def one_car(image: tuple[float, ...] = (100, 100, 200, 200), x: float = 0.0, score: float = 0.5) -> list[float]:
    return [0, 0, 0, *image, 1.5, 1.6, 4, x, 1.6, 20, 0, score]


@pytest.mark.parametrize(
    ("count", "r40", "r11"), [(1, 0.0, 100 / 11), (5, 10.0, 200 / 11), (20, 47.5, 500 / 11), (41, 100, 100)]
)
def test_all_of_few_objects_are_found(count: int, r40: float, r11: float) -> None:
    rows = np.array([one_car(x=5.0 * number, score=number / 100) for number in range(count)])
    objects = KittiObjects.of_rows(["Car"] * count, rows)
    figures = kitti_scores([objects], [objects], classes=("Car",), kinds=("3d",))
    assert figures["3d_Car_easy_R40"] == pytest.approx(r40)
    assert figures["3d_Car_hard_R11"] == pytest.approx(r11)


@pytest.mark.parametrize(
    ("name", "label", "result", "wrong"),
    [
        ("Van", {}, {}, False),  # a neighbour
        ("Truck", {}, {}, True),
        ("Car", {"occluded": np.array([3.0])}, {}, False),
        ("DontCare", {"bottom": np.full((1, 3), -1000.0), "size": np.full((1, 3), -1.0)}, {}, False),
        ("Truck", {}, {"image": np.array([[100.0, 100, 200, 110]])}, False),  # 10 pixels high
    ],
)
def test_what_is_neither_right_nor_wrong(name: str, label: dict[str, Any], result: dict[str, Any], wrong: bool) -> None:
    """Of 42 cars all are found, and one more result lies where a label of ``name`` is."""
    cars = np.array([one_car((10, 10, 90, 90), 30.0 * number, 0.9) for number in range(1, 43)])
    true = KittiObjects.of_rows([*["Car"] * 42, name], np.vstack([cars, one_car()]))
    more, shown = (KittiObjects.of_rows([own], np.array([one_car(score=0.95)])) for own in (name, "Car"))
    more, shown = replace(more, **label), replace(shown, **result)
    true = KittiObjects.of_rows(true.names, np.vstack([cars, more.rows]))
    found = KittiObjects.of_rows(["Car"] * 43, np.vstack([cars, shown.rows]))
    kind: Kind = "2d" if name == "DontCare" else "3d"
    figure = kitti_scores([found], [true], classes=("Car",), kinds=(kind,))[f"{kind}_Car_moderate_R40"]
    assert (figure < 99) == wrong


@pytest.fixture
def calib(tmp_path: Path) -> Path:
    file = tmp_path / "calib.txt"
    matrices = {"P2": PROJECTION, "R0_rect": np.eye(3), "Tr_velo_to_cam": TILTED}
    lines = [f"{name}: {' '.join(map(repr, matrix.ravel().tolist()))}\n" for name, matrix in matrices.items()]
    file.write_text("".join(lines))
    return file


def test_results_are_read_as_the_boxes_that_they_are(calib: Path, tmp_path: Path) -> None:
    values = np.array([[12, 2, -0.8, 3.9, 1.6, 1.5, 0.4, 1, 0], [20, -3, -0.7, 0.8, 0.6, 1.7, -2, 0, 0]], np.float32)
    hidden = np.array([[-15, 0, -0.8, 4, 1.6, 1.5, 0, 0, 0], [9, 40, -0.8, 4, 1.6, 1.5, 0, 0, 0]], np.float32)
    boxes = Boxes(np.vstack([values, hidden]), np.array([0, 1, 0, 0]), {"score": np.array([0.9, 0.25, 0.8, 0.7])})
    matrix = to_camera(calib)
    objects = in_camera(boxes, ("car", "pedestrian"), matrix, Camera(PROJECTION @ matrix, 1242, 375))
    file = tmp_path / "000000.txt"
    file.write_text(result_text(objects))
    words = file.read_text().splitlines()[0].split()
    assert words[:3] == ["Car", "-1", "-1"] and words[-1] == "0.9000" and len(words) == 16
    again = read_boxes(file, calib)
    assert again.names == ("car", "pedestrian")
    np.testing.assert_allclose(again.values[:, :7], values[:, :7], atol=2e-4)
    read = read_objects(file)
    np.testing.assert_allclose(read.rows, objects.rows, atol=1e-4)
    # The image of a box holds that of its centre, and alpha is the angle to the ray.
    u, v, depth = PROJECTION @ matrix @ [*values[0, :3], 1]
    left, top, right, bottom = read.image[0]
    assert left < u / depth < right and top < v / depth < bottom
    x, _, z = objects.bottom[0]
    assert objects.alpha[0] == pytest.approx(objects.turn[0] - np.arctan2(x, z))


def test_a_line_with_too_few_columns(tmp_path: Path) -> None:
    file = tmp_path / "000000.txt"
    file.write_text("Car 0 0 0 1 2 3 4\n")
    with pytest.raises(SampleError, match="line 1: 8 columns, expected 15 or 16"):
        read_objects(file)
