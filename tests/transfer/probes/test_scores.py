"""What probes make of scores: means, verdicts, several splits as one; and probes of planted encoders."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from st_ssl.cli.probe.probing import probe_tables, verdict_lines
from st_ssl.core.verdict import Verdict
from st_ssl.encoders.base import random_encoder, save_encoder
from st_ssl.transfer.features.features import ClipSet
from st_ssl.transfer.features.features import encode as true_encode
from st_ssl.transfer.probes.probe import probe_runs
from st_ssl.transfer.probes.probe_config import PointProbeConfig
from st_ssl.transfer.probes.scores import Scores, add_verdicts, joined
from tests.transfer.clouds import INPUT, TinyDataConfig, TinyEncoderConfig, TinySource, tiny_registered

__all__ = ["tiny_registered"]
CPU = torch.device("cpu")


def filled(shares: dict[str, float], samples: list[str], seeds: int = 2, target: str = "kind") -> Scores:
    """Everyone of ``shares`` tells that share of the samples right by kNN."""
    scores = Scores(samples)
    for seed in range(seeds):
        for who, share in shares.items():
            rng = np.random.default_rng([seed, len(samples)])
            scores.add((target, "knn", who), rng.random(len(samples)) < share, np.arange(len(samples)))
    return scores


def result_of(scores: Scores, chance: float, *targets: str) -> dict[str, Any]:
    made = {
        name: {"classes": 2, "chance": chance, "probes": {"knn": scores.row(name, "knn")}}
        for name in targets or ("kind",)
    }
    result: dict[str, Any] = {"targets": made}
    add_verdicts(result, scores)
    return result


NAMES = [str(i) for i in range(300)]


@pytest.mark.parametrize(
    ("shares", "chance", "best", "standing"),
    [
        ({"pretrained": 0.8, "random": 0.5, "raw": 0.4, "occupancy": 0.6}, 20, "occupancy", "ahead"),
        ({"pretrained": 0.8, "random": 0.5, "raw": 0.4, "occupancy": 0.9}, 20, "occupancy", "behind"),
        ({"pretrained": 0.8, "random": 0.5, "raw": 0.4}, 90, "chance", "behind"),
        ({"pretrained": 0.8, "random": 0.5}, 20, "chance", "ahead"),
        ({"pretrained": 0.8, "random": 0.8, "raw": 0.4}, 20, "raw", "level"),
    ],
)
def test_the_strongest_baseline_counts_and_guessing_is_one(
    shares: dict[str, float], chance: float, best: str, standing: str
) -> None:
    result = result_of(filled(shares, NAMES), chance)
    told = result["targets"]["kind"]["verdicts"]["knn"]
    assert [against["name"] for against in told["against"]] == ["random", best]
    assert told["standing"] == standing and Verdict.from_json(told).standing == standing
    assert (told["samples"], told["seeds"]) == (300, 2)


def test_over_all_targets_it_is_the_mean_of_their_means() -> None:
    scores = filled({"pretrained": 0.9, "random": 0.5, "raw": 0.3}, NAMES, target="a")
    other = filled({"pretrained": 0.2, "random": 0.3, "raw": 0.8}, NAMES, target="b")
    for cell, seeds in other.cells.items():
        scores.cells[cell] = [np.where(np.arange(300)[:, None] < 50, 0, parts) for parts in seeds]  # 50 have no label
    result = result_of(scores, 10, "a", "b")
    assert {name: target["verdicts"]["knn"]["standing"] for name, target in result["targets"].items()} == {
        **{"a": "ahead", "b": "behind"},
    }
    assert scores.judged("a") == 300 and scores.judged("b") == 250
    cells = result["overall"]["probes"]["knn"]
    for who in ("pretrained", "random", "raw"):
        means = [result["targets"][name]["probes"]["knn"][who]["mean"] for name in ("a", "b")]
        assert cells[who]["mean"] == pytest.approx(np.mean(means))
    verdict = Verdict.from_json(result["overall"]["verdicts"]["knn"])
    assert verdict.against[1].name == "raw"
    assert verdict.against[1].mean == pytest.approx(cells["pretrained"]["mean"] - cells["raw"]["mean"])


def test_splits_count_alike_and_their_samples_are_one_set() -> None:
    parts = [filled({"pretrained": share, "random": 0.5}, names) for share, names in ((0.9, NAMES[:200]), (0.5, NAMES))]
    whole = joined(parts)
    assert whole.samples == NAMES and len(whole.cells["kind", "knn", "pretrained"]) == 4
    assert (whole.cells["kind", "knn", "pretrained"][0][:, 1] == 0).sum() == 100
    (against,) = Verdict.from_json(whole.verdict(["kind"], "knn", 0.0) or {}).against[:1]
    means = [part.row("kind", "knn") for part in parts]
    assert against.mean == pytest.approx(np.mean([m["pretrained"]["mean"] - m["random"]["mean"] for m in means]))


# -------------------------------------------------------------------- planted encoders

QUICK: dict[str, Any] = {"seeds": 2, "knn_k": 3, "recall": (1, 5)}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save_encoder(random_encoder(TinyEncoderConfig(), INPUT, 7), tmp_path)
    return tmp_path


def probed(run: Path, **keys: Any) -> dict[str, Any]:
    return probe_runs(TinySource(TinyDataConfig(train=20, test=20)), [run], PointProbeConfig(**QUICK | keys), CPU)


def test_a_shift_of_all_features_changes_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = ("knn", "linear", "svm", "retrieval", "few_shot")
    few = {"ways": 3, "shots": 2, "queries": 5, "episodes": 10}
    shift = 0.0

    def shifted(*arguments: Any) -> tuple[Tensor, Tensor]:
        pooled, tokens = true_encode(*arguments)
        return pooled.double() + shift * torch.linspace(-1, 1, pooled.shape[1], dtype=torch.float64), tokens

    monkeypatch.setattr("st_ssl.transfer.probes.probe.encode", shifted)
    before = probed(run, kinds=kinds, few_shot=few)
    shift = 1000.0
    assert probed(run, kinds=kinds, few_shot=few) == before
    shift = 1e7
    as_they_are = probed(run, kinds=("knn",), centre=False)
    assert as_they_are["targets"]["kind"]["probes"]["knn"] != before["targets"]["kind"]["probes"]["knn"]
    told = [result["prepared"]["knn"] for result in (before, as_they_are)]
    assert told == ["centred on the training features", "as they are"]


def test_an_encoder_that_is_worse_than_the_baseline_is_said_to_be(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretrained or not, its features are noise; coarse occupancy tells the kinds apart."""
    calls: list[int] = []

    def noise(encoder: Any, clips: ClipSet, *rest: Any) -> tuple[Tensor, Tensor]:
        calls.append(len(clips))
        rng = torch.Generator().manual_seed(len(calls))
        return torch.randn(len(clips), 8, generator=rng), torch.empty(len(clips), 0, 8)

    monkeypatch.setattr("st_ssl.transfer.probes.probe.encode", noise)
    result = probed(run, kinds=("knn", "svm", "retrieval"))
    target = result["targets"]["kind"]
    verdicts = [target["verdicts"]["knn"], target["verdicts"]["svm"], target["retrieval"]["verdicts"]["R@1"]]
    assert {told["standing"] for told in verdicts} == {"behind"}
    assert {told["against"][1]["name"] for told in verdicts} == {"raw"}
    console = Console(width=100, record=True, file=io.StringIO())
    for table in probe_tables(result):
        console.print(table)
    assert console.export_text().count("behind raw pixels") >= 3
    lines = verdict_lines(result)
    assert sum("behind raw pixels (-" in line for line in lines) == 3
    assert lines[-1].startswith("one pretraining: ")


def test_an_encoder_that_knows_is_ahead(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pretrained one gives the label away, which neither noise nor metadata do."""
    calls: list[int] = []

    def knows(encoder: Any, clips: ClipSet, *rest: Any) -> tuple[Tensor, Tensor]:
        calls.append(len(clips))
        rng = torch.Generator().manual_seed(len(calls))
        pooled = torch.randn(len(clips), 8, generator=rng)
        if (len(calls) - 1) % 4 < 2:  # pretrained: the training part, then the test part
            pooled += 20 * torch.nn.functional.one_hot(torch.from_numpy(clips.targets["kind"]), 8)
        return pooled, torch.empty(len(clips), 0, 8)

    monkeypatch.setattr("st_ssl.transfer.probes.probe.encode", knows)
    monkeypatch.setattr(TinySource, "raw_features", lambda self, view: {"raw": np.ones((len(view), 2))})
    result = probed(run, kinds=("knn",))
    verdict = result["targets"]["kind"]["verdicts"]["knn"]
    assert verdict["standing"] == result["overall"]["verdicts"]["knn"]["standing"] == "ahead"
    (table, _) = probe_tables(result)
    column = next(column for column in table.columns if column.header == "pretrained")
    assert [cell.style for cell in column.cells] == ["bold"]
