from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.augment.point_masking import PatchMask, PointMaskConfig
from st_ssl.augment.points import PointAugment, PointAugmentConfig
from st_ssl.core.config import Place, validate
from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.types import Entry, PointCloud, View
from st_ssl.data.base import DATA, Batch
from st_ssl.data.clip_plans import Still
from st_ssl.data.loading.loader import build_loader
from st_ssl.data.loading.sample_dataset import MAX_REPLACEMENTS, collate
from st_ssl.data.points.dataset import PointDataConfig, PointSource, cloud_dataset
from st_ssl.data.points.views import augmented_views
from st_ssl.data.streams.points import read_cloud
from st_ssl.data.synthetic.shapes import SyntheticShapeConfig
from st_ssl.data.views import Views, each
from tests.data.loading.disasters import hang
from tests.data.order import check_workers_and_order

AUGMENT = PointAugment(PointAugmentConfig(), num_points=16)
VIEWS = Views(each(Still(2), AUGMENT, masks=[PatchMask(PointMaskConfig(ratio=0.5), 8)]))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clouds of 30 to 41 points with colours and a class; numbers 3 and 4 are broken."""
    folder = tmp_path_factory.mktemp("clouds")
    rng = np.random.default_rng(0)
    for number in range(12):
        label = folder / ("a" if number % 2 else "b")
        label.mkdir(exist_ok=True)
        count = 30 + number
        xyz, color = rng.normal(size=(count, 3)).astype("f4"), rng.integers(0, 256, (count, 3))
        np.savez(label / f"{number:02d}.npz", xyz=xyz, color=color.astype("u1"), segment=np.full(count, number))
    (folder / "a" / "03.npz").write_text("no arrays")
    np.savez(folder / "b" / "04.npz", xyz=np.zeros((1, 3)))
    return folder


def entries_of(root: Path) -> list[Entry]:
    return [Entry(str(path)) for path in sorted(root.glob("*/*.npz"), key=lambda path: path.name)]


def view_of(batch: Batch, number: int = 0) -> View:
    return batch.views[number]


def tensors(batch: Batch) -> list[torch.Tensor]:
    found = [batch.indices, batch.wanted, batch.metadata]
    for number in range(len(batch.views)):
        view = view_of(batch, number)
        assert view.points.source is not None
        found += [*view.mask, *view.params.values()]
        found += [view.points.dense(), view.points.source.view(len(view), -1)]
        found += [values.view(len(view), 16, -1) for values in (*view.points.attributes.values(),)]
    return found


def test_shapes_and_sources(root: Path) -> None:
    entries = entries_of(root)
    dataset = cloud_dataset(entries, VIEWS)
    batch = collate([dataset[0, i] for i in (5, 2, 7)])
    assert batch.indices.tolist() == batch.wanted.tolist() == [5, 2, 7]
    assert batch.metadata.tolist() == [[35], [32], [37]]
    assert batch.bad == []
    assert len(batch.views) == 2
    for number in range(2):
        points = view_of(batch, number).points
        assert points.offsets.tolist() == [0, 16, 32, 48]
        assert points.dense().shape == (3, 16, 3)
        assert points.labels["segment"].tolist() == [5] * 16 + [2] * 16 + [7] * 16
        assert points.source is not None
        for at, index in enumerate((5, 2, 7)):  # the source index leads back to the point of the file
            whole = read_cloud(entries[index].path)
            chosen = points.source[16 * at : 16 * at + 16].numpy()
            assert np.array_equal(
                points.attributes["color"][16 * at : 16 * at + 16].numpy(), whole.attributes["color"][chosen]
            )
    assert not torch.equal(view_of(batch, 0).params["affine"], view_of(batch, 1).params["affine"])


def test_views_do_not_depend_on_workers_or_order(root: Path) -> None:
    check_workers_and_order(cloud_dataset(entries_of(root), VIEWS, seed=3), tensors)


def test_draws_differ_by_seed_pass_and_sample(root: Path) -> None:
    entries = [entries_of(root)[0]] * 2
    dataset, other = cloud_dataset(entries, VIEWS), cloud_dataset(entries, VIEWS, seed=1)
    samples = [dataset[0, 0], dataset[1, 0], dataset[0, 1], other[0, 0]]
    assert len({tuple(view_of(collate([s])).params["affine"].flatten().tolist()) for s in samples}) == 4


def test_broken_files_are_replaced_by_a_rule_and_listed(root: Path) -> None:
    entries = entries_of(root)
    samples = [cloud_dataset(entries, VIEWS, seed=3)[0, 3] for _ in range(2)]
    assert samples[0].wanted == 3
    assert samples[0].index == samples[1].index not in (3, 4)
    assert "not a file of arrays" in samples[0].bad[0].reason
    chosen = [cloud_dataset(entries, VIEWS, seed=3)[epoch, 3] for epoch in range(20)]
    assert len({sample.index for sample in chosen}) > 5  # not always the same one
    batch = collate([cloud_dataset(entries, VIEWS, seed=3)[0, i] for i in (2, 3, 3, 4)])
    assert batch.wanted.tolist() == [2, 3, 3, 4]
    assert sorted({bad.path for bad in batch.bad}) == sorted([entries[3].path, entries[4].path])
    assert len(view_of(batch)) == 4


def test_nothing_usable_is_a_batch_without_views(root: Path, tmp_path: Path) -> None:
    sample = cloud_dataset([Entry(str(tmp_path / f"{i}.ply")) for i in range(30)], VIEWS)[0, 7]
    assert sample.views is None
    assert len({bad.path for bad in sample.bad}) == 1 + MAX_REPLACEMENTS
    assert collate([cloud_dataset(entries_of(root), VIEWS)[0, 0], sample]).views == []
    with pytest.raises(DataError, match="no clouds to read"):
        cloud_dataset([], VIEWS)


def test_what_some_clouds_lack(root: Path, tmp_path: Path) -> None:
    """Colours that not all files have travel with none of a batch, or are asked for; then their lack is an error."""
    np.save(tmp_path / "plain.npy", np.random.default_rng(0).normal(size=(20, 3)))
    entries = [entries_of(root)[0], Entry(str(tmp_path / "plain.npy"))]
    for keys in ((0, 1), (1, 0)):
        dataset = cloud_dataset(entries, VIEWS)
        assert view_of(collate([dataset[0, i] for i in keys])).points.attributes == {}
    needing = augmented_views(PointInputConfig(attributes=("color", "normal")), AUGMENT)
    sample = cloud_dataset(entries, needing)[0, 1]
    assert [bad.reason for bad in sample.bad] == [
        "has no color nor normal, which input.attributes asks for: it has the places of its points alone "
        "(input.attributes=[])",
        "has no normal, which input.attributes asks for: it has color (input.attributes=[color])",
    ]
    assert cloud_dataset(entries, augmented_views(PointInputConfig(attributes=("color",)), AUGMENT))[0, 1].index == 0


def test_the_source_of_a_configuration(root: Path) -> None:
    config = validate(PointDataConfig, {"root": str(root), "num_workers": 1, "epoch_size": 5}, Place(Path("x.yaml")))
    source = DATA.build(config)
    assert isinstance(source, PointSource)
    assert (source.num_workers, source.epoch_size, source.max_bad_share, source.modality) == (1, 5, 0.1, "points")
    entries = source.entries()
    assert [entry.labels["label"] for entry in entries] == ["a"] * 6 + ["b"] * 6
    with pytest.raises(ConfigError, match=r"bin_column.*did you mean 'bin_columns'"):
        validate(PointDataConfig, {"bin_column": 4}, Place(Path("x.yaml")))


def test_without_a_root_clouds_are_planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = SyntheticShapeConfig(num_train=6, num_val=0, num_test=3, num_points=64)
    source = PointSource(PointDataConfig(shapes=few))
    entries = source.entries()
    assert [entry.split for entry in entries] == ["train"] * 6 + ["test"] * 3
    batch = collate([source.dataset(entries, VIEWS)[0, i] for i in range(9)])
    assert set(view_of(batch).points.attributes) == {"normal"}
    assert set(view_of(batch).points.labels) == {"part"}
    with pytest.warns(UserWarning, match="data.format and data.split are ignored"):
        assert PointSource(PointDataConfig(shapes=few, format="kitti")).entries() == entries


def test_options_reach_the_readers(tmp_path: Path) -> None:
    np.random.default_rng(0).random((40, 5), dtype="f4").tofile(tmp_path / "a.bin")
    (tmp_path / "b.off").write_text("OFF 3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    source = PointSource(PointDataConfig(root=str(tmp_path), surface_points=77, bin_columns=5))
    dataset = source.dataset(source.entries(), VIEWS)
    assert [dataset[0, i].facts for i in range(2)] == [(40,), (77,)]


def test_what_is_evaluated_is_not_drawn_by_the_seed(root: Path) -> None:
    source, entries = PointSource(PointDataConfig(root=str(root))), entries_of(root)
    for jitter, same in ((0.0, True), (0.5, False)):
        views = source.evaluation(PointInputConfig(num_points=8), 2, jitter=jitter)
        batches = [collate([source.dataset(entries, views, seed)[0, 1]]) for seed in (0, 1)]
        first, second = (view_of(batch).points.xyz for batch in batches)
        assert torch.equal(first, second) == same
        assert not torch.equal(first, view_of(batches[0], 1).points.xyz)
        assert first.norm(dim=1).max() == pytest.approx(1)  # no more than brought to the unit sphere


def test_shares_of_a_cloud_have_no_point_in_common(root: Path) -> None:
    source, entries = PointSource(PointDataConfig(root=str(root))), entries_of(root)
    sources = []
    for span in ((0.0, 0.5), (0.5, 1.0)):
        views = source.evaluation(PointInputConfig(num_points=None), 1, span)
        points = view_of(collate([source.dataset(entries, views)[0, 5]])).points
        assert points.source is not None
        whole, index = read_cloud(entries[5].path), points.source.numpy()
        assert np.array_equal(points.attributes["color"].numpy(), whole.attributes["color"][index])
        sources.append(index)
    assert sorted(np.concatenate(sources)) == list(range(35))


@pytest.mark.parametrize("input", [{}, {"unit_sphere": False, "voxel_size": 0.1, "num_points": None}])
def test_clouds_of_a_single_place_stay_finite(tmp_path: Path, input: dict[str, Any]) -> None:
    for count in (2, 2000):
        np.save(tmp_path / f"{count}.npy", np.full((count, 3), 7.0))
    source = PointSource(PointDataConfig(root=str(tmp_path)))
    views = source.evaluation(PointInputConfig(**input))
    dataset = source.dataset(source.entries(), views)
    batch = collate([dataset[0, i] for i in range(2)])
    points = views.prepare(list(batch.views))[0].points
    assert batch.bad == [] and torch.isfinite(points.xyz).all()
    assert points.offsets.diff().tolist() == ([1, 1] if input else [1024, 1024])
    assert all(np.isfinite(features).all() for features in source.raw_features(view_of(batch)).values())


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        ("read", "reading the cloud took more than 2 s (data.sample_timeout)"),
        ("first", "cutting views of the cloud took more than 2 s (data.sample_timeout)"),
        ("cut", "cutting views of the cloud took more than 2 s (data.sample_timeout)"),
    ],
)
def test_what_took_too_long_is_told(root: Path, monkeypatch: pytest.MonkeyPatch, at: str, reason: str) -> None:
    slow = entries_of(root)[0].path
    cut = PointAugment.cut
    paths: list[str] = []

    def hang_at(place: str) -> None:
        if at == place and paths[-1] == slow:
            hang()

    def read(path: str) -> PointCloud:
        paths.append(path)
        hang_at("read")
        return read_cloud(path)

    def first(cloud: PointCloud) -> PointCloud:
        hang_at("first")
        return cloud

    def cut_or_hang(augment: PointAugment, *rest: Any) -> list[PointCloud]:
        hang_at("cut")
        return cut(augment, *rest)

    monkeypatch.setattr(PointAugment, "cut", cut_or_hang)
    dataset = cloud_dataset(entries_of(root)[:3], replace(VIEWS, first=(first,)), read=read)
    (batch,) = build_loader(dataset, [[(0, 0), (0, 1)]], collate, 1, timeout=2.0)
    assert [(bad.path, bad.reason) for bad in batch.bad] == [(slow, reason)]


def test_what_crashed_is_told() -> None:
    stages = cloud_dataset([Entry("a.npz")], VIEWS).stages
    assert [stage.crashed for stage in stages] == ["reading the cloud crashed", "cutting views of the cloud crashed"]
