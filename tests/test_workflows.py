"""The workflows of the public integration name what there is: files, commands, keys, extras, marks, images."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from st_ssl.cli import COMMANDS
from st_ssl.engine.run_config import load_runs
from tests.runs import ROOT

WORKFLOWS = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / ".github/workflows").glob("*.yml")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAMED = re.compile(r"(?:\.ci|\.github|configs|docker|st_ssl|tests|tools)/[\w./-]*\w|pyproject\.toml|\.dockerignore")


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for workflow in WORKFLOWS.values():
        yield from workflow["jobs"].items()


def commands() -> Iterator[list[str]]:
    """The words of every line that is run."""
    for _, job in jobs():
        for step in job.get("steps", []):
            for line in step.get("run", "").replace("\\\n", " ").splitlines():
                yield shlex.split(line)


def matrix(job: str, key: str) -> list[str]:
    return WORKFLOWS["ci.yml" if job == "gate" else "container.yml"]["jobs"][job]["strategy"]["matrix"][key]


@pytest.mark.parametrize("name", sorted(WORKFLOWS))
def test_every_file_that_is_named_is_there(name: str) -> None:
    text = (ROOT / ".github/workflows" / name).read_text()
    missing = {word for word in NAMED.findall(text) if not (ROOT / word).exists()}
    assert not missing


@pytest.mark.parametrize("name", sorted(WORKFLOWS))
def test_actions_are_commits_and_rights_are_few(name: str) -> None:
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}
    text = (ROOT / ".github/workflows" / name).read_text()
    for action in re.findall(r"uses: ([^.].*)", text):
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)


def test_the_right_to_publish_is_of_two_jobs_that_run_no_code_of_ours() -> None:
    allowed = {name: job["permissions"] for name, job in jobs() if "permissions" in job}
    assert allowed == {"pypi": {"id-token": "write"}, "github": {"contents": "write"}}
    for name in allowed:
        assert not any("checkout" in step.get("uses", "") for step in WORKFLOWS["release.yml"]["jobs"][name]["steps"])


def test_every_job_ends() -> None:
    assert all("timeout-minutes" in job for _, job in jobs() if "uses" not in job)


def test_versions_of_python_are_those_of_the_package() -> None:
    told = re.findall(r"Programming Language :: Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert matrix("gate", "python") == told
    assert PROJECT["project"]["requires-python"] == f">={told[0]}"


def test_images_are_stages_of_the_dockerfile() -> None:
    stages = re.findall(r"^FROM .* AS (\w[\w-]*)$", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE)
    assert set(matrix("image", "target")) <= set(stages)


def test_extras_are_those_of_the_package() -> None:
    named = [extra for words in commands() if "install" in words for extra in re.findall(r"\[(\w+)\]", words[-1])]
    assert {"all", "viz"} <= set(named) <= PROJECT["project"]["optional-dependencies"].keys()


def test_marks_of_tests_are_known() -> None:
    known = {mark.partition(":")[0] for mark in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    text = "\n".join(map(str, WORKFLOWS.values()))
    assert {"ddp", "gpu"} <= set(re.findall(r"-m (\w+)", text)) <= known


def test_commands_are_ours_and_their_keys_are_known() -> None:
    checked = 0
    for words in commands():
        if (command := next((word for word in words if word in COMMANDS), None)) is None:
            continue
        assert command == "pretrain"
        config, *rest = words[words.index(command) + 1 :]
        only = rest[rest.index("--only") + 1]
        runs = load_runs(Path(ROOT / config), [word for word in rest if "=" in word])
        assert only in {run.name for run in runs}
        checked += 1
    assert checked == 2  # in an image, and from the wheel
