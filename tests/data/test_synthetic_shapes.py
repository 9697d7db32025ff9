from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import cKDTree

from st_ssl.core.errors import DataError
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import PointCloud
from st_ssl.data.sources.points import read_source
from st_ssl.data.streams.points import read_cloud
from st_ssl.data.synthetic.shapes import (
    FACTORS,
    SPLITS,
    STYLES,
    PlantedShape,
    SyntheticShapeConfig,
    make_shape,
    plan_shape,
    write_dataset,
)
from st_ssl.data.synthetic.shapes3d import CLASSES, PART_NAMES, PARTS, build

CONFIG = SyntheticShapeConfig()
TINY = SyntheticShapeConfig(num_train=5, num_val=2, num_test=3, num_points=256)


def planted(index: int = 0, num_points: int = 2048, name: str = "chair", **factors: str) -> PointCloud:
    """An object of class ``name`` with these factors; the rest are the plainest."""
    plain = {"class": name, "style": "thin_small", "pose": "yaw_000", "density": "even", "noise": "clean"}
    config = SyntheticShapeConfig(num_points=num_points)
    return make_shape(config, PlantedShape("train", index, {**plain, "occlusion": "none", **factors}))


@pytest.mark.parametrize("split", SPLITS)
def test_factors_are_balanced_and_independent(split: str) -> None:
    plan = [plan_shape(CONFIG, split, i) for i in range(CONFIG.count(split))]
    columns = np.array([[FACTORS[f].index(s.factors[f]) for f in FACTORS] for s in plan])
    sizes = [len(values) for values in FACTORS.values()]
    for column, size in zip(columns.T, sizes, strict=True):
        counts = np.bincount(column, minlength=size)
        assert counts.max() - counts.min() <= 1
    for i, j in combinations(range(len(sizes)), 2):
        table = np.zeros((sizes[i], sizes[j]))
        np.add.at(table, (columns[:, i], columns[:, j]), 1)
        assert stats.chi2_contingency(table).pvalue > 1e-4, (i, j)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_all_its_parts_in_every_style(name: str) -> None:
    for thick, large in STYLES.values():
        found = set[str]()
        for seed in range(12):  # arms and engines are not on every one
            found |= {PART_NAMES[solid.label] for solid in build(name, thick, large, keyed_rng(name, seed))}
        assert found == {f"{name}/{part}" for part in PARTS[name]}


@pytest.mark.parametrize("name", CLASSES)
def test_clouds_are_sound(name: str) -> None:
    for index, occlusion in enumerate(FACTORS["occlusion"]):
        cloud = planted(index, name=name, occlusion=occlusion)
        assert cloud.xyz.shape == (2048, 3) and cloud.xyz.dtype == np.float32
        assert np.isfinite(cloud.xyz).all() and 0.5 < np.linalg.norm(cloud.xyz, axis=1).max() < 1.01
        assert np.allclose(np.linalg.norm(cloud.attributes["normal"], axis=1), 1, atol=1e-5)
        assert {PART_NAMES[label].split("/")[0] for label in np.unique(cloud.labels["part"])} == {name}
        assert len(np.unique(cloud.xyz, axis=0)) == 2048


@pytest.mark.parametrize("name", ["table", "bottle", "car", "lamp"])
def test_normals_are_those_of_the_points(name: str) -> None:
    """Against the plane through each point's neighbours of the same part, where these lie in a plane."""
    cloud = planted(3, num_points=6000, name=name)
    tree, flat, agree = cKDTree(cloud.xyz), 0, 0
    for i in range(0, 6000, 20):
        near = tree.query(cloud.xyz[i], 12)[1]
        spread, axes = np.linalg.eigh(np.cov(cloud.xyz[near].T))
        if spread[0] < 1e-3 * spread[1]:
            flat += 1
            agree += abs(axes[:, 0] @ cloud.attributes["normal"][i]) > 0.97
    assert flat > 30 and agree > 0.9 * flat


def test_the_factors_do_what_they_say() -> None:
    def height(cloud: PointCloud) -> float:
        z = cloud.xyz[:, 2]
        return float((z.mean() - z.min()) / np.ptp(z))

    clouds = {d: [planted(i, name="shelf", density=d) for i in range(8)] for d in FACTORS["density"]}
    for even, top, bottom in zip(clouds["even"], clouds["top"], clouds["bottom"], strict=True):
        assert height(bottom) + 0.1 < height(even) < height(top) - 0.1
    for even, front in zip(clouds["even"], clouds["front"], strict=True):
        assert even.xyz[:, 0].mean() + 0.02 < front.xyz[:, 0].mean()

    clean, slight, strong = (planted(2, noise=n).xyz for n in FACTORS["noise"])
    assert 0.008 < (slight - clean).std() < 0.012 and 0.027 < (strong - clean).std() < 0.033

    straight, turned = planted(4).xyz, planted(4, pose="yaw_090").xyz
    assert np.allclose(np.stack([-straight[:, 1], straight[:, 0], straight[:, 2]], axis=1), turned, atol=1e-5)

    thin, thick = (planted(5, style=s).labels["part"] for s in ("thin_small", "thick_small"))
    leg = PART_NAMES.index("chair/leg")
    assert (thin == leg).mean() < (thick == leg).mean()


def test_from_one_side_only_that_side_is_seen() -> None:
    for index in range(6):
        share = {}
        for occlusion in FACTORS["occlusion"]:
            normals = planted(index, name="bottle", occlusion=occlusion).attributes["normal"]
            ways = normals @ keyed_rng("ways").normal(size=(3, 2000))
            share[occlusion] = (ways > 0).mean(0).max()  # of the points that face the best of many directions
        assert share["one_side"] > 0.98
        assert share["none"] + 0.1 < share["half"] < share["one_side"] - 0.1


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "shapes", TINY, num_workers=1, progress=False)


def _contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_files_are_the_same_for_any_number_of_processes(dataset: Path, tmp_path: Path) -> None:
    again = write_dataset(tmp_path / "again", TINY, num_workers=2, progress=False)
    assert _contents(again) == _contents(dataset)
    assert len(_contents(dataset)) == 10 + 2
    other = write_dataset(tmp_path / "other", TINY.model_copy(update={"seed": 1}), 1, progress=False)
    assert _contents(other)["train/00000.npz"] != _contents(dataset)["train/00000.npz"]


def test_a_file_holds_the_cloud_and_the_table_its_factors(dataset: Path) -> None:
    entries = read_source(dataset)
    assert [entry.split for entry in entries] == ["train"] * 5 + ["val"] * 2 + ["test"] * 3
    for entry in entries:
        split, index = Path(entry.path).parent.name, int(Path(entry.path).stem)
        shape = plan_shape(TINY, split, index)
        assert entry.labels == shape.factors
        cloud = make_shape(TINY, shape)
        found = read_cloud(entry.path)
        assert np.array_equal(found.xyz, cloud.xyz)
        assert np.allclose(found.attributes["normal"], cloud.attributes["normal"], atol=1e-6)
        assert np.array_equal(found.labels["part"], cloud.labels["part"])
    assert json.loads((dataset / "synthetic.json").read_text())["parts"] == list(PART_NAMES)


def test_a_stopped_run_is_taken_up(dataset: Path) -> None:
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in dataset.rglob("*") if p.is_file()}
    lost = dataset / "test" / "00001.npz"
    lost.unlink()
    (dataset / "factors.csv").unlink()
    write_dataset(dataset, TINY, num_workers=1, progress=False)
    for path, (content, time) in before.items():
        assert path.read_bytes() == content
        assert (path.stat().st_mtime_ns == time) == (path not in (lost, dataset / "factors.csv"))


def test_a_failed_file_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        write_dataset(tmp_path / "shapes", TINY, num_workers=1, progress=False)
    assert [p.name for p in (tmp_path / "shapes").rglob("*") if p.is_file()] == ["synthetic.json"]


def test_another_data_set_is_left_alone(dataset: Path, tmp_path: Path) -> None:
    before = _contents(dataset)
    with pytest.raises(DataError, match="holds another set of synthetic shapes"):
        write_dataset(dataset, CONFIG, progress=False)
    assert _contents(dataset) == before
    (dataset / "synthetic.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        write_dataset(dataset, TINY, progress=False)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "cat.ply").write_bytes(b"ply")
    with pytest.raises(DataError, match=r"not empty.*cat\.ply"):
        write_dataset(foreign, TINY, progress=False)
    with pytest.raises(DataError, match="is a file"):
        write_dataset(foreign / "cat.ply", TINY, progress=False)


def test_wrong_split_and_index_are_named() -> None:
    with pytest.raises(DataError, match=r"'tets' is not one of train, val, test; did you mean 'test'"):
        plan_shape(TINY, "tets", 0)
    with pytest.raises(DataError, match="shapes 0 to 4"):
        plan_shape(TINY, "train", 5)


@pytest.mark.slow
def test_coordinates_do_not_give_the_class_away() -> None:
    """Linear classifiers on occupied voxels (8³), on sorted coordinates and on D2 (Osada, 2002): better than chance,
    which is 8 %, and far from right."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    def features(cloud: PointCloud) -> dict[str, np.ndarray]:
        xyz = cloud.xyz - cloud.xyz.mean(0)
        xyz /= np.linalg.norm(xyz, axis=1).max()
        cell = np.clip(((xyz + 1) * 4).astype(int), 0, 7)
        occupied = np.bincount(cell @ [64, 8, 1], minlength=512) > 0
        a, b = keyed_rng("pairs").integers(len(xyz), size=(2, 20_000))
        distance = np.histogram(np.linalg.norm(xyz[a] - xyz[b], axis=1), 64, (0, 2))[0]
        return {"occupied": occupied, "sorted": np.sort(xyz[::8], axis=0).ravel(), "D2": distance}

    config = SyntheticShapeConfig(num_train=500, num_test=200)
    plans = {split: [plan_shape(config, split, i) for i in range(config.count(split))] for split in ("train", "test")}
    known = {split: [features(make_shape(config, shape)) for shape in plan] for split, plan in plans.items()}
    train, test = ([shape.factors["class"] for shape in plans[split]] for split in ("train", "test"))
    score = {}
    for name in ("occupied", "sorted", "D2"):
        x, y = (np.stack([f[name] for f in known[split]]).astype(float) for split in ("train", "test"))
        model = make_pipeline(StandardScaler(), LinearSVC(C=0.003, max_iter=3000))
        score[name] = model.fit(x, train).score(y, test)
    print(score)
    assert all(0.15 < value < 0.7 for value in score.values()), score
