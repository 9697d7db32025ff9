"""Limits of containers and of jobs, as the files of control groups tell them."""

from __future__ import annotations

from pathlib import Path

import pytest

from st_ssl.core import limits
from st_ssl.data.points.dataset import PointDataConfig
from st_ssl.data.video.dataset import VideoDataConfig


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V1 = {
    "proc/self/cgroup": "4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648\n",  # the outer part of the path is not in the container
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
}
V2 = {
    "proc/self/cgroup": "0::/user/run\n",
    "sys/fs/cgroup/user/run/memory.max": "max\n",
    "sys/fs/cgroup/user/memory.max": "2147483648\n",
    "sys/fs/cgroup/user/run/cpu.max": "50000 100000\n",
    "sys/fs/cgroup/user/cpu.max": "max 100000\n",
}
NONE = {"proc/self/cgroup": "4:memory:/\n0::/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}


@pytest.mark.parametrize(("files", "limited"), [(V1, True), (V2, True), (NONE, False), ({}, False)])
def test_limits_of_containers_count(files: dict[str, str], limited: bool, tmp_path: Path) -> None:
    places = (tree(tmp_path, files) / "sys/fs/cgroup", tmp_path / "proc/self/cgroup")
    assert set(limits.memory_limits(*places)) == ({2 << 30} if limited else set())
    assert (limits.usable_cores(*places) == 0.5) == limited
    assert limits.usable_cores(*places) > 0


@pytest.mark.parametrize(("cores", "workers"), [(0.5, 1), (1.9, 1), (6.0, 6), (64.0, 8)])
def test_workers_keep_to_the_cores_that_may_be_used(
    cores: float, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "usable_cores", lambda: cores)
    assert VideoDataConfig().num_workers == PointDataConfig().num_workers == limits.default_workers() == workers
