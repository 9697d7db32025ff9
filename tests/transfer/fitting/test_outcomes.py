"""What is kept of single test samples, and the verdicts on it: paired by name, over the repetitions that all have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from st_ssl.core.types import Entry
from st_ssl.core.verdict import FEWEST, Outcomes, Verdict, judge, mean_figure, units_of
from st_ssl.transfer.fitting.evaluate import evaluate
from st_ssl.transfer.fitting.outcomes import Judged, OutcomeStore, sample_name, told, verdicts
from st_ssl.transfer.tasks.ballot import Shown
from st_ssl.transfer.tasks.base import TASKS, Task
from tests.transfer.clouds import settings, tiny_registered
from tests.transfer.fits import prepared

__all__ = ["tiny_registered"]

MODES = ("scratch", "full")
FULL: list[dict[str, Any]] = [{"mode": "scratch", "fraction": 0.1}, {"mode": "full", "fraction": 0.1}]
SAMPLES = [f"{number:02d}" for number in range(40)]


def classify(**keys: Any) -> Task:
    return TASKS.build(settings({"name": "classify", **keys}).task)


def rights(share: float, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(len(SAMPLES)) < share).astype(np.int64)


def judged(right: np.ndarray, names: Sequence[str] = SAMPLES) -> Judged:
    return Judged(list(names), list(np.stack([right, np.ones_like(right)], 1)))


def filled(
    store: OutcomeStore, baseline: float | None = 0.3, scratch: float | None = 0.5, full: float = 0.95
) -> OutcomeStore:
    """Three repetitions of a network, and of its rivals."""
    for repeat in range(3):
        store.add("full", 0.1, repeat, judged(rights(full, repeat)))
        if scratch is not None:
            store.add("scratch", 0.1, repeat, judged(rights(scratch, 10 + repeat)))
        if baseline is not None:
            shares = {"weak": 0.1, "strong": baseline}
            told = {name: judged(rights(share, 20 + repeat)) for name, share in shares.items()}
            store.add_baselines(0.1, repeat, told)
    return store


def test_a_verdict_is_that_of_the_outcomes_themselves() -> None:
    (row,) = verdicts(filled(OutcomeStore()), classify(), MODES, FULL)
    assert (row["mode"], row["fraction"]) == ("full", 0.1)
    found = Verdict.from_json(row["verdict"])
    ours, scratch, strong = (
        Outcomes.of_scores(np.stack([rights(share, seed + repeat) for repeat in range(3)]))
        for share, seed in ((0.95, 0), (0.5, 10), (0.3, 20))
    )
    assert found == judge(ours, {"scratch": scratch, "strong": strong})
    assert found.standing == "ahead" and (found.samples, found.seeds) == (40, 3)


def test_the_strongest_baseline_is_a_rival() -> None:
    (row,) = verdicts(filled(OutcomeStore(), baseline=1.0, full=0.8), classify(), MODES, FULL)
    assert row["verdict"]["standing"] == "behind"
    assert [against["name"] for against in row["verdict"]["against"]] == ["scratch", "strong"]
    (row,) = verdicts(filled(OutcomeStore(), scratch=None), classify(), ("full",), FULL[1:])
    assert [against["name"] for against in row["verdict"]["against"]] == ["strong"]


def test_samples_are_paired_by_name() -> None:
    """In another order, and without some that were broken, the pairs are the same."""
    right = rights(0.5, 1)
    store = OutcomeStore()
    store.add("scratch", 0.1, 0, judged(right))
    order = np.random.default_rng(0).permutation(40)[:35]
    store.add("full", 0.1, 0, judged(right[order], [SAMPLES[i] for i in order]))
    (row,) = verdicts(store, classify(), MODES, FULL)
    (against,) = row["verdict"]["against"]
    assert row["verdict"]["samples"] == 40
    assert against["mean"] == pytest.approx(100 * (right[order].mean() - right.mean()))
    half = (against["high"] - against["low"]) / 2
    assert half < 8  # would be twice as much of pairs by place: all that differs are five of forty
    parts = store.repeats("full", 0.1)[0, 0]
    assert parts.shape == (40, 2) and parts[:, 1].sum() == 35 and parts.sum(0)[0] == right[order].sum()


def test_a_sample_that_is_listed_twice_counts_twice() -> None:
    store = OutcomeStore()
    store.add("full", 0.1, 0, judged(np.array([1, 1, 0]), ["a", "a", "b"]))
    assert store.repeats("full", 0.1)[0, 0].tolist() == [[2, 2], [0, 1]]


def test_only_repetitions_that_all_have_are_judged() -> None:
    store = OutcomeStore()
    for who, repeats in (("full", (0, 1, 3)), ("scratch", (1, 2, 3))):
        for repeat in repeats:
            store.add(who, 0.1, repeat, judged(rights(0.9 if who == "full" else 0.1, repeat)))
    (row,) = verdicts(store, classify(), MODES, FULL)
    assert row["verdict"]["seeds"] == 2 and row["verdict"]["against"][0]["low"] > 0


def test_official_splits_are_judged_together() -> None:
    """Rows are the repetitions of all splits, and a sample counts in those that test on it."""
    store = OutcomeStore()
    for split in (1, 2):
        own = replace(store, split=split)
        names = [f"{split}/{name}" for name in SAMPLES[:30]] + SAMPLES[30:]
        for repeat in range(2):
            own.add("full", 0.1, repeat, judged(rights(0.9, repeat), names))
            own.add("scratch", 0.1, repeat, judged(rights(0.2, repeat + split), names))
            own.add_baselines(0.1, repeat, {"raw": judged(rights(0.1 * split, 9), names)})
        (row,) = verdicts(own, classify(), MODES, FULL)
        assert (row["verdict"]["samples"], row["verdict"]["seeds"]) == (40, 2)
    found = told(replace(store, split=None), classify(), MODES, FULL)
    (row,) = found["verdicts"]
    assert (row["verdict"]["samples"], row["verdict"]["seeds"]) == (70, 4)
    one, two = (float(100 * rights(0.1 * split, 9).mean()) for split in (1, 2))
    assert found["baselines"] == [
        {
            "name": "raw",
            "fraction": 0.1,
            "metrics": {
                "accuracy": {
                    "mean": pytest.approx((one + two) / 2),
                    "std": pytest.approx(abs(one - two) / 2),
                    "values": [one, two],
                    "seeds": [[one, one], [two, two]],
                }
            },
        }
    ]


@pytest.mark.parametrize(
    ("store", "task", "modes", "why"),
    [
        (OutcomeStore(), classify(), MODES, "what full and scratch got of single test samples is not known"),
        (
            filled(OutcomeStore(), scratch=None),
            classify(),
            MODES,
            "what scratch got of single test samples is not known",
        ),
        (filled(OutcomeStore(), None), classify(), ("full",), "there is neither a fit from scratch nor a baseline"),
        (
            OutcomeStore(),
            TASKS.build(TASKS.config("recognise").model_validate({"multi_label": True})),
            MODES,
            "mAP is not made of sums over test samples",
        ),
    ],
)
def test_why_there_is_no_verdict_is_told(store: OutcomeStore, task: Task, modes: Sequence[str], why: str) -> None:
    assert verdicts(store, task, modes, FULL) == [{"mode": "full", "fraction": 0.1, "verdict": None, "why": why}]


def test_outcomes_are_read_back(tmp_path: Path) -> None:
    store = filled(OutcomeStore(tmp_path / "out" / "a_outcomes.npz", {"epochs": 3}))
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a_outcomes.npz"]
    again = OutcomeStore(store.file, {"epochs": 3})
    again.read()
    assert told(again, classify(), MODES, FULL) == told(store, classify(), MODES, FULL)
    assert again.has_baselines(0.1, 2) and not again.has_baselines(0.1, 3) and not again.has_baselines(0.2, 2)
    again.add("full", 0.2, 0, judged(rights(0.5, 0), [*SAMPLES[:39], "new"]))
    third = OutcomeStore(store.file, {"epochs": 3})
    third.read()
    assert third.repeats("full", 0.2)[0, 0].shape == (41, 2) and third.shares() == [0.1, 0.2]
    np.testing.assert_array_equal(third.repeats("full", 0.2)[0, 0][39:], [[0, 0], [rights(0.5, 0)[39], 1]])


@pytest.mark.parametrize("case", ["missing", "of other fits", "cut off", "no archive", "without its table"])
def test_what_cannot_be_gone_on_with_is_none(tmp_path: Path, case: str) -> None:
    file = tmp_path / "a_outcomes.npz"
    if case != "missing":
        filled(OutcomeStore(file, {"epochs": 4 if case == "of other fits" else 3}))
    if case == "cut off":
        file.write_bytes(file.read_bytes()[:-100])
    if case == "no archive":
        file.write_text("nothing")
    if case == "without its table":
        np.savez(file, other=np.zeros(3))
    store = OutcomeStore(file, {"epochs": 3})
    store.read()
    assert store.shares() == [] and store.baselines == []
    assert told(filled(store), classify(), MODES, FULL)["verdicts"][0]["verdict"]["standing"] == "ahead"


class Noise(torch.nn.Module):
    """Scores by chance, of three classes for each sample, or of two for each point."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, shown: Shown) -> Tensor:
        return 3 * (torch.randn(len(shown.view.points.xyz), 2) if self.whole else torch.randn(len(shown), 3))


def test_an_evaluation_gives_what_its_figure_is_of() -> None:
    """With several votes it is of all of them; broken samples are missing."""
    torch.manual_seed(0)
    for name in ("classify", "segment"):
        task, feed, parts = prepared(settings({"name": name}))
        entries = [*parts.test[:7], Entry("test/broken/0", "test", {"kind": "ball"}), *parts.test[7:]]
        found = Judged()
        config, noise = settings({"name": name}, batch_size=4), Noise(task.whole)
        figures = evaluate(noise, task, feed, entries, config, 3, judged=found)  # type: ignore[arg-type]
        assert found.names == [sample_name(entry) for entry in parts.test] and len(found.names) > FEWEST
        figure = task.figure or mean_figure
        assert figure(np.sum(found.rows, 0)) == pytest.approx(figures[task.metric])
        assert figures[task.metric] != figures[f"{task.metric}_one_view"]


def test_parts_of_one_file_have_names_of_their_own() -> None:
    entries = [Entry("a.mp4"), Entry("a.mp4", start=8), Entry("a.mp4", num_frames=8), Entry("b.mp4")]
    assert len({sample_name(entry) for entry in entries}) == 4


def test_windows_of_a_recording_are_one_unit() -> None:
    windows = [Entry("a@1+2.npz", start=start, num_frames=5, window=True) for start in (0, 5)]
    others = [Entry("b.mp4", start=0, num_frames=5), Entry("b.mp4", start=5, num_frames=5), Entry("a@1+2.npz")]
    names = [sample_name(entry) for entry in (others[0], windows[0], others[1], windows[1], others[2])]
    assert len(set(names)) == 5
    assert units_of(names).tolist() == [0, 1, 2, 1, 3]
    assert units_of([]).tolist() == []
