"""What images are built from: nothing is missing, nothing else goes in, and the entry point starts what was meant."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from st_ssl.cli import COMMANDS
from tests.runs import ROOT
from tests.waiting import PATIENCE

DOCKER = ROOT / "docker"


class Stage(NamedTuple):
    """A stage of the Dockerfile: what it builds on, and its instructions as name and text."""

    base: str
    body: list[tuple[str, str]]


def stages() -> dict[str, Stage]:
    """The stages of the Dockerfile by name, with continued lines joined and without comments."""
    found: dict[str, Stage] = {}
    text = re.sub(r"(?m)^ *#.*\n", "", (DOCKER / "Dockerfile").read_text()).replace("\\\n", " ")
    for line in filter(None, text.splitlines()):
        name, rest = line.split(maxsplit=1)
        if name == "FROM":
            base, _, stage = rest.split()
            current = found[stage] = Stage(base, [])
        elif found:
            current.body.append((name, rest))
    return found


STAGES = stages()


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out: the last line that matches it, or a folder around it, decides."""
    ignore = False
    for rule in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = rule.removeprefix("!").removeprefix("**/")
        parts = Path(path).parts
        names = parts if "**/" in rule else parts[:1]
        if not rule.startswith("#") and any(fnmatchcase(name, pattern) for name in names):
            ignore = not rule.startswith("!")
    return ignore


def lineage(name: str) -> list[tuple[str, str]]:
    """The instructions of a stage behind those of all that it builds on."""
    if name not in STAGES:
        return []
    return [*lineage(STAGES[name].base), *STAGES[name].body]


def copied() -> list[str]:
    """What the Dockerfile copies from the checkout."""
    copies = [
        text for stage in STAGES.values() for name, text in stage.body if name == "COPY" and "--from=" not in text
    ]
    return [word for text in copies for word in text.split()[:-1] if not word.startswith("--")]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    assert {"st_ssl", "configs", "docker/entrypoint.sh", "docker/requirements-cuda.txt", "."} <= set(copied())
    assert [path for path in copied() if path != "." and (ignored(path) or not (ROOT / path).exists())] == []
    tested = ["st_ssl/ops/sparse/layers.py", "tests/runs.py", ".ci/run", ".dockerignore", "docker/lock.py"]
    assert [path for path in tested if ignored(path) or not (ROOT / path).exists()] == []


def test_images_are_tried_when_what_they_hold_changes_and_before_a_release() -> None:
    workflows = ROOT / ".github" / "workflows"
    container, release = (yaml.safe_load((workflows / name).read_text()) for name in ("container.yml", "release.yml"))
    paths = container[True]["push"]["paths"]  # True: what YAML reads as on
    folders = {pattern.removesuffix("/**") for pattern in paths}
    assert container[True]["pull_request"]["paths"] == paths
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_in - {".gitignore", "CONTRIBUTING.md", "LICENSE", "README.md"} == folders
    assert release["jobs"]["images"]["uses"] == "./.github/workflows/container.yml"
    assert "images" in release["jobs"]["pypi"]["needs"] and "workflow_call" in container[True]


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        "data/a.mp4",
        "runs/r/state.json",
        ".venv/bin/python",
        "st_ssl/ops/__pycache__/a.pyc",
        "dist/a.whl",
    ],
)
def test_nothing_else_goes_in(path: str) -> None:
    assert ignored(path)


@pytest.mark.parametrize("name", ["cuda", "cpu", "test"])
def test_what_runs_is_not_root_and_has_no_compiler(name: str) -> None:
    instructions = lineage(name)
    assert [text for name, text in instructions if name == "USER"][-1] == "1000:1000"
    commands = [text for name, text in instructions if name == "RUN"]
    installing = [command for command in commands if "apt-get install" in command]
    assert "python3" in " ".join(installing)
    assert not re.search(r"(?<!\S)(gcc|g\+\+|clang|build-essential|make|\S+-dev)(?!\S)", " ".join(installing))
    assert all("rm -rf /var/lib/apt/lists" in command for command in installing)
    assert not any("pip" in command for command in commands), "environments are made in stages of their own"
    (entry,) = (text for name, text in instructions if name == "COPY" and "entrypoint.sh" in text)
    assert "--chmod=755" in entry, "a checkout may be readable by its owner alone"


def run_lock(folder: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, folder / "docker" / "lock.py", *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_locks_hold_what_the_project_asks_for() -> None:
    assert run_lock(ROOT, "--check") == (0, "")


def test_without_packaging_the_line_says_what_installs_it() -> None:
    command = [sys.executable, "-I", "-S", str(DOCKER / "lock.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    told = "error: packaging is not installed in this Python: pip install packaging\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


def test_a_lock_that_is_behind_is_told(tmp_path: Path) -> None:
    shutil.copytree(DOCKER, tmp_path / "docker")
    project = (ROOT / "pyproject.toml").read_text()
    changed = project.replace('"einops>=0.8"', '"einops>=99", "surely-new[extra]>=1"')
    (tmp_path / "pyproject.toml").write_text(changed.replace('zoo = ["', 'zoo = ["zoological", "'))
    cpu = tmp_path / "docker" / "requirements-cpu.txt"
    cpu.write_text("--find-links /my/wheels\n" + re.sub(r"(?m)^rich==\S+", "rich==1.0", cpu.read_text()))
    code, told = run_lock(tmp_path, "--check")
    assert code == 1
    for name in ("test", "cuda", "cpu"):
        assert re.search(rf"requirements-{name}.txt: has einops \S+; pyproject.toml asks for einops>=99\n", told)
        assert f"requirements-{name}.txt: surely-new[extra]>=1 is not in it\n" in told
        assert (f"requirements-{name}.txt: zoological is not in it\n" in told) == (name != "cpu")
    assert "requirements-cpu.txt: has rich 1.0; pyproject.toml asks for rich>=14.3\n" in told
    assert "requirements-cpu.txt: not a version with its hashes: --find-links /my/wheels\n" in told
    assert told.endswith("to write them anew: python docker/lock.py\n")


@pytest.mark.parametrize(
    ("file", "old", "new", "behind"),
    [
        ("pyproject.toml", '"einops>=0.8"', '"einops>=0.7"', ["test", "cuda", "cpu"]),
        ("pyproject.toml", '"hatchling>=1.27"]\nb', '"hatchling>=1.26"]\nb', ["build"]),
        ("docker/lock.py", '"hub", "tensorboard")', '"hub")', ["cuda"]),
    ],
    ids=["an older version would do", "to build with", "an extra less"],
)
def test_a_lock_that_was_made_for_less_or_more_is_told(
    tmp_path: Path, file: str, old: str, new: str, behind: list[str]
) -> None:
    shutil.copytree(DOCKER, tmp_path / "docker")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    text = (ROOT / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    code, told = run_lock(tmp_path, "--check")
    assert code == 1
    assert re.findall(r"requirements-(\w+).txt: ", told) == behind


def test_what_runs_is_what_was_tested(tmp_path: Path) -> None:
    shutil.copytree(DOCKER, tmp_path / "docker")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    cuda = tmp_path / "docker" / "requirements-cuda.txt"
    cuda.write_text(re.sub(r"(?m)^rich==\S+", "rich==99", cuda.read_text()).replace("absl-py==", "abseil=="))
    code, told = run_lock(tmp_path, "--check")
    assert code == 1
    assert re.search(r"requirements-cuda.txt: has rich 99; requirements-test.txt has \d+\.\S+\n", told)
    assert re.search(r"requirements-cuda.txt: has abseil \S+; requirements-test.txt does not have it\n", told)


def test_compose_builds_stages_that_there_are_and_reserves_gpus() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    services: dict[str, dict[str, Any]] = compose["services"]
    assert services.keys() == {"cuda", "cpu"}
    for name, service in services.items():
        assert service["build"]["target"] == name and name in STAGES
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        assert [volume["target"] for volume in service["volumes"]] == ["/data", "/runs"]
        assert service["init"] and service["shm_size"] and service["stop_grace_period"]
        assert service["platform"] == "linux/amd64"
    (device,) = services["cuda"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "deploy" not in services["cpu"]


def test_commands_in_the_readme_are_those_that_there_are() -> None:
    text = re.sub(r"\\\n", " ", (DOCKER / "README.md").read_text())
    started = re.findall(r"^docker run .*?st-ssl:\w+ +(\w+)", text, re.MULTILINE)
    started += re.findall(r"^docker compose .*? run --rm (?:cuda|cpu) (\w+)", text, re.MULTILINE)
    assert {"pretrain", "torchrun"} <= set(started) <= {*COMMANDS, "torchrun"}
    assert all((ROOT / config).is_file() for config in re.findall(r"\bconfigs/\S+\.yaml", text))
    assert set(re.findall(r"--target (\w+)", text)) <= STAGES.keys()
    assert all("--platform linux/amd64" in build for build in re.findall(r"^docker build .*", text, re.MULTILINE))
    # Without a process before it, torchrun would not hear a stop while it waits for the other node.
    running = re.findall(r"^docker run .*--stop-timeout.*", text, re.MULTILINE)
    assert len(running) == 3 and all(" --init " in one for one in running)


class Entry:
    """The entry point with a ``st-ssl`` that says what it was called with, and other programs before all others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program(
            "st-ssl", f'[ "$*" = --help ] && exec {sys.executable} -m st_ssl --help; printf "<%s>" st-ssl "$@"'
        )
        self.shm(8_000_000)

    def program(self, name: str, script: str) -> None:
        """Put a shell script on PATH."""
        (self.folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.folder / name).chmod(0o755)

    def shm(self, kilobytes: int) -> None:
        """How large /dev/shm seems to be."""
        self.program("df", f"echo Filesystem blocks; echo shm {kilobytes} 0 {kilobytes} 0% /dev/shm")

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        path = f"{self.folder}:{os.environ['PATH']}"
        return subprocess.Popen(
            ["sh", DOCKER / "entrypoint.sh", *arguments],
            env=os.environ | {"PATH": path, "HOME": str(self.folder), "PYTHONPATH": str(ROOT)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return Entry(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "started"),
    [
        ([], "<st-ssl>"),
        (["--version"], "<st-ssl><--version>"),
        (["pretrain", "a b.yaml", "x=[1, 2]"], "<st-ssl><pretrain><a b.yaml><x=[1, 2]>"),
        (["prtrain"], "<st-ssl><prtrain>"),
        (["report", "run"], "<st-ssl><report><run>"),  # also where there is a program of that name
        (["printf", "[%s]", "a b", "*"], "[a b][*]"),
        (["sh", "-c", "exit 7"], ""),
    ],
)
def test_commands_are_passed_on_and_programs_run(entry: Entry, arguments: list[str], started: str) -> None:
    entry.program("report", "echo another program")
    assert entry(*arguments) == (7 if "exit 7" in arguments else 0, started, "")


@pytest.mark.parametrize(
    ("name", "kilobytes", "told"),
    [("torchrun", 65_536, True), ("torchrun", 65_537, False), ("pretrain", 65_536, False)],
)
def test_docker_s_default_of_shared_memory_is_told(entry: Entry, name: str, kilobytes: int, told: bool) -> None:
    entry.shm(kilobytes)
    entry.program("torchrun", "")
    code, _, err = entry(name)
    assert code == 0 and err.count("\n") == told
    assert not told or ("/dev/shm has 64 MB" in err and "--shm-size=8g" in err)


def test_without_a_home_caches_go_where_they_can(entry: Entry, tmp_path: Path) -> None:
    code, home, err = entry("sh", "-c", 'printf %s "$HOME"', HOME="/nowhere", TMPDIR=str(tmp_path))
    assert (code, home, err) == (0, str(tmp_path / f"home-{os.getuid()}"), "")
    assert Path(home).is_dir()
    assert entry("sh", "-c", 'printf %s "$HOME"')[1] == str(tmp_path), "a home that there is stays"
    assert "--tmpfs /tmp" in entry("true", HOME="/nowhere", TMPDIR="/proc/nowhere")[2]


def test_a_uid_without_a_name_gets_one(entry: Entry) -> None:
    name = 'import getpass; print(getpass.getuser(), end="")'
    entry.program("id", '[ "$1" = -u ] && echo 4321 || exit 1')
    environment = {"USER": "", "LOGNAME": "", "LNAME": "", "USERNAME": ""}
    assert entry(sys.executable, "-c", name, **environment)[:2] == (0, "uid4321")


def test_a_stop_reaches_the_run_itself(entry: Entry) -> None:
    entry.program("torchrun", 'trap "exit 75" TERM; echo ready; while :; do sleep 0.05; done')
    process = entry.start("torchrun")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE) == 75
    process.communicate()
