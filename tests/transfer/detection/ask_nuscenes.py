"""Asks nuscenes-devkit what it makes of made boxes, and keeps them and its numbers in ``nuscenes.npz``. In an
environment that has it (1.2.0 needs NumPy below 2):

    python tests/transfer/detection/ask_nuscenes.py tests/transfer/detection/nuscenes.npz
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np

SAMPLES = 40
CLASSES = (
    *("car", "truck", "bus", "trailer", "construction_vehicle", "pedestrian"),
    *("motorcycle", "bicycle", "traffic_cone", "barrier"),
)
ATTRIBUTES = (
    *("vehicle.moving", "vehicle.stopped", "vehicle.parked", "cycle.with_rider", "cycle.without_rider"),
    *("pedestrian.moving", "pedestrian.standing", "pedestrian.sitting_lying_down"),
)
OF_CLASS = [(0, 1, 2)] * 5 + [(5, 6, 7), (3, 4), (3, 4), (), ()]
# Columns: sample, class, score, attribute, points, radar, x, y, z, length, width, height, yaw, vx, vy


def made(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """True boxes [N, 15], found ones [M, 15], bicycle racks [R, 8] (the sample first), and where the vehicle is [S, 2].
    Some boxes are found the wrong way round, and speeds badly."""
    true, found, racks = [], [], []
    vehicles = rng.normal(0, 500, (SAMPLES, 2))
    for sample in range(SAMPLES):
        for kind in range(len(CLASSES)):
            if kind == 3:
                continue  # no trailer is there, and none of the buses is found
            for _ in range(rng.integers(0, 4)):
                attribute = rng.choice(OF_CLASS[kind]) if OF_CLASS[kind] and rng.random() < 0.9 else -1
                box = np.array(
                    [
                        *rng.normal(vehicles[sample], 25),
                        rng.normal(0, 1),
                        *rng.uniform(0.5, 5, 3),
                        *rng.uniform(-4, 4, 3),
                    ]
                )
                if rng.random() < 0.1:
                    box[7:] = np.nan
                true.append([sample, kind, 0, attribute, rng.integers(0, 6), rng.integers(0, 3), *box])
                if rng.random() < 0.8 and kind != 2:
                    near = np.nan_to_num(box) + rng.normal(0, 0.4, 9)
                    near[6] += np.pi * (rng.random() < 0.2)
                    near[7:] += rng.normal(0, 1.5, 2)
                    near[3:6] = box[3:6] * rng.uniform(0.8, 1.25, 3)
                    told = attribute if rng.random() < 0.7 else rng.choice(OF_CLASS[kind] or (-1,))
                    found.append([sample, kind, round(rng.beta(3, 2), 2), told, -1, 0, *near])
                if rng.random() < 0.1 and kind in (6, 7):
                    racks.append([sample, *box[:3], *box[3:6] + 1, box[6]])
            for _ in range(rng.integers(0, 3)):
                wrong = [*rng.normal(vehicles[sample], 25), 0, *rng.uniform(0.5, 5, 3), *rng.uniform(-3, 3, 3)]
                found.append([sample, kind, round(rng.beta(2, 3), 2), -1, -1, 0, *wrong])
    return np.array(true), np.array(found), np.array(racks), vehicles


def asked(true: np.ndarray, found: np.ndarray, racks: np.ndarray, vehicles: np.ndarray) -> dict[str, float]:
    """The devkit's answers."""
    classes = import_module("nuscenes.eval.detection.data_classes")
    common = import_module("nuscenes.eval.common.data_classes")
    loaders = import_module("nuscenes.eval.common.loaders")
    config = import_module("nuscenes.eval.detection.config").config_factory("detection_cvpr_2019")
    algo = import_module("nuscenes.eval.detection.algo")
    quaternion = import_module("pyquaternion").Quaternion

    def boxes(rows: np.ndarray) -> Any:
        every = common.EvalBoxes()
        for sample in range(SAMPLES):
            own = []
            for _, kind, score, attribute, points, radar, *box in rows[rows[:, 0] == sample]:
                turn = quaternion(axis=[0, 0, 1], radians=box[6])
                told = ATTRIBUTES[int(attribute)] if attribute >= 0 else ""
                x, y, z, length, width, height = box[:6]
                place, name = (x, y, z), CLASSES[int(kind)]
                away = (x - vehicles[sample, 0], y - vehicles[sample, 1], z)
                size = (width, length, height)
                own.append(
                    classes.DetectionBox(
                        str(sample),
                        place,
                        size,
                        tuple(turn.elements),
                        tuple(box[7:]),
                        away,
                        int(points + radar),
                        name,
                        float(score),
                        told,
                    )
                )
            every.add_boxes(str(sample), own)
        return every

    def get(table: str, token: str) -> dict[str, Any]:
        if table == "sample":
            return {"anns": [str(row) for row in np.flatnonzero(racks[:, 0] == int(token))]}
        box = racks[int(token), 1:]
        turn = quaternion(axis=[0, 0, 1], radians=box[6]).elements.tolist()
        size = [box[4], box[3], box[5]]
        return {"category_name": "static_object.bicycle_rack", "translation": box[:3], "size": size, "rotation": turn}

    log = SimpleNamespace(get=get)
    kept = [loaders.filter_eval_boxes(log, boxes(rows), config.class_range) for rows in (true, found)]
    metrics = classes.DetectionMetrics(config)
    for name in config.class_names:
        for distance in config.dist_ths:
            data = algo.accumulate(*kept, name, config.dist_fcn_callable, distance)
            metrics.add_label_ap(name, distance, algo.calc_ap(data, config.min_recall, config.min_precision))
            if distance == config.dist_th_tp:
                for error in import_module("nuscenes.eval.detection.constants").TP_METRICS:
                    none = {"traffic_cone": ("attr_err", "vel_err", "orient_err"), "barrier": ("attr_err", "vel_err")}
                    value = np.nan if error in none.get(name, ()) else algo.calc_tp(data, config.min_recall, error)
                    metrics.add_label_tp(name, error, value)
    names = {"trans_err": "mATE", "scale_err": "mASE", "orient_err": "mAOE", "vel_err": "mAVE", "attr_err": "mAAE"}
    answers = {"NDS": 100 * metrics.nd_score, "mAP": 100 * metrics.mean_ap}
    answers |= {names[error]: value for error, value in metrics.tp_errors.items()}
    return answers | {f"AP_{name}": 100 * value for name, value in metrics.mean_dist_aps.items()}


def main() -> None:
    """Make the boxes, ask, and keep both."""
    parts = made(np.random.default_rng(7))
    answers = asked(*parts)
    true, found, racks, vehicles = parts
    names, values = np.array(list(answers)), np.array(list(answers.values()))
    np.savez_compressed(
        sys.argv[1], true=true, found=found, racks=racks, vehicles=vehicles, answer_names=names, answers=values
    )
    print(answers)


if __name__ == "__main__":
    main()
