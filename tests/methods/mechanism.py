"""What runs over planted drives have learned of their own task, and what their encoders know of speed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from st_ssl.core.types import View
from st_ssl.data.base import DATA
from st_ssl.data.loading.sample_dataset import collate
from st_ssl.encoders.base import random_encoder
from st_ssl.engine.building import with_checkpoint
from st_ssl.engine.run_config import RunConfig
from st_ssl.engine.run_files import load_run_config
from st_ssl.training.checkpoint import load_checkpoint
from st_ssl.transfer.probes.classifiers import r2_scores, ridge_predict

_STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # of ridge regression


def trained(run: Path) -> tuple[RunConfig, Any]:
    """The configuration of a run, and its method after the last step."""
    config = load_run_config(run)
    last = max((run / "checkpoints").glob("step_*"), key=lambda path: int(path.name.removeprefix("step_")))
    return config, with_checkpoint(config, load_checkpoint(last)).eval()


def planted(config: RunConfig, **changes: Any) -> Any:
    """Drives of the same planted world as the run's, with ``changes``."""
    own = {"seed": config.data.planted.seed, "num_val": 0, **changes}
    return DATA.build(DATA.config("drives").model_validate({"num_workers": 0, "planted": own}))


def averages(source: Any, method: Any, ask: Callable[[View], dict[str, float]], draws: int) -> dict[str, float]:
    """The means of what ``ask`` finds, over ``draws`` views of every drive."""
    recordings = source.recordings()
    dataset = source.dataset(recordings, method.views)
    found: dict[str, list[float]] = defaultdict(list)
    for sample in range(len(recordings)):
        for draw in range(draws):
            (view,) = method.views.prepare(collate([dataset[draw, sample]]).views)
            for name, value in ask(view).items():
                found[name].append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def forecasts(run: Path, draws: int = 3, source: Any = None) -> dict[str, float]:
    """TREND: the means of ``future_errors``, in metres, over pairs of sweeps of every test drive of the run's world (or
    of the drives of ``source``), with boxes in every sweep."""
    config, method = trained(run)
    source = source or planted(config, num_train=0, key_every=1)
    return averages(source, method, method.future_errors, draws)


def hidden_cells(run: Path, draws: int = 3) -> dict[str, float]:
    """Occupancy-MAE: the means of ``hidden_recall``, in per cent, over sweeps of every test drive."""
    config, method = trained(run)
    return averages(planted(config, num_train=0), method, method.hidden_recall, draws)


def moved_origin(run: Path, shift: float = 2.0, draws: int = 3) -> dict[str, float]:
    """ALSO: the means of ``query_accuracy``, in per cent, with the sensor where it is, and ``shift`` metres ahead."""
    config, method = trained(run)

    def ask(view: View) -> dict[str, float]:
        return {"here": method.query_accuracy(view), "moved": method.query_accuracy(view, shift)}

    return averages(planted(config, num_train=0), method, ask, draws)


@torch.no_grad()
def speeds(run: Path, untrained: bool = False, seed: int = 0, every: int = 3) -> dict[str, float]:
    """R² of the speed over ground of labelled objects, read by ridge regression from the frozen features of the one
    cell, seen from above, in which their middle is: learned on ``every`` third key frame of the training drives of the
    run's world, and judged on as many of its test drives, over all objects and over those that move (faster than 0.5
    m/s). By the ``untrained`` network of the run instead."""
    config, method = trained(run)
    encoder: Any = random_encoder(config.encoder, method.encoder.input, seed) if untrained else method.encoder
    source = planted(config)
    views = source.evaluation(encoder.input, 1)
    features: dict[str, list[np.ndarray]] = defaultdict(list)
    values: dict[str, list[np.ndarray]] = defaultdict(list)
    entries = source.entries()[::every]
    dataset = source.dataset(entries, views)
    for sample, entry in enumerate(entries):
        (view,) = views.prepare(collate([dataset[0, sample]]).views)
        boxes = view.points.boxes
        assert boxes is not None
        volume = encoder.volume(view.points)
        bev = volume.bev()[0]
        first, cell = (bev.new_tensor(pair[:2]) for pair in (volume.lattice.first, volume.cell))
        x, y = ((boxes.values[:, :2] - first) / cell).round().long().unbind(1)
        inside = (x >= 0) & (x < bev.shape[2]) & (y >= 0) & (y < bev.shape[1])
        features[entry.split].append(bev[:, y[inside], x[inside]].T.numpy())
        values[entry.split].append(boxes.values[inside, 7:9].norm(dim=1).numpy())
    x_train, x_test = (np.concatenate(features[split]) for split in ("train", "test"))
    y_train, y_test = (np.concatenate(values[split]).astype(np.float64) for split in ("train", "test"))
    found = {}
    for name, least in (("all", -1.0), ("moving", 0.5)):
        known, asked = y_train > least, y_test > least
        told, _ = ridge_predict(x_train[known], y_train[known], x_test[asked], seed, _STRENGTHS)
        found[name] = float(r2_scores(told, y_test[asked]).mean())
    return found
