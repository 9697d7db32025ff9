"""The curve over the steps of a fit: it is there, it changes nothing, and it survives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from st_ssl.core.types import Entry
from st_ssl.transfer.fitting import fit as fitting
from st_ssl.transfer.fitting.curve import curve_samples, marks
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
    assert json.dumps(again) == json.dumps(whole)


def test_of_a_fit_that_ended_early_the_rest_is_left_open(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(SEGMENT, epochs=4, batch_size=9, curve=True, patience=1)
    task, feed, parts = prepared(config)
    monkeypatch.setattr(fitting, "evaluate", lambda *_: {"mIoU": 50.0})
    assert list(fit(network(run, task), task, feed, parts, config, 0).curve) == [2, 3, 6]  # of 12 steps
