"""The curve over the steps of a fit: it is there, it changes nothing, and it survives."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from st_ssl.core.types import Entry
from st_ssl.training.optim import OptimConfig
from st_ssl.training.schedule import ScheduleConfig
from st_ssl.transfer.fitting import fit as fitting
from st_ssl.transfer.fitting.curve import curve_samples, improving, marks, starved
from st_ssl.transfer.fitting.evaluate import evaluate
from st_ssl.transfer.fitting.finetune import finetune
from st_ssl.transfer.fitting.fit import fit
from st_ssl.transfer.fitting.label_fractions import Parts
from tests.transfer.clouds import TinySource, settings, tiny_registered
from tests.transfer.fits import CPU, network, prepared, write_run

__all__ = ["tiny_registered"]
SEGMENT = {"name": "segment", "augment": {"rotation": "so3"}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def test_where_a_fit_is_looked_at() -> None:
    assert marks(800) == [100, 200, 400, 600, 800] and marks(1) == [1] and marks(3) == [1, 2, 3]
    entries = [Entry(f"{kind}/{i}", "test", {"kind": kind}) for kind, n in (("a", 900), ("b", 100)) for i in range(n)]
    chosen = curve_samples(entries, lambda entry: entry.labels["kind"])
    assert len(chosen) == 500 and sum(entry.labels["kind"] == "b" for entry in chosen) == 50


@pytest.mark.parametrize("ema", [None, 0.5])
def test_it_changes_no_bit_of_the_weights(run: Path, ema: float | None) -> None:
    found = []
    for curve in (False, True):
        config = settings(SEGMENT, epochs=3, batch_size=6, ema=ema, curve=curve)
        task, feed, parts = prepared(config)
        model = network(run, task)
        fitted = fit(model, task, feed, parts, config, 0)
        found.append((fitted.epoch, fitted.validation, {n: t.clone() for n, t in model.state_dict().items()}))
        assert list(fitted.curve) == (marks(3 * (len(parts.train) // 6)) if curve else [])
    assert found[0][:2] == found[1][:2]
    assert all(torch.equal(tensor, found[1][2][name]) for name, tensor in found[0][2].items())


def test_its_figures_are_those_of_the_weights_of_then(run: Path) -> None:
    config = settings(SEGMENT, epochs=2, batch_size=6, ema=0.5, curve=True)
    task, feed, parts = prepared(config)
    model = network(run, task)
    fitted = fit(model, task, feed, Parts(parts.train, [], parts.test), config, 0)
    assert fitted.curve[8] == evaluate(model, task, feed, parts.test, config)["mIoU"]  # the average is what is left
    assert len(set(fitted.curve.values())) > 1


def test_rows_have_it_and_it_is_gone_on_with(run: Path) -> None:
    config = settings(SEGMENT, modes=("scratch", "full"), epochs=2, seeds=2, curve=True, patience=1)
    left: list[dict[str, Any]] = []
    whole = finetune(
        TinySource(), [run], config, CPU, finished=lambda result: left.append(json.loads(json.dumps(result)))
    )
    for row in whole["results"]:
        assert row["curve"]["steps"] == marks(row["steps"]) == [1, 2, 4, 6, 8]
        assert [len(values) for values in row["curve"]["values"]] == [5, 5]
    again = finetune(TinySource(), [run], config, CPU, before=left[1])
    assert json.dumps(again["results"]) == json.dumps(whole["results"])


def test_of_a_fit_that_ended_early_the_rest_is_left_open(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(SEGMENT, epochs=4, batch_size=9, curve=True, patience=1)
    task, feed, parts = prepared(config)
    monkeypatch.setattr(fitting, "evaluate", lambda *_: {"mIoU": 50.0})
    assert list(fit(network(run, task), task, feed, parts, config, 0).curve) == [2, 3, 6]  # of 12 steps


FED, STARVED = [40.0, 60.0, 70.0, 74.0, 76.0], [10.0, 12.0, 15.0, 22.0, 29.0]


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (FED, False),
        (STARVED, True),
        ([20.0, 35.0, 47.0, 60.0, 66.0], True),  # a third of what it gained came last
        ([30.0, 30.0, 30.0, 30.0, 30.0], False),
        ([10.0, 10.0, 10.0, 11.0, 12.5], False),  # less than three points
        ([90.0, 95.0, 97.0, 98.0, 98.5], False),
        ([2.0, 3.0, 4.0, 6.0, 9.0], True),  # below what chance would be, and rising
        ([10.0, 12.0, 15.0, math.nan, math.nan], False),
    ],
)
def test_who_is_starved(curve: list[float], expected: bool) -> None:
    assert improving(curve, 2, 10.0) == expected


def test_the_starved_are_told_by_their_mean() -> None:
    def row(mode: str, fraction: float, *curves: list[Any]) -> dict[str, Any]:
        steps = [10, 20, 40, 60, 80]
        curve = {"steps": steps, "values": list(curves)}
        return {"mode": mode, "fraction": fraction, "steps": steps[-1], "curve": curve}

    rows = [row("scratch", 0.05, STARVED, STARVED), row("scratch", 1.0, FED, FED), row("full", 0.05, STARVED)]
    told = "scratch was still improving with 5 % of the labels: top1 15.0 after 40 steps, 29.0 after 80. What is ahead"
    (found,) = starved(rows, "top1", 10)
    assert found["fraction"] == 0.05 and found["told"].startswith(told) and found["told"].endswith("try steps=160")
    assert starved([row("scratch", 1.0, STARVED, [None] * 5)], "top1", 10)[0]["fraction"] == 1.0
    assert not starved([row("scratch", 1.0, [None] * 5), {"mode": "scratch", "fraction": 0.5, "steps": 9}], "top1", 10)
    (few,) = starved([row("scratch", 1.0, FED)], "top1", 10, 81)
    assert few["told"].startswith("scratch is given 80 steps, and on the recipe's own data it went on")
    assert not starved([row("scratch", 1.0, FED)], "top1", 10, 80)


def test_a_starved_scratch_is_told(run: Path) -> None:
    task = {"name": "classify"}
    few: dict[str, Any] = {"modes": ("scratch",), "optim": OptimConfig(lr=0.01, lr_batch=None), "curve": True}
    config = settings(task, **few, steps=10, scratch_steps=50, schedule=ScheduleConfig())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = finetune(TinySource(), [run], config, CPU)
    (one,) = result["starved"]
    assert [str(w.message) for w in told] == [
        "scratch is given 10 steps, and on the recipe's own data it went on improving up to scratch_steps=50: what is "
        "ahead of it may be so for want of steps alone",
        one["told"],
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finetune(TinySource(), [run], config.model_copy(update={"steps": 100, "label_fractions": (0.3,)}), CPU)
        finetune(TinySource(), [run], config.model_copy(update={"modes": ("full",)}), CPU)
