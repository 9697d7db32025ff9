"""What doctor finds on this machine, and on machines that are made up."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections import namedtuple
from pathlib import Path

import pytest

from st_ssl.cli import doctor
from st_ssl.cli.doctor import PARTS, Finding, attempt
from st_ssl.core import packages
from tests.runs import ROOT, call

H100 = "NVIDIA H100, 580.82.07, 81559 MiB"
BY_NAME = {part.name: part for part in PARTS}


def torch_says(build: str | None = "CUDA 13.0", devices: object = (), said: object = ()) -> tuple[bool, str]:
    return True, json.dumps({"build": build, "devices": devices, "said": said})


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi that knows one GPU."""
    file = tmp_path / "bin" / "nvidia-smi"
    file.parent.mkdir()
    file.write_text(f"#!/bin/sh\necho '{H100}'\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{file.parent}:/usr/bin:/bin")
    monkeypatch.setattr(doctor, "version", lambda package: "2.14.1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return file


def test_this_machine_works_as_its_tests_do(tmp_path: Path) -> None:
    code, out, err = call("doctor", "--json", "--folder", tmp_path)
    told = json.loads(out)
    findings = {finding["name"]: finding for finding in told["findings"]}
    assert (code, told["broken"]) == (0, False), err
    for name in ("Python", "torch", "torchvision", "PyAV", "sparse convolution", "disk"):
        assert findings[name]["status"] in ("ok", "warning"), findings[name]
    assert (
        "decodes a frame" in findings["PyAV"]["found"] and "convolves on cpu" in findings["sparse convolution"]["found"]
    )
    assert all(finding["status"] == "ok" or finding["remedy"] or name == "Python" for name, finding in findings.items())


def test_before_anything_is_installed_it_says_what_installs_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    command = [str(tmp_path / "venv" / "bin" / "python"), str(ROOT / "tools" / "doctor.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    for name in ("torch", "torchvision", "required packages", "PyAV"):
        assert re.search(rf"^{name} +broken .*\n  > .* -m pip install -e '{ROOT}\[\w+\]'$", done.stdout, re.MULTILINE)


NEEDED = ("__init__.py", "core/limits.py", "core/packages.py", "core/errors.py", "cli/__init__.py", "cli/doctor.py")


@pytest.mark.parametrize("file", NEEDED)
def test_it_imports_the_standard_library_alone(file: str) -> None:
    tree = ast.parse((ROOT / "st_ssl" / file).read_text(), feature_version=(3, 8))  # an old Python must read it
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in imports:
        for module in [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]:
            ours = module in ("st_ssl", *(f"st_ssl.{name[:-3].replace('/', '.')}" for name in NEEDED), "st_ssl.cli")
            assert ours or module.partition(".")[0] in sys.stdlib_module_names, module


def test_packages_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [re.split(r"[<>=;]", text)[0] for text in project["dependencies"]] == doctor.REQUIRED
    assert f"torch>={'.'.join(map(str, doctor.OLDEST_TORCH))}" in project["dependencies"]
    assert project["requires-python"] == f">={'.'.join(map(str, doctor.OLDEST_PYTHON))}"
    assert (
        f"Programming Language :: Python :: {'.'.join(map(str, doctor.NEWEST_PYTHON))}" in project["classifiers"][-3:]
    )
    extras = {}
    for extra, texts in project["optional-dependencies"].items():
        names = [name for text in texts for name in re.findall(r"[\w-]+", re.split(r"[<>=;]", text)[0])]
        extras[extra] = " ".join(dict.fromkeys(re.sub(r"-cu\d+$", "", name) for name in names))
    assert {name: extras[name] for name in extras if name not in ("all", "test")} == doctor.EXTRAS


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('noise')\nprint('fine')", "fine"),
        ("import os; os.abort()", "its process died of SIGABRT: "),
        ("import time; time.sleep(60)", "no answer in 2 s (--timeout)"),
        ("raise RuntimeError('first\\nsecond')", "RuntimeError: first"),
        ("from st_ssl.core.errors import UserError\nraise UserError('install it')", "install it"),
    ],
)
def test_what_an_attempt_says(code: str, said: str) -> None:
    assert attempt(code, 2) == (said == "fine", said)


def test_a_part_that_fails_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda package: "2.14.1+cu126" if package == "torch" else "0.29.1")
    error = False, "RuntimeError: operator torchvision::nms does not exist"
    finding = doctor.check_part(BY_NAME["torchvision"], error, ffmpeg=True)
    assert (finding.status, error[1] in finding.found) == ("broken", True)
    index = "--index-url https://download.pytorch.org/whl/cu126"
    assert finding.remedy.endswith(f"pip install --force-reinstall torch torchvision {index}")
    remedies = [doctor.check_part(BY_NAME["torchcodec"], error, ffmpeg).remedy for ffmpeg in (True, False)]
    assert "torch torchvision torchcodec" in remedies[0] and remedies[1].startswith("apt-get install ffmpeg")
    assert doctor.check_part(BY_NAME["torchcodec"], None, False).status == "missing"
    assert doctor.check_part(BY_NAME["PyAV"], None, False).status == "broken"


@pytest.mark.parametrize(
    ("says", "status", "remedy"),
    [
        (torch_says(devices=[["H100", ""]]), "ok", ""),
        (torch_says(devices=[["K80", "no kernel image"]]), "broken", "whl/cu126"),
        (torch_says(build=None), "warning", "--force-reinstall torch torchvision"),
        (torch_says(said=["The NVIDIA driver is too old"]), "broken", "a newer driver"),
    ],
)
def test_a_gpu_that_torch_sees_or_not(says: tuple[bool, str], status: str, remedy: str, smi: Path) -> None:
    findings = {finding.name: finding for finding in doctor.check_torch(says)}
    assert findings["driver"] == Finding("driver", "ok", H100)
    finding = findings.get("cuda:0") or findings["CUDA"]
    assert finding.status == status and remedy in finding.remedy and bool(remedy) == bool(finding.remedy)


def test_a_hidden_gpu_and_a_driver_that_fails(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [*doctor.check_torch(torch_says())][-1].remedy == "unset CUDA_VISIBLE_DEVICES"
    smi.write_text("#!/bin/sh\necho Driver/library version mismatch\nexit 18\n")
    assert "version mismatch" in [*doctor.check_torch(torch_says())][-1].found
    monkeypatch.setattr(doctor, "version", lambda package: "2.4.1")
    assert next(doctor.check_torch(torch_says())).found == "2.4.1: expected 2.10 or newer"


def test_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(64 << 20))
    _, shared, disk = doctor.check_machine(tmp_path, shared=tmp_path)
    assert (shared.status, disk.status) == ("warning", "broken")
    assert "64 MiB free" in shared.found and "--shm-size" in shared.remedy and "output_dir=" in disk.remedy


def test_another_system_s_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    (finding,) = doctor.examine(tmp_path, 1)
    assert finding.status == "broken"
    (tmp_path / "EXTERNALLY-MANAGED").touch()
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(packages.sysconfig, "get_path", lambda name: str(tmp_path))
    assert doctor.install("video").startswith("python3 -m venv .venv && . .venv/bin/activate && pip install -e ")
