"""Trivial baselines: of the same labels, asked about the same samples, each of which is read once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.core.errors import SampleError
from st_ssl.core.types import Entry, PointCloud
from st_ssl.data.loading.sample_dataset import SampleDataset
from st_ssl.data.points.dataset import cloud_dataset
from st_ssl.transfer.fitting import baselines, fit
from st_ssl.transfer.fitting.baselines import Baselines
from st_ssl.transfer.fitting.finetune import finetune
from st_ssl.transfer.fitting.label_fractions import Parts
from st_ssl.transfer.fitting.outcomes import OutcomeStore
from st_ssl.transfer.fitting.task_loader import Feed, Interrupted
from st_ssl.transfer.tasks.base import TASKS
from tests.ddp import run_ranks
from tests.transfer.clouds import INPUT, TinySource, cloud, register, settings, tiny_registered
from tests.transfer.fits import CPU, write_run

__all__ = ["tiny_registered"]


class Counted(TinySource):
    """Counts how often each cloud is read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: Counter[str] = Counter()

    def dataset(self, entries: Any, views: Any, seed: Any = 0) -> SampleDataset:
        def read(path: str) -> PointCloud:
            self.read[path] += 1
            if path == "test/rod/0":
                raise SampleError(path, "broken")
            return cloud(path)

        return cloud_dataset(entries, views, seed, read)


def made(
    source: TinySource, store: OutcomeStore, shares: tuple[float, ...] = (1.0,), repeat: int = 0, **task: Any
) -> Parts:
    """The baselines of one repetition, each of a share of all labels; the parts that they are drawn from."""
    own = TASKS.build(settings({"name": "classify", **task}).task)
    feed = Feed(source, own, INPUT, CPU)
    parts = own.parts(source.entries(), repeat)
    own.learn_classes(parts, feed.look)
    made = Baselines(feed, store)
    for share in shares:
        labels = own.fraction(parts.train, share, repeat)
        made.add(Parts(labels[1:], labels[:1], parts.test), share, repeat, lambda told: None)
    return parts


def test_they_have_the_labels_and_the_test_samples_of_the_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the fit with the same fraction and repetition, and of its validation part, but for what is broken."""
    source, seen, asked = TinySource(), [], []
    source.rows[3] = Entry("train/broken/0", "train", {"kind": "ball"})
    source.rows[40] = Entry("test/broken/0", "test", {"kind": "ball"})
    course, predicted = fit._Course.__post_init__, Baselines._predicted

    def noted(self: Any) -> None:
        parts = self.parts
        seen.append(({e.path for e in parts.train + parts.val}, {e.path for e in parts.test}))
        course(self)

    def noted_here(self: Baselines, name: str, shown: Any, labels: np.ndarray, tested: Any) -> np.ndarray:
        assert [("ball", "disc", "rod")[label] for label in labels] == [e.labels["kind"] for e in shown]
        asked.append(({e.path for e in shown}, {e.path for e in tested}))
        return predicted(self, name, shown, labels, tested)

    monkeypatch.setattr(fit._Course, "__post_init__", noted)
    monkeypatch.setattr(Baselines, "_predicted", noted_here)
    config = settings({"name": "classify"}, modes=("frozen",), label_fractions=(0.25, 1.0), seeds=2, epochs=1)
    finetune(source, [write_run(tmp_path / "run")], config, CPU)
    of_networks = [tuple(part - {"train/broken/0", "test/broken/0"} for part in pair) for pair in seen]
    assert len({frozenset(train) for train, _ in of_networks}) == 3  # two of a quarter, and all
    assert asked[::2] == asked[1::2] == of_networks  # of two baselines each
    assert all("test/broken/0" not in test and len(test) == 17 for _, test in asked)


def test_a_result_tells_of_them(tmp_path: Path) -> None:
    config = settings({"name": "classify"}, modes=("scratch", "full"), label_fractions=(0.25, 1.0), seeds=3, epochs=1)
    result = finetune(TinySource(), [write_run(tmp_path / "run")], config, CPU)
    result = json.loads(json.dumps(result))
    rows = {(row["name"], row["fraction"]): row["metrics"]["accuracy"] for row in result["baselines"]}
    assert list(rows) == [("raw", 0.25), ("metadata", 0.25), ("raw", 1.0), ("metadata", 1.0)]
    assert rows["raw", 1.0]["mean"] > 90 and rows["metadata", 1.0]["mean"] == pytest.approx(100 / 3)
    assert rows["raw", 1.0]["std"] == 0 and len(rows["raw", 1.0]["values"]) == 3
    for row in result["verdicts"]:
        assert row["mode"] == "full"
        assert [against["name"] for against in row["verdict"]["against"]] == ["scratch", "raw"]
        (own,) = [r for r in result["results"] if (r["mode"], r["fraction"]) == ("full", row["fraction"])]
        ahead = own["metrics"]["accuracy"]["mean"] - rows["raw", row["fraction"]]["mean"]
        assert row["verdict"]["against"][1]["mean"] == pytest.approx(ahead)
    alone = finetune(TinySource(), [tmp_path / "run"], config.model_copy(update={"baselines": False}), CPU)
    assert alone["baselines"] == [] and alone["results"] == result["results"]
    assert all(len(row["verdict"]["against"]) == 1 for row in alone["verdicts"])
    assert all(row["verdict"]["standing"] != "ahead" for row in alone["verdicts"])  # that takes a baseline, too


def test_each_sample_is_read_once_and_nothing_is_made_twice() -> None:
    source, store = Counted(), OutcomeStore()
    parts = made(source, store, (0.25, 1.0))
    made(source, store, (0.25, 1.0), 1)
    read = dict(source.read)
    assert read.keys() == {e.path for e in parts.train + parts.val + parts.test}
    assert sum(read.values()) == len(read) + 1 and read["test/rod/0"] == 1  # another one is read in place of the broken
    values = store.repeats("raw", 1.0)
    assert list(values) == [(0, 0), (0, 1)] and (values[0, 0] == values[0, 1]).all()
    made(source, store, (0.25, 1.0), 1)
    assert source.read == read


def test_what_is_drawn_of_a_sample_depends_on_it_alone() -> None:
    """A resume, which reads others first, goes on to the same outcomes."""
    whole, again = OutcomeStore(), OutcomeStore()
    made(TinySource(), whole, (0.25, 1.0))
    made(TinySource(), again, (1.0,))
    assert again.features.keys() == whole.features.keys()
    for name, features in whole.features.items():
        np.testing.assert_array_equal(again.features[name]["raw"], features["raw"])


@pytest.mark.parametrize("name", ["segment", "part"])
def test_tasks_about_points_have_none(name: str) -> None:
    source, store = TinySource(), OutcomeStore()
    made(source, store, name=name)
    assert store.baselines == []


def test_few_shot_folds_have_them() -> None:
    store = OutcomeStore()
    keys: dict[str, Any] = {"name": "few_shot", "ways": 2, "shots": 4, "queries": 4, "folds": 2}
    folds = [made(TinySource(), store, repeat=repeat, **keys) for repeat in range(2)]
    assert folds[0].test != folds[1].test
    assert [parts[:, 1].sum() for parts in store.repeats("raw", 1.0).values()] == [8, 8]


def test_too_many_labels_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MOST", 20)
    store = OutcomeStore()
    with pytest.warns(UserWarning, match=r"^no baselines with 36 labelled samples: 20 are the most"):
        made(TinySource(), store, (0.25, 1.0))
    assert store.has_baselines(0.25, 0) and not store.has_baselines(1.0, 0)


def test_reading_them_can_be_stopped() -> None:
    source = Counted()
    task = TASKS.build(settings({"name": "classify"}).task)
    feed = Feed(source, task, INPUT, CPU, stopped=lambda: sum(source.read.values()) > 4)
    parts = task.parts(source.entries(), 0)
    task.learn_classes(parts, feed.look)
    with pytest.raises(Interrupted, match="stopped as the baselines were read"):
        Baselines(feed, OutcomeStore()).add(parts, 1.0, 0, lambda told: None)
    assert sum(source.read.values()) == 5


def of_ranks(rank: int, world_size: int) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        source, store = Counted(), OutcomeStore()
        made(source, store, (0.25, 1.0))
    parts = {share: store.repeats("raw", share)[0, 0].tolist() for share in store.shares()}
    return {"read": sum(source.read.values()), "parts": parts}


@pytest.mark.ddp
def test_two_processes_share_the_reading(tmp_path: Path) -> None:
    alone, two = of_ranks(0, 1), run_ranks(of_ranks, 2, tmp_path)
    assert two[0]["read"] + two[1]["read"] == alone["read"] and two[1]["read"] > 20
    assert two[0]["parts"] == alone["parts"] and two[1]["parts"] == {} and len(alone["parts"]) == 2
