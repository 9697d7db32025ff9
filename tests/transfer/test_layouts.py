"""Known data sets, tiny, from their files to figures: official splits, retrieval and fine-tuning."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.cli.probe import probe_tables
from st_ssl.data.base import of_split
from st_ssl.data.video.dataset import VideoDataConfig
from st_ssl.engine.run_config import RunConfig
from st_ssl.errors import ConfigError
from st_ssl.report.folder import RunFolder
from st_ssl.report.probes import probe_table
from st_ssl.transfer.probe import ProbeConfig, probe_runs
from st_ssl.transfer.splits import probe_splits
from tests.transfer.extraction import CPU
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
    with pytest.raises(ConfigError, match=r"split: must be less than or equal to 3, not 4"):
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
    assert told[0] == "split 1: probe 1 of 2: decoding" and told[-1].startswith("split 3: ")
    alone = probe_runs(of_split(data, 2), [run], config, CPU)["targets"]["label"]
    label = result["targets"]["label"]
    for who in ("pretrained", "random", "raw", "metadata"):
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
