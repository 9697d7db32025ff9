from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.cli.probe.probing import probe_tables
from st_ssl.core.types import Entry
from st_ssl.transfer.features.features import classes_of, collect_clips, encode, split_entries
from st_ssl.transfer.probes.probe import probe_runs
from st_ssl.transfer.probes.probe_config import ProbeConfig
from st_ssl.transfer.probes.retrieval import recall_at, recall_by_chance
from tests.transfer.tiny import INPUT, source_of, write_clip, write_dataset, write_encoder

CPU = torch.device("cpu")
KS = (1, 2, 5, 10, 50)
Apart = tuple[np.ndarray, np.ndarray]


def clouds(count: int, seed: int, classes: int = 5, dim: int = 4) -> tuple[torch.Tensor, np.ndarray]:
    """Overlapping clouds, one for each class: float32 [count, dim] and int64 [count]."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    labels = rng.integers(0, classes, count)
    return torch.from_numpy(centres[labels] + rng.normal(size=(count, dim))).float(), labels


def slow_recall(
    gallery: torch.Tensor, labels: Any, queries: torch.Tensor, truth: Any, k: int, apart: Apart | None = None
) -> float:
    """One query at a time, by sorting a list; right where no two rows are equally near."""
    hits = 0
    for at, query in enumerate(queries.double().numpy()):
        ranked = []
        for row, other in enumerate(gallery.double().numpy()):
            if apart is None or apart[0][row] != apart[1][at]:
                cosine = float(query @ other / np.sqrt(query @ query) / np.sqrt(other @ other))
                ranked.append((-cosine, int(labels[row])))
        hits += any(label == truth[at] for _, label in sorted(ranked)[:k])
    return 100 * hits / len(queries)


def test_recall_is_that_of_a_slow_reference() -> None:
    (gallery, labels), (queries, truth) = clouds(60, 0), clouds(300, 1)  # more queries than one block of them
    found = recall_at(gallery, labels, queries, truth, KS)
    assert found == pytest.approx([slow_recall(gallery, labels, queries, truth, k) for k in KS])
    assert 20 < found[0] < found[1] < found[2] < 100  # neither guessed nor trivial
    apart = (np.arange(60) // 2, np.arange(300) // 3)  # two rows and three queries of one video each
    found = recall_at(gallery, labels, queries, truth, KS, apart)
    assert found == pytest.approx([slow_recall(gallery, labels, queries, truth, k, apart) for k in KS])


def test_recall_is_that_of_sklearn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    (gallery, labels), (queries, truth) = clouds(200, 2), clouds(90, 3)
    _, index = neighbors.NearestNeighbors(n_neighbors=50, metric="cosine").fit(gallery).kneighbors(queries)
    expected = [100 * np.mean((labels[index[:, :k]] == truth[:, None]).any(1)) for k in KS]
    assert recall_at(gallery, labels, queries, truth, KS) == pytest.approx(expected)


def test_queries_do_not_find_themselves() -> None:
    features, labels = clouds(80, 4)
    rows = np.arange(80)
    assert recall_at(features, labels, features, labels, (1,)) == [100]
    alone = recall_at(features, labels, features, labels, KS, (rows, rows))
    assert alone == pytest.approx([slow_recall(features, labels, features, labels, k, (rows, rows)) for k in KS])
    assert alone[0] < 90
    # the only one of its class has nobody to find
    assert recall_at(features[:3], np.arange(3), features[:3], np.arange(3), (1, 9), (rows[:3], rows[:3])) == [0, 0]


def test_perfect_features_find_their_class_at_once() -> None:
    labels = np.arange(40) % 4
    assert recall_at(torch.eye(4)[labels], labels, torch.eye(4)[labels[:9]], labels[:9], KS) == [100] * 5
    wrong = (labels[:9] + 1) % 4  # 10 rows of the query's own class are ahead, and 10 of the next 30 are right
    found = recall_at(torch.eye(4)[labels], labels, torch.eye(4)[labels[:9]], wrong, (10, 11, 40))
    assert found == pytest.approx([0, 100 / 3, 100])


def test_constant_features_are_at_chance() -> None:
    rng = np.random.default_rng(0)
    labels, truth = np.sort(rng.integers(0, 4, 30)), rng.integers(0, 4, 50)
    constant = torch.full((80, 3), 0.7)
    found = recall_at(constant[:30], labels, constant[30:], truth, KS)
    assert found == pytest.approx(recall_by_chance(labels, truth, KS))
    drawn = np.zeros(len(KS))
    for _ in range(1500):
        order = rng.permutation(30)
        drawn += [100 * np.isin(truth, labels[order[:k]]).mean() for k in KS]
    assert found == pytest.approx(drawn / 1500, abs=1.5)
    assert found[-1] == 100  # all 30 are among the first 50
    assert recall_at(constant[:30] * 0, labels, constant[30:], truth, KS) == pytest.approx(found)  # no direction


def test_a_label_that_nothing_has_is_a_miss() -> None:
    gallery, labels = clouds(20, 5)
    assert recall_at(gallery, labels, gallery, np.full(20, 9), KS) == [0] * 5
    assert recall_by_chance(labels, np.full(20, 9), KS) == [0] * 5
    assert recall_at(gallery, labels, gallery[:0], labels[:0], (1, 5)) == [0, 0]
    assert recall_at(gallery[:0], labels[:0], gallery, labels, (1,)) == [0]


# -------------------------------------------------------------------- in the probe

ONLY: dict[str, Any] = {"kinds": ("retrieval",), "seeds": 2, "batch_size": 8, "recall": (1, 5, 20)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av")
    return write_dataset(tmp_path_factory.mktemp("tiny") / "set")


def test_in_the_probe_it_stands_beside_its_baselines(dataset: Path, tmp_path: Path) -> None:
    result = probe_runs(source_of(dataset), [write_encoder(tmp_path / "run")], ProbeConfig(**ONLY), CPU)
    for target in result["targets"].values():
        assert target["probes"] == {}
        assert list(target["retrieval"]["chance"]) == list(target["retrieval"]["probes"]) == ["R@1", "R@5", "R@20"]
        for cells in target["retrieval"]["probes"].values():
            assert list(cells) == ["pretrained", "random", "raw", "frames", "differences", "metadata"]
            assert all(len(cell["values"]) == 2 for cell in cells.values())
    light, length = (result["targets"][name]["retrieval"] for name in ("light", "length"))
    assert light["probes"]["R@1"]["raw"]["mean"] == 100
    assert length["probes"]["R@1"]["metadata"]["mean"] == 100
    assert length["probes"]["R@1"]["raw"]["mean"] < 100
    assert light["chance"]["R@1"] == pytest.approx(50)  # 8 of 16 training videos, for either class
    assert light["chance"]["R@20"] == 100
    tables = probe_tables(result)
    assert [str(table.title).split(" (")[0] for table in tables] == [
        "retrieval, % with one right among the k nearest",
        "retrieval, baselines, % with one right among the k nearest",
    ]
    first, second = ([column.header for column in table.columns] for table in tables)
    assert first == ["target", "pretrained", "untrained", "chance", "best baseline", "verdict"]
    assert second == ["target", "raw\npixels", "pooled\nframes", "frame\ndifferences", "file\nmetadata"]
    cells = [list(column.cells) for column in tables[0].columns]
    assert cells[0][:5] == ["light (2)", "  R@1", "  R@5", "  R@20", "length (2)"]
    assert cells[3][1:4:2] == ["50.0", "100.0"]
    assert cells[4][:2] == ["", "100.0 ± 0.0 raw pixels"] and cells[5][1] == "undecided"
    cells = [list(column.cells) for column in tables[1].columns]
    assert cells[1][:2] == ["", "100.0 ± 0.0"]
    assert all(table.row_count == (1 + 3) * len(result["targets"]) for table in tables)


def test_a_video_in_both_parts_does_not_find_itself(dataset: Path, tmp_path: Path) -> None:
    source = source_of(dataset)
    paths = [entry.path for entry in source.entries()]
    both = [Entry(path, split, {"own": path}) for split in ("train", "test") for path in paths]
    source.entries = lambda: both  # type: ignore[method-assign]
    config = ProbeConfig(**(ONLY | {"seeds": 1}))
    target = probe_runs(source, [write_encoder(tmp_path / "run")], config, CPU)["targets"]["own"]["retrieval"]
    assert all(cell["mean"] == 0 for cells in target["probes"].values() for cell in cells.values())
    assert list(target["chance"].values()) == [0, 0, 0]


def test_without_labels_another_moment_of_the_same_video_is_looked_for(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "set").mkdir()
    for i in range(6):
        write_clip(tmp_path / "set" / f"{i}.mp4", 20 + 42 * i, 16)
    config = ProbeConfig(**(ONLY | {"seeds": 1}))
    result = probe_runs(source_of(tmp_path / "set"), [write_encoder(tmp_path / "run")], config, CPU)
    target = result["targets"]["sample"]["retrieval"]
    assert target["probes"]["R@1"]["pretrained"]["mean"] > 60
    assert target["chance"] == pytest.approx({"R@1": 100 / 6, "R@5": 500 / 6, "R@20": 100})


def test_features_of_several_clips_are_averaged(dataset: Path, tmp_path: Path) -> None:
    from st_ssl.encoders.base import load_encoder

    encoder = load_encoder(write_encoder(tmp_path / "run"))
    source = source_of(dataset)
    train, test = split_entries(source.entries(), 0.25, 100)
    clips = collect_clips(source, train, classes_of(train, test), INPUT, 0, num_clips=3)
    assert (len(clips), len(clips.raw.clip)) == (16, 48)
    starts = clips.raw.at[:, 0].view(16, 3)
    assert (starts.diff(dim=1) > 0).all()  # in order, of one video each
    pooled, tokens = encode(encoder, clips, 7, CPU)
    assert (pooled.shape, tokens.shape) == ((16, 24), (16, 3 * 8, 24))
    mean, std = (torch.tensor(v)[:, None, None, None] for v in (INPUT.mean, INPUT.std))
    with torch.inference_mode():
        features = encoder((clips.raw.clip.permute(0, 4, 1, 2, 3) / 255 - mean) / std)
    torch.testing.assert_close(pooled, features.pooled.view(16, 3, 24).mean(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tokens.float(), features.as_tokens().reshape(16, 24, 24), rtol=1e-2, atol=1e-2)
    result = probe_runs(source, [tmp_path / "run"], ProbeConfig(**(ONLY | {"clips": 3, "seeds": 1})), CPU)
    assert result["targets"]["light"]["retrieval"]["probes"]["R@1"]["raw"]["mean"] == 100
