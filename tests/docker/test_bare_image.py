"""The steps of a recipe carried out in layers, and what they make run, over a root of nothing but a shell."""

from __future__ import annotations

import fcntl
import io
import os
import signal
import sys
import threading
from pathlib import Path

import build
import image
import pytest
import root
from root import Root, claim

from tests.docker.roots import needs_namespaces
from tests.waiting import until

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
def test_nothing_is_removed_below_what_runs_nor_what_is_not_ours(
    context: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    work = context.parent / "work"
    assert make(context, "--no-run") == 0
    (context / "tool/run").write_text("changed\n")
    codes: list[int] = []
    second = threading.Thread(target=lambda: codes.append(make(context, "--no-run", "--prune")))
    before = set((work / "layers").iterdir())
    claim(work / "container-1")
    with (work / "in-use").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)  # as a container does
        second.start()
        told: list[str] = []

        def waits() -> bool:
            told.append(capfd.readouterr().out)
            return "waiting for" in "".join(told) or not second.is_alive()

        until(waits)
        assert second.is_alive()
        assert before < set((work / "layers").iterdir()) and (work / "container-1").exists()
    second.join()
    assert codes == [0] and not before <= set((work / "layers").iterdir()) and not (work / "container-1").exists()
    (work / "layers/mine").mkdir()
    (work / "layers/mine/file").touch()
    assert make(context, "--no-run", "--prune") == 2
    assert f"{work / 'layers/mine'}: has other files" in capfd.readouterr().err
    assert (work / "layers/mine/file").exists()


class Stopper(io.StringIO):
    """Standard output; when it is told that a container is ready, this process is told to end."""

    def __init__(self, lock: Path) -> None:
        super().__init__()
        self.lock = lock
        self.held = False

    def write(self, text: str) -> int:
        if "is ready" in text:
            try:
                with self.lock.open("w") as handle:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.held = True
            os.kill(os.getpid(), signal.SIGTERM)
        return super().write(text)


@needs_namespaces
def test_who_is_stopped_stops_what_runs_as_the_image_says(context: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (context / "Dockerfile").write_text(
        "FROM debian:bookworm\nSTOPSIGNAL USR1\n"
        "CMD trap 'echo saved; exit 75' USR1; echo is 'ready'; "
        "i=; while [ ${#i} -lt 120 ]; do sleep 1; i=$i.; done\n"
    )
    out = Stopper(context.parent / "work/in-use")
    monkeypatch.setattr(sys, "stdout", out)
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # so that it ends no test run if it is not taken
    try:
        assert make(context) == 75
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "saved\n" in out.getvalue() and out.held


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


def test_digests_tell_modes_and_names_apart(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("x")
    before = build.contents({"a": file})
    file.chmod(0o700)
    assert before != build.contents({"a": file}) != build.contents({"b": file})
