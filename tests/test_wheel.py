"""What is installed where there is no checkout: all that the package needs, and commands that find it."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from contextlib import chdir
from pathlib import Path

import pytest
import yaml
from hatchling import build

import st_ssl
from tests.runs import ROOT


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``python -m build`` would leave."""
    folder = tmp_path_factory.mktemp("dist")
    with chdir(ROOT):
        build.build_wheel(str(folder))
        build.build_sdist(str(folder))
    return folder


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel holds."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(dist / f"st_ssl-{st_ssl.__version__}-py3-none-any.whl") as wheel:
        wheel.extractall(folder)
    return folder


def files(folder: Path) -> set[str]:
    """All files below ``folder`` but what Python keeps of them."""
    return {
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_the_wheel_is_the_package_with_the_configurations_in_it(installed: Path) -> None:
    package = files(ROOT / "st_ssl") | {f"configs/{name}" for name in files(ROOT / "configs")}
    assert {name for name in files(installed) if ".dist-info/" not in name} == {f"st_ssl/{name}" for name in package}
    assert {
        "py.typed",
        "report/template.html",
        "report/scenes.html",
        "report/viewer.js",
        "configs/quickstart/video.yaml",
    } <= package


def test_an_editable_install_holds_no_copy_of_anything(tmp_path: Path) -> None:
    with chdir(ROOT):
        name = build.build_editable(str(tmp_path))
    with zipfile.ZipFile(tmp_path / name) as wheel:
        assert [name for name in wheel.namelist() if ".dist-info/" not in name] == ["_st_ssl.pth"]
        assert wheel.read("_st_ssl.pth").decode().strip() == str(ROOT)


def test_the_source_distribution_can_be_tested_and_holds_no_data(dist: Path) -> None:
    with tarfile.open(dist / f"st_ssl-{st_ssl.__version__}.tar.gz") as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    for folder in ("st_ssl", "configs", "tools", "tests", "docker", "docs"):
        assert {name for name in names if name.startswith(f"{folder}/")} == {
            f"{folder}/{name}" for name in files(ROOT / folder)
        }
    assert {"README.md", "LICENSE", "pyproject.toml", ".github/report.png", ".ci/run"} <= names
    tops = {name.split("/")[0] for name in names if "/" in name}
    assert tops == {"st_ssl", "configs", "tools", "tests", "docker", "docs", ".github", ".ci"}


def call(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``st-ssl`` with ``arguments``, of the package in ``installed``."""
    return subprocess.run(
        [sys.executable, "-m", "st_ssl", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_pretraining_finds_the_quickstart_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    before = files(installed)
    done = call(installed, tmp_path, "pretrain", "configs/quickstart/video.yaml", "--print-config")
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["runs"]) == {"cvrl", "videomae"}
    file = installed / "st_ssl" / "configs" / "quickstart" / "video.yaml"
    assert done.stderr == f"configs/quickstart/video.yaml is not here: this is {file}, which comes with st_ssl\n"
    assert files(installed) == before
    assert files(tmp_path) == set()


def test_configurations_are_listed_and_copied(installed: Path, tmp_path: Path) -> None:
    done = call(installed, tmp_path, "configs")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"They are in {installed / 'st_ssl' / 'configs'}\n")
    done = call(installed, tmp_path, "configs", "quickstart/video", "--output", "mine.yaml")
    assert (done.returncode, done.stdout) == (0, "mine.yaml\n")
    own = (ROOT / "configs" / "quickstart" / "video.yaml").read_text()
    assert (tmp_path / "mine.yaml").read_text() == own
