"""Packages that are installed and cannot be used: why, and what mends them."""

from __future__ import annotations

import re
import shlex
import sys

from st_ssl.cli.doctor.children import Report
from st_ssl.cli.doctor.findings import apt_install
from st_ssl.cli.doctor.requirements import installed, pip_install, requirement

DEBIAN = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libX11.so.6": "libx11-6",
    "libXau.so.6": "libxau6",
    "libXdmcp.so.6": "libxdmcp6",
    "libXext.so.6": "libxext6",
    "libbsd.so.0": "libbsd0",
    "libgomp.so.1": "libgomp1",
    "libidn2.so.0": "libidn2-0",
    "libmd.so.0": "libmd0",
    "libstdc++.so.6": "libstdc++6",
    "libudev.so.1": "libudev1",
    "libunistring.so.2": "libunistring2",
    "libunistring.so.5": "libunistring5",
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libxcb.so.1": "libxcb1",
    "libGLX.so.0": "libglx0",
    "libGLdispatch.so.0": "libglvnd0",
}
"""The package of Debian and Ubuntu that holds a library."""


def broken(report: Report) -> str:
    """Why a package cannot be used."""
    libraries = _libraries(report)
    if libraries:
        named = f"{', '.join(libraries[:-1])} and {libraries[-1]} are" if len(libraries) > 1 else f"{libraries[0]} is"
        return f"{named} {'damaged' if _damaged(report) else 'missing'}"
    return report.error if report.kind in ("died", "hung", "refused") else f"{report.kind}: {report.error}"


def repair(report: Report, *packages: str) -> str:
    """The command that installs the libraries of the system that an import lacked; where it lacked none, the packages
    once more, of the kind that they are; where it said nothing, the one that waits for longer; and where no process
    could be started, the one that tells how many may be."""
    if report.kind == "hung":
        script = sys.argv[0].endswith("doctor.py")
        return f"{shlex.join([sys.executable, sys.argv[0]]) if script else 'st-ssl doctor'} --timeout 300"
    if report.kind == "refused":
        return "ulimit -u"
    libraries = _libraries(report)
    debian = list(dict.fromkeys(DEBIAN[library] for library in libraries if library in DEBIAN))
    command = apt_install(*(["--reinstall"] if _damaged(report) and debian else []), *debian)
    return command or reinstall(*packages)


def reinstall(*packages: str, kind: str | None = None, option: str = "--force-reinstall") -> str:
    """The command that installs packages once more. ``kind``: which builds of torch, as in "cu126"; PyPI's where it is
    ``""``, those of the kind that is there where it is None and torch is among the packages."""
    if kind is None:
        label = re.search(r"\+(cpu|xpu|cu\d+|rocm[\d.]+)$", installed("torch"))
        kind = label[1] if label and "torch" in packages else ""
    index = ["--index-url", f"https://download.pytorch.org/whl/{kind}"] if kind else []
    return pip_install(option, *[str(requirement(name) or name) for name in packages], *index)


def _libraries(report: Report) -> list[str]:
    """The libraries of the system that an import could not load; one in a package's own folder is none of them."""
    before, missing, _ = report.error.partition(": cannot open shared object file")
    names = re.findall(r"lib[\w.+-]+\.so[\w.]*", before) if missing or _damaged(report) else []
    return list(dict.fromkeys(name for name in names if missing or name in DEBIAN))


def _damaged(report: Report) -> bool:
    return "file too short" in report.error or "invalid ELF header" in report.error
