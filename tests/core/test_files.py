"""Files that are complete or not there, by one or several writers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from st_ssl.core.errors import DataError, OutputError
from st_ssl.core.files import check_file, check_writable, claim_folder, missing_folder, replace_text, write_atomically
from st_ssl.core.inputs import InputConfig
from st_ssl.data.packs.video_index import survey
from st_ssl.encoders.base import random_encoder, save_encoder
from st_ssl.encoders.r3d import R3DConfig
from st_ssl.engine.console import MetricsFile
from st_ssl.transfer.features.array_shards import Stream, write_bytes, write_npy, write_safetensors
from tests.runs import ROOT
from tests.waiting import until


def test_nobody_sees_a_file_before_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    replace_text(file, "old\n")
    with write_atomically(file) as unfinished:
        unfinished.write_text("new")
        assert file.read_text() == "old\n"
        assert unfinished.name.startswith(".")
    assert file.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_where_no_file_can_be_written_is_told_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_file(tmp_path / "file")
    check_file(tmp_path / "new" / "file")
    assert os.listdir(tmp_path) == ["file"]
    with pytest.raises(OutputError, match=rf"^--output {tmp_path} is a folder, and a file is to be written: choose"):
        check_file(tmp_path, "--output ")
    with pytest.raises(OutputError, match=r"file: cannot be written to: "):
        check_file(tmp_path / "file" / "in")
    (tmp_path / "runs").symlink_to("/mnt/nowhere")
    with pytest.raises(OutputError, match=r"cannot be written to: .*; .*/runs is a link to /mnt/nowhere, which is not"):
        check_writable(tmp_path / "runs" / "mine")
    assert (tmp_path / "runs").is_symlink()


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

    def seen(name: str, call: Callable[..., None]) -> Callable[..., None]:
        def noted(*arguments: object) -> None:
            steps.append(name)
            call(*arguments)

        return noted

    monkeypatch.setattr(os, "fsync", seen("sync", fsync))
    monkeypatch.setattr(os, "replace", seen("rename", rename))
    replace_text(tmp_path / "a.txt", "text")
    assert steps == ["sync", "rename"]


REWRITE = """
import sys
from pathlib import Path
from st_ssl.core.files import replace_text
from tests.waiting import meet
folder, number = Path(sys.argv[1]), int(sys.argv[2])
for time in range(50):
    meet(folder, number, time)
    replace_text(folder / "in" / "a.txt", str(number) * 100_000)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that begins anew: a forked one of this process may hang on what its threads held."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "in" / "a.txt"
    file.parent.mkdir()
    writers = [start(REWRITE, tmp_path, number) for number in (1, 2)]
    while any(writer.poll() is None for writer in writers):
        if file.exists():
            assert file.read_text() in ("1" * 100_000, "2" * 100_000)
    assert [writer.communicate() and writer.returncode for writer in writers] == [0, 0]
    assert os.listdir(file.parent) == ["a.txt"]


KILLED = """
import sys, time
from pathlib import Path
from st_ssl.core.files import write_atomically
with write_atomically(Path(sys.argv[1])) as unfinished:
    unfinished.write_text("half")
    time.sleep(1_000)
"""


def test_what_a_killed_writer_left_can_be_removed(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    (tmp_path / ".b.txt.1.partial").touch()
    process = start(KILLED, file)
    until(lambda: list(tmp_path.glob(".a*")), process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not file.exists()
    assert list(tmp_path.glob(".a*"))
    replace_text(file, "whole")
    assert len(os.listdir(tmp_path)) == 3
    replace_text(file, "whole", alone=True)
    assert sorted(os.listdir(tmp_path)) == [".b.txt.1.partial", "a.txt"]


def test_whoever_writes_alone_leaves_nothing_of_killed_writers(tmp_path: Path) -> None:
    names = ["features.npy", "features.safetensors", "paths.txt", "encoder.safetensors", "encoder.json", "list.jsonl"]
    for name in [*names, "metrics.jsonl"]:
        (tmp_path / f".{name}.0123.partial").touch()
    write_npy(tmp_path / names[0], Stream(np.dtype("float32"), (1, 2), [np.zeros((1, 2), np.float32)]))
    write_safetensors(tmp_path / names[1], {"a": Stream(np.dtype("float32"), (1, 2), [np.zeros((1, 2), np.float32)])})
    write_bytes(tmp_path / names[2], [b"a"])
    save_encoder(random_encoder(R3DConfig(depth=10, width=4), InputConfig(num_frames=4, size=32), 0), tmp_path)
    survey([], tmp_path / names[5], progress=False)
    MetricsFile(tmp_path / "metrics.jsonl", 0).close()
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "metrics.jsonl"])


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
    assert os.listdir(folder) == ["stamp.json"]


def test_a_folder_that_cannot_be_made() -> None:
    with pytest.raises(DataError, match=r"/proc/pack cannot be written to \("):
        claim_folder(Path("/proc/pack"), "stamp.json", {}, "pack")


def test_a_folder_that_is_not_there_is_answered_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    (tmp_path / "runs" / "quickstar.yaml").touch()
    runs = tmp_path / "runs"
    assert missing_folder(runs) == ""
    assert (
        missing_folder(runs / "quickstrat" / "video") == f"there is no quickstrat in {runs}; did you mean 'quickstart'?"
    )
    assert missing_folder(runs / "mine") == f"there is no mine in {runs} (there are: quickstart)"
    assert missing_folder(runs / "quickstart" / "video") == f"there is no video in {runs / 'quickstart'}"
    for number in range(6):
        (runs / f"r{number}").mkdir()
    assert missing_folder(runs / "mine") == f"there is no mine in {runs} (there are: quickstart, r0, r1, r2, r3, …)"
