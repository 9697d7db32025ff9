"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "st_ssl").rglob("*.py"))
TOOLS = sorted(path for folder in ("tools", "docker") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MAX_LINES = 420

# A room may import from itself and from rooms with a smaller number; the whole part is the floor of the picture.
GROUND = (
    "errors",
    "random",
    "types",
    "config",
    "registry",
    "distributed",
    "files",
    "inputs",
    "optim",
    "schedule",
    "checkpoint",
    "recipes",
    "limits",
    "ema",
    "batchnorm",
    "ops",
)
ROOMS = dict.fromkeys(GROUND, 0.0) | {
    "augment": 1.0,
    "data": 1.5,
    "encoders": 2.0,
    "objectives": 2.0,
    "heads": 2.5,
    "methods": 3.0,
    "transfer": 3.0,
    "weights": 3.0,
    "engine": 4.0,
    "report": 4.5,
    "cli": 5.0,
    "__init__": 6.0,  # of the package itself
    "__main__": 6.0,
}


def room(module: str) -> str:
    """``st_ssl.data.video.plans`` to ``data``."""
    return module.split(".")[1] if "." in module else ""


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and name of every module of this package that a file imports, wherever it does so and for whatever."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "st_ssl")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            if node.module == "st_ssl":  # from st_ssl import distributed
                yield from ((node.lineno, f"st_ssl.{alias.name}") for alias in node.names)
            elif node.module and node.module.startswith("st_ssl."):
                yield node.lineno, node.module


def test_every_file_lives_in_a_room_of_the_picture() -> None:
    rooms = {file.relative_to(ROOT / "st_ssl").parts[0].removesuffix(".py") for file in FILES}
    assert rooms - {"__init__"} <= ROOMS.keys()


def test_imports_point_downwards_only() -> None:
    wrong, seen = [], 0
    for file in FILES:
        own = file.relative_to(ROOT / "st_ssl").parts[0].removesuffix(".py")
        for line, module in imports(file):
            seen += 1
            other = room(module)
            same = own == other or (own in GROUND and other in GROUND)
            if not same and not ROOMS[other] < ROOMS[own]:
                wrong.append(f"{file.relative_to(ROOT)}:{line}: {own} imports {module}")
    assert not wrong, "\n".join(wrong)
    assert seen > 100


def test_the_rule_would_catch_an_import_that_points_upwards(tmp_path: Path) -> None:
    file = tmp_path / "low.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from st_ssl.engine.trainer import Trainer\n"
        "def f():\n    import st_ssl.cli.pretrain\n"
        "from st_ssl import distributed\n"
    )
    assert sorted(imports(file)) == [
        (3, "st_ssl.engine.trainer"),
        (5, "st_ssl.cli.pretrain"),
        (6, "st_ssl.distributed"),
    ]


def test_files_stay_short() -> None:
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in [*FILES, *TOOLS, *TESTS]}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


DANGEROUS = re.compile(
    r"weights_only\s*=\s*False|allow_pickle\s*=\s*True|yaml\.(unsafe_|full_)?load(_all)?\(|(?<![\w.])(eval|exec)\(|"
    r"\b(c?[Pp]ickle|dill|joblib|marshal|shelve)\b|\b_target_\b|shell\s*=\s*True|os\.system"
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("torch.load(f, weights_only = False)", True),
        ("yaml.load(text)", True),
        ("yaml.safe_load(text)", False),
        ("eval(text)", True),
        ("model.eval()", False),
        ("import pickle", True),
        ("np.load(f, allow_pickle=False)", False),
    ],
)
def test_what_counts_as_dangerous(text: str, found: bool) -> None:
    assert bool(DANGEROUS.search(text)) == found


def code_of(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that are code: docstrings and comments may speak of what the code may not do."""
    text = file.read_text()
    prose: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            prose.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    for number, line in enumerate(text.splitlines(), 1):
        if number not in prose:
            yield number, line.partition("  #")[0] if not line.lstrip().startswith("#") else ""


def test_no_file_runs_code_that_it_was_given() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in [*FILES, *TOOLS]
        for number, line in code_of(file)
        if DANGEROUS.search(line)
    ]
    assert not found, "\n".join(found)


def test_nothing_is_left_for_later() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|except[^:]*:\s*pass\b|^\s*\.\.\.\s*#")
    found = [
        f"{file}: {line}" for file in [*FILES, *TOOLS] for line in file.read_text().splitlines() if marks.search(line)
    ]
    assert not found, "\n".join(found)
