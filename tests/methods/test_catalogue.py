from __future__ import annotations

import warnings

import pytest

from st_ssl.cli import methods as command
from st_ssl.methods.base import METHODS
from st_ssl.methods.catalogue import markdown, rows
from tests.runs import ROOT


def table() -> str:
    """The table of st_ssl/methods/README.md."""
    text = (ROOT / "st_ssl" / "methods" / "README.md").read_text()
    return text.partition("--markdown` -->\n")[2].partition("<!-- end -->")[0]


def test_the_table_of_the_documentation_is_what_the_methods_say() -> None:
    """A method that was just added may be missing: three files add one, and none that is there is changed."""
    told, true = table().splitlines(), markdown(rows()).splitlines()
    assert told == [line for line in true if line in told], "write it anew: st-ssl methods --markdown"
    if missing := [line for line in true if line not in told]:
        warnings.warn(f"not in the table yet: {missing}", stacklevel=1)


def test_methods_are_found_by_idea_and_stream() -> None:
    assert [row.name for row in rows()] == sorted(
        METHODS.names(), key=lambda name: (METHODS.registered(name).__module__.split(".")[-2], name)
    )
    assert {row.idea for row in rows(idea="masked")} == {"masked"}
    assert {row.stream for row in rows(stream="points")} == {"points"}
    assert all((ROOT / "st_ssl" / "methods" / row.file).is_file() for row in rows())
    assert {"contrast", "dense", "latent", "masked"} <= {row.idea for row in rows()} == set(command.ideas())


def test_the_command_lists_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.argv", ["methods", "--idea", "dense"])
    command.main()
    out = capsys.readouterr().out
    assert "point_contrast" in out and "Xie et al., ECCV 2020" in out and "cvrl" not in out
    monkeypatch.setattr("sys.argv", ["methods", "--idea", "contrats"])
    with pytest.raises(SystemExit):
        command.main()
    assert "did you mean 'contrast'?" in capsys.readouterr().err
