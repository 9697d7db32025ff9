"""A tiny study, and its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from st_ssl.core.config import merge
from tests.runs import write_config

METHOD = {"name": "cvrl", "hidden_dim": 16, "output_dim": 8, "projector_layers": 2}


def study_data(root: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """Two methods on one network over two seeds, on the videos in ``root``; all it writes is in ``folder``."""
    data: dict[str, Any] = {
        "output_dir": str(folder / "page"),
        "store": str(folder / "cells"),
        "title": "Tiny",
        "seeds": [0, 1],
        "run": {
            "data": {"root": str(root), "num_workers": 0},
            "probe": {"kinds": ["knn", "linear"], "knn_k": 3},
            "optim": {"name": "adamw", "lr": 1e-3},
            "engine": {"epochs": 2, "batch_size": 4, "device": "cpu"},
        },
        "networks": {
            "cnn": {
                "input": {"num_frames": 4, "stride": 1, "size": 16},
                "encoder": {"name": "r3d", "depth": 10, "width": 4},
            }
        },
        "arms": {
            "cvrl": {"network": "cnn", "method": METHOD},
            "any": {"network": "cnn", "method": METHOD, "pairs": {"partner": "any"}},
        },
        "claims": [{"name": "pairs", "more": "cvrl", "less": "any", "target": "light"}],
    }
    return merge(data, changes)


def write_study(root: Path, folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return write_config(folder / "study.yaml", study_data(root, folder, **changes))


def cells(folder: Path) -> dict[str, Any]:
    """What the finished cells in a folder say, but for their costs."""
    files = sorted((folder / "cells").glob("*.json"))
    return {file.name: {k: v for k, v in json.loads(file.read_text()).items() if k != "cost"} for file in files}


def result(folder: Path) -> dict[str, Any]:
    """The result of a study, but for costs."""
    told: dict[str, Any] = json.loads((folder / "page" / "study.json").read_text())
    return {key: value for key, value in told.items() if key != "costs"}
