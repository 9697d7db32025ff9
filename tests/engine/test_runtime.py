"""What a process sets up for itself."""

import os
import platform
import subprocess
import sys

import pytest

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
