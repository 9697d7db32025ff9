"""Shared by all tests: one thread (the networks are too small for more), folders of tiny videos and clouds."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in processes started from here
os.environ.pop("ST_SSL_TRACEBACK", None)  # tests compare messages as they are without it

POLICY = os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None  # macOS has none

# Machines are shared, and a slow one is no mistake; and what fails once must fail again.
settings.register_profile("st_ssl", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile("st_ssl")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Whatever ran before in this process, a test draws the same numbers."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """A library that gives this process real-time priority (SVT-AV1 does, as root) gives it to all that later tests
    start: they would starve each other, hang, and fail far from the cause."""
    now = POLICY if POLICY is None else os.sched_getscheduler(0)
    assert now == POLICY, "this test, or a fixture of it, changed the scheduling policy"


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 H.264 videos of 24 frames, 64 × 48: a grating that drifts, different in each file."""
    from tests.runs import write_video

    folder = tmp_path_factory.mktemp("videos")
    for number in range(12):
        write_video(folder / f"{number:02d}.mp4", number)
    return folder


@pytest.fixture(scope="session")
def drives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 planted drives of 4 small sweeps."""
    from st_ssl.data.synthetic.drives import SyntheticDriveConfig, write_dataset

    few = SyntheticDriveConfig(num_train=12, num_val=0, num_test=0, sweeps=4, beams=8, columns=60, max_range=20)
    return write_dataset(tmp_path_factory.mktemp("drives") / "planted", few)


@pytest.fixture(scope="session")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 planted objects of 96 points."""
    from st_ssl.data.synthetic.shapes import SyntheticShapeConfig, write_dataset

    few = SyntheticShapeConfig(num_train=12, num_val=0, num_test=0, num_points=96)
    return write_dataset(tmp_path_factory.mktemp("clouds") / "planted", few)
