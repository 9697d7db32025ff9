"""A part of the mutations (``python -m tests.fuzz.mutations`` makes all), and that what is wrong is noticed."""

from __future__ import annotations

import mmap
import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from st_ssl.core.errors import SampleError
from tests.fuzz import mutations
from tests.fuzz.mutations import Case, Finding
from tests.fuzz.seeds import Seed

pytest.importorskip("h5py")
pytest.importorskip("laspy")


@pytest.mark.slow
def test_mutations_of_every_format() -> None:
    assert [str(found) for found in mutations.run(2000, seed=7)] == []


def _program(at: Path) -> None:
    subprocess.run([sys.executable, "-c", ""], check=False)


def _memory(at: Path) -> None:
    # Not from the heap: a process may keep what tests before this one have freed, and take it from there.
    np.frombuffer(mmap.mmap(-1, 700 << 20), dtype=np.uint8)[::4096] = 1


def _hang(at: Path) -> None:
    while True:
        sum(range(1000))


def _wait(at: Path) -> None:
    multiprocessing.Event().wait()


def _refuse(at: Path) -> None:
    raise SampleError(str(at), "broken")


def _crash(at: Path) -> None:
    raise KeyError("x")


FAULTS = {
    "program": (_program, "starts a program: subprocess.Popen"),
    "memory": (_memory, "memory: 7"),
    "hang": (_hang, "works too long"),
    "wait": (_wait, "waits too long"),
    "crash": (_crash, "KeyError: 'x'"),
    "refuse": (_refuse, ""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Every second file is read in a way that no reader may have; those behind it are read all the same."""
    read, said = FAULTS[fault]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a").write_bytes(b"valid")
    seen = []

    def act(at: Path) -> None:
        content = (at / "a").read_bytes()
        if content != b"valid":
            seen.append(content)
            if len(seen) % 2 == 0:
                read(at)

    monkeypatch.setattr(mutations, "make", lambda folder: {"a": Seed("a", act)})
    monkeypatch.setattr(mutations, "WALL_SECONDS", 1 if fault == "wait" else 60)
    monkeypatch.setattr(mutations, "CPU_SECONDS", 1 if fault == "hang" else 10)
    found = mutations.run(6, folder=tmp_path)
    assert (len(found) > 0) == bool(said)
    assert all(isinstance(one, Finding) and one.name == "a" and said in one.what for one in found), found


def test_a_mutation_is_a_function_of_seed_and_number(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "a").write_bytes(bytes(range(256)))
    seeds = {"a": Seed("a", _refuse)}
    first, again, other = (Case(seeds, tmp_path, seed) for seed in (0, 0, 1))
    contents = [first.content(number) for number in range(50)]
    assert contents == [again.content(number) for number in range(50)]
    assert contents != [other.content(number) for number in range(50)]
    assert len(set(contents)) > 40
