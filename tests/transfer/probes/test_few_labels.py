"""Few-shot episodes and label curves on frozen features, and what chance is."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.cli.probe.probing import probe_tables
from st_ssl.core.errors import ConfigError
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import Entry
from st_ssl.engine.run_config import RunConfig
from st_ssl.report.folder import RunFolder
from st_ssl.report.probes import probe_table
from st_ssl.transfer.probes.few_labels import (
    EpisodeConfig,
    able_classes,
    few_shot_episodes,
    right_by_share,
    subset_rows,
)
from st_ssl.transfer.probes.probe import chance_level, probe_runs
from st_ssl.transfer.probes.probe_config import ProbeConfig
from tests.transfer.probes.test_probe import CPU, QUICK
from tests.transfer.tiny import source_of, write_dataset, write_encoder


def clouds(count: int, seed: int, spread: float, classes: int = 6, dim: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Features around a centre for each class, and their labels."""
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return (centres[labels] + spread * rng.normal(size=(count, dim)) + 5).astype(np.float32), labels


def test_episodes_are_those_of_sklearn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    neighbors = pytest.importorskip("sklearn.neighbors")
    config = EpisodeConfig(ways=3, shots=2, queries=4, episodes=12)
    (train, labels), (test, truth) = clouds(60, 0, 1.5), clouds(48, 1, 1.5)
    found = few_shot_episodes(train, labels, test, truth, config, 5)
    scores: dict[str, list[float]] = {"centroid": [], "logistic": []}
    x, y = (part - train.mean(0) for part in (train, test))
    x, y = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (x, y))
    for number in range(12):
        rng = keyed_rng(5, "episode", number)
        classes = rng.permutation(np.arange(6))[:3]
        rows = np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:2] for c in classes])
        asked = np.concatenate([rng.permutation(np.flatnonzero(truth == c))[:4] for c in classes])
        for name, model in (
            ("centroid", neighbors.NearestCentroid()),
            ("logistic", linear_model.LogisticRegression(max_iter=1000)),
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scores[name].append(100 * model.fit(x[rows], labels[rows]).score(y[asked], truth[asked]))
    for name, values in scores.items():
        assert 100 * found[name].accuracy.mean() == pytest.approx(np.mean(values), abs=100 / 144)  # one query of a tie
        assert found[name].right.sum() / found[name].asked.sum() == pytest.approx(found[name].accuracy.mean())
        assert found[name].asked.sum() == 12 * 3 * 4
        assert found[name].half_interval() == pytest.approx(1.96 * np.std(values, ddof=1) / np.sqrt(12), abs=0.5)
    assert 0.4 < found["centroid"].accuracy.mean() < 1


def test_features_that_say_nothing_are_at_chance_and_perfect_ones_at_the_top() -> None:
    config = EpisodeConfig(ways=4, shots=1, queries=5, episodes=60)
    (train, labels), (test, truth) = clouds(60, 0, 0.01), clouds(60, 1, 0.01)
    assert few_shot_episodes(train, labels, test, truth, config, 0)["centroid"].accuracy.tolist() == [1] * 60
    rng = np.random.default_rng(3)
    noise = few_shot_episodes(rng.normal(size=(60, 4)), labels, rng.normal(size=(60, 4)), truth, config, 0)
    for found in noise.values():
        half = found.half_interval()
        assert abs(100 * found.accuracy.mean() - 25) < 3 * half and 1 < half < 5


def test_classes_that_are_too_small_are_in_no_episode() -> None:
    labels, truth = np.array([0, 0, 1, 1, 2, 3, 3]), np.array([0, 0, 1, 2, 2, 3, 3])
    config = EpisodeConfig(ways=2, shots=2, queries=2, episodes=2)
    assert able_classes(labels, truth, config).tolist() == [0, 3]
    x, y = np.eye(4)[labels], np.eye(4)[truth]
    assert few_shot_episodes(x, labels, y, truth, config, 0)["centroid"].accuracy.mean() == 1
    assert few_shot_episodes(x, labels, y, truth, config.model_copy(update={"ways": 3}), 0) == {}


def test_label_curves_are_those_of_sklearn_on_nested_balanced_subsets() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    (train, labels), (test, truth) = clouds(120, 0, 2.0), clouds(60, 1, 2.0)
    entries = [Entry(f"{i}.mp4", labels={"class": str(label)}) for i, label in enumerate(labels)]
    subsets = [subset_rows(entries, "class", share, 7) for share in (0.05, 0.2, 1.0)]
    assert [len(rows) for rows in subsets] == [6, 24, 120]
    assert set(subsets[0]) < set(subsets[1]) < set(subsets[2])
    assert all((np.bincount(labels[rows]) == len(rows) // 6).all() for rows in subsets)
    assert subset_rows(entries, "class", 0.05, 8) != subsets[0]
    right = right_by_share(train, labels, test, truth, subsets, 7, (0.1,))
    found = [100 * float(np.mean(rows)) for rows in right]
    for rows, value in zip(subsets, found, strict=True):
        scaler = StandardScaler().fit(train[rows])
        model = LogisticRegression(C=0.1, max_iter=1000).fit(scaler.transform(train[rows]), labels[rows])
        assert value == pytest.approx(100 * model.score(scaler.transform(test), truth), abs=100 / 60)
    assert found[0] < found[2]


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ([0, 0, 0, 1, 1], [0, 1, 1, 1], 50),  # the commonest one is rare there: drawing at random is better
        ([0, 0, 0, 1], [0, 0, 0, 1], 75),
        ([0, 0, 1, 1], [0, 1, 1, 1], 50),  # the mean over those that are equally common
        ([0, 0, 1, 2], [0, 1, 2, 3], 25),  # a class that training does not know is never guessed
        ([0, 0, -1, 1], [1, 1, -1, 0], 50),
    ],
)
def test_chance(train: list[int], test: list[int], expected: float) -> None:
    assert chance_level(np.array(train), np.array(test)) == pytest.approx(expected)


def test_four_balanced_classes_are_told_at_a_quarter_by_chance() -> None:
    """However a small draw of the test part falls."""
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(np.repeat(np.arange(4), 12))
        assert chance_level(order[:36], order[36:]) >= 25 - 1e-9


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("av")
    root = write_dataset(tmp_path_factory.mktemp("tiny") / "set")
    run = write_encoder(tmp_path_factory.mktemp("runs") / "run")
    with pytest.warns(
        UserWarning, match=r"probe\.few_shot: 2 classes with 2 training .* than there are of some \(\d\)"
    ):
        return probe_runs(source_of(root), [run], ProbeConfig(**(QUICK | FEW)), CPU)


FEW: dict[str, Any] = {
    "kinds": ("few_shot", "curve"),
    "seeds": 2,
    "few_shot": {"ways": 2, "shots": 2, "queries": 3, "episodes": 8},
    "label_fractions": (0.25, 1.0),
}


def test_in_the_probe_they_stand_beside_their_baselines(table: dict[str, Any]) -> None:
    assert json.loads(json.dumps(table)) == table
    light, length = table["targets"]["light"], table["targets"]["length"]
    assert light["probes"] == {}
    assert {k: light["few_shot"][k] for k in ("ways", "shots", "queries", "episodes", "chance")} == {
        **{"ways": 2, "shots": 2, "queries": 3, "episodes": 8},
        "chance": 50,
    }
    assert list(light["few_shot"]["probes"]) == ["centroid", "logistic"]
    for told in (*light["few_shot"]["probes"].values(), *light["curve"]["probes"].values()):
        assert list(told) == ["pretrained", "random", "raw", "frames", "differences", "metadata"]
        assert all(len(cell["values"]) == 2 for cell in told.values())
    assert light["few_shot"]["probes"]["centroid"]["raw"] == {
        **{"mean": 100, "std": 0, "values": [100, 100], "interval": 0},
    }
    assert length["few_shot"]["probes"]["logistic"]["metadata"]["mean"] == 100
    assert length["few_shot"]["probes"]["centroid"]["raw"]["interval"] > 0
    assert "few_shot" not in table["targets"]["some"]
    assert light["curve"]["fractions"] == [0.25, 1.0] and light["curve"]["samples"] == [4, 16]
    assert light["curve"]["probes"]["100 %"]["raw"]["mean"] == 100 and light["curve"]["chance"] == 50
    assert length["curve"]["probes"]["25 %"]["metadata"]["mean"] == 100


def test_tables_and_the_page_show_them(table: dict[str, Any], tmp_path: Path) -> None:
    tables = probe_tables(table)
    names = ["few-shot", "linear probe by the share of the labels"]
    assert [str(t.title).split(",")[0] for t in tables] == [name for name in names for _ in range(2)]
    assert "2 classes, 2 shots, 8 episodes" in str(tables[0].title)
    cells = [list(column.cells) for column in tables[0].columns]
    assert cells[0][:3] == ["light (2)", "  centroid", "  logistic"] and cells[4][1] == "100.0 ± 0.0 raw pixels"
    assert [list(column.cells)[1] for column in tables[2].columns][::3] == ["  25 %", "50.0"]
    (tmp_path / "probe.json").write_text(json.dumps(table))
    few = probe_table(RunFolder(tmp_path, "run", RunConfig.model_construct())).few
    assert few is not None and few.episodes is not None and few.curves is not None
    everyone = ["pretrained", "random", "raw", "frames", "differences", "metadata", "chance"]
    assert few.episodes.contestants == few.curves.contestants == everyone
    assert [panel.title for panel in few.panels] == ["light", "length", "chance", "some"]
    assert "Linear probe of light with 25 to 100 per cent of the labels: pretrained " in str(few.panels[0].figure)
    first = few.episodes.rows[0]
    assert (first.target, first.span, first.key, first.what) == (
        "light",
        2,
        "centroid",
        "2 classes, 2 shots, 8 episodes",
    )
    assert [(cell.value, cell.spread) for cell in first.cells[2::4]] == [("100.0", "± 0.0"), ("50.0", "")]


def test_more_ways_than_there_are_classes_is_said(tmp_path: Path) -> None:
    pytest.importorskip("av")
    config = ProbeConfig(**(QUICK | FEW | {"kinds": ("few_shot",), "few_shot": {"ways": 4}}))
    with pytest.raises(ConfigError, match=r"4 classes with 1 training and 15 test .*: ask for fewer ways"):
        probe_runs(source_of(write_dataset(tmp_path / "set")), [write_encoder(tmp_path / "run")], config, CPU)


@pytest.mark.parametrize("keys", [{"label_fractions": (0.5, 0.5)}, {"splits": (1, 1)}, {"kinds": ("knn", "knn")}])
def test_what_is_asked_for_twice_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(keys))}\n.*each only once, got \["):
        ProbeConfig(**keys)


def test_verdicts_of_episodes_are_over_test_samples(tmp_path: Path) -> None:
    """However many episodes ask about them: a part of eight is as small after ten thousand."""
    pytest.importorskip("av")
    source = source_of(write_dataset(tmp_path / "set"))
    config = ProbeConfig(**(QUICK | FEW | {"kinds": ("few_shot",)}))
    with pytest.warns(UserWarning, match="no episodes"):
        result = probe_runs(source, [write_encoder(tmp_path / "run")], config, CPU)
    light = result["targets"]["light"]
    assert light["few_shot"]["verdicts"]["centroid"]["samples"] == light["samples"]["test"] == 8
    assert result["sizes"]["test"] == 8 and light["few_shot"]["verdicts"]["centroid"]["standing"] == "level"
