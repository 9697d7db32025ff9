"""What st_ssl needs of other packages, as it says itself, and the pip commands that install it."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import re
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from st_ssl.cli.doctor.findings import apt_install

CHECKOUT = Path(__file__).resolve().parents[3]
"""The folder that holds the package: a checkout, or where pip put it."""


@dataclass(frozen=True)
class Requirement:
    """A package that this Python needs: ``bounds`` as in ``">=2.10"``, the ``extra`` of st_ssl that asks for it or
    ``""``, ``options``: extras of its own, ``"[lazrs]"``."""

    name: str
    bounds: str
    extra: str = ""
    options: str = ""

    def __str__(self) -> str:
        return self.name + self.options + self.bounds

    def allows(self, version: str) -> bool:
        """Whether ``version`` lies in the bounds."""
        return all(
            _compare(version, operator, bound)
            for operator, bound in re.findall(r"(>=|<=|==|!=|>|<)\s*([\w.]+)", self.bounds)
        )


def release(version: str) -> tuple[int, ...]:
    """``"2.10.1+cu126"`` to (2, 10, 1), without zeros at the end; () where there is no number."""
    found = re.match(r"\D?(\d+(?:\.\d+)*)", version)
    numbers = [int(part) for part in found[1].split(".")] if found else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _compare(version: str, operator: str, bound: str) -> bool:
    a, b = release(version), release(bound)
    return {">=": a >= b, "<=": a <= b, "==": a == b, "!=": a != b, ">": a > b, "<": a < b}[operator]


def requirements() -> list[Requirement]:
    """All that this Python on this system needs, ``all`` among the extras; [] where nothing tells."""
    return list(dict.fromkeys(requirement for text in _texts() for requirement in _parsed(text)))


def python_bounds() -> str:
    """The versions of Python that will do, ``">=3.11"``; ``""`` where nothing tells."""
    if in_checkout():
        found = re.search(r'^requires-python\s*=\s*"([^"]*)"', _pyproject_text(), re.MULTILINE)  # by any Python
        return found[1] if found else ""
    try:
        return importlib.metadata.metadata("st_ssl")["Requires-Python"] or ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def newest_python() -> str:
    """The newest version of Python that st_ssl is tested with, ``"3.13"``; ``""`` where nothing tells."""
    if in_checkout():
        text = _pyproject_text()
    else:
        try:
            text = "\n".join(importlib.metadata.metadata("st_ssl").get_all("Classifier") or [])
        except importlib.metadata.PackageNotFoundError:
            text = ""
    return max(re.findall(r"Python :: (\d+\.\d+)", text), key=release, default="")


def in_checkout() -> bool:
    """Whether the package lies in a checkout, whose ``pyproject.toml`` is never older than the code beside it."""
    return (CHECKOUT / "pyproject.toml").is_file() and bool(re.search(r'^name = "st_ssl"', _pyproject_text(), re.M))


@functools.lru_cache
def _pyproject_text() -> str:
    return (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")


def has_module(name: str) -> bool:
    """Whether there is a module. ``importlib.util.find_spec`` would ask setuptools' hook too, which takes a question
    about pip for pip itself, and then breaks what compiles in this process."""
    return PathFinder.find_spec(name) is not None


def _texts() -> list[str]:
    """The requirements as metadata has them: ``"av>=14; extra == 'video'"``."""
    if in_checkout():
        if not has_module("tomllib"):  # of a Python that is too old for all the rest, too
            return []
        return _texts_of_pyproject()
    try:
        return importlib.metadata.requires("st_ssl") or []
    except importlib.metadata.PackageNotFoundError:
        return []


@functools.lru_cache
def _texts_of_pyproject() -> list[str]:
    import tomllib

    project = tomllib.loads(_pyproject_text())["project"]
    return project["dependencies"] + list(_of_extras(project["optional-dependencies"]))


def _of_extras(extras: dict[str, list[str]]) -> Iterator[str]:
    for extra, texts in extras.items():
        for text in texts:
            own = re.match(r"st[_-]ssl\[([\w,\s-]+)\]", text)
            named = [inner for other in re.findall(r"[\w-]+", own[1]) for inner in extras[other]] if own else [text]
            for one in named:
                package, _, marker = one.partition(";")
                yield f"{package}; {f'({marker.strip()}) and ' if marker else ''}extra == '{extra}'"


def _parsed(text: str) -> Iterator[Requirement]:
    """The requirement, if its conditions (joined by "and") hold here."""
    package, _, marker = text.partition(";")
    extra = ""
    for name, operator, value in re.findall(r"(\w+)\s*(>=|<=|==|!=|>|<)\s*['\"]([^'\"]*)['\"]", marker):
        if name == "extra":
            extra = value
        elif not _holds(name, operator, value):
            return
    found = re.match(r"\s*([\w.-]+)(\[[^\]]*\])?\s*(.*)", package)
    if found:
        yield Requirement(found[1], found[3].strip(" ()"), extra, found[2] or "")


def _holds(name: str, operator: str, value: str) -> bool:
    if name == "python_version":
        return _compare("{}.{}".format(*sys.version_info[:2]), operator, value)
    here = {"sys_platform": sys.platform, "platform_machine": platform.machine()}[name]
    return (here == value) == (operator == "==")


def requirement(name: str) -> Requirement | None:
    """What is asked of one package; of spconv, whose name tells the version of CUDA, the one for this Python."""
    wanted = [one for one in requirements() if re.sub(r"-cu\d+$", "", one.name) == name]
    return wanted[0] if wanted else None


def installed(name: str) -> str:
    """The version of an installed package, ``""`` without one."""
    try:
        return importlib.metadata.version(name) or ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def ours() -> str:
    """What pip installs to have all that the README's first command installs."""
    return f"{CHECKOUT}[all]" if in_checkout() else "st_ssl[all]"


def pip_install_missing(*wanted: Any) -> str:
    """The command that installs packages that are not there; all at once where st_ssl itself lacks some, or nothing
    tells what it needs."""
    needed = [one.name for one in requirements() if not one.extra]
    complete = bool(needed) and all(installed(name) for name in needed)
    return pip_install(*wanted) if complete else pip_install_all()


def pip_install_all() -> str:
    """The command that installs st_ssl with all its extras."""
    return pip_install(*(["-e", ours()] if in_checkout() else [ours()]))


def pip_install(*arguments: Any) -> str:
    """A pip command for this Python; on a system's own, which pip may not change, in a new environment."""
    what = shlex.join(str(argument) for argument in arguments)
    if not _externally_managed():
        bring = "" if has_module("pip") or sys.flags.no_site else f"{_python()} -m ensurepip && "
        return f"{bring}{_python()} -m pip install {what}"
    prepare = "" if has_module("ensurepip") else apt_install("python3-venv")
    steps = [prepare, f"{_python()} -m venv .venv", ". .venv/bin/activate", f"pip install {what}"]
    return " && ".join(step for step in steps if step)


def run_with(*overrides: str) -> str:
    """The command of the quickstart with some of its keys overridden."""
    return f"st-ssl pretrain configs/quickstart/video.yaml {shlex.join(overrides)}"


def in_environment() -> bool:
    """Whether this Python is that of a virtual environment, which site tells late or, with ``-S``, never."""
    return sys.prefix != sys.base_prefix or (Path(sys.executable).parent.parent / "pyvenv.cfg").is_file()


def _externally_managed() -> bool:
    return not in_environment() and (Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED").is_file()


def _python() -> str:
    for name in ("python", "python3"):
        if shutil.which(name) == sys.executable:
            return name
    return shlex.quote(sys.executable)
