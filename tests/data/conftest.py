"""Shared by the tests of readers: a small video of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one file for each of ``KINDS``, 64 frames each, of which frame i shows i."""
    from tests.data.test_readers import KINDS, write_video

    folder = tmp_path_factory.mktemp("made")
    for name, how in KINDS.items():
        write_video(folder / name, **how)
    return folder
