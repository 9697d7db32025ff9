from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.core.errors import DataError, UserError
from st_ssl.core.types import Entry
from st_ssl.transfer.probes.probe import probe_runs, unprobed
from st_ssl.transfer.probes.probe_config import ProbeConfig
from tests.transfer.tiny import source_of, write_clip, write_dataset, write_encoder

CPU = torch.device("cpu")
QUICK: dict[str, Any] = {"seeds": 1, "knn_k": 3, "attentive_epochs": 3, "batch_size": 8}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av")
    return write_dataset(tmp_path_factory.mktemp("tiny") / "set")


@pytest.fixture(scope="module")
def table(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = write_encoder(tmp_path_factory.mktemp("runs") / "run", seed=0)
    return probe_runs(source_of(dataset), [run], ProbeConfig(**(QUICK | {"seeds": 2})), CPU)


def test_layout(table: dict[str, Any]) -> None:
    assert list(table) == [
        *("runs", "pretrainings", "seeds", "sizes", "tested", "prepared", "bad", "targets", "overall"),
    ]
    assert (len(table["runs"]), table["pretrainings"], table["seeds"], table["bad"]) == (1, 1, 2, [])
    assert table["sizes"] == {"train": 16, "test": 8}
    assert {name: t["classes"] for name, t in table["targets"].items()} == {
        "light": 2,
        "length": 2,
        "chance": 3,
        "some": 2,
    }
    for target in table["targets"].values():
        assert list(target["probes"]) == ["knn", "linear", "attentive"]
        everyone = ["pretrained", "random", "raw", "frames", "differences", "metadata"]
        assert all(list(cells) == everyone for cells in target["probes"].values())
        assert target["probes"]["attentive"]["raw"] == target["probes"]["linear"]["raw"]
        for probe in target["probes"].values():
            for cell in probe.values():
                assert len(cell["values"]) == 2
                assert all(0 <= value <= 100 for value in cell["values"])
                assert cell["mean"] == pytest.approx(np.mean(cell["values"]))
                assert cell["std"] == pytest.approx(np.std(cell["values"]))
    assert json.loads(json.dumps(table)) == table


def test_what_is_easy_is_found_by_who_can_see_it(table: dict[str, Any]) -> None:
    def mean(target: str, kind: str, who: str) -> float:
        return table["targets"][target]["probes"][kind][who]["mean"]

    assert table["targets"]["light"]["chance"] == 50
    assert mean("light", "knn", "raw") == 100
    assert mean("some", "knn", "raw") == 100  # half of its rows have no label
    assert mean("length", "knn", "metadata") == 100
    assert mean("length", "knn", "raw") < 90  # noise says nothing of the length,
    assert mean("light", "knn", "metadata") < 90  # and a length nothing of the light
    assert mean("light", "linear", "random") == 100  # even a random network passes brightness on


def test_the_random_encoder_is_the_same_network(dataset: Path, tmp_path: Path) -> None:
    source, config = source_of(dataset), ProbeConfig(**QUICK)
    same = probe_runs(source, [write_encoder(tmp_path / "same", seed=0)], config, CPU)
    other = probe_runs(source, [write_encoder(tmp_path / "other", seed=123)], config, CPU)
    cells = [probe for target in same["targets"].values() for probe in target["probes"].values()]
    assert all(cell["pretrained"] == cell["random"] for cell in cells)
    others = [probe for target in other["targets"].values() for probe in target["probes"].values()]
    assert any(cell["pretrained"] != cell["random"] for cell in others)
    assert [cell["random"] for cell in others] == [cell["random"] for cell in cells]  # and all else is a constant


def test_several_runs_are_one_seed_each(dataset: Path, tmp_path: Path) -> None:
    runs = [write_encoder(tmp_path / str(seed), seed=seed) for seed in (0, 1, 9)]
    said: list[str] = []
    config = ProbeConfig(**(QUICK | {"kinds": ("knn",)}))
    result = probe_runs(source_of(dataset), runs, config, CPU, said.append)
    assert result["seeds"] == 3
    assert result["runs"] == [str(run) for run in runs]
    for target in result["targets"].values():
        knn = target["probes"]["knn"]
        assert knn["pretrained"]["values"][:2] == knn["random"]["values"][:2]  # runs 0 and 1 are the random ones
    assert said[0] == "probe 1 of 3: reading videos"
    assert len(said) == 9


def test_kinds_that_are_not_asked_for_are_not_there(dataset: Path, tmp_path: Path) -> None:
    config = ProbeConfig(**(QUICK | {"kinds": ("linear",)}))
    result = probe_runs(source_of(dataset), [write_encoder(tmp_path / "run")], config, CPU)
    assert all(list(target["probes"]) == ["linear"] for target in result["targets"].values())


def test_unlabelled_videos_are_told_apart_by_their_halves(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "set").mkdir()
    for i in range(6):
        write_clip(tmp_path / "set" / f"{i}.mp4", 20 + 42 * i, 16)
    config = ProbeConfig(**(QUICK | {"kinds": ("knn",), "knn_k": 1}))
    result = probe_runs(source_of(tmp_path / "set"), [write_encoder(tmp_path / "run")], config, CPU)
    assert result["sizes"] == {"train": 6, "test": 6}
    assert list(result["targets"]) == ["sample"]
    target = result["targets"]["sample"]
    assert (target["classes"], target["chance"]) == (6, pytest.approx(100 / 6))
    assert target["probes"]["knn"]["pretrained"]["mean"] > 60


def test_broken_videos_are_listed_once(tmp_path: Path) -> None:
    pytest.importorskip("av")
    root = write_dataset(tmp_path / "set")
    (root / "00.mp4").write_bytes(b"")
    config = ProbeConfig(**(QUICK | {"kinds": ("knn",), "seeds": 2}))
    result = probe_runs(source_of(root), [write_encoder(tmp_path / "run")], config, CPU)
    assert result["bad"] == [{"path": str(root / "00.mp4"), "reason": "file is empty"}]
    assert result["sizes"] == {"train": 16, "test": 7}


def test_what_cannot_be_probed_is_said(dataset: Path, tmp_path: Path) -> None:
    run = write_encoder(tmp_path / "run")
    wider = write_encoder(tmp_path / "wider", dim=48)
    with pytest.raises(DataError, match="hold different encoders"):
        probe_runs(source_of(dataset), [run, wider], ProbeConfig(**QUICK), CPU)
    with pytest.raises(UserError, match=r"no encoder\.json"):
        probe_runs(source_of(dataset), [tmp_path], ProbeConfig(**QUICK), CPU)
    listing = tmp_path / "list.txt"
    listing.write_text(f"{dataset}/{(dataset / 'factors.csv').read_text().splitlines()[1].split(',')[0]}\n")
    with pytest.raises(DataError, match="nothing to probe"):
        probe_runs(source_of(listing), [run], ProbeConfig(**QUICK), CPU)


def test_what_cannot_be_probed_is_known_before() -> None:
    plain = [Entry(f"{i}.las") for i in range(3)]
    assert unprobed(plain, ProbeConfig()) is None  # each against the others
    assert unprobed(plain[:1], ProbeConfig()) == (
        "nothing to probe: there is one sample alone, from which no other is told apart"
    )
    labelled = [Entry("0", "test", {"label": "a"}), Entry("1", "train", {"label": "b"})]
    assert unprobed(labelled, ProbeConfig()) == "nothing to probe: no target has two classes"
    assert unprobed([*labelled, Entry("2", "train", {"label": "a"})], ProbeConfig()) is None
    drawn = [Entry(f"{i}", "train", {"label": f"{i}"}) for i in range(2)]
    assert "too few for a train and a test part" in str(unprobed(drawn, ProbeConfig(test_share=0.01)))
