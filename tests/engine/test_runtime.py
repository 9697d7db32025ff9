"""What a process sets up for itself."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from st_ssl.core.errors import ConfigError
from st_ssl.engine.runtime import start_runtime

FAULTS = """
import resource, sys, torch
from st_ssl.engine.runtime import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(4_000_000)  # 16 MB, 3,900 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
kept = keep_freed_memory()
faults()
print(first, kept, faults())
"""


def freed(**variables: str) -> tuple[int, bool, int]:
    """Page faults of allocations before, whether memory is kept, and page faults after."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", FAULTS]
    out = subprocess.run(command, env=environment | variables, check=True, capture_output=True, text=True).stdout
    first, kept, second = out.split()
    return int(first), kept == "True", int(second)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told what to keep")
def test_freed_memory_is_kept_for_the_next_tensors() -> None:
    before, kept, after = freed()
    assert kept and after < before / 10


def test_whoever_tells_malloc_what_to_do_is_obeyed() -> None:
    assert not freed(MALLOC_ARENA_MAX="4")[1]


@pytest.mark.parametrize("key", ["engine.device=", "device=", "--device "])
def test_a_device_that_is_not_there_is_told_by_the_key_that_names_one(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"^{key}cuda: torch sees no CUDA device here; {key}cpu works everywhere$"):
        start_runtime("cuda", key).__enter__()
