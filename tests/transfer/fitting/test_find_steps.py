"""How many steps scratch needs is found on training samples alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from st_ssl.core.errors import ConfigError
from st_ssl.transfer.fitting import find_steps as search
from st_ssl.transfer.fitting.find_steps import Budget, enough, find_steps
from st_ssl.transfer.fitting.finetune_setup import Setup
from st_ssl.transfer.fitting.label_fractions import Parts
from st_ssl.transfer.tasks.base import TASKS
from tests.transfer.clouds import TinyDataConfig, TinySource, settings, tiny_registered
from tests.transfer.fits import CPU, few, write_run

__all__ = ["tiny_registered"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ([20, 50, 70, 70.5, 70.9], 200),
        ([20, 50, 70, 69, 71.1, 71.3, 71.2], 800),  # better two budgets later
        ([20, 50, 70, 70], None),  # not known yet
        ([10, 10.5, 10.2, 10.3, 40, 41, 40.5, 40], 1600),  # at chance budgets are alike because all are too small
        ([20, 50, 70, math.nan, 71], None),
        ([30, 30.9, 30.9], 50),
    ],
)
def test_when_a_budget_is_enough(means: list[float], expected: int | None) -> None:
    tried = [Budget(50 * 2**at, (mean, mean)) for at, mean in enumerate(means)]
    assert enough(tried, 13.0) == expected


def test_planted_clouds(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch, 10)
    source = TinySource(TinyDataConfig(train=24))
    config = settings({"name": "classify"}, label_fractions=(0.25, 1.0), modes=("full",), val_share=0.2)
    shown: list[tuple[Parts, int | None]] = []
    judged: list[list[str]] = []
    fit, evaluate = search.fit, search.evaluate

    def fitted(model: Any, task: Any, feed: Any, parts: Parts, config: Any, seed: int) -> Any:
        shown.append((parts, config.steps))
        return fit(model, task, feed, parts, config, seed)

    def looked(model: Any, task: Any, feed: Any, entries: Any, config: Any) -> Any:
        judged.append([entry.path for entry in entries])
        return evaluate(model, task, feed, entries, config)

    monkeypatch.setattr(search, "fit", fitted)
    monkeypatch.setattr(search, "evaluate", looked)
    told: list[Budget] = []
    found = find_steps(Setup.of(source, [run], config, CPU), 4, told.append)
    assert found.tried == told and [b.steps for b in told] == [4 * 2**at for at in range(len(told))]
    assert found.steps in [budget.steps for budget in told[:-2]] and found.steps == enough(told, 100 / 3 + 3)
    assert (found.metric, found.share, found.labels, found.samples) == ("accuracy", 0.25, 18, 54)
    assert [steps for _, steps in shown] == [budget.steps for budget in told for _ in range(3)]
    task = TASKS.build(config.task)
    train = task.parts(source.rows, 0).train
    results = [{entry.path for entry in task.fraction(train, 0.25, repeat)} for repeat in range(9)]
    draws = [{e.path for e in [*parts.train, *parts.val]} for parts, _ in shown[:3]]
    for draw, held in zip(draws, judged[:3], strict=True):
        assert len(draw) == 18 and draw not in results and not draw & set(held)
        assert all(path.startswith("train/") for path in [*draw, *held])
    assert len(set(map(frozenset, draws))) == 3 and judged[3:6] == judged[:3]


def test_all_labels_leave_some_to_judge_by(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings({"name": "segment"}, label_fractions=(1.0,))
    monkeypatch.setattr(search, "DOUBLINGS", 0)
    found = find_steps(Setup.of(TinySource(), [run], config, CPU), 2)
    assert found.steps is None and (found.labels, found.samples) == (32, 4)


def test_folds_have_their_own_labels(run: Path) -> None:
    setup = Setup.of(TinySource(), [run], settings({"name": "few_shot", "ways": 2, "shots": 4, "queries": 5}), CPU)
    with pytest.raises(ConfigError, match="--find-steps: few_shot takes as many labels as it says itself"):
        find_steps(setup)
