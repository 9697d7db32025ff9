"""What a look at the machine gives: findings, each with the command that mends it."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

LEVELS = ("green", "yellow", "red")
"""Fine; something optional is missing or slow; the quickstart cannot run, or its results would be wrong."""
APT_LISTS = Path("/var/lib/apt/lists")


@dataclass(frozen=True)
class Finding:
    """``subject``: the part of the page it stands in; ``name``: what was looked at; ``level``: one of ``LEVELS``;
    ``text``: what was found; ``mend``: the command that mends it, or ``""``."""

    subject: str
    name: str
    level: str
    text: str
    mend: str = ""


def examine(subject: str, name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings of a check. One that fails itself ends in a red finding: the page always comes to its end."""
    found = []
    try:
        for finding in check():
            found.append(finding)
    except Exception as error:
        text = f"the check of {name} failed itself: {type(error).__name__}: {error}"
        found.append(Finding(subject, name, "red", text))
    return found


def worst(findings: Iterable[Finding]) -> str:
    """The level of all of them together."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="green")


def as_root(command: str) -> str:
    """``command`` as somebody has to call it who may not be root."""
    is_root = not hasattr(os, "geteuid") or os.geteuid() == 0
    return command if is_root else f"sudo {command}"


def in_container() -> bool:
    """Whether Docker or Podman started this: devices and shared memory are then theirs to give."""
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()


def apt_install(*packages: str) -> str:
    """The command that installs packages of Debian and Ubuntu; ``""`` on another system."""
    if not packages or shutil.which("apt-get") is None:
        return ""
    update = "" if any(APT_LISTS.glob("*_Packages*")) else f"{as_root('apt-get update')} && "  # as in most images
    return update + as_root(f"apt-get install -y {shlex.join(packages)}")


def size(count: float) -> str:
    """A number of bytes for people: ``512 MiB``, ``23.5 GiB``."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB" if count < 1024 else f"{count / 1024:.1f} TiB"
