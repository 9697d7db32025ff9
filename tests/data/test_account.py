from __future__ import annotations

from pathlib import Path

import pytest

from st_ssl.data.account import account_lines
from st_ssl.data.sources.video import read_source

LAYOUTS = {
    "classes": "a/0.mp4 a/1.mp4 b/2.mp4",
    "splits of classes": "train/a/0.mp4 train/b/1.mp4 test/a/2.mp4",
    "classes of splits": "a/train/0.mp4 a/test/1.mp4 b/train/2.mp4 b/test/3.mp4",
    "neither": "0.mp4 1.mp4 2.mp4",
}
TOLD = {
    "classes": "labels: folders, 2 classes: a (2), b (1)",
    "splits of classes": "labels: folders, 2 classes: a (1 test, 1 train), b (0 test, 1 train)",
    "classes of splits": "labels: folders, 2 classes: a (1 test, 1 train), b (1 test, 1 train)",
    "neither": "labels: none, no folders of classes",
}


def written(root: Path, files: str) -> list[str]:
    names = files.split()
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return names


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("ignore")
def test_labels_by_folders_are_told_as_such(layout: str, tmp_path: Path) -> None:
    written(tmp_path, LAYOUTS[layout])
    assert TOLD[layout] in account_lines({"listing": read_source(tmp_path).summary()})


@pytest.mark.filterwarnings("ignore")
def test_with_a_list_it_alone_tells_labels(tmp_path: Path) -> None:
    names = written(tmp_path, LAYOUTS["classes"])
    (file := tmp_path / "list.txt").write_text("\n".join(names))
    assert "labels: none, the format list tells no classes" in account_lines({"listing": read_source(file).summary()})
    file.write_text("\n".join(f"{name} x" for name in names))
    assert "labels: 1 classes: x (3)" in account_lines({"listing": read_source(file).summary()})


def test_other_targets_have_their_name(tmp_path: Path) -> None:
    names = written(tmp_path, "0.mp4 1.mp4")
    table = [f"{name},{split},{light}" for name, split, light in zip(names, ("train", "test"), "01", strict=True)]
    (tmp_path / "factors.csv").write_text("\n".join(["path,split,light", *table]) + "\n")
    assert "light: 2 classes: 0 (1 train, 0 test), 1 (0 train, 1 test)" in account_lines(
        {"listing": read_source(tmp_path).summary()}
    )
