"""The version of the code that a result depends on, and the hardware that it was computed on."""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

PACKAGE = "st_ssl"
TELLING = ("st_ssl.engine.console", "st_ssl.engine.loggers")
"""Modules that only tell what happens: no result depends on them."""


def code_version(roots: Iterable[str]) -> str:
    """Twelve digits that change with the code of the modules ``roots``, or of any module of this package that they
    import, by way of others too. Docstrings, comments, layout, what errors say, and ``TELLING`` do not count. A method
    that no root imports changes nothing."""
    seen = dict.fromkeys(TELLING, "")
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen[module], imported = _read(module)
            waiting += imported
    told = "\n".join(f"{module} {digest}" for module, digest in sorted(seen.items()))
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def module_of(thing: type) -> str:
    """The module that defines a class."""
    module = inspect.getmodule(thing)
    assert module is not None
    return module.__name__


@cache
def _read(module: str) -> tuple[str, tuple[str, ...]]:
    """The digest of a module's code, and the modules of this package that it imports."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None, module
    tree = ast.parse(Path(spec.origin).read_bytes())
    imported = tuple(dict.fromkeys(_imports(tree)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [one for one in node.body if not _is_text(one)] or [ast.Pass()]
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), imported


def _is_text(node: ast.stmt) -> bool:
    """Whether a statement is nothing but text, as a docstring is."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.partition(".")[0] == PACKAGE and (module := _module_in(name)):
                yield module


@cache
def _module_in(name: str) -> str | None:
    """The longest beginning of a dotted name that is a module."""
    while "." in name and not _exists(name):
        name = name.rpartition(".")[0]
    return name if "." in name else None


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # what is before the last dot is no package
        return False


def hardware(device: torch.device) -> str:
    """What figures and times depend on besides code: the processor or GPU, threads, and the version of torch."""
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        threads = torch.get_num_threads()
        where = f"{_processor()}, {threads} thread{'s' * (threads != 1)}"
    return f"{where}, torch {torch.__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        import platform

        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")
