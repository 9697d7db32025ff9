"""Shared by all tests: one thread (the networks are too small for more), folders of tiny videos and clouds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, here and in processes started from here
os.environ.pop("ST_SSL_TRACEBACK", None)  # tests compare messages as they are without it

settings.register_profile("st_ssl", deadline=None)  # else as it is: machines are shared, and a slow one is no mistake
settings.load_profile("st_ssl")


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 H.264 videos of 24 frames, 64 × 48: a grating that drifts, different in each file."""
    from tests.runs import write_video

    folder = tmp_path_factory.mktemp("videos")
    for number in range(12):
        write_video(folder / f"{number:02d}.mp4", number)
    return folder


@pytest.fixture(scope="session")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 planted objects of 96 points."""
    from st_ssl.data.synthetic.shapes import SyntheticShapeConfig, write_dataset

    few = SyntheticShapeConfig(num_train=12, num_val=0, num_test=0, num_points=96)
    return write_dataset(tmp_path_factory.mktemp("clouds") / "planted", few)
