"""Shared by the tests of data: a small video of every kind, a few plain ones, and decoders that hang or die."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from st_ssl.core.errors import SampleError
from st_ssl.core.types import Entry
from st_ssl.data.streams.video import pyav
from st_ssl.data.video import dataset


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one file for each of ``KINDS``, 64 frames each, of which frame i shows i."""
    from tests.data.made import KINDS, write_video

    folder = tmp_path_factory.mktemp("made")
    for name, how in KINDS.items():
        write_video(folder / name, **how)
    return folder


@pytest.fixture
def fresh_tables() -> None:
    """No file has been scanned yet."""
    pyav._TABLES.clear()


@pytest.fixture
def entries(videos: Path) -> list[Entry]:
    return [Entry(str(path)) for path in sorted(videos.iterdir())]


@pytest.fixture
def disasters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening the path ``hang`` hangs, and so on; what is called ``bad`` is merely broken."""
    from tests.data.loading.disasters import DISASTERS

    open_video = dataset.open_video

    def opened(path: str, backend: Any) -> Any:
        if path in DISASTERS:
            DISASTERS[path][0]()
        if path == "bad":
            raise SampleError(path, "bad")
        return open_video(path, backend)

    monkeypatch.setattr(dataset, "open_video", opened)
