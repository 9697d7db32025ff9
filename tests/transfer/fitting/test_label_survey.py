"""Labels of points are looked at before anything is trained, and the file with the wrong one is named."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.core.errors import ConfigError, DataError, UnfitError, UserError
from st_ssl.core.types import Entry, PointCloud
from st_ssl.data.points.dataset import PointDataConfig, PointSource, cloud_dataset
from st_ssl.data.points.views import LabelRule, plain_views
from st_ssl.data.streams import points as readers
from st_ssl.data.streams.points import ReadOptions
from st_ssl.transfer.fitting import finetune as module
from st_ssl.transfer.fitting.finetune import finetune
from st_ssl.transfer.fitting.finetune_config import FinetuneConfig
from st_ssl.transfer.fitting.finetune_setup import Setup
from tests.transfer.clouds import INPUT, settings, tiny_registered
from tests.transfer.fits import CPU, write_run

__all__ = ["tiny_registered"]

Change = Callable[[np.ndarray], np.ndarray | None]


def scenes(root: Path, changes: dict[str, Change], count: int = 7) -> Path:
    """Scenes s0 … of classes 0 to 3, the last two for testing; ``changes`` by name are of the labels (None: none)."""
    rng = np.random.default_rng(0)
    for number in range(count):
        split = "train" if number < count - 2 else "test"
        xyz = rng.random((80, 3), dtype=np.float32)
        labels: np.ndarray | None = (4 * xyz[:, 2]).astype(np.int64)
        name = f"s{number}"
        if name in changes:
            assert labels is not None
            labels = changes[name](labels)
        (root / split).mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {"xyz": xyz} | ({} if labels is None else {"segment": labels})
        np.savez(root / split / f"{name}.npz", **arrays)
    return root


def with_id(value: int) -> Change:
    return lambda labels: np.where(np.arange(len(labels)) < 5, value, labels)


def no_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("nothing is trained")

    monkeypatch.setattr(module, "fit", never)


def plan(
    source: PointSource,
    runs: list[Path],
    config: FinetuneConfig,
    device: torch.device,
    looked: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, str]:
    return Setup.of(source, runs, config, device, looked=looked).plan()


def source_of(root: Path) -> PointSource:
    return PointSource(PointDataConfig(root=str(root), num_workers=0))


@pytest.mark.parametrize(
    ("changes", "task", "error", "told"),
    [
        (
            {"s5": lambda _: None, "s6": lambda _: None},
            {},
            DataError,
            r"none of the 2 test clouds has labels.*s5\.npz: has no labels named 'segment' \(it has: none\)",
        ),
        (
            {"s5": lambda x: x * 0 - 1, "s6": lambda x: x * 0 + 255},
            {},
            DataError,
            r"none of the 2 test.*s5\.npz: all its points are -1, 255",
        ),
        (
            {"s6": with_id(149)},
            {},
            ConfigError,
            r"s6\.npz: segment has 149 \(5 points\), .* none of the 4 classes \(0 to 3\).*task\.ignored=\[149, 255\]",
        ),
        ({"s6": with_id(-7)}, {}, ConfigError, r"s6\.npz: segment has the label -7 .*task\.ignored=\[-7, 255\]"),
        (
            {"s2": with_id((2 << 16) + 10)},
            {},
            ConfigError,
            r"s2\.npz: segment has the label 131082 .*131,083 classes, more than task\.max_classes=1024.*class 10 of",
        ),
        (
            {"s2": with_id(2000)},
            {},
            ConfigError,
            r"s2\.npz: segment has the label 2000 .*2,001 classes.*instance << 16 \| class\)",
        ),
        (
            {"s6": with_id((1 << 16) + 3)},
            {"num_classes": 4},
            ConfigError,
            r"s6\.npz: segment has 65539 .*class 3 of instance 1",
        ),
        ({f"s{i}": lambda x: x * 0 for i in range(7)}, {}, ConfigError, r"fewer than 2 classes"),
    ],
)
def test_labels_are_looked_at_before_training(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Change],
    task: dict[str, Any],
    error: type[UserError],
    told: str,
) -> None:
    no_fit(monkeypatch)
    source, run = source_of(scenes(tmp_path / "data", changes)), write_run(tmp_path / "run")
    config = settings({"name": "segment", **task})
    for do in (finetune, plan):
        with pytest.raises(error, match=told):
            do(source, [run], config, CPU)


def test_more_classes_where_they_are_asked_for(tmp_path: Path) -> None:
    source, run = source_of(scenes(tmp_path / "data", {"s2": with_id(1999)})), write_run(tmp_path / "run")
    told = plan(source, [run], settings({"name": "segment", "max_classes": 2000}), CPU)
    assert told["classes"].startswith("2000 (0, 1, 2,")


def test_a_scene_without_labels_is_left_out_and_named(tmp_path: Path) -> None:
    root = scenes(tmp_path / "data", {"s3": lambda _: None})
    (root / "train" / "s1.npz").write_bytes(b"no arrays")
    run = write_run(tmp_path / "run")
    config = settings({"name": "segment"}, modes=("frozen",), epochs=1, val_share=0.0)
    with pytest.warns(UserWarning, match=r"left out are 2 of 5 training clouds \(\S*s1\.npz: "):
        result = finetune(source_of(root), [run], config, CPU)
    assert result["sizes"] == {"train": 3, "val": 0, "test": 2}
    bad = {Path(row["path"]).name: row["reason"] for row in result["bad"]}
    assert bad["s3.npz"] == "has no labels named 'segment' (it has: none)" and set(bad) == {"s1.npz", "s3.npz"}


def test_a_test_scene_where_no_point_has_a_label_does_not_count_as_tested(tmp_path: Path) -> None:
    changes: dict[str, Change] = {name: lambda labels: np.full_like(labels, -1) for name in ("s3", "s6")}
    source, run = source_of(scenes(tmp_path / "data", changes)), write_run(tmp_path / "run")
    config = settings({"name": "segment"}, modes=("frozen",), epochs=1, val_share=0.0)
    told = r"left out are 1 of 2 test clouds \(\S*s6\.npz: none of its points has a label\)$"
    with pytest.warns(UserWarning, match=told):
        result = finetune(source, [run], config, CPU)
    assert result["sizes"] == {"train": 5, "val": 0, "test": 1}


def test_a_dry_run_counts_points_by_class_and_part(tmp_path: Path) -> None:
    root = scenes(tmp_path / "data", {"s0": with_id(255)})
    looked: list[tuple[int, int]] = []
    told = plan(
        source_of(root),
        [write_run(tmp_path / "run")],
        settings({"name": "segment"}, val_share=0.0),
        CPU,
        lambda done, total: looked.append((done, total)),
    )
    assert looked[0] == (0, 7) and looked[-1] == (7, 7)
    for part, files in (("train", 5), ("test", 2)):
        own = np.concatenate([np.load(file)["segment"] for file in (root / part).glob("*.npz")])
        assert len(own) == 80 * files
        assert told[f"points, {part}"] == ", ".join(f"{k} {(own == k).sum()}" for k in range(4))


def test_a_dry_run_tells_that_batch_norm_has_one_sample(tmp_path: Path) -> None:
    root = scenes(tmp_path / "data", {})
    config = settings({"name": "segment"}, val_share=0.0, label_fractions=[0.01, 1.0])
    said = r"batch norm needs two samples .* batch of 1 \(1 to train on: see label_fractions"
    with pytest.raises(ConfigError, match=said):
        plan(source_of(root), [write_run(tmp_path / "run")], config, CPU)


def test_each_cloud_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = scenes(tmp_path / "data", {"s3": lambda _: None})
    read: list[str] = []
    real = readers.READERS[".npz"]

    def counted(path: str, options: ReadOptions) -> PointCloud:
        read.append(path)
        return real(path, options)

    monkeypatch.setitem(readers.READERS, ".npz", counted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan(source_of(root), [write_run(tmp_path / "run")], settings({"name": "segment"}, val_share=0.0), CPU)
    # Once for how files are read, for which up to 64 are looked at, and once for their labels.
    assert Counter(Path(path).name for path in read) == {f"s{i}.npz": 2 for i in range(7)}


def test_a_label_that_changes_after_the_look_is_one_broken_sample(tmp_path: Path) -> None:
    """What workers find is no error of the whole run."""
    cloud = PointCloud(np.zeros((4, 3), np.float32), {}, {"segment": np.array([0, 1, 7, 255])})
    assert LabelRule("segment", 8, (255,))(cloud) is cloud
    assert LabelRule("segment", 2, (255, 7))(cloud) is cloud
    with pytest.raises(UnfitError, match=r"^segment has 255, which is none of the 8 classes$"):
        LabelRule("segment", 8)(cloud)
    with pytest.raises(UnfitError, match="has no labels named 'part'"):
        LabelRule("part", 2)(cloud)
    entries, needing = [Entry("a")], plain_views(INPUT, rule=LabelRule("segment", 8))
    (bad,) = cloud_dataset(entries, needing, read=lambda _: cloud)[0, 0].bad
    assert bad.reason == "segment has 255, which is none of the 8 classes"
    assert cloud_dataset(entries, plain_views(INPUT), read=lambda _: cloud)[0, 0].bad == []


def shapes(root: Path, foreign: int | None) -> Path:
    """Mugs of parts 0 and 1, and lamps of 2 and 3; the last mug for testing has the part ``foreign``, too."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for first, category in ((0, "mug"), (2, "lamp")):
            (root / split / category).mkdir(parents=True)
            for number in range(count):
                xyz = rng.random((70, 3), dtype=np.float32)
                part = first + (xyz[:, 2] > 0.5)
                if foreign is not None and (split, category, number) == ("test", "mug", 1):
                    part[:3] = foreign
                np.savez(root / split / category / f"{number}.npz", xyz=xyz, part=part)
    return root


def test_parts_of_another_category_are_told_and_unknown_ones_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_fit(monkeypatch)
    run = write_run(tmp_path / "run")
    config = settings({"name": "part"})
    with pytest.raises(ConfigError, match=r"test/mug/1\.npz: part has 9 \(3 points\), which is none of the 4 classes"):
        finetune(source_of(shapes(tmp_path / "nine", 9)), [run], config, CPU)
    with pytest.warns(UserWarning, match=r"1 shapes have parts .*test/mug/1\.npz \(mug\) has 3; task\.parts"):
        told = plan(source_of(shapes(tmp_path / "three", 3)), [run], config, CPU)
    assert told["classes"] == "4 (0, 1, 2, 3)" and "points, test" in told
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan(source_of(shapes(tmp_path / "none", None)), [run], config, CPU)


@pytest.mark.parametrize("case", ["one_unlabelled", "stray_id", "test_unlabelled"])
def test_the_reported_scenes(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[4] / "shared" / "faults" / "points" / "08-test-scenes" / case
    if not root.is_dir():
        pytest.skip("no files of faults here")
    no_fit(monkeypatch)
    run, config = write_run(tmp_path / "run"), settings({"name": "segment"}, val_share=0.0)
    if case == "one_unlabelled":
        with pytest.warns(UserWarning, match=r"1 of 5 training clouds \(\S*train/s3\.npz"):
            plan(source_of(root), [run], config, CPU)
    else:
        with pytest.raises(UserError, match=r"test/s6\.npz: segment has 149|none of the 2 test clouds.*test/s5\.npz"):
            plan(source_of(root), [run], config, CPU)
