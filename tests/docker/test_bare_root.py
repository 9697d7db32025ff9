"""Roots and layers, over a root of nothing but a shell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import image
import layers
import pytest
import root
from limits import controller
from root import Root, RootError, claim, discard, parse_bind

from tests.docker.roots import needs_namespaces
from tests.waiting import LONG, until

SLEEPS = [f"{LONG}.{os.getpid()}{number}" for number in range(5)]  # seconds, which no other program sleeps for


def mounts() -> str:
    return Path("/proc/self/mounts").read_text()


@needs_namespaces
def test_a_command_runs_as_whom_and_where_it_is_told(shell: Root, tmp_path: Path) -> None:
    before = mounts()
    with shell.layer(tmp_path / "layer") as layer:
        done = layer.run(
            "id -u; id -g; id -G; pwd; echo $HOME $A; echo x >/dev/null; ls /proc/1/comm",
            user="_user",
            cwd="/etc",
            env={"A": "b"},
        )
        assert done.stdout.split() == ["7", "8", "8", "9", "/etc", "/home", "b", "/proc/1/comm"]
        assert done.returncode == 0
        assert layer.run(["sh", "-c", "exit 3"]).returncode == 3
        assert layer.run("kill -9 $$").returncode == 137
        assert layer.run("id -u; id -g", user="5:us").stdout.split() == ["5", "8"]
        assert layer.run(["none"]).returncode == 127
        assert "not a folder inside" in layer.run("pwd", cwd="/none").stdout
        deep = Root(tmp_path / "deep", (shell.tree,) * 200)
        assert "200 layers in " in deep.run("id").stdout
        with pytest.raises(RootError, match=r"no such user inside; there are root, _user"):
            layer.run("id", user="someone")
    assert mounts() == before and not (tmp_path / "layer").exists()


@needs_namespaces
def test_a_layer_takes_the_changes_and_what_lies_below_stays(shell: Root, tmp_path: Path) -> None:
    with shell.layer(tmp_path / "one") as one, one.layer(tmp_path / "two") as two:
        one.run("mkdir /new; echo 1 > /new/a; echo 1 > /new/b; touch /etc/removed")
        two.run("rm /new/b /etc/removed; echo 2 > /new/a; touch /new/c")
        assert two.run("ls /new; cat /new/a").stdout.split() == ["a", "c", "2"]
        assert one.run("ls /new; cat /new/a").stdout.split() == ["a", "b", "1"]
        assert not (shell.tree / "new").exists()
        assert two.find("/new/b") is None and two.find("/etc/removed") is None
        assert two.find("/new/a") == two.tree / "new/a" and two.find("/etc/passwd") == shell.tree / "etc/passwd"
        assert sorted(layers.merged(two, "/new")) == ["", "a", "c"]
        two.run("rm -r /new; mkdir /new; touch /new/d")  # an opaque folder
        assert sorted(layers.merged(two, "/new")) == ["", "d"] and two.find("/new/a") is None
        assert two.resolve("/link/../link/x") == "/etc/x"


@needs_namespaces
def test_limits_binds_and_what_is_read_only(shell: Root, tmp_path: Path) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown/file").write_text("seen")
    with shell.layer(tmp_path / "layer") as layer:
        binds: dict[str | Path, str] = {tmp_path / "shown": "/a/b", str(tmp_path / "shown/file"): "/a/f:ro"}
        done = layer.run(
            "cat /a/b/file; echo w >/a/b/written; echo w >/a/f; echo w >/tmp/x; touch /etc/x; touch /mem/x && ls /mem",
            binds=binds,
            readonly=["/"],
            tmpfs=["/mem"],
        )
        assert (
            done.stdout.startswith("seen")
            and done.stdout.endswith("x\n")
            and done.stdout.count("ead-only file system") == 3
        )
        assert (tmp_path / "shown/written").exists() and not (layer.tree / "a").exists()
        assert "ead-only" in layer.run("touch /etc/x", readonly=["/etc"]).stdout
        assert "no such path inside" in layer.run("id", readonly=["/none"]).stdout
        route = layer.run("cat /proc/net/dev", network=False).stdout
        assert [line.split(":")[0].strip() for line in route.splitlines()[2:]] == ["lo"]
        assert (
            layer.run("cat /proc/mounts", shm=1 << 20).stdout.count(
                "/dev/shm tmpfs rw,nosuid,nodev,relatime,size=1024k"
            )
            == 1
        )
        allowed = layer.run("cat /proc/self/status", cores=1).stdout.partition("Cpus_allowed_list:")[2].split()[0]
        assert allowed.isdecimal()
        with pytest.raises(RootError, match="no such file or folder to be seen as /x"):
            layer.run("id", binds={tmp_path / "none": "/x"})
        with pytest.raises(TypeError, match="netwrok"):
            layer.run("id", netwrok=False)


@needs_namespaces
def test_mounts_follow_links_as_the_root_has_them(shell: Root, tmp_path: Path) -> None:
    for name in ("shown", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with shell.layer(tmp_path / "layer") as layer:
        (claim(layer.folder) / "tree").mkdir()
        for link in ("a", "b", "c"):
            (layer.tree / link).symlink_to(tmp_path / "elsewhere")
        told = f"cat {tmp_path}/elsewhere/file; touch {tmp_path}/elsewhere/new"
        assert layer.run(told, binds={tmp_path / "shown": "/a"}).stdout == "shown"
        assert "No such file" in layer.run(told, tmpfs=["/b"]).stdout
        assert "ead-only" in layer.run(told, binds={tmp_path / "shown": "/a"}, readonly=["/c"]).stdout
        assert [file.name for file in (tmp_path / "elsewhere").iterdir()] == ["file"]
        assert (tmp_path / "shown/new").exists()


@needs_namespaces
def test_a_root_is_a_machine_of_its_own(shell: Root, tmp_path: Path) -> None:
    with shell.layer(tmp_path / "layer") as layer:
        assert "127.0.0.1 localhost" in layer.run("cat /etc/hosts", network=False).stdout
        assert not (layer.tree / "etc").exists()
        assert "ead-only" in layer.run("echo here > /proc/sys/kernel/domainname").stdout
        kinds = "for kind in ipc uts mnt pid; do ls -l /proc/self/ns/$kind; done"
        ours = {os.readlink(f"/proc/self/ns/{kind}") for kind in ("ipc", "uts", "mnt", "pid")}
        theirs = re.findall(r"-> (\S+)", layer.run(kinds).stdout)
        assert len(theirs) == 4 and not ours & set(theirs)
        script = "cat /bin/true > /mem/true; chmod 755 /mem/true; /mem/true && echo ran; cat /proc/mounts"
        assert "ran\n" not in layer.run(script, tmpfs=["/mem"]).stdout
        done = layer.run(script, tmpfs=["/mem:exec,size=1m,mode=0700"]).stdout
        assert "ran\n" in done and re.search(r"/mem tmpfs rw,nosuid,nodev,relatime,size=1024k,mode=700", done)
        assert "cannot be entered" in layer.run("id", tmpfs=["/mem:nonsense"]).stdout


def test_what_was_not_made_here_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(root, "check_machine", lambda: None)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").touch()
    with pytest.raises(RootError, match=f"^{mine}: has other files than those made here"):
        Root.make(mine)
    with pytest.raises(RootError, match=f"^{mine}: "), Root(tmp_path / "base").layer(mine):
        pass
    with pytest.raises(RootError, match=f"^{mine / 'thesis.txt'}: "):
        discard(mine / "thesis.txt")
    assert (mine / "thesis.txt").exists()
    claim(tmp_path / "ours")
    (tmp_path / "ours/file").touch()
    discard(tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@needs_namespaces
@pytest.mark.skipif(controller(Path("/proc/self/mountinfo").read_text()) is None, reason="no control groups")
def test_memory_ends_what_takes_more(shell: Root, tmp_path: Path) -> None:
    with shell.layer(tmp_path / "layer") as layer:
        grow = "x=0123456789abcdef; while :; do x=$x$x; done"
        try:
            assert layer.run(grow, memory=32 << 20).returncode == 137
        except RootError as error:
            pytest.skip(str(error))
        assert layer.run("echo small", memory=32 << 20).stdout == "small\n"


@needs_namespaces
def test_the_end_of_a_command_ends_what_it_started(shell: Root, tmp_path: Path) -> None:
    with shell.layer(tmp_path / "layer") as layer:
        assert layer.run(f"sleep {SLEEPS[0]} & echo started").stdout == "started\n"
        started = time.monotonic()
        assert layer.run(f"sleep {SLEEPS[1]} & sleep {SLEEPS[2]}", timeout=0.4).returncode == 124
        assert time.monotonic() - started < 100
        script = "import sys; from pathlib import Path; from root import Root; tree = Path(sys.argv[1])\n"
        script += "Root(tree, (Path(sys.argv[2]),)).run(sys.argv[3], user='_user')"
        command = f"echo begun; sleep {SLEEPS[3]} & sleep {SLEEPS[4]}"
        outer = subprocess.Popen(
            [sys.executable, "-c", script, str(layer.folder), str(shell.tree), command],
            cwd=Path(root.__file__).parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert outer.stdout is not None and outer.stdout.readline() == "begun\n"
        outer.kill()
        outer.communicate()
        until(lambda: not running("sleep", *SLEEPS))


def running(program: str, *arguments: str) -> list[str]:
    """Those of the arguments with which the program runs somewhere on this machine."""
    commands = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            commands.add((folder / "cmdline").read_bytes())
    return [one for one in arguments if f"{program}\0{one}\0".encode() in commands]


def test_what_the_machine_lacks_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RootError, match=r"run this as root|need Linux"):
        Root.make(tmp_path / "root")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(root.shutil, "which", lambda tool: None)
    with pytest.raises(RootError, match=r"unshare is missing: apt-get install util-linux|need Linux"):
        Root.make(tmp_path / "root")


def test_binds_and_sizes_of_the_command_line() -> None:
    assert parse_bind("/a") == ("/a", "/a") and parse_bind("/a:/b:ro") == ("/a", "/b:ro")
    for wrong in ("/a:b", "/a:/b:rw", "/a:/b:ro:x"):
        with pytest.raises(RootError, match="expected HOST"):
            parse_bind(wrong)
    assert [image.size(text) for text in ("5", "64m", "8G", "2kb")] == [5, 64 << 20, 8 << 30, 2048]


def test_where_memory_is_limited() -> None:
    line = "31 23 0:28 / /sys/fs/cgroup{} rw,nosuid shared:9 - {} {} rw{}"
    first = line.format("/memory", "cgroup", "cgroup", ",memory")
    second = line.format("", "cgroup2", "cgroup2", "")
    assert controller(f"{second}\n{first}") == (Path("/sys/fs/cgroup/memory"), 1)
    assert controller(second) == (Path("/sys/fs/cgroup"), 2) and controller("") is None
