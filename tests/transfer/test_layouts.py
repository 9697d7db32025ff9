"""Known data sets, tiny, from their files to figures: official splits, retrieval and fine-tuning."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.cli.finetune.fits import finetune_and_print
from st_ssl.cli.finetune.tables import split_tables
from st_ssl.cli.probe.probing import probe_tables
from st_ssl.core.errors import ConfigError
from st_ssl.data.base import DATA, DataSource, of_split
from st_ssl.data.video.dataset import VideoDataConfig
from st_ssl.engine.run_config import RunConfig
from st_ssl.engine.runtime import Runtime
from st_ssl.report.folder import RunFolder
from st_ssl.report.probes import probe_table
from st_ssl.transfer.fitting.finetune import Finished, Progress, finetune
from st_ssl.transfer.fitting.finetune_config import FinetuneConfig, finetune_model, load_finetune
from st_ssl.transfer.fitting.finetune_setup import wanted_entries
from st_ssl.transfer.fitting.predictions import Predictions
from st_ssl.transfer.probes.official_splits import finetune_splits, probe_splits
from st_ssl.transfer.probes.probe import probe_runs
from st_ssl.transfer.probes.probe_config import ProbeConfig
from st_ssl.transfer.tasks.base import TASKS
from tests.runs import ROOT
from tests.transfer.features.extraction import CPU, rows_of
from tests.transfer.layouts import COUNT, LAYOUTS, write_originals
from tests.transfer.tiny import write_encoder

RETRIEVAL: dict[str, Any] = {"kinds": ("retrieval", "knn"), "clips": 2, "seeds": 2, "knn_k": 3, "recall": (1, 5)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The root of a layout by its name."""
    pytest.importorskip("av")
    root = tmp_path_factory.mktemp("layouts")
    originals = write_originals(root / "originals")
    for name, write in LAYOUTS.items():
        write(root / name, originals)
    return lambda name: root / name


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("runs") / "run")


def data_of(root: Path, **changes: Any) -> VideoDataConfig:
    return VideoDataConfig(root=str(root), num_workers=0, **changes)


@pytest.mark.parametrize("name", ["ucf101", "hmdb51"])
def test_each_official_split_is_a_data_set_of_its_own(place: Callable[[str], Path], name: str) -> None:
    tested: list[str] = []
    for number in (1, 2, 3):
        source = of_split(data_of(place(name)), number)
        parts = {part: {e.path for e in source.entries() if e.split == part} for part in ("train", "test")}
        assert (len(parts["train"]), len(parts["test"])) == (2 * COUNT * 2 // 3, 2 * COUNT // 3)
        assert not parts["train"] & parts["test"]
        tested += sorted(parts["test"])
    assert len(set(tested)) == len(tested) == 2 * COUNT
    with pytest.raises(ConfigError, match=rf"splits: there is no split 4 \({name} has 1, 2, 3\)$"):
        of_split(data_of(place(name)), 4)


def test_what_has_no_numbered_splits_is_said(place: Callable[[str], Path], run: Path) -> None:
    for name in ("ssv2", "kinetics", "diving48"):
        with pytest.raises(ConfigError, match=f"the format {name} has no numbered splits, as UCF101 and HMDB51 do"):
            probe_splits(data_of(place(name)), [run], ProbeConfig(splits=(1, 2)), CPU)
    with pytest.raises(ConfigError, match="planted and packed samples have no numbered splits"):
        of_split(VideoDataConfig(), 1)


def test_retrieval_over_three_splits_is_the_mean_of_each(
    place: Callable[[str], Path], run: Path, tmp_path: Path
) -> None:
    data, config = data_of(place("ucf101")), ProbeConfig(**RETRIEVAL, splits=(1, 2, 3))
    told: list[str] = []
    result = probe_splits(data, [run], config, CPU, told.append)
    assert told[0] == "split 1: probe 1 of 2: reading videos" and told[-1].startswith("split 3: ")
    alone = probe_runs(of_split(data, 2), [run], config, CPU)["targets"]["label"]
    label = result["targets"]["label"]
    for who in ("pretrained", "random", "raw", "frames", "differences", "metadata"):
        cell, own = (target["retrieval"]["probes"]["R@1"][who] for target in (label, alone))
        assert len(cell["values"]) == 3 and cell["seeds"][1] == own["values"]
        assert cell["values"] == pytest.approx([np.mean(values) for values in cell["seeds"]])
        assert cell["mean"] == pytest.approx(np.mean(cell["values"]))
        assert cell["std"] == pytest.approx(np.std(cell["values"]))
    assert label["retrieval"]["probes"]["R@1"]["raw"]["mean"] == 100 and label["chance"] == 50
    assert result["splits"] == [1, 2, 3] and result["sizes"] == {"train": 8, "test": 4}
    title = str(probe_tables(result)[0].title)
    assert title.endswith("mean ± std over splits 1, 2, 3; 8 train, 4 test, 2 seeds)")
    (tmp_path / "probe.json").write_text(json.dumps(result))
    table = probe_table(RunFolder(tmp_path, "run", RunConfig.model_construct()))
    assert table.note.startswith("Mean ± standard deviation over the official splits 1, 2, 3: 8 train")


@pytest.mark.parametrize("name", ["ucf101", "hmdb51", "kinetics400", "ssv2", "diving48"])
def test_recipes_are_for_the_layout_and_know_its_directions(place: Callable[[str], Path], name: str) -> None:
    root = place("kinetics" if name == "kinetics400" else name)
    for family in ("vit", "conv", "hierarchical"):
        file = ROOT / "configs" / "transfer" / "video" / f"{family}.yaml"
        config = load_finetune(file, [f"data={name}", f"data.root={root}", "data.num_workers=0"])
        augment = config.task.augment
        assert (augment.flip == 0) == (name == "ssv2")  # "from left to right" is a label there
        divided = TASKS.build(config.task).parts(wanted_entries(DATA.build(config.data), config), 0)
        assert (len(divided.train), len(divided.val), len(divided.test)) == (8, 0, 4)
        assert config.optim.name == ("sgd" if family == "conv" else "adamw")
        assert ("drop_path" in config.encoder) == (family != "conv")
        assert (config.layer_decay < 1) == (family == "vit")


def fits_of(root: Path, **changes: Any) -> FinetuneConfig:
    """A head on the frozen encoder, once."""
    settings: dict[str, Any] = {
        "task": {"name": "recognise", "clips": 1, "norm": "none"},
        "data": {"name": "video", "root": str(root), "num_workers": 0},
        **{"modes": ("frozen",), "seeds": 1, "epochs": 4, "batch_size": 4, "val_share": 0, "device": "cpu"},
        "optim": {"name": "adamw", "lr": 0.05, "lr_batch": None},
        "schedule": {"warmup_epochs": 0},
    }
    return finetune_model().model_validate(settings | changes)


@pytest.mark.parametrize("name", ["ssv2", "kinetics", "diving48"])
def test_fine_tuning_on_a_layout(place: Callable[[str], Path], run: Path, name: str) -> None:
    config = fits_of(place(name))
    result = finetune(DATA.build(config.data), [run], config, CPU)
    assert result["sizes"] == {"train": 8, "val": 0, "test": 4}
    assert len(result["classes"]) == 2 and result["bad"] == []
    assert result["results"][0]["metrics"]["top1"]["mean"] == 100


@pytest.mark.parametrize("name", ["ucf101", "hmdb51"])
def test_fine_tuning_over_three_splits(place: Callable[[str], Path], run: Path, tmp_path: Path, name: str) -> None:
    config = fits_of(place(name), splits=(3, 1, 2))
    finetune_and_print([run], config, Runtime(CPU), tmp_path / "out.json", Predictions(tmp_path / "out_predictions"))
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["splits"] == [3, 1, 2] and result["sizes"] == {"train": 8, "val": 0, "test": 4}
    row = result["results"][0]
    assert row["splits"] == [3, 1, 2] and len(row["epochs"]) == 3
    cell, each = row["metrics"]["top1"], [result["by_split"][n]["results"][0]["metrics"]["top1"] for n in "312"]
    assert cell["values"] == [own["mean"] for own in each] and cell["seeds"] == [own["values"] for own in each]
    assert cell["mean"] == pytest.approx(np.mean(cell["values"])) and cell["mean"] == 100
    (told,) = result["verdicts"]
    tested = {
        entry.path for number in (1, 2, 3) for entry in of_split(config.data, number).entries() if entry.split == "test"
    }
    assert (told["verdict"]["samples"], told["verdict"]["seeds"]) == (len(tested), 3)
    (against,) = told["verdict"]["against"]
    raw = next(row["metrics"]["top1"] for row in result["baselines"] if row["name"] == against["name"])
    assert against["mean"] == pytest.approx(100 - raw["mean"]) and len(raw["values"]) == 3
    assert [result["by_split"][n]["verdicts"][0]["verdict"]["seeds"] for n in "312"] == [1, 1, 1]
    assert (tmp_path / "out_outcomes.npz").is_file()
    table = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [row["split"] for row in table if row["metric"] == "top1"] == ["3", "1", "2"]
    tested = {entry.path for entry in of_split(config.data, 3).entries() if entry.split == "test"}
    assert {row["path"] for row in rows_of(tmp_path / "out_predictions")} == tested  # of the first one asked for
    assert [str(t.title).split(",")[0] for t in split_tables(result, "recognise")] == ["recognise: top1 of each split"]


def test_a_killed_fine_tuning_goes_on_with_the_splits_that_are_missing(place: Callable[[str], Path], run: Path) -> None:
    data = fits_of(place("ucf101")).data
    asked: list[tuple[int | None, bool]] = []

    def fit_split(
        source: DataSource, split: int | None, progress: Progress, finished: Finished, before: dict[str, Any] | None
    ) -> dict[str, Any]:
        tested = sorted(entry.path for entry in source.entries() if entry.split == "test")
        value = float(len(asked) + 50 if before is None else before["results"][0]["metrics"]["top1"]["mean"])
        asked.append((split, before is not None))
        cell = {"mean": value, "std": 0.0, "values": [value]}
        row = {
            "mode": "full",
            "fraction": 1.0,
            "epochs": [4],
            "repeats": 1,
            "steps": 4,
            "labels": {"train": 8, "val": 0},
            "metrics": {"top1": cell, "none": {**cell, "mean": None}},
        }
        sizes = {"train": 8, "val": 0, "test": len(tested)}
        result = {"runs": ["a"], "metric": "top1", "classes": ["x"], "sizes": sizes, "bad": [], "starved": []}
        progress(2, 4, "half")
        finished(result | {"results": [row]})
        return result | {"results": [row]}

    kept: list[dict[str, Any]] = []
    told: list[tuple[int, int, str]] = []
    whole = finetune_splits(data, (1, 2, 3), fit_split, lambda *now: told.append(now), kept.append)
    assert told == [(2, 12, "split 1: half"), (6, 12, "split 2: half"), (10, 12, "split 3: half")]
    assert [len(part["splits"]) for part in kept] == [1, 2, 3] and kept[1]["results"][0]["metrics"]["top1"][
        "mean"
    ] == 50.5
    assert whole["results"][0]["metrics"]["top1"]["values"] == [50, 51, 52]
    assert whole["results"][0]["metrics"]["top1"]["std"] == pytest.approx(np.std([50, 51, 52]))
    assert whole["results"][0]["metrics"]["none"]["mean"] is None
    asked.clear()
    again = finetune_splits(data, (1, 2, 3), fit_split, before=json.loads(json.dumps(kept[1])))
    assert asked == [(1, True), (2, True), (3, False)]
    assert again["results"][0]["metrics"]["top1"]["values"][:2] == [50, 51]
