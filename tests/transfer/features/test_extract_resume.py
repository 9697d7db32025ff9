"""Extraction killed, told to stop, started twice, and by several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.transfer.features import extract as module
from st_ssl.transfer.features.array_shards import Part, PartFolder
from st_ssl.transfer.features.extract import extract
from tests.ddp import run_ranks
from tests.runs import ROOT, call, start
from tests.transfer.features.extraction import CPU, command, config_of, contents
from tests.transfer.tiny import write_clip, write_encoder
from tests.waiting import PATIENCE, let_go, until, write_held

pytestmark = pytest.mark.usefixtures("small_parts")


class Killed(BaseException):
    """The end of a process."""


def killed_at(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    save = PartFolder.save

    def dying(self: PartFolder, number: int, content: Part) -> None:
        if number == part:
            raise Killed
        save(self, number, content)

    monkeypatch.setattr(PartFolder, "save", dying)


def record_parts(patch: pytest.MonkeyPatch) -> list[int]:
    """A list that every part is added to when it is saved."""
    saved: list[int] = []
    save = PartFolder.save

    def recording(self: PartFolder, part: int, content: Part) -> None:
        saved.append(part)
        save(self, part, content)

    patch.setattr(PartFolder, "save", recording)
    return saved


def test_killed_and_resumed_it_is_the_same_and_nothing_is_done_twice(
    dataset: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(run, config_of(dataset, tokens=True), tmp_path / "whole", CPU)
    output = tmp_path / "parts"
    with monkeypatch.context() as patch:
        killed_at(3, patch)
        with pytest.raises(Killed):
            extract(run, config_of(dataset, tokens=True), output, CPU)
    assert sorted(path.name for path in output.iterdir()) == [".parts", "extract.json"]
    (output / ".parts" / ".000003.safetensors").write_bytes(b"half")
    saved = record_parts(monkeypatch)
    with monkeypatch.context() as patch:

        def full(*_: Any) -> None:
            raise Killed

        patch.setattr(module._Clips, "_index", full)
        with pytest.raises(Killed):
            extract(run, config_of(dataset, tokens=True), output, CPU)
    assert saved == [3, 4]
    assert not (output / "index.jsonl").exists()
    extract(run, config_of(dataset, tokens=True), output, CPU)
    assert saved == [3, 4]
    assert contents(output) == contents(tmp_path / "whole")
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    extract(run, config_of(dataset, tokens=True), output, CPU)  # all is done
    assert {path: path.stat().st_mtime_ns for path in output.iterdir()} == before


def on_a_rank(rank: int, world_size: int, run: str, root: str, output: str) -> list[int]:
    """The parts that this rank did."""
    module.PART = 5
    with pytest.MonkeyPatch.context() as patch:
        saved = record_parts(patch)
        extract(Path(run), config_of(Path(root), tokens=True), Path(output), CPU)
    return saved


@pytest.mark.ddp
def test_two_processes_give_what_one_gives(dataset: Path, run: Path, tmp_path: Path) -> None:
    extract(run, config_of(dataset, tokens=True), tmp_path / "one", CPU)
    saved = run_ranks(on_a_rank, 2, tmp_path, str(run), str(dataset), str(tmp_path / "two"))
    assert saved == [[0, 2, 4], [1, 3]]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.slow
@pytest.mark.ddp
def test_torchrun_starts_it(dataset: Path, run: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(dataset), "data.num_workers=0", "device=cpu"]
    tool = [str(ROOT / "tools" / "extract.py"), str(run), "--output", str(tmp_path / "two")]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *tool, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert call("extract", run, "--output", tmp_path / "one", *arguments)[0] == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_nothing_is_left_of_an_extraction_whose_settings_are_gone(
    dataset: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_encoder(tmp_path / "other", seed=1)
    with monkeypatch.context() as patch:
        killed_at(3, patch)
        with pytest.raises(Killed):
            extract(run, config_of(dataset), tmp_path / "out", CPU)
    (tmp_path / "out" / "extract.json").unlink()  # rm out/*
    extract(other, config_of(dataset), tmp_path / "out", CPU)
    extract(other, config_of(dataset), tmp_path / "whole", CPU)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_told_to_stop_it_goes_on_where_it_was(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    root, where = tmp_path / "set", tmp_path / "out"
    root.mkdir()
    write_clip(root / "0.mp4", 100, 60)
    for i in range(1, 1600):
        (root / f"{i}.mp4").symlink_to("0.mp4")
    arguments = (run, "--data", root, "data.num_workers=0", "device=cpu", "--output", where)
    held = write_held(tmp_path / "held.py", "extract", "st_ssl.transfer.features.array_shards:PartFolder.save", 3)
    process = start(held, *arguments)
    until(lambda: list((where / ".parts").glob("0*")), process)
    process.send_signal(signal.SIGTERM)
    let_go(held)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75, err
    assert "the same command goes on from there" in err
    assert not (where / "index.jsonl").exists()
    assert 0 < len(list((where / ".parts").glob("0*"))) < 25
    monkeypatch.setattr(module, "PART", 64)  # as the other process had it
    assert command(*arguments) == 0
    features = np.load(where / "features.npy")
    assert features.shape == (1600, 24)
    np.testing.assert_allclose(features, np.broadcast_to(features[0], features.shape), rtol=1e-5, atol=1e-6)
