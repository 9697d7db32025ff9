"""Configurations that come with st_ssl: found by name, listed, copied; and commands named as they were called."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from st_ssl import cli
from st_ssl.cli.recipes import find_recipe, headline, recipe_names
from st_ssl.core.errors import ConfigError
from st_ssl.core.fragments import configs_folder, fragment_names
from tests.runs import ROOT

VIDEO = ROOT / "configs" / "quickstart" / "video.yaml"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder."""
    monkeypatch.chdir(tmp_path)


def run(monkeypatch: pytest.MonkeyPatch, command: str) -> int:
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    return cli.main()


@pytest.mark.parametrize(
    "given",
    ["configs/quickstart/video.yaml", "./configs/quickstart/video", "quickstart/video.yaml", "quickstart/video"],
)
def test_a_recipe_is_found_by_its_names(given: str) -> None:
    assert find_recipe(Path(given)) == VIDEO


def test_a_file_of_the_user_comes_first() -> None:
    own = Path("configs/quickstart/video.yaml")
    own.parent.mkdir(parents=True)
    assert find_recipe(own) == VIDEO
    own.touch()
    assert find_recipe(own) == own
    assert find_recipe(own, own=False) == VIDEO
    assert find_recipe(Path("quickstart/video")) == VIDEO


def test_a_file_of_the_user_comes_first_without_its_ending_too(capsys: pytest.CaptureFixture[str]) -> None:
    own = Path("quickstart/video.yaml")
    own.parent.mkdir()
    own.touch()
    for given in (own.with_suffix(""), own.absolute().with_suffix("")):
        assert cli.config_file(given) == given.with_suffix(".yaml")
    assert capsys.readouterr().err == ""
    assert find_recipe(own.with_suffix(""), own=False) == VIDEO


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("configs/quickstart/vidoe.yaml", "no such file; did you mean 'configs/quickstart/video.yaml'?"),
        ("quickstart/vidoe", "no such file; did you mean 'quickstart/video'?"),
        ("mien.yaml", "no such file; did you mean 'mine.yaml'?"),
        ("/configs/quickstart/video.yaml", "no such file; did you mean 'configs/quickstart/video.yaml'?"),
        ("../quickstart/video", "no such file; did you mean 'quickstart/video'?"),
        ("cvrl", "no such file; of that name there is pretrain/contrast/cvrl"),
        ("xyz", "no such file; `st-ssl configs` lists those that come with st_ssl"),
        ("x" * 300, "no such file; `st-ssl configs` lists those that come with st_ssl"),
        ("x" * 300 + "/y", "no such file; `st-ssl configs` lists those that come with st_ssl"),
        ("quickstart", "no such file; did you mean 'quickstart/video'?"),  # a folder
    ],
)
def test_one_that_is_nowhere_gives_the_nearest_of_both(given: str, said: str) -> None:
    Path("mine.yaml").touch()
    with pytest.raises(ConfigError, match=re.escape(f"{given}: {said}") + "$"):
        find_recipe(Path(given))


def test_a_folder_is_told_with_what_is_in_it() -> None:
    Path("run").mkdir()
    said = "run: is a folder, and CONFIG a file in YAML"
    for file, more in ((None, ""), ("b", f"; did you mean '{Path('run/b.yaml')}'?"), ("a", " (in it: a.yaml, b.yaml)")):
        if file:
            Path(f"run/{file}.yaml").touch()
        with pytest.raises(ConfigError, match=f"^{re.escape(said + more)}$"):
            find_recipe(Path("run"))
    Path("quickstart/video").mkdir(parents=True)  # of one that comes with st_ssl the name is enough
    assert find_recipe(Path("quickstart/video")) == VIDEO


def test_one_of_several_processes_says_where_a_recipe_is_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert cli.config_file(Path("quickstart/video")) == VIDEO
    assert cli.config_file(VIDEO) == VIDEO
    assert capsys.readouterr().err == f"quickstart/video is not here: this is {VIDEO}, which comes with st_ssl\n"


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_every_command_that_takes_one_looks_there(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = "" if command == "pretrain" else str(VIDEO.parent)  # a folder, but no encoder's
    assert run(monkeypatch, f"st-ssl {command} quickstart/vidoe {runs}") == 2
    assert "did you mean 'quickstart/video'?" in capsys.readouterr().err


def test_the_list_has_all_of_them_with_what_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "st-ssl configs") == 0
    out = capsys.readouterr().out
    pretrain, rest = out.split("finetune CONFIG RUN\n")
    finetune, data = rest.split("data=NAME behind the CONFIG of either\n")
    for name in recipe_names():
        group = {"transfer": finetune, "data": data}.get(name.partition("/")[0], pretrain)
        rows = [line.split(maxsplit=1) for line in group.splitlines()]
        ((_, told),) = [row for row in rows if row[:1] == [name.removeprefix("data/")]]
        assert headline(configs_folder() / f"{name}.yaml").startswith(told.removesuffix(" …"))
        assert len(told) > 15
    assert {f"data/{name}" for name in fragment_names()} < set(recipe_names())
    assert out.index("quickstart/video") < out.index("pretrain/contrast/cvrl")  # where people begin


@pytest.mark.parametrize(
    ("comment", "told"),
    [
        ("# CVRL (Qian et al., 2021): two clips", "CVRL (Qian et al., 2021)"),
        ("# Settings of\n# Point-MAE (Pang et al. 2022). More.\n#\n# Last", "Settings of Point-MAE (Pang et al. 2022)"),
        ("# From nothing to two:\n#\n#   command", "From nothing to two"),
        ("# One sentence.\nseed: 0", "One sentence"),
        ("seed: 0", ""),
    ],
)
def test_a_headline_is_the_beginning_of_the_comment_on_top(comment: str, told: str) -> None:
    Path("a.yaml").write_text(comment + "\n")
    assert headline(Path("a.yaml")) == told


def test_one_is_printed_or_written_to_a_new_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "st-ssl configs quickstart/video") == 0
    text = capsys.readouterr().out
    assert text == VIDEO.read_text()
    assert run(monkeypatch, "st-ssl configs quickstart/video --output mine.yaml") == 0
    assert Path("mine.yaml").read_text() == text
    assert run(monkeypatch, "st-ssl configs quickstart/rooms --output mine.yaml") == 2
    assert "--output mine.yaml is there already: choose another name" in capsys.readouterr().err
    assert Path("mine.yaml").read_text() == text
    assert run(monkeypatch, "st-ssl configs quickstart/rooms --output nowhere/mine.yaml") == 2
    assert "--output nowhere/mine.yaml: cannot be written to: No such file or directory" in capsys.readouterr().err
    Path("README.md").write_text("another")
    assert run(monkeypatch, "st-ssl configs README.md") == 0
    out = capsys.readouterr().out
    assert out.startswith("# Configurations")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_names_commands_that_work_without_a_checkout(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, f"st-ssl {command} --help")
    out = capsys.readouterr().out
    assert f"  st-ssl {command}" in out
    assert "tools/" not in out
