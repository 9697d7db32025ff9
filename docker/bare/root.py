"""Bare Debian roots: made by debootstrap, stacked as layers, entered in namespaces of their own.

    base = Root.make(folder / "base")                      # a Debian with nothing in it, once
    with base.layer(folder / "trial") as trial:            # a cheap copy, gone afterwards
        trial.run("apt-get update && apt-get install -y python3")
        trial.run("python3 --version", user="nobody", network=False)

Everything is mounted in the private namespace of one command and goes with it, however that ends.
Needs Linux, root and Debian's package debootstrap; nothing of Python beyond the standard library.
"""

from __future__ import annotations

import fnmatch
import json
import os
import posixpath
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TextIO

from limits import MemoryLimit
from stream import stream

MIRROR = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSED = (
    *("PIP_*", "UV_*", "SSL_*", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"),
    *("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"),
)
OPAQUE = "trusted.overlay.opaque"
NAMES = ("/etc/resolv.conf", "/etc/hosts")
MARK = ".bare-root"  # in every folder that was made here: it may be removed with all that is in it
# What Debian's own container images set: no services, no caches, no translations, no waiting for the disk.
SETTINGS = {
    "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n",
    "etc/dpkg/dpkg.cfg.d/bare": "force-unsafe-io\n"
    "path-exclude /usr/share/doc/*\npath-include /usr/share/doc/*/copyright\npath-exclude /usr/share/man/*\n"
    "path-exclude /usr/share/info/*\npath-exclude /usr/share/locale/*\npath-exclude /usr/share/lintian/*\n",
    "etc/apt/apt.conf.d/bare": 'Acquire::Languages "none";\nAcquire::GzipIndexes "true";\n'
    'Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n'
    'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };\n',
}
SLIM = ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian")


class RootError(RuntimeError):
    """What was asked for cannot be had here; the message says what is missing and how to get it."""


class Account(NamedTuple):
    """Who runs a command: numbers, all groups, and the home folder."""

    uid: int
    gid: int
    groups: list[int]
    home: str


@dataclass(frozen=True)
class Share:
    """What a command has of this machine; by default all of it.

    ``network``: whether there is any beside a loopback. ``memory``: at most so many bytes, for it and all it starts.
    ``cores``: at most so many. ``readonly``: paths inside that cannot be written to; ``/`` for all that is not mounted
    otherwise. ``tmpfs``: ``PATH[:OPTIONS]``: paths inside that are empty folders in memory, from which nothing is
    executed unless the options, with commas between them, have ``exec``. ``shm``: size of /dev/shm in bytes; half of
    the memory where not given. ``binds``: folders, files or devices of this machine and where they are seen inside;
    with ``:ro`` only read.
    """

    network: bool = True
    memory: int | None = None
    cores: int | None = None
    readonly: Sequence[str] = ()
    tmpfs: Sequence[str] = ()
    shm: int | None = None
    binds: Mapping[str | Path, str] | None = None


def check_machine() -> None:
    """``RootError`` unless roots can be entered here."""
    if not sys.platform.startswith("linux"):
        raise RootError(f"bare roots need Linux's namespaces; this is {sys.platform}")
    if os.geteuid():
        raise RootError("bare roots are mounted: run this as root (sudo)")
    for tool, package in {"unshare": "util-linux", "setpriv": "util-linux"}.items():
        if not shutil.which(tool):
            raise RootError(f"{tool} is missing: apt-get install {package}")


def claim(folder: Path) -> Path:
    """Make ``folder`` and mark it as made here; ``RootError`` where something is in it that was not made here."""
    if folder.exists() and not (folder / MARK).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise RootError(f"{folder}: has other files than those made here: name another place, or remove it yourself")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
    return folder


def discard(folder: Path) -> None:
    """Remove ``folder``, if it is there, with all that is in it; ``RootError`` where it was not made here."""
    if os.path.lexists(folder):
        shutil.rmtree(claim(folder).resolve())


def is_removed(path: Path) -> bool:
    """Whether an overlay marks in ``path`` of one tree that a lower tree's file is gone."""
    state = path.lstat()
    return stat.S_ISCHR(state.st_mode) and state.st_rdev == 0


def is_opaque(path: Path) -> bool:
    """Whether an overlay hides with the folder ``path`` of one tree what lower trees have in theirs."""
    if path.is_symlink() or not path.is_dir() or OPAQUE not in os.listxattr(path):
        return False
    return os.getxattr(path, OPAQUE) == b"y"


@dataclass(frozen=True)
class Root:
    """A root file system: the tree of ``folder``, laid over the trees ``below`` (the nearest first).

    Used as a context manager it is removed at the end. A tree that others lie over must not change while they are used.
    """

    folder: Path
    below: tuple[Path, ...] = ()

    @classmethod
    def make(cls, path: Path, packages: Sequence[str] = (), suite: str = "bookworm", mirror: str = MIRROR) -> Root:
        """Debian's ``suite`` and ``packages`` in ``path``, as debian:SUITE-slim is; at once where it was made before.

        Downloaded packages of the base are kept beside ``path``, in ``debs``, for the next one.
        Raises ``RootError`` where the machine cannot do it, ``path`` has files of others, or debootstrap or apt-get
        failed.
        """
        check_machine()
        recipe = json.dumps({"suite": suite, "mirror": mirror, "packages": sorted(packages), "settings": SETTINGS})
        note = path / "recipe.json"
        if note.is_file() and note.read_text() == recipe:
            return cls(path)
        discard(path)
        root = cls(claim(path))
        _bootstrap(root.tree, suite, mirror, path.parent / "debs")
        if packages:
            update = (
                "apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends"
            )
            if root.run(f"{update} {' '.join(packages)} && rm -rf /var/lib/apt/lists/*").returncode:
                raise RootError(f"{', '.join(packages)}: apt-get failed, see above")
        note.write_text(recipe)  # last: an interrupted root is begun again
        return root

    def layer(self, path: Path) -> Root:
        """A root over this one whose changes go to ``path``; what is there already is kept."""
        return Root(path, (self.tree, *self.below))

    @property
    def tree(self) -> Path:
        """Where its files lie; others may be put there (first ``claim`` the folder) while no command runs in it."""
        return self.folder / "tree"

    @property
    def trees(self) -> tuple[Path, ...]:
        """All trees, the uppermost first."""
        return (self.tree, *self.below)

    def __enter__(self) -> Root:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        discard(self.folder)

    def find(self, path: str) -> Path | None:
        """The file of this machine that ``path`` is inside; None where it is not there or was removed."""
        for tree in self.trees:
            place, hidden = tree, False
            for part in path.strip("/").split("/"):
                place = place / part
                if not os.path.lexists(place):
                    break
                if is_removed(place):
                    return None
                hidden = hidden or is_opaque(place)
            else:
                return place
            if hidden:
                return None
        return None

    def resolve(self, path: str) -> str:
        """``path`` inside with its symbolic links followed; the rest of it may be missing."""
        done = "/"
        rest = [part for part in path.split("/") if part not in ("", ".")]
        for _ in range(256):
            if not rest:
                return done
            part = rest.pop(0)
            here = posixpath.normpath(posixpath.join(done, part))
            found = self.find(here)
            if found is not None and found.is_symlink():
                link = os.readlink(found)
                rest = [one for one in link.split("/") if one not in ("", ".")] + rest
                done = "/" if link.startswith("/") else done
            else:
                done = here
        raise RootError(f"{path}: too many symbolic links")

    def account(self, user: str) -> Account:
        """The account that ``NAME|UID[:GROUP|GID]`` means inside; raises ``RootError`` for a name that is not there."""
        name, _, group = user.partition(":")
        people, groups = self._table("/etc/passwd"), self._table("/etc/group")
        person = next((row for row in people if name == row[0]), None)
        person = person or next((row for row in people if name == row[2]), None)
        if person is None and not name.isdecimal():
            raise RootError(f"{user}: no such user inside; there are {', '.join(row[0] for row in people)}")
        uid, gid, home = (int(person[2]), int(person[3]), person[5]) if person else (int(name), 0, "/")
        if group:
            row = next((row for row in groups if group in (row[0], row[2])), None)
            if row is None and not group.isdecimal():
                raise RootError(f"{user}: no such group inside; there are {', '.join(row[0] for row in groups)}")
            return Account(uid, int(row[2] if row else group), [], home)
        member = [int(row[2]) for row in groups if person and person[0] in row[3].split(",")]
        return Account(uid, gid, sorted({gid, *member}), home)

    def _table(self, path: str) -> list[list[str]]:
        found = self.find(self.resolve(path))
        return [line.split(":") for line in found.read_text().splitlines() if ":" in line] if found else []

    def run(
        self,
        command: str | Sequence[str],
        *,
        cwd: str = "/",
        env: Mapping[str, str] | None = None,
        passed: Iterable[str] = PASSED,
        user: str = "root",
        timeout: float | None = None,
        stop: signal.Signals | None = None,
        echo: TextIO | bool = True,
        **share: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside (text: by ``/bin/sh -c``); returns its exit code and all it printed, as it was printed.

        Args:
            env: its environment, beside PATH, HOME and those of this process that match the patterns in ``passed``.
            user: a name or number, with ``:group`` if need be.
            timeout: seconds until it and all it started are killed; the exit code is then 124.
            stop: the signal that the command gets when this process is told to end (SIGTERM, SIGINT), instead of being
                killed with it; only in the main thread.
            echo: where its output goes as it comes; standard output for True, nowhere for False.
            share: fields of ``Share``: what it has of this machine.

        Raises:
            RootError: the machine, the user, a bind or a limit cannot be had, or the folder has files of others.
        """
        check_machine()
        claim(self.folder)
        who, shared = self.account(user), Share(**share)
        inherited = {k: v for k, v in os.environ.items() if any(fnmatch.fnmatchcase(k, one) for one in passed)}
        inside = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        plan: dict[str, Any] = {"command": inside, "cwd": cwd}
        plan["env"] = {"PATH": PATH, "HOME": who.home} | inherited | dict(env or {})
        plan |= {"uid": who.uid, "gid": who.gid, "groups": who.groups, **self._mounted(shared)}
        with ExitStack() as stack:
            plan |= _limited(stack, shared) | self._places()
            unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts"]
            unshare += [] if shared.network else ["--net"]
            inner = [sys.executable, "-I", str(Path(__file__).with_name("enter.py")), json.dumps(plan)]
            return stream(["setpriv", "--pdeathsig", "KILL", *unshare, *inner], inside, timeout, echo, stop)

    def _mounted(self, share: Share) -> dict[str, Any]:
        """What of a plan is mounted over the trees, every path as it is inside."""
        shown = [(host, self.resolve(path), rw) for host, path, rw in _binds(share.binds or {}, share.network)]
        return {
            "readonly": [*map(self.resolve, share.readonly), *(path for _, path, rw in shown if not rw)],
            "tmpfs": [
                (self.resolve(path), options) for path, _, options in (one.partition(":") for one in share.tmpfs)
            ],
            "shm": share.shm,
            "binds": [(host, path) for host, path, _ in shown],
        }

    def _places(self) -> dict[str, Any]:
        """Where a plan lays the trees over each other."""
        self.tree.mkdir(parents=True, exist_ok=True)
        trees = {"tree": str(self.tree.absolute()), "below": [str(tree.absolute()) for tree in self.below]}
        return trees | {name: str(self._folder(name)) for name in ("work", "mount")}

    def _folder(self, name: str) -> Path:
        folder = self.folder.absolute() / name
        if any(sign in str(folder) for sign in ",:\\"):
            raise RootError(f"{folder}: the path of a root may hold no comma, colon or backslash")
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _bootstrap(tree: Path, suite: str, mirror: str, cache: Path) -> None:
    """Run debootstrap in a namespace of its own, so that its mounts go with it; then make it slim."""
    if not shutil.which("debootstrap"):
        raise RootError("debootstrap is missing: apt-get install debootstrap")
    cache.mkdir(parents=True, exist_ok=True)
    tree.mkdir(parents=True)
    make = ["debootstrap", "--variant=minbase", f"--cache-dir={cache.absolute()}", suite, str(tree.absolute()), mirror]
    done = stream(["unshare", "--mount", "--pid", "--fork", "--kill-child", *make], make)
    if done.returncode:
        raise RootError(f"{' '.join(make)} ended with {done.returncode}: {done.stdout.strip().splitlines()[-1:]}")
    for folder in (*SLIM, "var/cache/apt", "var/lib/apt/lists"):
        for path in sorted((tree / folder).rglob("*"), reverse=True):
            if path.name != "copyright" and not path.is_dir():
                path.unlink()
    for name, text in SETTINGS.items():
        (tree / name).write_text(text)
        (tree / name).chmod(0o755 if name.startswith("usr/sbin") else 0o644)
    signed = "Components: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    (tree / "etc/apt/sources.list").unlink(missing_ok=True)
    (tree / "etc/apt/sources.list.d/debian.sources").write_text(
        f"Types: deb\nURIs: {mirror}\nSuites: {suite} {suite}-updates\n{signed}\n"
        f"Types: deb\nURIs: {SECURITY}\nSuites: {suite}-security\n{signed}"
    )


def _limited(stack: ExitStack, share: Share) -> dict[str, Any]:
    """What of a plan holds a command within its share; a limit of memory lasts as long as ``stack``."""
    try:
        limit = stack.enter_context(MemoryLimit(share.memory)) if share.memory is not None else None
    except OSError as error:
        raise RootError(f"memory: {error}") from error
    return {
        "network": share.network,
        "cores": sorted(os.sched_getaffinity(0))[: share.cores] if share.cores is not None else None,
        "group": str(limit.group) if limit else None,
        "group_inside": limit.inside if limit else None,
    }


def parse_bind(text: str) -> tuple[str, str]:
    """``HOST[:INSIDE[:ro]]`` of a command line to an entry of ``binds``; raises ``RootError`` for anything else."""
    host, *rest = text.split(":")
    inside = rest[0] if rest else host
    if len(rest) > 2 or rest[1:] not in ([], ["ro"]) or not inside.startswith("/"):
        raise RootError(f"--bind {text}: expected HOST[:INSIDE[:ro]] with absolute paths")
    return host, inside + (":ro" if rest[1:] else "")


def _binds(binds: Mapping[str | Path, str], network: bool) -> list[tuple[str, str, bool]]:
    """Host path, path inside, whether it may be written to; how names are resolved comes with the network."""
    shown = [
        (str(Path(host).absolute()), text.removesuffix(":ro"), not text.endswith(":ro")) for host, text in binds.items()
    ]
    for host, inside, _ in shown:
        if not Path(host).exists():
            raise RootError(f"{host}: no such file or folder to be seen as {inside}")
    names = [(name, name, False) for name in NAMES if Path(name).exists()] if network else []
    return names + shown
