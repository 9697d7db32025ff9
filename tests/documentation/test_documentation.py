"""All that the documentation shows to type is typed, on tiny data: what is neither run nor excused fails."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.documentation.commands import PAGES, Command, of_block, of_page, of_recipe, python_of
from tests.documentation.places import file_at
from tests.documentation.running import OTHERS, PARSED, House
from tests.runs import ROOT

RECIPES = sorted((ROOT / "configs").rglob("*.yaml"))
PYTHON = {
    "CONTRIBUTING.md": "tests/test_three_files.py adds it to a copy of the package",
}


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data lie that the documentation speaks of."""
    return tmp_path_factory.mktemp("machine")


@pytest.fixture
def house(tmp_path: Path, machine: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    for needed in ("av", "h5py", "laspy", "matplotlib", "onnxruntime", "onnxscript"):
        pytest.importorskip(needed)
    return House(tmp_path, machine, monkeypatch)


def run_all(house: House, commands: Iterable[Command], capfd: pytest.CaptureFixture[str]) -> None:
    """Run commands one after the other, and fail with all that did not work."""
    wrong = []
    for command in commands:
        try:
            house.run(command)
        except Exception as error:
            wrong.append(f"{command}\n  {error!r}\n  " + "".join(capfd.readouterr()[:2])[-1500:])
        capfd.readouterr()
    assert not wrong, "\n\n".join(wrong)


def test_pages(house: House, capfd: pytest.CaptureFixture[str]) -> None:
    run_all(house, (command for page in PAGES for command in of_page(page)), capfd)
    assert house.seen == OTHERS.keys() | PARSED.keys(), "an excuse for nothing"
    for page in PAGES:
        if page not in PYTHON and (text := python_of(page)):
            for name in re.findall(r"\"(\w+\.(?:mp4|las))\"", text):
                file_at(name)
            Path("page.py").write_text(text.replace("FOLDER", "out/extract"))
            runpy.run_path("page.py")


@pytest.mark.parametrize("folder", sorted({file.parent.relative_to(ROOT / "configs").as_posix() for file in RECIPES}))
def test_recipes(folder: str, house: House, capfd: pytest.CaptureFixture[str]) -> None:
    files = [file for file in RECIPES if file.parent == ROOT / "configs" / folder]
    commands = {file: of_recipe(file) for file in files}
    for file, own in commands.items():
        named = f"data={file.stem}" if folder == "data" else f"configs/{folder}/{file.name}"
        assert any(named in command.words for command in own), f"{named} shows no command that runs it"
    run_all(house, (command for own in commands.values() for command in own), capfd)


def test_a_block_of_shell_is_its_commands() -> None:
    text = (
        'pip install -e ".[all]" && python a.py x=[1,2]   # both\n'
        "python b.py \\\n    y  # a comment\n"
        "for s in 0 1 2; do python c.py seed=$s output_dir=runs/c$s; done\n"
        "for m in one two; do\n  python d.py runs/c0/$m \\\n    --output $m.json\ndone\n"
    )
    found = of_block(text, "here")
    assert [" ".join(command.words) for command in found] == [
        *("pip install -e .[all]", "python a.py x=[1,2]", "python b.py y", "python c.py seed=0 output_dir=runs/c0"),
        *("python d.py runs/c0/one --output one.json", "python d.py runs/c0/two --output two.json"),
    ]
    assert [command.copies for command in found if command.copies] == [(("runs/c0", "runs/c1"), ("runs/c0", "runs/c2"))]
    assert all(command.whole for command in found)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("make all", "neither run nor among the OTHERS"),
        ("python tools/pretrian.py configs/quickstart/video.yaml", "no tools/pretrian.py"),
        ("python tools/pretrain.py configs/quickstart/video.yaml data.root=/your/videos", "no data for /your/videos"),
        ("python tools/convert.py import FILE --from SOMEBODY", "nothing stands for SOMEBODY"),
        ("python tools/probe.py --splitz 1,2,3", "no option --splitz"),
        ("python tools/pretrain.py configs/quickstart/video.yaml engine.epoch=3", "exit code 2"),
        ("python tools/benchmark.py data --tabel", "2"),
        ('pip install "st_ssl[videos]"', r"no extra \[videos\]"),
        ("bash .ci/runs", "neither run nor"),
        ("pytest -m fast", "no marker fast"),
    ],
)
def test_what_is_wrong_fails(line: str, wrong: str, house: House) -> None:
    (command,) = of_block(line, "here")
    with pytest.raises((AssertionError, SystemExit), match=wrong):
        house.run(command)
