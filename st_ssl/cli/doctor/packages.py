"""torch, torchvision and the other packages that st_ssl asks for: there, new enough, and working."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path

from st_ssl.cli.doctor.children import Report
from st_ssl.cli.doctor.findings import Finding
from st_ssl.cli.doctor.repair import broken, reinstall, repair
from st_ssl.cli.doctor.requirements import (
    CHECKOUT,
    Requirement,
    in_checkout,
    installed,
    pip_install,
    pip_install_all,
    pip_install_missing,
    requirement,
    requirements,
)

SUBJECT = "Packages"
PROBED = {"torch", "torchvision", "av", "torchcodec", "decord", "open3d", "spconv-cu120", "spconv-cu126"}
"""Packages with lines of their own, of which a probe tells more than whether they are there."""


def check_own() -> Iterator[Finding]:
    """Whether tools find st_ssl itself, and this one: tools/doctor.py alone puts the checkout first."""
    version = sys.modules["st_ssl"].__version__
    where = f"{version}, {'the checkout' if in_checkout() else 'installed'} in {CHECKOUT}"
    as_tool = sys.path[0] == str(CHECKOUT) and not sys.argv[0].startswith("st-ssl ")
    spec = PathFinder.find_spec("st_ssl", sys.path[as_tool:])
    if spec is None or not spec.origin:
        yield Finding(SUBJECT, "st_ssl", "red", f"{where}, is not installed in this Python", pip_install_all())
        return
    found, there = Path(spec.origin).resolve().parents[1], installed("st_ssl")
    if found != CHECKOUT:
        text = f"{where}, but what tools import is {there or 'another'} in {found}"
        yield Finding(SUBJECT, "st_ssl", "yellow" if there == version else "red", text, pip_install_all())
    else:
        yield Finding(SUBJECT, "st_ssl", "green", where + ("" if there else ", on the path without being installed"))


def check_required() -> Iterator[Finding]:
    """What st_ssl cannot do without, by what is installed; torch has a line of its own."""
    if not requirements():
        text = f"nothing tells what st_ssl needs: {CHECKOUT} has neither pyproject.toml nor metadata of an installation"
        yield Finding(SUBJECT, "required", "red", text, pip_install_all())
    wanted = [one for one in requirements() if not one.extra and one.name not in PROBED]
    yield from _looked_up("required", wanted, "red")


def check_extras() -> Iterator[Finding]:
    """What the extras of ``[all]`` hold, tools of the tests left out."""
    everything = requirements()
    of_all = {one.name for one in everything if one.extra == "all"} - PROBED
    complete = []
    for extra in dict.fromkeys(one.extra for one in everything if one.extra not in ("", "all", "test")):
        wanted = [one for one in everything if one.extra == extra and one.name in of_all]
        for finding in _looked_up(f"extra {extra}", wanted, "yellow"):
            if finding.level == "green":
                complete.append(finding.text)
            else:
                yield finding
    if complete:
        yield Finding(SUBJECT, "extras", "green", ", ".join(complete))


def _looked_up(name: str, wanted: list[Requirement], level: str) -> Iterator[Finding]:
    there = {str(one): installed(one.name) for one in wanted}
    absent = [str(one) for one in wanted if not there[str(one)]]
    old = [one for one in wanted if there[str(one)] and not one.allows(there[str(one)])]
    parts = [f"not installed: {', '.join(absent)}"] if absent else []
    parts += [f"{one.name} {there[str(one)]} is not {one.bounds}" for one in old]
    if parts:
        mend = pip_install_missing("--upgrade", *absent, *old)
        yield Finding(SUBJECT, name, level, "; ".join(parts), mend)
    elif wanted:
        yield Finding(SUBJECT, name, "green", ", ".join(f"{one.name} {there[str(one)]}" for one in wanted))


def check_torch(reports: Mapping[str, Report]) -> Iterator[Finding]:
    """Whether torch can be imported, multiplies, and is new enough."""
    report, wanted = reports["torch"], requirement("torch")
    if report.missing == "torch":
        yield Finding(SUBJECT, "torch", "red", "not installed", pip_install_all())
    elif report.error:
        yield Finding(SUBJECT, "torch", "red", broken(report), repair(report, "torch", "torchvision"))
    elif wanted is not None and not wanted.allows(report.facts["version"]):
        mend = reinstall("torch", "torchvision", option="--upgrade")
        yield Finding(SUBJECT, "torch", "red", f"{report.facts['version']} is not {wanted.bounds}", mend)
    else:
        facts = report.facts
        build = f"CUDA {facts['cuda']}" if facts["cuda"] else f"ROCm {facts['hip']}" if facts["hip"] else "CPUs alone"
        yield Finding(SUBJECT, "torch", "green", f"{facts['version']}, built for {build}")


def check_torchvision(reports: Mapping[str, Report]) -> Iterator[Finding]:
    """torchvision has operators that fit one version of torch alone."""
    report, wanted = reports["torchvision"], requirement("torchvision")
    version = installed("torchvision")
    if report.missing:
        text = f"{version}, not tried without {report.missing}" if version else "not installed"
        yield Finding(SUBJECT, "torchvision", "red", text, pip_install_all())
    elif "torchvision::" in report.error or "undefined symbol" in report.error:
        torch = reports["torch"].facts.get("version", "there is")
        text = f"{version} does not fit torch {torch}: {report.error}"
        yield Finding(SUBJECT, "torchvision", "red", text, repair(report, "torch", "torchvision"))
    elif report.error:
        yield Finding(SUBJECT, "torchvision", "red", broken(report), repair(report, "torch", "torchvision"))
    elif wanted is not None and not wanted.allows(report.facts["version"]):
        text = f"{report.facts['version']} is not {wanted.bounds}"
        yield Finding(SUBJECT, "torchvision", "red", text, reinstall("torch", "torchvision", option="--upgrade"))
    else:
        yield Finding(SUBJECT, "torchvision", "green", f"{report.facts['version']}, its operators fit this torch")


def check_spconv(reports: Mapping[str, Report]) -> Iterator[Finding]:
    """spconv, beside which our own backend always runs."""
    yield _optional(
        "spconv", reports["spconv"], "our own backend convolves in its place", "convolves as our own backend does"
    )


def check_open3d(reports: Mapping[str, Report]) -> Iterator[Finding]:
    """open3d and the libraries of the system that it wants."""
    yield _optional(
        "open3d", reports["open3d"], "report.py --viewer open3d and a benchmark need it", "normals estimated"
    )


def _optional(name: str, report: Report, without: str, done: str) -> Finding:
    wanted = requirement(name)
    if not report.error:
        package, version = report.facts.get("package", name), report.facts["version"]
        if wanted is not None and not wanted.allows(version):
            mend = pip_install("--upgrade", wanted)
            return Finding(SUBJECT, name, "yellow", f"{package} {version} is not {wanted.bounds}", mend)
        return Finding(SUBJECT, name, "green", f"{version}{f' ({package})' if package != name else ''}: {done}")
    if wanted is None and report.missing == name and requirements():
        return Finding(SUBJECT, name, "green", f"not made for this Python or system: {without}")
    if report.missing and not (installed(wanted.name) if wanted else requirements()):
        return Finding(SUBJECT, name, "yellow", f"not installed: {without}", pip_install_missing(wanted))
    if report.missing in ("torch", "numpy"):
        return Finding(SUBJECT, name, "yellow", f"not tried without {report.missing}", pip_install_all())
    return Finding(SUBJECT, name, "yellow", broken(report), repair(report, name))
