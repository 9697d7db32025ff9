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
import threading
from contextlib import suppress
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
# MS_* of <sys/mount.h>
READ_ONLY, NO_SETUID, NO_DEVICES, NO_EXEC = 0x1, 0x2, 0x4, 0x8
REMOUNT, BIND, MOVE, RECURSIVE = 0x20, 0x1000, 0x2000, 0x4000
IN_MEMORY = NO_SETUID | NO_DEVICES
FLAGS = {"ro": READ_ONLY, "nosuid": NO_SETUID, "nodev": NO_DEVICES, "noexec": NO_EXEC}
UNSET = {"rw": READ_ONLY, "suid": NO_SETUID, "dev": NO_DEVICES, "exec": NO_EXEC}
KERNEL = ("sys", "sysrq-trigger", "bus", "fs", "irq")  # what of /proc would change the machine itself
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
    for folder in ("proc", "sys", "dev", "etc", *(path.lstrip("/") for path, _ in plan["tmpfs"])):
        (places / folder).mkdir(parents=True, exist_ok=True)
    for host, inside in plan["binds"]:
        place(places / inside.lstrip("/"), Path(host))
    # Debian's own has it, debootstrap's has not.
    (places / "etc/hosts").write_text(f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {socket.gethostname()}\n")
    lower = ":".join([*plan["below"], str(places)])
    options = f"lowerdir={lower},upperdir={plan['tree']},workdir={plan['work']}"
    if len(options.encode()) >= PAGE:
        raise OSError(f"{len(plan['below'])} layers in {space.parent.parent}: together too long, take a shorter path")
    mount("overlay", "overlay", root, options=options)
    return root


def protect(target: Path) -> None:
    """Let ``target`` be read only, whatever is mounted below it."""
    if not target.is_mount():
        mount("", target, target, BIND | RECURSIVE)
    mount("", "", target, REMOUNT | BIND | READ_ONLY)


def mount_memory(target: Path, options: str) -> None:
    """An empty folder in memory, with options as mount(8) takes them."""
    flags, kept = IN_MEMORY | NO_EXEC, ["mode=1777"]
    for option in filter(None, options.split(",")):
        flags = (flags | FLAGS.get(option, 0)) & ~UNSET.get(option, 0)
        if option not in FLAGS and option not in UNSET:
            kept.append(option)
    mount("tmpfs", "tmpfs", target, flags, ",".join(kept))


def furnish(root: Path, plan: dict[str, Any]) -> None:
    """Mount /proc, /sys, a minimal /dev, the binds, the folders in memory and what may not be written to."""
    if "/" in plan["readonly"]:
        mount("", "", root, REMOUNT | BIND | READ_ONLY)
    mount("proc", "proc", root / "proc")
    for name in KERNEL:
        if (root / "proc" / name).exists():
            protect(root / "proc" / name)
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
    for path, options in plan["tmpfs"]:
        mount_memory(root / path.lstrip("/"), options)
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
            protect(target)


def raise_loopback() -> None:
    """A new network namespace has a loopback that is down; processes of one machine still talk through it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        flags = struct.unpack("16xh", fcntl.ioctl(handle, GET_FLAGS, struct.pack("16sh", b"lo", 0))[:18])[0]
        fcntl.ioctl(handle, SET_FLAGS, struct.pack("16sh", b"lo", flags | UP))


def become(root: Path, plan: dict[str, Any]) -> None:
    """Turn this process into the command; returns only by raising ``OSError``."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(root)
    mount("", root, Path("/"), MOVE)  # else the way out of a chroot would lead to the machine's own root
    os.chroot(".")
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


def forward(child: int) -> None:
    """Send the child the signals whose numbers come on standard input."""
    while number := os.read(0, 1):
        with suppress(ProcessLookupError):  # it has just ended by itself
            os.kill(child, number[0])


def start(root: Path, plan: dict[str, Any]) -> int:
    """Run the command in a process of its own; returns its exit code, 128 + the number where a signal ended it."""
    child = os.fork()
    if not child:
        try:
            become(root, plan)
        except OSError as error:
            print(f"{plan['command'][0]}: cannot be started: {error.strerror or error}", file=sys.stderr, flush=True)
            os._exit(NOT_FOUND)
    threading.Thread(target=forward, args=(child,), daemon=True).start()
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
