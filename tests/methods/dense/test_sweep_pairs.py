"""Dense contrast between two sweeps of a drive."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.core.config import merge
from st_ssl.core.types import PointBatch, View
from st_ssl.data.loading.sample_dataset import collate
from st_ssl.data.streams.base import Recording
from st_ssl.data.synthetic.drives import SyntheticDriveConfig, write_dataset
from st_ssl.data.views import stack
from st_ssl.engine.run_files import load_run_config
from st_ssl.methods.base import METHODS
from st_ssl.parts.point_matching import SweepPairConfig, match, matches
from tests.methods.steps import NoiseDrive, tiny_encoder
from tests.runs import tiny, train
from tests.transfer.streets import source

SECOND: dict[str, Any] = {
    **{"name": "second", "range": [-19.2, -19.2, -3, 19.2, 19.2, 3.4], "voxel": [0.4, 0.4, 0.4]},
    **{"widths": [8, 16], "out": 16},
}
SWEEPS = {"num_points": None, "unit_sphere": False, "centre": False}
PLAIN = {"crop": "none", "jitter": 0.0}


def view(xyz: list[list[float]], pose: np.ndarray) -> View:
    points = torch.tensor(xyz, dtype=torch.float32)
    labels = {"pose": torch.from_numpy(pose)[None, None]}
    return View(PointBatch(points, torch.tensor([0, len(points)])), torch.zeros(1, 1, dtype=torch.int64), labels)


def test_points_are_matched_where_they_are_in_the_world() -> None:
    """The second sweep is taken 1 m ahead and turned to the left, very far from where the world begins."""
    first, second = np.eye(4), np.eye(4)
    first[:2, 3], second[:2, 3] = (5e6, -4e5), (5e6 + 1, -4e5)
    second[:2, :2] = [[0, -1], [1, 0]]
    one = view([[3.0, 0, 0], [0, 4, 1], [9, 9, 9], [0, -2, 0]], first)
    other = view([[-1.96, 1, 0], [0.0, -2, 0], [4.0, 1, 1]], second)  # the last point of the first moved by 4 cm
    pairs = matches(one, other, SweepPairConfig(radius=0.1))
    assert pairs.tolist() == [[0, 1], [1, 2], [3, 0]]
    assert matches(one, other, SweepPairConfig(radius=0.01)).tolist() == [[0, 1], [1, 2]]
    chosen, valid = match(one, other, 4, SweepPairConfig())
    assert valid.tolist() == [[True, True, True, False]] and chosen[0, :3].tolist() == pairs.tolist()


@pytest.mark.parametrize("name", ["point_contrast", "fac"])
def test_what_augmentation_does_is_undone(name: str) -> None:
    """All points of the made drives stand still: each has its match, however the sweeps are turned and scaled."""
    config: Any = METHODS.config(name).model_validate(
        {"num_pairs": 96, "augment": {**PLAIN, "rotation": "z", "scale": [0.9, 1.1]}, "sweeps": {"gap": [0.1, 0.3]}}
    )
    method: Any = METHODS.build(config, tiny_encoder(SECOND, SWEEPS))
    drives = [Recording({"sweeps": partial(NoiseDrive, seed)}) for seed in range(3)]
    cut = stack([method.views.cut(drive, (0, 0, number)) for number, drive in enumerate(drives)])
    first, second = method.views.prepare(cut)
    assert not torch.allclose(first.points.xyz, second.points.xyz)
    pairs = matches(first, second, config.sweeps)
    assert pairs[:, 0].tolist() == pairs[:, 1].tolist() == list(range(3 * 96))


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    few: dict[str, Any] = {
        "num_train": 4,
        "num_val": 0,
        "num_test": 1,
        "sweeps": 8,
        "key_every": 1,
        "beams": 24,
        "columns": 300,
    }
    return write_dataset(tmp_path_factory.mktemp("streets") / "drives", SyntheticDriveConfig(**few))


@pytest.mark.parametrize("name", ["point_contrast", "fac"])
def test_sweeps_of_a_street(name: str, streets: Path, tmp_path: Path) -> None:
    """Matched points are of one class; a run learns to find them, and goes on from where it was stopped."""
    method = {
        "augment": {**PLAIN, "rotation": "z", "flip": [0.0, 0.0, 0.0]},
        "sweeps": {"gap": [0.2, 0.6], "radius": 0.2},
    }
    changes: dict[str, Any] = {
        "encoder": SECOND,
        "input": SWEEPS,
        "method": {**method, "num_pairs": 256},
        "engine": {"epochs": 12, "batch_size": 2},
        "optim": {"name": "adamw", "lr": 5e-3, "lr_batch": None, "weight_decay": 0.01},
    }
    config = merge(tiny(streets, tmp_path / "run", name), changes)
    config["data"] = {"name": "drives", "root": str(streets), "num_workers": 0}
    train(config)
    told = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in told]
    assert np.mean(losses[-6:]) < np.mean(losses[:3]) - 0.3
    made: Any = METHODS.build(load_run_config(tmp_path / "run").method, tiny_encoder(SECOND, SWEEPS))
    data = source(streets)
    dataset = data.dataset(data.recordings(), made.views)
    same = count = 0
    for sample in range(5):
        first, second = made.views.prepare(collate([dataset[0, sample]]).views)
        pairs = matches(first, second, made.config.sweeps)
        one, other = (v.points.labels["segment"][pairs[:, i]] for i, v in enumerate((first, second)))
        same, count = same + int((one == other).sum()), count + len(pairs)
        assert len(pairs) > 0.3 * len(first.points.xyz)
    assert same > 0.97 * count
