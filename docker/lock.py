"""Write the lock files that the images are built from, out of pyproject.toml.

    python docker/lock.py                          # what pyproject.toml or constraints.txt asks for anew; keep the rest
    python docker/lock.py --upgrade                # everything to the newest
    python docker/lock.py --upgrade-package av     # one package to the newest
    python docker/lock.py --check                  # no network: exit code 1 where a lock file is behind

All but ``--check`` need uv (``pip install uv``) and the network; of the packages only metadata are downloaded.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

try:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
except ModuleNotFoundError:
    sys.exit("error: packaging is not installed in this Python: pip install packaging")

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent / "pyproject.toml"
CONSTRAINTS = HERE / "constraints.txt"
COMMAND = "python docker/lock.py"
PYTHON, PLATFORM = "3.11", "x86_64-manylinux_2_36"  # Debian bookworm's interpreter and C library
MARKERS = {
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.0",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}


@dataclass(frozen=True)
class Lock:
    """A lock file: the extras of the project that it holds, and what of them it leaves out. ``build`` alone holds none
    of the project's own dependencies but what its package is made with."""

    name: str
    extras: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    build: bool = False

    @property
    def path(self) -> Path:
        return HERE / f"requirements-{self.name}.txt"

    def requirements(self) -> list[Requirement]:
        """What pyproject.toml asks for on the image's platform, extras of itself followed."""
        project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))
        if self.build:
            return [Requirement(line) for line in [*project["build-system"]["requires"], "pip", "setuptools"]]
        table = project["project"]
        own, found = canonicalize_name(table["name"]), []
        waiting = [*table["dependencies"], *(f"{own}[{extra}]" for extra in self.extras)]
        while waiting:
            requirement = Requirement(waiting.pop(0))
            if canonicalize_name(requirement.name) == own:
                waiting += [line for extra in requirement.extras for line in table["optional-dependencies"][extra]]
            elif requirement.marker is None or requirement.marker.evaluate(MARKERS):
                found.append(requirement)
        return [requirement for requirement in found if canonicalize_name(requirement.name) not in self.without]

    def made_for(self) -> str:
        """The line of the lock file that says what it was made for: one digest of all that decides it."""
        asked = [(canonicalize_name(one.name), sorted(one.extras), str(one.specifier)) for one in self.requirements()]
        constraints = sorted(pins(CONSTRAINTS).items())
        decides = [sorted(asked), sorted(self.extras), sorted(self.without), constraints, PYTHON, PLATFORM]
        return f"# Made for requirements with the digest {hashlib.sha256(repr(decides).encode()).hexdigest()}"


# In the order in which they are written: each takes the versions of the first. The CPU image has its torch from
# PyTorch's index, whose wheels have other hashes than PyPI's; it leaves out what is large (open3d), needs Debian's
# FFmpeg (torchcodec) or CUDA (spconv), each of which has a twin that needs nothing.
TORCH = ("torch", "torchvision")
TEST = Lock("test", ("all",))
CUDA = Lock("cuda", ("video", "points", "zoo", "viz", "lora", "export", "hub", "tensorboard"))
CPU = Lock("cpu", ("video", "points", "viz"), (*TORCH, "torchcodec", "open3d", "spconv-cu120"))
BUILD = Lock("build", build=True)
LOCKS = (TEST, CUDA, CPU, BUILD)


def pins(path: Path) -> dict[str, str]:
    """Name to version of every line ``name==version`` of a lock file."""
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s\\;]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def problems(lock: Lock) -> list[str]:
    """What of pyproject.toml and of the constraints a lock file does not meet, what it was not tested with or made for,
    and lines that it must not hold."""
    if not lock.path.is_file():
        return [f"{lock.path.name}: not there"]
    locked, found = pins(lock.path), []
    for requirement in lock.requirements():
        version = locked.get(canonicalize_name(requirement.name))
        if version is None:
            found.append(f"{lock.path.name}: {requirement} is not in it")
        elif not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{lock.path.name}: has {requirement.name} {version}; pyproject.toml asks for {requirement}")
    for name, version in pins(CONSTRAINTS).items():
        if locked.get(name, version) != version:
            found.append(f"{lock.path.name}: has {name} {locked[name]}; {CONSTRAINTS.name} asks for {version}")
    tested = pins(TEST.path) if TEST.path.is_file() else locked
    for name, version in locked.items():
        if tested.get(name, version if lock.build else None) != version:
            other = f"has {tested[name]}" if name in tested else "does not have it"
            found.append(f"{lock.path.name}: has {name} {version}; {TEST.path.name} {other}")
    text = lock.path.read_text(encoding="utf-8")
    if not found and lock.made_for() not in text.splitlines():
        found.append(f"{lock.path.name}: made for other requirements, extras or constraints than those of now")
    for block in re.split(r"\n(?=\S)", text):
        if not block.startswith("#") and "--hash=sha256:" not in block:
            found.append(f"{lock.path.name}: not a version with its hashes: {block.splitlines()[0]}")
    return found


def write(lock: Lock, upgrade: Sequence[str]) -> None:
    """Have uv write a lock file, which keeps the versions that it has unless they no longer do or are to be upgraded.
    Nothing of this machine goes into it: no configuration is read and no other index than PyPI asked."""
    relative = {path: path.relative_to(PROJECT.parent) for path in (CONSTRAINTS, TEST.path, lock.path)}
    options = [f"--extra={extra}" for extra in lock.extras] + [f"--constraints={relative[CONSTRAINTS]}"]
    if lock is not TEST:
        options += [f"--constraints={relative[TEST.path]}"]
    excluded: set[str] = set()
    if lock is CPU:  # what its torch needs, without CUDA
        options += [f"--no-emit-package={name}" for name in TORCH]
        excluded = {name for name in pins(CUDA.path) if name.startswith(("nvidia-", "cuda-")) or name == "triton"}
        excluded |= set(lock.without) - set(TORCH)
    with tempfile.TemporaryDirectory() as folder:
        excludes = Path(folder) / "excludes.txt"
        excludes.write_text("\n".join(sorted(excluded)), encoding="utf-8")
        command = [
            *["uv", "--no-config", "pip", "compile", "-" if lock.build else PROJECT.name, "--quiet"],
            *[f"--python-version={PYTHON}", f"--python-platform={PLATFORM}", "--default-index=https://pypi.org/simple"],
            *["--generate-hashes", "--no-annotate", f"--custom-compile-command={COMMAND}"],
            *[*options, *upgrade, f"--excludes={excludes}", f"--output-file={relative[lock.path]}"],
        ]
        asked = "\n".join(map(str, lock.requirements())) if lock.build else None
        subprocess.run(command, cwd=PROJECT.parent, input=asked, text=True, check=True, stdout=subprocess.DEVNULL)
    lock.path.write_text(f"{lock.made_for()}\n{lock.path.read_text(encoding='utf-8')}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say what is out of date; exit code 1 if anything is")
    parser.add_argument("--upgrade", action="store_true", help="everything to the newest version allowed")
    parser.add_argument("--upgrade-package", action="append", default=[], metavar="NAME", help="one to the newest")
    arguments = parser.parse_args()
    if not arguments.check:
        if shutil.which("uv") is None:
            print("error: uv is not on PATH: pip install uv", file=sys.stderr)
            return 1
        upgrade = ["--upgrade"] if arguments.upgrade else []
        upgrade += [f"--upgrade-package={name}" for name in arguments.upgrade_package]
        for lock in LOCKS:
            write(lock, upgrade)
            print(f"{lock.path.relative_to(HERE.parent)}: {len(pins(lock.path))} packages")
    found = [line for lock in LOCKS for line in problems(lock)]
    print(*found, sep="\n", end="\n" if found else "")
    if found and arguments.check:
        print(f"to write them anew: {COMMAND}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
