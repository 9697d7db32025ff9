"""README's two commands on a Debian with nothing but Python 3.11, and each way in which that can go wrong.

    python docker/bare/ways.py --work FOLDER [--only NAME …] [--full] [--bind HOST[:INSIDE[:ro]] …]

Makes a bare Debian in FOLDER (once, and some nine gigabytes), installs by the command that README.md has, and tries
every way in a layer of its own, as an ordinary user, without a network. Each must end in a working fallback or in one
line that begins with ``error:``. Prints a Markdown table; the exit code is 1 where something else was seen. Needs root.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from build import locked
from nearest import nearest
from root import Root, RootError, discard, parse_bind

CHECKOUT = Path(__file__).parents[2]
PACKAGES = ("python3", "python3-venv", "python3-pip", "ca-certificates")
HOME, HERE, VENV = "/home/me", "/home/me/st_ssl", "/home/me/venv"
SMALL = (
    "--only videomae data.synthetic.num_train=24 data.synthetic.num_test=24 engine.epochs=1 engine.batch_size=4 "
    "probe.kinds=[knn,linear]"
)
CLOUDS = (
    f"python {HERE}/tools/pretrain.py {HERE}/configs/quickstart/points.yaml --only point_mae engine.epochs=1 "
    "data.shapes.num_train=32 data.shapes.num_test=24 engine.batch_size=8 probe.kinds=[knn]"
)
PATIENCE = {False: 900, True: 7200}  # seconds; whether --full
LIBRARIES = "libegl1 libgl1 libgomp1 libusb-1.0-0"


@dataclass(frozen=True)
class Way:
    """Something that is missing, and what the user must see then.

    ``command``: ``INSTALL``, ``JOB`` and ``TESTS`` stand for those of README.md, the last two made small unless
    ``--full``, and ``TWO`` for the job in two processes. ``sees``: a pattern in what is printed, to which ``code``
    belongs; ``never``: one that must not be there. ``before``: run as root in the same namespaces. ``limits``:
    arguments of ``Root.run``. ``own``: whether an ``error:`` line must be the only thing said of a failure (else it is
    another program that speaks).
    """

    name: str
    title: str
    sees: str
    code: int = 0
    command: str = "JOB"
    before: str = ""
    user: str = "me"
    folder: str = HERE
    limits: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    own: bool = True
    never: str = ""


DONE = r"report: \S+report\.html"
ELSEWHERE = "/srv/work"
ROOM = f"mkdir -p {ELSEWHERE} && chmod 777 {ELSEWHERE}"
FULL_DISK = "mkdir -p {0} && mount -t tmpfs -o mode=777,size=300k tmpfs {0}"
NO_FOLDERS = {"HOME": "/nonexistent", "USER": "", "LOGNAME": ""}
ONE_PROCESS = r"no semaphores .*one process does all the work.*"

WAYS = (
    Way("venv", "pip outside a virtual environment", "externally-managed-environment", 1, "INSTALL", own=False),
    Way("network", "no network, compiler, libGL, FFmpeg: the main job", DONE),
    Way("tests", "the same: the tests", r"\d+ passed", 0, "TESTS", own=False),
    Way("clouds", "the same: point clouds", DONE, command=CLOUDS),
    Way(
        "libgl",
        "no libGL: open3d's viewer",
        rf"error: --viewer open3d needs the package open3d: .*, and apt-get install {LIBRARIES}",
        1,
        f"{CLOUDS} > /dev/null && python tools/report.py runs/quickstart/points/point_mae --viewer open3d --save ply",
    ),
    Way(
        "libgl-mended",
        "what that line says",
        r"^ply$",
        0,
        f"{CLOUDS} > /dev/null && python tools/report.py runs/quickstart/points/point_mae --viewer open3d --save ply",
        before=f"apt-get update -qq && apt-get install -qq -y --no-install-recommends {LIBRARIES} > /dev/null",
        limits={"network": True},
    ),
    Way("ffmpeg", "no FFmpeg: data.reader=torchcodec", "error: .*FFmpeg", 1, "JOB data.reader=torchcodec"),
    Way(
        "compiler",
        "no compiler: engine.compile=true",
        r"error: engine\.compile=true needs .*: apt-get install g\+\+ python3-dev",
        1,
        "JOB engine.compile=true",
    ),
    Way(
        "compiler-mended",
        "what that line says",
        DONE,
        0,
        "JOB engine.compile=true",
        before="apt-get update -qq && apt-get install -qq -y --no-install-recommends g++ python3-dev > /dev/null",
        limits={"network": True},
    ),
    Way("home", "read-only home", DONE, before=ROOM, folder=ELSEWHERE, limits={"readonly": [HOME]}),
    Way(
        "checkout",
        "read-only checkout",
        r"error: output_dir=\S+: cannot be written to: Read-only file system",
        2,
        limits={"readonly": [HOME]},
    ),
    Way("tmp", "read-only /tmp", DONE, limits={"readonly": ["/tmp", "/var/tmp"]}),
    Way("user", "a user without name or home", DONE, before=ROOM, user="12345", folder=ELSEWHERE, env=NO_FOLDERS),
    Way("shm", "no room in /dev/shm", ONE_PROCESS, limits={"shm": 4096}),
    Way("shm-readonly", "read-only /dev/shm", ONE_PROCESS, limits={"readonly": ["/dev/shm"]}),
    Way("shm-docker", "64 MB of /dev/shm, as docker has it", DONE, limits={"shm": 64 << 20}, never=ONE_PROCESS),
    Way("core", "one core", DONE, limits={"cores": 1}),
    Way("memory", "2 GB of memory", DONE, limits={"memory": 2 << 30}),
    Way(
        "memory-less",
        "400 MB of memory",
        r"0\.39 GiB of memory is little",
        137,
        limits={"memory": 400 << 20},
        own=False,
    ),
    Way("two", "two processes without a network", DONE, command="TWO"),
    Way("files", "64 open files", DONE, command="ulimit -n 64 && JOB"),
    Way("disk", "the disk of the run is full", "error: .*No space left", 1, before=FULL_DISK.format(f"{HERE}/runs")),
    Way(
        "disk-data",
        "the disk of the data is full",
        "error: .*No space left",
        1,
        before=FULL_DISK.format(f"{HERE}/data"),
    ),
    Way(
        "locale",
        "a locale of ASCII alone",
        DONE,
        env={"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ),
)


def readme_commands(text: str) -> tuple[str, str, str]:
    """How to install, the main job and the tests, as README.md has them; raises ``ValueError`` where it has no more."""
    found = re.findall(r"^(pip install .+?) && (.+?) +#", text, re.MULTILINE)
    if len(found) != 2 or found[0][0] != found[1][0]:
        raise ValueError(
            f"README.md: expected two lines 'pip install … && COMMAND  # …' that install alike, not {found}"
        )
    return found[0][0], found[0][1], found[1][1]


def spell_out(command: str, text: str, full: bool) -> str:
    """``command`` of a way with what README.md (``text``) has in it, and absolute paths."""
    install, job, tests = readme_commands(text)
    job = re.sub(r"\b(tools|configs)/", rf"{HERE}/\1/", job)
    job = job if full else f"{job} {SMALL}"
    words = {
        "INSTALL": install,
        "JOB": job,
        "TWO": re.sub(r"^python\b", "torchrun --nproc-per-node 2", job),
        "TESTS": tests if full else f"{tests} tests/ops",
    }
    return re.sub(r"\b(INSTALL|JOB|TWO|TESTS)\b", lambda match: words[match[0]], command)


def judge(way: Way, code: int, output: str) -> tuple[str, str]:
    """The line that the user sees, and what is wrong with it ("" for nothing)."""
    lines = output.splitlines()
    seen = [line.strip() for line in lines if re.search(way.sees, line)]
    errors = [line for line in lines if line.startswith("error: ")]
    wrong = []
    if code != way.code:
        wrong.append(f"exit code {code}, expected {way.code}")
    if not seen:
        wrong.append(f"nothing that matches {way.sees!r}")
    wrong += [f"{line.strip()!r}" for line in lines if way.never and re.search(way.never, line)]
    if way.own and "Traceback (most recent call last)" in output:
        wrong.append("a traceback")
    if way.own and len(errors) != (way.code != 0):
        wrong.append(f"{len(errors)} lines of error")
    return (seen or [line for line in lines if line.strip()] or [""])[-1], "; ".join(wrong)


def copy_checkout(installed: Root) -> None:
    """The files that git knows, as they are now, in the user's folder."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, check=True, capture_output=True).stdout
    target = installed.tree / HERE.lstrip("/")
    if target.exists():
        shutil.rmtree(target)  # what was removed since then is not there any more
    target.mkdir(parents=True)
    pack = subprocess.Popen(
        ["tar", "--null", "--files-from=-", "--create"], cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    unpack = subprocess.Popen(["tar", "--extract", "--no-same-owner"], cwd=target, stdin=pack.stdout)
    assert pack.stdin is not None
    with pack.stdin:
        pack.stdin.write(names)
    if pack.wait() or unpack.wait():
        raise RootError(f"{CHECKOUT}: could not be copied")


def recipe(debian: Root, command: str) -> str:
    """A digest of all that an installation came of: this very Debian, the command, and what the package asks for."""
    made = debian.folder / "recipe.json"
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    asked = [project["build-system"], project["project"], project["tool"]["hatch"]]
    parts = [made.read_text(), made.stat().st_mtime_ns, command, asked]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def install(work: Path, binds: dict[str | Path, str]) -> Root:
    """The Debian with the package installed; at once where that was done before, with the same dependencies."""
    debian = Root.make(work / "debian", PACKAGES)
    installed = debian.layer(work / "installed")
    command = readme_commands((CHECKOUT / "README.md").read_text())[0]
    made_from = recipe(debian, command)
    note = installed.folder / "made-from.txt"
    fresh = not (note.is_file() and note.read_text() == made_from)
    if fresh:
        discard(installed.folder)
        if installed.run("useradd --create-home me").returncode:
            raise RootError("no user could be made")
    copy_checkout(installed)
    if installed.run(f"chown -R me: {HERE}").returncode:
        raise RootError("the checkout could not be given to its user")
    if fresh:
        steps = f"python3 -m venv {VENV} && . {VENV}/bin/activate && {command}"
        env = {"PIP_NO_CACHE_DIR": "1", "PIP_PROGRESS_BAR": "off"}
        if installed.run(steps, cwd=HERE, user="me", env=env, binds=binds).returncode:
            raise RootError(f"{command}: failed, see above")
        note.write_text(made_from)
    return installed


def attempt(
    way: Way, installed: Root, work: Path, full: bool, binds: dict[str | Path, str]
) -> tuple[str, str, int, int]:
    """Try one way in a layer that is removed again: what is seen, what is wrong, exit code and seconds."""
    command = spell_out(way.command, (CHECKOUT / "README.md").read_text(), full)
    # The folder is entered in the end, since it may be made before.
    job = f"cd {way.folder} && {'' if way.name == 'venv' else f'. {VENV}/bin/activate && '}{command}"
    user = shlex.quote(way.user)
    switch = f"setpriv --reuid {user} --regid {user} --clear-groups /bin/sh -c {shlex.quote(job)}"
    limits = {"network": False} | way.limits
    (work / "logs").mkdir(exist_ok=True)
    discard(work / "way")  # of a killed attempt
    started = time.monotonic()
    with installed.layer(work / "way") as layer, (work / "logs" / f"{way.name}.txt").open("w") as log:
        done = layer.run(
            f"{way.before or ':'} && exec {switch}",
            env={"HOME": HOME, "USER": "me", "PIP_NO_CACHE_DIR": "1"} | way.env,
            binds=binds if limits["network"] else {},
            timeout=PATIENCE[full],
            echo=log,
            **limits,
        )
    line, wrong = judge(way, done.returncode, done.stdout)
    return line, wrong, done.returncode, round(time.monotonic() - started)


def table(rows: Iterable[Sequence[object]]) -> str:
    """Markdown of rows, the first of which is the head."""
    head, *rest = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rest))


def name_of_way(text: str) -> str:
    """The name of one of ``WAYS``, as an argument."""
    names = [way.name for way in WAYS]
    if text not in names:
        raise argparse.ArgumentTypeError(f"{text}: no such way{nearest(text, names)} (there are: {', '.join(names)})")
    return text


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    names = [way.name for way in WAYS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where the root and the logs go")
    parser.add_argument("--only", nargs="+", type=name_of_way, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--full", action="store_true", help="README's commands as they are, not made small: hours")
    parser.add_argument(
        "--bind", action="append", default=[], metavar="HOST[:INSIDE[:ro]]", help="seen while installing"
    )
    return parser.parse_args(given)


def attempt_all(asked: argparse.Namespace) -> int:
    """Install, try, print the table; returns how many ways were not as they should be."""
    rows: list[Sequence[object]] = [("way", "what the user sees", "exit", "seconds")]
    failed = 0
    binds: dict[str | Path, str] = dict(map(parse_bind, asked.bind))
    installed = install(asked.work, binds)
    for way in (way for way in WAYS if way.name in asked.only):
        line, wrong, code, seconds = attempt(way, installed, asked.work, asked.full, binds)
        failed += bool(wrong)
        told = f"`{line[:300]}`" + (f" **{wrong}**" if wrong else "")
        rows.append((f"{way.title} (`{way.name}`)", told, code, seconds))
        print(f"{way.name}: {wrong or 'as it should be'} ({seconds} s)", file=sys.stderr, flush=True)
    print(table(rows))
    return failed


def main() -> int:
    """Try all that is asked for; returns the exit code."""
    asked = arguments()
    asked.work.mkdir(parents=True, exist_ok=True)
    try:
        with locked(asked.work / "lock", fcntl.LOCK_EX):  # two would remove each other's layers
            return bool(attempt_all(asked))
    except RootError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
