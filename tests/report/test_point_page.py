"""The page about runs on clouds: turnable views, features, correspondences, predictions, and what it may load."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from st_ssl.cli import guarded
from st_ssl.cli.report import main
from st_ssl.core.errors import DataError, MissingDependencyError, UserError
from st_ssl.data.streams.points import read_cloud
from st_ssl.data.synthetic.shapes import SyntheticShapeConfig, write_dataset
from st_ssl.engine.run_config import load_runs
from st_ssl.engine.runtime import Runtime
from st_ssl.engine.trainer import Trainer
from st_ssl.report import viewers
from st_ssl.report.clouds import Eye
from st_ssl.report.features import principal_colours
from st_ssl.report.finetuned import class_colours, finetuned
from st_ssl.report.folder import RunFolder
from st_ssl.report.matches import RIGHT, WRONG, Pair, match
from st_ssl.report.page import write_report
from st_ssl.report.scenes import Cloud, Links, Scene
from st_ssl.report.turnable import Turnable, turnable, viewer_script

from .browser import Browser, needs_browser
from .test_page import Page

CONFIG = """
output_dir: OUT
data: {name: points, root: ROOT, num_workers: 0}
probe: null
report: {samples: 2}
engine: {epochs: 1, batch_size: 6, log_every: 1, device: cpu}
optim: {name: adamw, lr: 1.0e-3}
runs:
  contrast:
    input: {num_points: 256, voxel_size: 0.05}
    encoder: {name: sparse_unet, variant: tiny, stem: 4, stem_kernel: 3}
    method: {name: point_contrast, num_pairs: 32}
  mae:
    input: {num_points: 128}
    encoder: {name: point_vit, dim: 24, depth: 1, heads: 2, num_groups: 8, group_size: 16, tokeniser: [8, 16, 16]}
    method: {name: point_mae, decoder: {depth: 1, heads: 2}}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of a trained run of PointContrast, and of one of Point-MAE with predictions of fine-tuning."""
    home = tmp_path_factory.mktemp("clouds")
    write_dataset(home / "shapes", SyntheticShapeConfig(num_train=12, num_val=0, num_test=6), 1, progress=False)
    for table in (home / "shapes").glob("*.csv"):
        table.unlink()  # without labels there is less to draw
    file = home / "suite.yaml"
    file.write_text(CONFIG.replace("OUT", str(home)).replace("ROOT", str(home / "shapes")))
    configs = [run.config for run in load_runs(file)]
    for config in configs:
        Trainer(config, Runtime(torch.device("cpu"))).fit()
    folders = [Path(config.output_dir) for config in configs]
    for folder in folders:
        (folder / "metrics.jsonl").unlink()  # curves are those of videos, and slow to draw
    write_predictions(folders[1])
    return folders


def write_predictions(run: Path) -> None:
    """What ``finetune`` leaves, of two clouds: three of the four labelled points of the first are right."""
    folder = run / "finetune" / "rooms_predictions"
    folder.mkdir(parents=True)
    xyz = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    label, said = np.array([0, 1, 2, 2, -1]), np.array([0, 1, 2, 0, 1])
    for name in ("0000.npz", "0001.npz"):
        np.savez(folder / name, xyz=xyz, label=label, prediction=said)
    (folder / "classes.json").write_text(json.dumps(["wall", "<b>chair", "lamp"]))
    about = {"task": "segment", "mode": "full", "fraction": 0.1, "votes": 1}
    clouds = {"0000.npz": "/x/room_0", "0001.npz": "/x/room_1"}
    (folder / "about.json").write_text(json.dumps(about | {"clouds": clouds}))
    rows = [
        {
            "mode": mode,
            "fraction": 0.1,
            "metrics": {n: {"mean": v, "std": 1.0, "values": [v - 1, v + 1]} for n, v in figures.items()},
        }
        for mode, figures in {"scratch": {"mIoU": 40.0, "IoU_2": 30.0}, "full": {"mIoU": 50.5, "IoU_2": 60.0}}.items()
    ]
    result = {"results": rows, "classes": ["wall", "<b>chair", "lamp"]}
    (run / "finetune" / "rooms.json").write_text(json.dumps(result | {"config": {"task": {"name": "segment"}}}))


@pytest.fixture(scope="module")
def written(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(runs, tmp_path_factory.mktemp("report") / "report.html")


def test_the_page_has_what_clouds_have(written: Path) -> None:
    page = Page(written.read_text())
    sections = [v["id"] for t, v in page.tags if t == "section"]
    assert {"run1-views", "run1-matches", "run1-features", "run2-pictures", "run2-features", "run2-finetune"} <= set(
        sections
    )
    assert not {"run1-pictures", "run1-finetune", "run2-matches"} & set(sections)
    stages = [v for t, v in page.tags if t == "div" and v.get("class") == "stage"]
    # views 2 + 2, pictures 2, matches 2 of lines and 2 of colours, features 4 + 4, predictions 2
    assert len(stages) == 20
    assert sum(bool(stage["data-links"]) for stage in stages) == 2
    stills = [v for t, v in page.tags if t == "img" and v["src"].startswith("data:image/webp;base64,")]
    assert len(stills) >= len(stages) and all(v["alt"] for v in stills)
    assert page.texts["run1-views"].count("View 2") == 2
    assert page.texts["run2-pictures"].count("Reconstruction") == 2
    for run in ("run1", "run2"):
        assert page.texts[f"{run}-features"].count("Untrained") == 4
    assert "within 3 voxels" in page.texts["run1-matches"] and "by chance" in page.texts["run1-matches"]
    told = page.texts["run2-finetune"]
    for text in ("<b>chair", "75.0 % of the points are right", "room_1", "50.5 ± 1.0", "lamp", "segment, full, 10 %"):
        assert text in told, text


def test_only_the_viewer_may_run(written: Path) -> None:
    text = written.read_text()
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == text.count("<script") == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy[1] and "default-src 'none'" in policy[1]
    bare = re.sub(r"data:image/(webp|jpeg);base64,[^\"]+|data-(clouds|links)=\"[^\"]*\"", "", text)
    assert not re.search(r"https?:|//[a-z]", bare)


@needs_browser
def test_a_browser_draws_the_clouds(written: Path, browser: Browser) -> None:
    browser.open(written.as_uri(), 800, 600)
    browser.until("document.querySelectorAll('.stage canvas').length === 20")
    heights = browser.ask("[...document.querySelectorAll('canvas')].map(canvas => canvas.height)")
    assert min(heights) > 200
    assert browser.complaints == []


def scene_of(*clouds: np.ndarray) -> Turnable:
    colour = [np.full((len(xyz), 3), 0.5) for xyz in clouds]
    return turnable(Scene("s", [], [Cloud(["a"], *pair) for pair in zip(clouds, colour, strict=True)], Eye(0, 0)))


def test_places_as_before_are_told_from_none() -> None:
    square, nothing = np.array([[5.0, 5, 5], [7, 5, 5], [5, 5, 7], [7, 5, 7]]), np.zeros((0, 3))
    places = [part.split(":")[0] for part in scene_of(nothing, square, square, nothing).clouds.split(",")]
    assert places[0] == places[3] == "" and places[2] == "="
    steps = np.frombuffer(base64.b64decode(places[1]), "<i2") * (4 / 32767)
    np.testing.assert_allclose(abs(steps.reshape(4, 3)), [[0.5**0.5, 0, 0.5**0.5]] * 4, atol=1e-3)  # in radii


INK = """[...document.querySelectorAll(".stage")].map(box => {
  const canvas = box.querySelector("canvas"), brush = canvas && canvas.getContext("2d");
  const half = x => brush.getImageData(x, 0, canvas.width / 2, canvas.height).data.some(value => value);
  return canvas && [half(0), half(canvas.width / 2)]; })"""


@needs_browser
def test_a_broken_scene_leaves_the_others_turning(tmp_path: Path, browser: Browser) -> None:
    square, nothing = np.array([[0.0, 0, 0], [2, 0, 0], [0, 0, 2], [2, 0, 2]]), np.zeros((0, 3))
    told = [scene_of(nothing, square).clouds, "%%%:%%%", scene_of(square, nothing).clouds, scene_of(square).clouds]
    boxes = "".join(f'<div class="stage" data-eye="0,0" data-clouds="{text}"><img alt="still"></div>' for text in told)
    page = tmp_path / "page.html"
    page.write_text(f'<body style="width:300px">{boxes}<script>{viewer_script()[0]}</script>')
    browser.open(page.as_uri(), 400, 400)
    browser.until("document.querySelectorAll('canvas').length === 3")
    (complaint,) = browser.complaints
    assert "atob" in complaint
    assert browser.ask(INK) == [[False, True], None, [True, False], [True, True]]
    assert browser.ask("document.querySelectorAll('.stage')[1].querySelector('img').alt") == "still"


def test_principal_colours_are_shared_and_tell_clusters_apart() -> None:
    rng = np.random.default_rng(0)
    kinds = np.eye(8)[:3] * 5
    first, second = (kinds[rng.permutation(30) % 3] + 0.01 * rng.normal(size=(30, 8)) for _ in range(2))
    a, b = principal_colours([first, second])
    assert a.shape == b.shape == (30, 3) and min(a.min(), b.min()) >= 0 and max(a.max(), b.max()) <= 1
    together = principal_colours([np.concatenate([first, second])])[0]
    np.testing.assert_allclose(np.concatenate([a, b]), together)
    kind = np.concatenate([first, second])[:, :3].argmax(1)
    means = np.stack([together[kind == k].mean(0) for k in range(3)])
    assert all(np.ptp(together[kind == k], axis=0).max() < 0.9 for k in range(3))
    assert min(np.abs(means[i] - means[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 0.4
    assert principal_colours([rng.normal(size=(5, 2))])[0].shape == (5, 3)


def test_matches_by_feature_are_right_where_features_tell_places() -> None:
    rng = np.random.default_rng(0)
    places = rng.normal(size=(300, 3))
    order = rng.permutation(300)
    second = places[order] * 1.1 + 4
    features = torch.randn(300, 8)
    pairs = np.stack([order, np.arange(300)], axis=1)
    given = {"pretrained": (features, features[order]), "random": (features, features[rng.permutation(300)])}
    colour = np.full((300, 3), 0.5)
    clouds, links, (right, random, chance) = match(Pair((places, second), (colour, colour), given, pairs, 1e-6), True)
    assert right == 100 and random < 10 and chance == pytest.approx(100 / 300)
    assert (links.colour == RIGHT).all()
    np.testing.assert_allclose(links.end, links.start * 1.1 + 4)
    assert "right: 100 %" in clouds[1].caption[-1]

    mixed = torch.cat([features[order][:150], features[order][150:].roll(1, 0)])
    given = {"pretrained": (features, mixed), "random": (features, mixed)}
    _, links, (right, _, _) = match(Pair((places, second), (colour, colour), given, pairs, 1e-6), True)
    there = np.isclose(links.end, links.start * 1.1 + 4).all(1)
    assert right == pytest.approx(50) and 0 < there.sum() < len(there) == len(links.colour)
    np.testing.assert_array_equal(links.colour, np.where(there[:, None], RIGHT, WRONG))


def test_colours_of_classes_differ() -> None:
    colours = class_colours(30)
    apart = np.abs(colours[:, None] - colours).max(-1) + np.eye(30)
    assert colours.shape == (30, 3) and apart.min() > 0.03
    np.testing.assert_array_equal(class_colours(4), colours[:4])


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("finetune/rooms_predictions/about.json", "{}"),
        ("finetune/rooms_predictions/0000.npz", "no archive"),
        ("finetune/rooms_predictions/classes.json", '["wall"]'),
        ("finetune/rooms.json", '{"results": []}'),
    ],
)
def test_a_damaged_result_is_named(file: str, text: str, runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((runs[1] / "config.yaml").read_text())
    write_predictions(tmp_path)
    run = RunFolder.open(tmp_path)
    found = finetuned(run)
    assert found is not None and [len(scene.clouds) for scene in found.scenes] == [4, 4]
    errors = found.scenes[0].clouds[3].colour
    assert (errors[3] == (0.86, 0.16, 0.16)).all() and len(np.unique(errors, axis=0)) == 3
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=r"is not the result of|not the predictions of"):
        finetuned(run)


def test_a_whole_cloud_is_told_by_its_caption(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((runs[1] / "config.yaml").read_text())
    write_predictions(tmp_path)
    xyz = np.zeros((4, 3), np.float32)
    np.savez(
        tmp_path / "finetune" / "rooms_predictions" / "0001.npz", xyz=xyz, label=np.array(2), prediction=np.array(0)
    )
    earlier = tmp_path / "finetune" / "earlier_predictions"  # of two, those written last are shown
    earlier.mkdir()
    (earlier / "about.json").write_text("{}")
    os.utime(earlier / "about.json", (0, 0))
    found = finetuned(RunFolder.open(tmp_path))
    assert found is not None
    assert [cloud.caption for cloud in found.scenes[1].clouds] == [["✗ wall", "truth: lamp"]]
    unknown = tmp_path / "finetune" / "rooms_predictions" / "0001.npz"
    np.savez(unknown, xyz=xyz, label=np.array(-1), prediction=np.array(0))
    found = finetuned(RunFolder.open(tmp_path))
    assert found is not None
    assert [cloud.caption for cloud in found.scenes[1].clouds] == [["wall", "no label"]]  # neither right nor wrong


def test_a_cloud_without_labels_has_no_share_of_right_points(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((runs[1] / "config.yaml").read_text())
    write_predictions(tmp_path)
    unknown = np.full(4, -1)
    file = tmp_path / "finetune" / "rooms_predictions" / "0001.npz"
    np.savez(file, xyz=np.eye(4, 3), label=unknown, prediction=np.zeros(4, int))
    found = finetuned(RunFolder.open(tmp_path))
    assert found is not None
    captions = [scene.clouds[3].caption for scene in found.scenes]
    assert captions == [["Errors", "red; 75.0 % of the points are right"], ["Errors", "no labels"]]


def test_clouds_go_to_ply_files_without_a_display(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("open3d", exc_type=ImportError)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["report", str(runs[1]), "--viewer", "open3d"])
    assert guarded(main) == 1
    assert "needs a display" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--save", str(tmp_path / "new")])
    assert guarded(main) == 0
    files = sorted((tmp_path / "new").iterdir())
    # views of 1 cloud and method's pictures of 3, two each; features of 3 of four; predictions of 4, two
    assert len(files) == 2 + 2 * 3 + 4 * 3 + 2 * 4
    assert all(re.fullmatch(r"\d{4}_\d_[A-Za-z0-9._-]+\.ply", file.name) for file in files)
    cloud = read_cloud(next(file for file in files if "Errors" in file.name))
    assert len(cloud) == 5
    np.testing.assert_allclose(cloud.attributes["color"][3], (0.86, 0.16, 0.16), atol=0.003)


@pytest.mark.parametrize(
    ("options", "folder", "told"),
    [
        (["--viewer", "open3d", "--save"], False, "is a file, and a folder is to be written"),
        (["--output"], True, "is a folder, and a file is to be written"),
    ],
)
def test_a_place_that_is_taken_is_told_first(
    options: list[str],
    folder: bool,
    told: str,
    runs: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)  # what comes later fails too
    place = tmp_path / "taken"
    place.mkdir() if folder else place.write_text("mine")
    for name, text in ((place, told), (tmp_path / "taken" / "in", "" if folder else "cannot be written to")):
        monkeypatch.setattr(sys, "argv", ["report", str(runs[1]), *options, str(name)])
        if text:
            assert guarded(main) == 2
            assert f"{options[-1]} {name}" in (error := capsys.readouterr().err) and text in error
    assert list(tmp_path.iterdir()) == [place]


def two_clouds() -> Scene:
    """The corners of a square, and of one that lies elsewhere, with one line."""
    square = np.array([[0.0, 0, 0], [2, 0, 0], [0, 2, 0], [2, 2, 0]])
    colour = np.full((4, 3), 0.5)
    clouds = [Cloud(["a"], square, colour), Cloud(["b"], square + 7, colour)]
    return Scene("s/..?", [], clouds, Eye(0, 0), Links(square[:1], square[:1] + 7, colour[:1]), shared=False)


def test_clouds_stand_side_by_side_in_a_viewer() -> None:
    scene = two_clouds()
    first, second = (viewers.placed(scene, cloud.xyz, i) for i, cloud in enumerate(scene.clouds))
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1)
    np.testing.assert_allclose(second - first, np.tile([2.2, 0, 0], (4, 1)))


def test_a_viewer_that_is_not_installed_is_named(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(MissingDependencyError, match=r"--viewer open3d needs .*st_ssl\[points\]"):
        viewers.show_clouds(runs)


def test_runs_without_clouds_are_named(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewers, "cloud_scenes", lambda run: [])
    monkeypatch.setattr(viewers, "require_open3d", lambda needed_for: None)
    with pytest.raises(UserError, match=f"{re.escape(str(runs[0]))}: no clouds to show"):
        viewers.show_clouds(runs[:1], tmp_path)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--save", "x"], "--save goes with --viewer"),
        (["--viewer", "open3d", "--output", "x"], "did you mean --save"),
        (["--viewer", "open3"], "did you mean 'open3d'"),
    ],
)
def test_options_that_do_not_go_together(
    arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["report", "run", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert told in capsys.readouterr().err
