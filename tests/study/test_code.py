"""The version of the code that a result depends on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from st_ssl.study import code
from st_ssl.study.code import code_version, hardware


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of three modules: ``a`` imports ``b``, ``c`` is on its own."""
    folder = tmp_path / "toy_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "a.py").write_text("from toy_package.b import two\n\ndef one():\n    return two()\n")
    (folder / "b.py").write_text('def two():\n    """Two."""\n    return 2\n')
    (folder / "c.py").write_text("THREE = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(code, "PACKAGE", "toy_package")
    return folder


def version(*roots: str) -> str:
    code._read.cache_clear()
    code._module_in.cache_clear()
    for name in [name for name in sys.modules if name.startswith("toy_package")]:
        del sys.modules[name]
    return code_version(roots)


def test_only_code_that_is_imported_counts(package: Path) -> None:
    before = version("toy_package.a")
    (package / "c.py").write_text("THREE = 4\n")
    assert version("toy_package.a") == before != version("toy_package.c")
    (package / "b.py").write_text('def two():\n    """Another text."""\n\n    # a remark\n    return 2\n')
    assert version("toy_package.a") == before
    (package / "b.py").write_text("def two():\n    return 3\n")
    assert version("toy_package.a") != before


def test_what_errors_say_does_not_count(package: Path) -> None:
    (package / "b.py").write_text('def two():\n    raise ValueError("no")\n')
    before = version("toy_package.a")
    (package / "b.py").write_text('def two():\n    raise ValueError("never")\n')
    assert version("toy_package.a") == before
    (package / "b.py").write_text('def two():\n    raise KeyError("never")\n')
    assert version("toy_package.a") != before


def test_another_method_changes_no_version() -> None:
    code._read.cache_clear()
    roots = ["st_ssl.methods.contrast.cvrl", "st_ssl.engine.trainer"]
    seen: set[str] = set()
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += code._read(module)[1]
    assert {"st_ssl.objectives.contrastive", "st_ssl.training.optim", "st_ssl.data.views"} <= seen
    assert not [name for name in seen if name.startswith(("st_ssl.methods.masked", "st_ssl.report", "st_ssl.cli"))]


def test_hardware_is_named() -> None:
    assert torch.__version__ in hardware(torch.device("cpu"))
