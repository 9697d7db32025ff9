"""The rules of the house that a machine can check."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Set
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "st_ssl").rglob("*.py"))
TOOLS = sorted(path for folder in ("tools", "docker") for path in (ROOT / folder).rglob("*.py"))

# A room may import from itself and from rooms with a smaller number; the whole part is the floor of the picture. The
# longest name that begins a module's own is its room.
ROOMS = {
    "core": 0.0,
    "ops": 0.1,
    "training": 0.1,
    "augment": 1.0,
    "data.streams": 1.1,
    "data.sources": 1.2,
    "data.clip_plans": 1.3,
    "data.account": 1.3,
    "data.views": 1.4,
    "data.base": 1.5,
    "data.loading": 1.6,
    "data.box_checks": 1.7,
    "data.packs": 1.7,
    "data.synthetic": 1.7,
    "data.sources.detect": 1.8,  # asks whether a place is a pack, or holds videos or clouds
    "data.video": 1.9,
    "data.points": 1.9,
    "data.drives": 1.95,  # shows sweeps as clouds are shown
    "objectives": 2.0,
    "encoders": 2.1,
    "parts": 2.2,
    "methods": 3.0,
    "transfer": 3.0,
    "weights": 3.0,
    "engine": 4.0,
    "study": 4.5,
    "report": 5.0,
    "cli": 6.0,
    "__main__": 7.0,
}


def room(module: str) -> str:
    """``st_ssl.data.video.views`` to ``data.video``; "" for the package itself."""
    names = module.split(".")[1:]
    prefixes = (".".join(names[:length]) for length in range(len(names), 0, -1))
    return next((prefix for prefix in prefixes if prefix in ROOMS), "")


def module_of(file: Path) -> str:
    """The dotted name of a file of the package."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and name of every module of this package that a file imports, wherever it does so and for whatever."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "st_ssl")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            if node.module and node.module.split(".")[0] == "st_ssl":
                for alias in node.names:  # a module of a package, or a name of a module
                    inner = ROOT.joinpath(*node.module.split("."), alias.name)
                    is_module = inner.is_dir() or inner.with_suffix(".py").is_file()
                    yield node.lineno, f"{node.module}.{alias.name}" if is_module else node.module


def test_every_file_lives_in_a_room_of_the_picture() -> None:
    homeless = [str(file) for file in FILES if not room(module_of(file))]
    assert homeless == [str(ROOT / "st_ssl" / "__init__.py"), str(ROOT / "st_ssl" / "data" / "__init__.py")]


def test_imports_point_downwards_only() -> None:
    wrong, seen = [], 0
    for file in FILES:
        own = room(module_of(file))
        for line, module in imports(file):
            seen += 1
            other = room(module)
            if other != own and own and not (other and ROOMS[other] < ROOMS[own]):
                wrong.append(f"{file.relative_to(ROOT)}:{line}: {own} imports {module}")
    assert not wrong, "\n".join(wrong)
    assert seen > 100


def test_the_rule_would_catch_an_import_that_points_upwards(tmp_path: Path) -> None:
    file = tmp_path / "low.py"
    file.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from st_ssl.engine.trainer import Trainer\n"
        "def f():\n    import st_ssl.cli.pretrain\n"
        "from st_ssl.training import distributed\n"
    )
    assert sorted(imports(file)) == [
        (3, "st_ssl.engine.trainer"),
        (5, "st_ssl.cli.pretrain"),
        (6, "st_ssl.training.distributed"),
    ]


def circle(graph: Mapping[str, Set[str]]) -> list[str]:
    """Modules that import one another in a circle, the first also at the end; empty where there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {module_of(file): {module for _, module in imports(file)} for file in FILES}
    assert circle(graph) == []
    inner = next(module for module in graph["st_ssl.ops.sparse.layers"] if module.endswith("spconv_backend"))
    back = graph | {inner: {*graph[inner], "st_ssl.ops.sparse.layers"}}
    assert set(circle(back)) == {inner, "st_ssl.ops.sparse.layers"}, "a circle would be found"


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
