"""The first process inside new namespaces: mounts what the plan says, then runs the command there and reaps.

Started by ``root.py`` as ``unshare --mount --pid … python enter.py PLAN`` with the plan as JSON; not to be called by
hand. It keeps process number 1 to itself, so that its end takes every other process and every mount with it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import stat
import struct
import sys
from pathlib import Path
from typing import Any

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
LIBC = ctypes.CDLL(None, use_errno=True)
READ_ONLY, NO_SETUID, NO_DEVICES, REMOUNT, BIND, RECURSIVE = (
    0x1,
    0x2,
    0x4,
    0x20,
    0x1000,
    0x4000,
)  # MS_* of <sys/mount.h>
IN_MEMORY = NO_SETUID | NO_DEVICES
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 0x1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP of <linux/sockios.h>
PAGE = 4096  # bytes of options that mount(2) reads
NOT_FOUND, NOT_RUN = 127, 125  # what a shell and a container engine return


def mount(kind: str, source: str | Path, target: Path, flags: int = 0, options: str = "") -> None:
    """mount(2); raises ``OSError`` that names what should have gone where. (The program takes far longer to start.)"""
    given = (str(source).encode(), str(target).encode(), kind.encode() or None, ctypes.c_ulong(flags), options.encode())
    if LIBC.mount(*given):
        raise OSError(f"{kind or 'bind'} {source} to {target} ({options}): {os.strerror(ctypes.get_errno())}")


def place(path: Path, like: Path) -> None:
    """A folder or an empty file at ``path``, whichever ``like`` is, unless something is there."""
    if path.exists():
        return
    if like.is_dir():
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def assemble(plan: dict[str, Any]) -> Path:
    """Lay the trees over each other; returns where.

    What others are mounted on and the trees lack is taken from a tree of empty places at the very bottom, in memory:
    so no mount leaves an empty folder or file behind in the uppermost tree.
    """
    space = Path(plan["mount"])
    mount("tmpfs", "space", space, options="mode=755")
    root, places = space / "root", space / "places"
    root.mkdir()
    for folder in ("proc", "sys", "dev", *(path.lstrip("/") for path in plan["tmpfs"])):
        (places / folder).mkdir(parents=True, exist_ok=True)
    for host, inside in plan["binds"]:
        place(places / inside.lstrip("/"), Path(host))
    lower = ":".join([*plan["below"], str(places)])
    options = f"lowerdir={lower},upperdir={plan['tree']},workdir={plan['work']}"
    if len(options.encode()) >= PAGE:
        raise OSError(f"{len(plan['below'])} layers in {space.parent.parent}: together too long, take a shorter path")
    mount("overlay", "overlay", root, options=options)
    return root


def furnish(root: Path, plan: dict[str, Any]) -> None:
    """Mount /proc, /sys, a minimal /dev, the binds, the folders in memory and what may not be written to."""
    if "/" in plan["readonly"]:
        mount("", "", root, REMOUNT | BIND | READ_ONLY)
    mount("proc", "proc", root / "proc")
    mount("sysfs", "sysfs", root / "sys", READ_ONLY)
    if plan["group"]:
        target = root / plan["group_inside"].lstrip("/")
        if not target.exists():  # version 1: a folder for each kind of limit
            mount("tmpfs", "cgroup", target.parent, options="mode=755")
            target.mkdir()
        mount("", plan["group"], target, BIND)
        mount("", "", target, REMOUNT | BIND | READ_ONLY)
    devices = root / "dev"
    mount("tmpfs", "dev", devices, NO_SETUID, "mode=755")
    for name in DEVICES:
        os.mknod(devices / name, stat.S_IFCHR, Path("/dev", name).stat().st_rdev)
        (devices / name).chmod(0o666)
    for name, target in LINKS.items():
        (devices / name).symlink_to(target)
    (devices / "pts").mkdir()
    mount("devpts", "devpts", devices / "pts", NO_SETUID, "newinstance,ptmxmode=0666,mode=620")
    (devices / "shm").mkdir()
    size = f",size={plan['shm']}" if plan["shm"] is not None else ""
    mount("tmpfs", "shm", devices / "shm", IN_MEMORY, f"mode=1777{size}")
    for path in plan["tmpfs"]:
        mount("tmpfs", "tmpfs", root / path.lstrip("/"), IN_MEMORY, "mode=1777")
    for host, inside in plan["binds"]:
        target = root / inside.lstrip("/")
        if inside.startswith("/dev/"):
            place(target, Path(host))  # the minimal /dev was only now mounted
        mount("", host, target, BIND | RECURSIVE)
    for path in plan["readonly"]:
        target = root / path.lstrip("/")
        if path != "/":
            if not target.exists():
                raise OSError(f"read-only {path}: there is no such path inside")
            if not target.is_mount():
                mount("", target, target, BIND | RECURSIVE)
            mount("", "", target, REMOUNT | BIND | READ_ONLY)


def raise_loopback() -> None:
    """A new network namespace has a loopback that is down; processes of one machine still talk through it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        flags = struct.unpack("16xh", fcntl.ioctl(handle, GET_FLAGS, struct.pack("16sh", b"lo", 0))[:18])[0]
        fcntl.ioctl(handle, SET_FLAGS, struct.pack("16sh", b"lo", flags | UP))


def become(root: Path, plan: dict[str, Any]) -> None:
    """Turn this process into the command; returns only by raising ``OSError``."""
    os.chroot(root)
    if not Path(plan["cwd"]).is_dir():
        raise NotADirectoryError(f"{plan['cwd']}: not a folder inside")
    os.chdir(plan["cwd"])
    os.setgroups(plan["groups"])
    os.setgid(plan["gid"])
    os.setuid(plan["uid"])
    if plan["cores"]:
        os.sched_setaffinity(0, plan["cores"])
    command = plan["command"]
    os.execvpe(command[0], command, plan["env"])


def start(root: Path, plan: dict[str, Any]) -> int:
    """Run the command in a process of its own; returns its exit code, 128 + the number where a signal ended it."""
    child = os.fork()
    if not child:
        try:
            become(root, plan)
        except OSError as error:
            print(f"{plan['command'][0]}: cannot be started: {error.strerror or error}", file=sys.stderr, flush=True)
            os._exit(NOT_FOUND)
    while True:
        pid, status = os.wait()  # also those whose parent has gone
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def main() -> int:
    """Carry out the plan of the command line; returns the command's exit code, or 125 where it could not be begun."""
    plan = json.loads(sys.argv[1])
    os.umask(0o022)
    try:
        if plan["group"]:
            (Path(plan["group"]) / "cgroup.procs").write_text("0")
        if not plan["network"]:
            raise_loopback()
        root = assemble(plan)
        furnish(root, plan)
    except OSError as error:
        print(f"the root cannot be entered: {error}", file=sys.stderr)
        return NOT_RUN
    return start(root, plan)


if __name__ == "__main__":
    sys.exit(main())
