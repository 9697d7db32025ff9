"""A format that a recipe names for its own data set, where the user names another root."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from st_ssl.core.config import to_yaml
from st_ssl.core.errors import ConfigError
from st_ssl.data.base import DATA
from st_ssl.engine.run_config import load_runs
from st_ssl.engine.run_files import load_run_config
from st_ssl.transfer.fitting.finetune_config import load_finetune
from tests.runs import ROOT

RECIPES: list[tuple[str, str]] = [  # a recipe that names a format, or the data set behind one that does
    ("pretrain/latent/point2vec", ""),
    ("pretrain/masked/point_mae", ""),
    ("pretrain/masked/videomae", "ucf101"),
    ("pretrain/contrast/cvrl", "ssv2"),
    ("transfer/video/vit", "kinetics400"),
    ("transfer/video/conv", "diving48"),
    ("transfer/points/few_shot", "modelnet_few_shot"),
    ("transfer/points/part", "shapenet_part"),
]


def write(root: Path, *files: str) -> Path:
    """Empty videos, and clouds of two points."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".npy"):
            np.save(root / name, np.ones((2, 3)))
        else:
            (root / name).touch()
    return root


@pytest.mark.parametrize(("recipe", "name"), RECIPES)
def test_a_recipe_for_a_data_set_takes_any_folder(recipe: str, name: str, tmp_path: Path) -> None:
    file = ROOT / "configs" / f"{recipe}.yaml"
    points = "point" in recipe
    root = write(tmp_path, "a/0.npy", "b/1.npy") if points else write(tmp_path, "a/0.mp4", "b/1.mp4")
    keys = [f"data.root={root}", *([f"data={name}"] if name else [])]
    load = (lambda: load_finetune(file, keys)) if "transfer" in recipe else lambda: load_runs(file, keys)[0].config
    with pytest.warns(
        UserWarning,
        match=rf"{name or file.stem}\.yaml:\d+: data.format=\w+ is left out, .* does not look like it: read as folder",
    ):
        data = load().data
    assert (data.format, data.split) == ("auto", None)
    assert [entry.labels for entry in DATA.build(data).entries()] == [{"label": "a"}, {"label": "b"}]


def shapenet(root: Path) -> Path:
    write(root, "shapenet_pc/02691156-1a.npy")
    (root / "ShapeNet-55").mkdir()
    (root / "ShapeNet-55" / "train.txt").write_text("02691156-1a.npy\n")
    (root / "ShapeNet-55" / "test.txt").write_text("02691156-1a.npy\n")
    return root


@pytest.mark.parametrize(
    ("own", "keys", "kept"),
    [
        ({}, ["data.root=shapenet"], "shapenet55"),  # it looks like it
        ({}, ["data={root: clouds}"], "auto"),
        ({}, ["data.root=clouds", "data.format=shapenet55"], "shapenet55"),  # who asks for it gets it
        ({}, ["data.root=gone"], "shapenet55"),  # that it is gone is told by who reads it
        ({"root": "clouds"}, ["seed=1"], "shapenet55"),  # one file names both
        ({"root": "shapenet"}, ["data.root=clouds"], "auto"),
    ],
)
def test_the_format_of_a_recipe_is_kept_where_it_fits(
    own: dict[str, str], keys: list[str], kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "clouds", "a/0.npy")
    shapenet(tmp_path / "shapenet")
    text = (ROOT / "configs" / "pretrain" / "latent" / "point2vec.yaml").read_text()
    line = to_yaml({"data": {"name": "points", "format": "shapenet55", **own}})
    Path("mine.yaml").write_text(text.replace("data: {name: points, root: null, format: shapenet55}\n", line))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert load_runs(Path("mine.yaml"), keys)[0].config.data.format == kept
    assert len(told) == (kept == "auto")


def test_the_format_of_a_list_is_that_of_any_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "videos", "a.mp4")
    Path("list.txt").write_text("a.mp4 0 12\n")
    recipe = (ROOT / "configs" / "quickstart" / "motion.yaml").read_text()
    Path("mine.yaml").write_text(recipe.replace("  root: null\n", "  format: videomae\n"))
    listed = load_runs(Path("mine.yaml"), ["data.root=videos", "data.list=list.txt"])[0].config
    assert listed.data.format == "videomae"
    with pytest.warns(UserWarning, match="read as folder"):
        assert load_runs(Path("mine.yaml"), ["data.root=videos"])[0].config.data.format == "auto"


def test_a_pack_needs_no_format_and_no_warning(tmp_path: Path) -> None:
    (tmp_path / "pack.json").write_text("{}")
    recipe = ROOT / "configs" / "pretrain" / "masked" / "point_mae.yaml"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_runs(recipe, [f"data.root={tmp_path}"])[0].config.data.format == "auto"


def test_fine_tuning_on_the_data_of_the_run_reads_them_as_they_are(tmp_path: Path) -> None:
    root = write(tmp_path / "videos", "a/0.mp4", "b/1.mp4")
    recipe = ROOT / "configs" / "transfer" / "video" / "vit.yaml"
    own = {"name": "video", "root": str(root)}
    with pytest.warns(UserWarning, match="data.format=kinetics is left out"):
        assert load_finetune(recipe, ["data=kinetics400"], own).data.format == "auto"
    with pytest.raises(ConfigError, match="must be"):
        load_finetune(recipe, ["data.format=kinetiks"], own)


def test_a_run_on_other_data_leaves_its_list_behind(tmp_path: Path) -> None:
    recipe = ROOT / "configs" / "pretrain" / "contrast" / "cvrl.yaml"
    keys = ["data=ucf101", "data.root=/data/ucf101", "data.list=/data/lists", f"output_dir={tmp_path}"]
    config = load_runs(recipe, keys)[0].config
    (tmp_path / "config.yaml").write_text(to_yaml(config.model_dump(mode="json")))
    root = write(tmp_path / "videos", "a/0.mp4", "b/1.mp4")
    with pytest.warns(UserWarning, match="data.format=ucf101 is left out"):
        other = load_run_config(tmp_path, [f"data.root={root}"]).data
    assert (other.root, other.list, other.format, other.split) == (str(root), None, "auto", None)
    same = load_run_config(tmp_path, ["data.root=/data/ucf101"]).data
    assert (same.list, same.format, same.split) == ("/data/lists", "ucf101", 1)
    given = load_run_config(tmp_path, [f"data.root={root}", f"data.list={root}/gone"]).data
    assert given.list == f"{root}/gone"
