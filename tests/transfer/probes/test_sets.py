"""Targets that are values, from a table to figures, verdicts, tables and pages; beside targets with classes."""

from __future__ import annotations

import csv
import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from st_ssl.cli import guarded
from st_ssl.cli.probe import main
from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.core.verdict import Verdict
from st_ssl.encoders.base import random_encoder, save_encoder
from st_ssl.report.page import write_report
from st_ssl.transfer.features.features import ClipSet
from st_ssl.transfer.features.values import numbers_of
from st_ssl.transfer.probes.probe import probe_runs, unprobed
from st_ssl.transfer.probes.probe_config import PointProbeConfig, ProbeConfig
from tests.runs import tiny, write_config
from tests.transfer.clouds import INPUT, TinyDataConfig, TinyEncoderConfig, TinySource, tiny_registered
from tests.transfer.tiny import source_of, write_dataset, write_encoder

__all__ = ["tiny_registered"]
CPU = torch.device("cpu")
ROWS = ["knn_r2", "knn_rank", "ridge_r2", "ridge_rank"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos whose ``grey`` is a value that pixels show, and ``number`` an integer that nothing shows."""
    pytest.importorskip("av")
    root = write_dataset(tmp_path_factory.mktemp("values") / "set")
    with (root / "factors.csv").open() as file:
        rows = list(csv.DictReader(file))
    for i, row in enumerate(rows):
        kept = {name: row[name] for name in ("path", "split", "light")}
        grey = "" if i == 4 else f"{(200 - 140 * (row['light'] == 'dark') + i % 5) / 255:.4f}"
        rows[i] = kept | {"grey": grey, "number": str(i * 7 % 11)}
    with (root / "factors.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root


def called(patch: pytest.MonkeyPatch, *arguments: object) -> int:
    patch.setattr(sys, "argv", ["probe", *map(str, arguments)])
    patch.setenv("COLUMNS", "200")
    return guarded(main)


def test_a_table_with_values_from_the_command_to_the_page(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_encoder(tmp_path / "mine")
    data = tiny(dataset, run, "videomae", encoder={"dim": 24, "depth": 1, "heads": 3})
    probe = {"kinds": ["knn", "linear", "retrieval"], "seeds": 2, "knn_k": 3, "values": {"number": True}}
    write_config(run / "config.yaml", data | {"probe": probe})
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert called(monkeypatch, run) == 0
    (told,) = [str(warning.message) for warning in said if str(warning.message).startswith("probe: ")]
    assert told == (
        "probe: values, as their labels have fractions: grey; probe.values.grey=false takes each number as a class; "
        "not for values (grey, number): retrieval"
    )
    result = json.loads((run / "probe.json").read_text())
    assert {name: list(target["probes"]) for name, target in result["targets"].items()} == {
        **{"light": ["knn", "linear"], "grey": ROWS, "number": ROWS},
    }
    grey, number = result["targets"]["grey"], result["targets"]["number"]
    assert (grey["range"], number["range"]) == ([pytest.approx(60 / 255, abs=0.01), 204 / 255], [0, 10])
    assert grey["samples"] == {"train": 15, "test": 8} and result["sizes"] == {"train": 16, "test": 8}
    assert grey["probes"]["ridge_r2"]["raw"]["mean"] > 0.9 and grey["probes"]["knn_r2"]["raw"]["mean"] > 0.9
    assert number["probes"]["ridge_r2"]["raw"]["mean"] < 0.6
    assert list(grey["verdicts"]) == ["knn_r2", "ridge_r2"] and grey["verdicts"]["ridge_r2"]["digits"] == 3
    assert list(result["overall"]["probes"]) == ["knn", "linear", "R@1", *ROWS]
    means = [target["probes"]["ridge_r2"]["raw"]["mean"] for target in (grey, number)]
    assert result["overall"]["probes"]["ridge_r2"]["raw"]["mean"] == pytest.approx(np.mean(means))
    shown = " ".join(capsys.readouterr().out.split())
    assert "ridge probe, R² (mine on set; 16 train, 8 test, 2 seeds)" in shown
    assert "knn probe, baselines, rank correlation" in shown and "grey (0.2353 to 0.8)" in shown
    assert f"{grey['probes']['ridge_r2']['pretrained']['mean']:.3f} ± " in shown
    page = write_report([run], tmp_path / "report.html").read_text()
    assert "Targets that are values: R²" in page and "ridge rank correlation" in page and "0.2353 to 0.8" in page
    assert f"{grey['probes']['ridge_r2']['raw']['mean']:.3f}" in page
    assert "✓ light" in page and "✓ grey" not in page and "✗ grey" not in page  # neighbours are of one class, or not
    summary = re.search(r'id="summary".*?</section>', page, re.DOTALL)
    assert summary is not None and "ridge R²" in summary[0] and "rank correlation" not in summary[0]


def test_numbers_may_be_classes_all_the_same(dataset: Path, tmp_path: Path) -> None:
    config = ProbeConfig(kinds=("knn",), seeds=1, knn_k=3, values={"grey": False, "nunber": True})
    with pytest.warns(UserWarning, match=r"^probe\.values\.nunber is ignored: no target is called .*number"):
        targets = probe_runs(source_of(dataset), [write_encoder(tmp_path / "run")], config, CPU)["targets"]
    assert {name: target["classes"] for name, target in targets.items()} == {"light": 2, "grey": 10, "number": 11}


def test_what_there_is_to_probe() -> None:
    entries = [Entry(f"{i}", ("train", "test")[i % 2], {"speed": f"{i}.5"}) for i in range(8)]
    assert unprobed(entries, ProbeConfig()) is None
    told = unprobed(entries, ProbeConfig(kinds=("retrieval", "svm")))
    assert told is not None and "probe.kinds has retrieval, svm" in told and "speed are values" in told
    same = [Entry(f"{i}", ("train", "test")[i % 2], {"speed": f"{i % 2}.5"}) for i in range(8)]
    assert unprobed(same, ProbeConfig()) == "nothing to probe: no target has two classes"
    mixed = [*entries, Entry("8", "train", {"speed": "fast"})]
    assert "its labels mix numbers and text: 8 has 'fast'" in str(unprobed(mixed, ProbeConfig()))
    assert unprobed(mixed, ProbeConfig(values={"speed": False})) is None


# -------------------------------------------------------------------- planted encoders


class Sized(TinySource):
    """Clouds that have a size, which nothing in their points shows."""

    def __init__(self) -> None:
        super().__init__(TinyDataConfig(train=40, test=20))
        sizes = np.random.default_rng(0).gamma(2.0, size=len(self.rows))
        self.rows = [Entry(e.path, e.split, {"size": f"{s:.6f}"}) for e, s in zip(self.rows, sizes, strict=True)]


@pytest.fixture
def probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], dict[str, Any]]:
    """The probe of an encoder that knows the size up to noise of that deviation; untrained, it gives noise alone."""

    def probe(noise: float) -> dict[str, Any]:
        calls: list[int] = []

        def knows(encoder: Any, clips: ClipSet, *rest: Any) -> tuple[Tensor, Tensor]:
            calls.append(len(clips))
            rng = torch.Generator().manual_seed(len(calls))
            pooled = noise * torch.randn(len(clips), 8, generator=rng)
            if (len(calls) - 1) % 4 < 2:  # pretrained: the training part, then the test part
                pooled += torch.from_numpy(numbers_of(clips.entries, "size"))[:, None]
            return pooled, torch.empty(len(clips), 0, 8)

        monkeypatch.setattr("st_ssl.transfer.probes.probe.encode", knows)
        save_encoder(random_encoder(TinyEncoderConfig(), INPUT, 7), tmp_path / "run")
        return probe_runs(Sized(), [tmp_path / "run"], PointProbeConfig(kinds=("linear", "knn"), seeds=2), CPU)

    return probe


def test_an_encoder_that_knows_the_value_is_ahead(probed: Callable[[float], dict[str, Any]]) -> None:
    size = probed(1e-3)["targets"]["size"]
    assert size["probes"]["ridge_r2"]["pretrained"]["mean"] == pytest.approx(1, abs=1e-3)
    assert size["probes"]["ridge_rank"]["pretrained"]["mean"] == pytest.approx(1, abs=1e-3)
    verdict = Verdict.from_json(size["verdicts"]["ridge_r2"])
    assert verdict.standing == "ahead" and (verdict.samples, verdict.seeds) == (60, 2)
    assert verdict.against[1].name == "chance"  # metadata and coarse occupancy are worse than the mean
    ours, random = (size["probes"]["ridge_r2"][who]["mean"] for who in ("pretrained", "random"))
    assert [one.mean for one in verdict.against] == [pytest.approx(ours - random), pytest.approx(ours)]


def test_an_encoder_of_noise_is_not(probed: Callable[[float], dict[str, Any]]) -> None:
    size = probed(1e6)["targets"]["size"]
    for key in ("ridge_r2", "knn_r2"):
        assert abs(size["probes"][key]["pretrained"]["mean"]) < 0.25
        assert Verdict.from_json(size["verdicts"][key]).standing != "ahead"


def test_a_probe_of_values_alone_needs_other_kinds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="svm, which are for classes, and size are values"):
        probe_runs(Sized(), [_saved(tmp_path)], PointProbeConfig(kinds=("svm",)), CPU)


def _saved(folder: Path) -> Path:
    save_encoder(random_encoder(TinyEncoderConfig(), INPUT, 7), folder)
    return folder
