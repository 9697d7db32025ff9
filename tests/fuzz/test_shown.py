"""What users call their files and classes is shown as text: no markup, no codes for a terminal."""

from __future__ import annotations

import io
import sys
import warnings

import pytest
from rich.table import Table

from st_ssl.cli import guarded
from st_ssl.cli.finetune.tables import finetune_csv
from st_ssl.core.errors import DataError, SampleError, nearest, shown
from st_ssl.engine.console import PlainConsole, RunProgress

CODES = "a\x1b]0;owned\x07\x9b31m\u202egpj.\udce4"
VISIBLE = r"a\x1b]0;owned\x07\x9b31m\u202egpj.\udce4"


def test_control_characters_are_visible() -> None:
    assert shown(CODES) == VISIBLE
    assert shown("Übung 日本 😀\tb\nc") == "Übung 日本 😀\\tb\\nc"
    assert shown("b\nc", keep="\n") == "b\nc"


def test_errors_and_warnings_show_them(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, category, name, line, *_: print(
                warnings.formatwarning(message, category, name, line), file=sys.stderr
            )
            warnings.warn(f"left out: {CODES}", stacklevel=1)
        raise DataError(f"{CODES}: broken\nsecond line")

    usual = warnings.formatwarning
    assert guarded(command) == 1
    assert warnings.formatwarning is usual
    said = capsys.readouterr().err
    assert f"UserWarning: left out: {VISIBLE}\n" in said
    assert f"error: {VISIBLE}: broken\nsecond line\n" in said
    assert "\x1b" not in said
    assert "warnings.warn" not in said  # the line of the source


def test_a_console_takes_no_markup() -> None:
    out = io.StringIO()
    console = PlainConsole(file=out, width=200)
    table = Table(title="runs/[/b]: [red]x[/red] :smile:")
    table.add_column("[bold]", min_width=60)
    table.add_row("[/b] \x1b[31m")
    console.print(table)
    console.print("see runs/[/b]/bad_samples.jsonl", style="yellow")
    for text in ("runs/[/b]: [red]x[/red] :smile:", "[bold]", r"[/b] \x1b[31m", "see runs/[/b]/bad_samples.jsonl"):
        assert text in out.getvalue()


def test_progress_takes_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    with RunProgress("[/b]\x1b", 2, 0, True) as progress:
        progress.update(2, "loss [/b]")
    assert "[/b]\\x1b: step 2/2, loss [/b]" in capsys.readouterr().err


def test_reasons_and_names_are_short() -> None:
    assert len(str(SampleError("a", "x" * 10**6))) < 1100
    assert nearest("x" * 10**6, ["y"]) == ""


def test_the_table_of_a_fine_tuning_quotes_its_cells() -> None:
    part = {"results": [{"mode": "linear", "fraction": 0.1, "metrics": {"IoU_a,b": {"values": [1.5, None]}}}]}
    lines = '{0}linear,0.1,1,"IoU_a,b",1.5\n{0}linear,0.1,2,"IoU_a,b",\n'
    assert finetune_csv(part) == "mode,fraction,repeat,metric,value\n" + lines.format("")
    split = finetune_csv(part | {"by_split": {2: part}})
    assert split == "split,mode,fraction,repeat,metric,value\n" + lines.format("2,")
