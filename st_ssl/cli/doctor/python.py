"""The Python that runs this, and whether pip can install into it."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator

from st_ssl.cli.doctor.findings import Finding, apt_install
from st_ssl.cli.doctor.requirements import (
    Requirement,
    has_module,
    in_environment,
    newest_python,
    pip_install_all,
    python_bounds,
    release,
)

SUBJECT = "Python"


def check_python() -> Iterator[Finding]:
    """Its version against the one that is asked for."""
    version, bounds = platform.python_version(), python_bounds()
    where = f"{version}, {sys.executable}"
    newest = newest_python()
    if not Requirement("python", bounds).allows(version):
        text = f"{where}: st_ssl needs {bounds}; its packages were not looked at"
        yield Finding(SUBJECT, "Python", "red", text, _another("3.11"))
    elif newest and release(version)[:2] > release(newest):
        text = f"{where}: newer than {newest}, up to which st_ssl is tested; packages may have no builds for it"
        yield Finding(SUBJECT, "Python", "yellow", text, _another(newest))
    else:
        yield Finding(SUBJECT, "Python", "green", where)


def _another(version: str) -> str:
    """The command that brings another Python: the system's, where its release has it, or else uv's."""
    packages = [f"python{version}", f"python{version}-venv"]
    apt_cache = shutil.which("apt-cache")
    if apt_cache and not subprocess.run([apt_cache, "show", *packages], capture_output=True, check=False).returncode:
        return apt_install(*packages)
    return f"uv venv --seed --python {version} && . .venv/bin/activate  # uv: docs.astral.sh/uv"


def check_system() -> Iterator[Finding]:
    """The platform: packages with native code are built for some only."""
    libc = " ".join(platform.libc_ver())
    text = f"{platform.system()} {platform.release()}, {platform.machine()}, {_distribution()}{libc or 'not glibc'}"
    if sys.platform == "win32":
        yield Finding(SUBJECT, "system", "red", f"{text}: processes are forked here, which Windows cannot; take WSL")
        return
    musl = "musl" in (sysconfig.get_config_var("HOST_GNU_TYPE") or "")
    if sys.maxsize < 2**32:
        yield Finding(SUBJECT, "system", "red", f"{text}: this Python is of 32 bits, and torch is built for 64")
    elif musl:
        yield Finding(
            SUBJECT, "system", "red", f"{text}: torch is built for glibc, not for musl; take Debian or Ubuntu"
        )
    else:
        yield Finding(SUBJECT, "system", "green", text)


def _distribution() -> str:
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            entries = dict(line.strip().split("=", 1) for line in file if "=" in line)
    except OSError:
        return ""
    return entries.get("PRETTY_NAME", "").strip('"') + ", "


def check_pip() -> Iterator[Finding]:
    """Whether packages can be installed: pip, or what makes an environment that has it."""
    kind = "in a virtual environment" if in_environment() else "in no virtual environment"
    if has_module("pip"):
        yield Finding(SUBJECT, "pip", "green", kind)
    elif has_module("ensurepip"):
        yield Finding(SUBJECT, "pip", "green", f"{kind}, without pip; a new environment brings it")
    elif sys.flags.no_site:
        yield Finding(SUBJECT, "pip", "green", "not looked for: this Python was started without its packages (-S)")
    else:
        mend = apt_install("python3-venv") or pip_install_all()
        yield Finding(SUBJECT, "pip", "yellow", f"{kind}, without pip and without ensurepip to get it", mend)
