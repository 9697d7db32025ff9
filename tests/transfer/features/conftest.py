"""A data set and an encoder for the tests of extraction."""

from __future__ import annotations

from pathlib import Path

import pytest

from st_ssl.transfer.features import extract as module
from tests.transfer.tiny import write_dataset, write_encoder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 videos, two of which are broken."""
    pytest.importorskip("av")
    root = write_dataset(tmp_path_factory.mktemp("tiny") / "set")
    (root / "04.mp4").write_text("not a video")
    (root / "13.mp4").unlink()
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 5)
