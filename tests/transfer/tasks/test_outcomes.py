"""What test samples add to a task's metric makes it up again: for every registered task."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.core.types import Entry
from st_ssl.core.verdict import Figure
from st_ssl.data.base import DataSource
from st_ssl.transfer.fitting.task_loader import Feed
from st_ssl.transfer.tasks.base import TASKS, Task
from st_ssl.transfer.tasks.metrics import IGNORE
from tests.transfer.clouds import INPUT, TinySource, tiny_registered

__all__ = ["tiny_registered"]

KEYS: dict[str, dict[str, Any]] = {
    "few_shot": {"ways": 3, "shots": 2, "queries": 3, "folds": 1},
    "segment": {"background": (0,)},
}
APART = {"detect"}  # of boxes, whose sums tests/transfer/tasks/test_detection.py looks at
CASES = [(name, KEYS.get(name, {})) for name in TASKS.names() if name not in APART]
CASES += [("recognise", {"multi_label": True})]


def videos() -> list[Entry]:
    return [
        Entry(f"{split}/{i}", split, {"kind": "abc"[i % 3]}, tags=("x", "y", "z")[: i % 3 + 1])
        for split, count in (("train", 12), ("test", 18))
        for i in range(count)
    ]


def learned(name: str, keys: dict[str, Any]) -> tuple[Task, list[Entry]]:
    """The task, which knows its classes, and its test part."""
    task: Task = TASKS.build(TASKS.config(name).model_validate({"name": name} | keys))
    source: DataSource = TinySource()
    parts = task.parts(source.entries() if task.modality == "points" else videos(), 0)
    task.learn_classes(parts, Feed(source, task, INPUT, torch.device("cpu")).look)
    return task, parts.test


def judged(task: Task, test: list[Entry]) -> tuple[np.ndarray, dict[str, float]]:
    """Outcomes [M, K] of random scores in batches, and the figures of a meter of the same; the last sample but one has
    no labels."""
    rng, meter, parts = np.random.default_rng(0), task.meter(), []
    for start in range(0, len(test), 4):
        entries = test[start : start + 4]
        of_points = task.whole
        sample = np.arange(len(entries)).repeat(rng.integers(5, 9, len(entries)) if of_points else 1)
        truth = truth_of(task, [entries[i] for i in sample], rng)
        truth[sample == len(test) - 2 - start] = IGNORE
        scores = rng.random((len(sample), 6))[:, : classes(task)]
        meter.add(scores, truth, sample, entries)
        if task.figure is not None:
            parts.append(task.outcomes(scores, truth, sample, entries))
    return np.concatenate(parts) if parts else np.empty((0, 0)), meter.result()


def classes(task: Any) -> int:
    return (
        task.num_classes if hasattr(task, "num_classes") else 6 if hasattr(task, "known") else len(task.labels.classes)
    )


def truth_of(task: Any, rows: list[Entry], rng: np.random.Generator) -> np.ndarray:
    if not task.whole:
        return task.labels.targets(rows).numpy()
    if hasattr(task, "known"):
        return np.array([rng.choice(task.known[task.group(entry)]) for entry in rows])
    return rng.integers(-1, task.num_classes, len(rows))


@pytest.mark.parametrize(("name", "keys"), CASES, ids=lambda case: str(case))
def test_the_sums_of_all_samples_make_the_metric(name: str, keys: dict[str, Any]) -> None:
    task, test = learned(name, keys)
    parts, figures = judged(task, test)
    figure: Figure | None = task.figure
    if keys.get("multi_label"):
        assert figure is None and set(figures) == {"mAP", "ece"}
        return
    assert figure is not None and len(parts) == len(test)
    assert figure(parts.sum(0)) == pytest.approx(figures[task.metric], abs=1e-9)
    assert 5 < figures[task.metric] < 95  # or else little is told
    assert not parts[-2].any() and parts[-1].any()
    several = np.stack([parts.sum(0), parts[:5].sum(0), 0 * parts[0]]).reshape(1, 3, -1)
    with np.errstate(all="raise", invalid="ignore"):
        found = figure(several)
    assert found.shape == (1, 3) and found[0, 0] == figure(parts.sum(0)) and np.isnan(found[0, 2])
