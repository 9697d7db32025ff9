"""Videos are recognised: all modes learn on tiny files, by one label or by tags."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from st_ssl.augment.video import VideoAugmentConfig
from st_ssl.optim import OptimConfig
from st_ssl.schedule import ScheduleConfig
from st_ssl.transfer.finetune import FinetuneConfig, finetune
from st_ssl.transfer.tasks import TASKS
from st_ssl.types import Entry
from tests.transfer.tiny import source_of, write_dataset, write_encoder

CPU = torch.device("cpu")
STILL = VideoAugmentConfig(crop="centre", flip=0, jitter=0, grayscale=0, blur=0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av")
    return write_dataset(tmp_path_factory.mktemp("tiny") / "set")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("runs") / "run")


def settings(task: dict[str, Any] | None = None, **changes: Any) -> FinetuneConfig:
    keys: dict[str, Any] = {"target": "light", "augment": STILL, "clips": 1} | (task or {})
    base: dict[str, Any] = {
        "epochs": 6,
        "batch_size": 4,
        "optim": OptimConfig(lr=0.01, lr_batch=None, weight_decay=0.0),
        "schedule": ScheduleConfig(warmup_epochs=1),
        "seeds": 1,
        "val_share": 0.0,
        "task": TASKS.config("recognise").model_validate(keys),
        "data": None,
    }
    return FinetuneConfig(**base | changes)


def test_videos_are_told_apart_in_all_modes(dataset: Path, run: Path) -> None:
    result = finetune(source_of(dataset), [run], settings({"clips": 3}), CPU)
    found = {row["mode"]: row["metrics"] for row in result["results"]}
    assert list(found) == ["scratch", "frozen", "full"]
    assert all(metrics["top1"]["mean"] > 80 for metrics in found.values()), found  # chance is 50
    assert set(found["full"]) == {"top1", "mean_class_accuracy", "ece", "top1_one_view"}
    assert result["classes"] == ["bright", "dark"] and result["metric"] == "top1"
    assert result["sizes"] == {"train": 16, "val": 0, "test": 8}


def test_tags(dataset: Path, run: Path) -> None:
    source = source_of(dataset)
    rows = [replace(e, labels={}, tags=(e.labels["light"], e.labels["length"])) for e in source.entries()]
    source.entries = lambda: [*rows, Entry("nowhere.mp4")]  # type: ignore[method-assign]
    result = finetune(source, [run], settings({"multi_label": True, "target": None}, modes=("full",)), CPU)
    assert result["classes"] == ["bright", "dark", "long", "short"] and result["metric"] == "mAP"
    assert result["sizes"] == {"train": 16, "val": 0, "test": 8}  # the one without tags is left out
    assert result["results"][0]["metrics"]["mAP"]["mean"] > 70
