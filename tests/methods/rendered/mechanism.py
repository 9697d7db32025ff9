"""How well a run of TREND forecasts later sweeps of planted test drives."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from st_ssl.data.base import DATA
from st_ssl.data.loading.sample_dataset import collate
from st_ssl.engine.building import with_checkpoint
from st_ssl.engine.run_files import load_run_config
from st_ssl.training.checkpoint import load_checkpoint


def forecasts(run: Path, draws: int = 3, **data: Any) -> dict[str, float]:
    """The means of ``future_errors``, in metres, over ``draws`` pairs of sweeps of every test drive. ``data`` says
    which drives: without, those of the run's own planted world, with boxes in every sweep."""
    config = load_run_config(run)
    last = max((run / "checkpoints").glob("step_*"), key=lambda path: int(path.name.removeprefix("step_")))
    method: Any = with_checkpoint(config, load_checkpoint(last))
    planted = {"seed": config.data.planted.seed, "num_train": 0, "num_val": 0, "key_every": 1}
    source = DATA.build(DATA.config("drives").model_validate({"num_workers": 0, **(data or {"planted": planted})}))
    recordings = source.recordings()
    dataset = source.dataset(recordings, method.views)
    found: dict[str, list[float]] = defaultdict(list)
    for sample in range(len(recordings)):
        for draw in range(draws):
            (view,) = method.views.prepare(collate([dataset[draw, sample]]).views)
            for name, error in method.future_errors(view).items():
                found[name].append(error)
    return {name: float(np.mean(errors)) for name, errors in found.items()}
