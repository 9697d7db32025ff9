"""Roots, layers and the steps of a recipe carried out in them, over a root of nothing but a shell."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import build
import image
import layers
import pytest
import root
from limits import controller
from root import Root, RootError, parse_bind

TOOLS = ("sh", "cat", "id", "ls", "mkdir", "rm", "sleep", "touch")


def can_enter() -> bool:
    """Whether this machine lets us mount in a namespace of our own."""
    if not sys.platform.startswith("linux") or os.geteuid() or not shutil.which("setpriv"):
        return False
    return subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True).returncode == 0


needs_namespaces = pytest.mark.skipif(not can_enter(), reason="needs root and Linux's namespaces")


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """A root with a shell, a few tools, their libraries and three users."""
    made = Root(tmp_path_factory.mktemp("bare") / "shell")
    for tool in TOOLS:
        program = shutil.which(tool)
        assert program
        linked = subprocess.run(["ldd", program], capture_output=True, text=True).stdout.split()
        for file in [program, *(word for word in linked if word.startswith("/"))]:
            place = made.tree / (f"bin/{tool}" if file == program else file.lstrip("/"))
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(os.path.realpath(file), place)
    (made.tree / "etc").mkdir()
    (made.tree / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n_user:x:7:8::/home:/bin/sh\n")
    (made.tree / "etc/group").write_text("root:x:0:\nus:x:8:\nvideo:x:9:_user\n")
    (made.tree / "link").symlink_to("etc")
    (made.tree / "tmp").mkdir()
    (made.tree / "tmp").chmod(0o1777)
    return made


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
        assert layers.resolve(two, "/link/../link/x") == "/etc/x"


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
        assert layer.run("sleep 77 & echo started").stdout == "started\n"
        started = time.monotonic()
        assert layer.run("sleep 78 & sleep 79", timeout=0.4).returncode == 124
        assert time.monotonic() - started < 60
        script = "import sys; from pathlib import Path; from root import Root; tree = Path(sys.argv[1])\n"
        script += "Root(tree, (Path(sys.argv[2]),)).run('echo begun; sleep 80 & sleep 81', user='_user')"
        outer = subprocess.Popen(
            [sys.executable, "-c", script, str(layer.folder), str(shell.tree)],
            cwd=Path(root.__file__).parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert outer.stdout is not None and outer.stdout.readline() == "begun\n"
        outer.kill()
        outer.communicate()
        while left := running("sleep", "77", "78", "79", "80", "81"):
            assert time.monotonic() - started < 60, left
            time.sleep(0.02)


def running(program: str, *arguments: str) -> list[str]:
    """Those of the arguments with which the program runs somewhere on this machine."""
    commands = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            commands.add((folder / "cmdline").read_bytes())
    return [one for one in arguments if f"{program}\0{one}\0".encode() in commands]


RECIPE = """
FROM debian:bookworm-slim AS base
ENV WHO=world
RUN echo built > /made
FROM base AS tools
COPY --chown=7:8 tool lib/
RUN mkdir -p /out/deep && echo $WHO > /out/deep/who && touch /out/gone && rm /out/gone
FROM base AS last
WORKDIR /link/work
COPY --from=tools /out /out
COPY --from=tools --chmod=0755 /lib/run .
USER _user
ENTRYPOINT ["sh", "-c", "id -u; pwd; cat /out/deep/who; echo $@", "--"]
CMD ["default"]
"""


@pytest.fixture
def context(tmp_path: Path, shell: Root, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe; the image it begins with is the shell's root."""
    (shell.folder / "recipe.json").write_text("shell")
    monkeypatch.setattr(root.Root, "make", lambda *arguments, **options: shell)
    folder = tmp_path / "context"
    (folder / "tool").mkdir(parents=True)
    (folder / "Dockerfile").write_text(RECIPE)
    (folder / "tool/run").write_text("#!/bin/sh\n")
    (folder / "tool/.secret").touch()
    (folder / ".dockerignore").write_text("**/.secret\n")
    return folder


def make(context: Path, *more: str) -> int:
    work = context.parent / "work"
    options = ["--file", str(context / "Dockerfile"), "--context", str(context), "--work", str(work)]
    return image.main([*options, *more])


@needs_namespaces
def test_a_recipe_is_built_and_run_by_its_own_steps(context: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert make(context) == 0
    out = capfd.readouterr().out
    assert "step 1/6 Dockerfile:4 RUN echo built > /made" in out and "stage last: " in out
    assert out.split("run sh -c")[1].splitlines()[1:5] == ["7", "/etc/work", "world", "default"]
    trees = list((context.parent / "work/layers").glob("*/tree"))
    files = {file.relative_to(tree).as_posix(): file.stat() for tree in trees for file in tree.rglob("*")}
    assert "lib/.secret" not in files and "out/gone" not in files
    assert (files["lib/run"].st_uid, files["lib/run"].st_gid) == (7, 8)
    assert (files["etc/work/run"].st_uid, files["etc/work/run"].st_mode & 0o777) == (0, 0o755)
    assert files["out/deep/who"].st_nlink == 2  # one file on the disk for both layers
    assert make(context, "--", "given", "words") == 0
    out = capfd.readouterr().out
    assert out.count("made before") == 6 and "given words\n" in out


@needs_namespaces
def test_a_changed_file_makes_only_what_came_of_it_anew(context: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert make(context, "--no-run") == 0
    (context / "tool/run").write_text("changed\n")
    capfd.readouterr()
    assert make(context, "--no-run", "--prune") == 0
    out = capfd.readouterr().out
    assert out.count("made before") == 2 and "removed 4 layers" in out


@needs_namespaces
def test_two_builds_take_turns(context: Path) -> None:
    codes: list[int] = []
    second = threading.Thread(target=lambda: codes.append(make(context, "--no-run")))
    (context.parent / "work").mkdir()
    with (context.parent / "work/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second.start()
        second.join(0.5)
        assert second.is_alive() and not (context.parent / "work/layers").exists()
    second.join()
    assert codes == [0]


@needs_namespaces
def test_a_step_that_fails_is_told_with_its_line(context: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recipe = context / "Dockerfile"
    recipe.write_text("FROM debian:bookworm\nRUN echo why >&2 && exit 7\n")
    assert make(context) == 2
    assert "Dockerfile:2: RUN: ended with 7" in (told := capfd.readouterr().err) and told.endswith("why\n")
    recipe.write_text("FROM debian:bookworm\nCOPY tool/.secret /\n")
    assert make(context) == 2
    assert "Dockerfile:2: COPY: tool/.secret: not in" in capfd.readouterr().err
    recipe.write_text("FROM ubuntu:24.04\nRUN x\n")
    assert make(context) == 2
    assert "Dockerfile:1: FROM: ubuntu:24.04: only debian:SUITE" in capfd.readouterr().err


def test_the_plan_needs_neither_root_nor_linux(context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(context, "--plan", "--target", "tools") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("step 3/3 line 7 RUN mkdir -p /out/deep")


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


def test_digests_tell_modes_and_names_apart(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("x")
    before = build.contents({"a": file})
    file.chmod(0o700)
    assert before != build.contents({"a": file}) != build.contents({"b": file})
