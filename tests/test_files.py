"""Files that are complete or not there, by one or several writers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from st_ssl.errors import DataError
from st_ssl.files import claim_folder, remove_unfinished, replace_text, write_atomically
from tests.runs import ROOT


def test_nobody_sees_a_file_before_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    replace_text(file, "old\n")
    with write_atomically(file) as unfinished:
        unfinished.write_text("new")
        assert file.read_text() == "old\n"
        assert unfinished.name.startswith(".")
    assert file.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    replace_text(file, "old")

    def interrupted() -> None:
        with write_atomically(file) as unfinished:
            unfinished.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (steps.append("sync"), fsync(handle))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("rename"), rename(*names))[1])
    replace_text(tmp_path / "a.txt", "text")
    assert steps == ["sync", "rename"]


def rewrite(file: Path, letter: str) -> None:
    for _ in range(50):
        replace_text(file, letter * 100_000)


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=rewrite, args=(file, letter)) for letter in "ab"]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if file.exists():
            assert file.read_text() in ("a" * 100_000, "b" * 100_000)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert os.listdir(tmp_path) == ["a.txt"]


KILLED = """
import sys, time
from pathlib import Path
from st_ssl.files import write_atomically
with write_atomically(Path(sys.argv[1])) as unfinished:
    unfinished.write_text("half")
    time.sleep(60)
"""


def test_what_a_killed_writer_left_can_be_removed(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    (tmp_path / ".b.txt.1.partial").touch()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(file)], env=environment)
    while not list(tmp_path.glob(".a*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not file.exists()
    assert list(tmp_path.glob(".a*"))
    remove_unfinished(file)
    assert os.listdir(tmp_path) == [".b.txt.1.partial"]


def test_a_folder_belongs_to_what_claimed_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    claim_folder(folder, "stamp.json", {"size": {"x": 1}}, "pack")
    claim_folder(folder, "stamp.json", {"size": {"x": 1}}, "pack")
    with pytest.raises(DataError, match=r"holds another pack \(size.x: 1 before, 2 now\): .* this one, so there"):
        claim_folder(folder, "stamp.json", {"size": {"x": 2}}, "pack", ", so there")
    with pytest.raises(DataError, match=r"not empty and has no other.json \(found stamp.json\)"):
        claim_folder(folder, "other.json", {}, "pack")
    for damaged in ("{", "[]"):
        (folder / "stamp.json").write_text(damaged)
        with pytest.raises(DataError, match="not valid JSON"):
            claim_folder(folder, "stamp.json", {}, "pack")
    with pytest.raises(DataError, match="is a file: a pack needs"):
        claim_folder(folder / "stamp.json", "stamp.json", {}, "pack")
