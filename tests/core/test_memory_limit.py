"""The memory that a run may use, and the warning before the kernel kills it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from st_ssl.core.limits import memory_limit, warn_of_little_memory


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, 4 << 30),
        ({"memory/memory.limit_in_bytes": "2147483648\n"}, 2 << 30),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 4 << 30),  # version 1's word for no limit
        ({"memory.max": "536870912\n"}, 512 << 20),
        ({"memory.max": "max\n"}, 4 << 30),
    ],
)
def test_the_limit_is_that_of_the_container_or_the_machine(tmp_path: Path, files: dict[str, str], limit: int) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:        4194304 kB\nMemFree: 1 kB\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert memory_limit(tmp_path, tmp_path / "meminfo") == limit


def test_a_system_that_says_nothing_is_asked_no_more(tmp_path: Path) -> None:
    assert memory_limit(tmp_path, tmp_path / "meminfo") is None


def test_little_memory_is_told_before_the_run_is_killed() -> None:
    with pytest.warns(UserWarning, match=r"0\.50 GiB of memory is little: .*137.*data\.num_workers=0"):
        warn_of_little_memory(512 << 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_little_memory(2 << 30)
