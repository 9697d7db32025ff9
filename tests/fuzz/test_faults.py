"""Whatever a reader raises is a broken sample by name, also where it is read by another way than a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.core.errors import SampleError
from st_ssl.core.inputs import InputConfig
from st_ssl.core.types import Entry
from st_ssl.data.packs import points_write
from st_ssl.data.packs.points_read import CloudPack
from st_ssl.data.packs.points_write import CloudPackConfig, CloudPacker
from st_ssl.data.packs.read_pack import verify_pack
from st_ssl.data.packs.write_pack import write_pack
from st_ssl.data.video.dataset import VideoDataConfig, VideoSource
from st_ssl.engine.quarantine import Quarantine
from st_ssl.transfer.features.window_loader import Windows
from st_ssl.weights import loading


def broken(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("a part of nothing")


@pytest.fixture
def cloud(tmp_path: Path) -> Path:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(24, 3)).astype("f4"))
    return tmp_path / "a.npy"


def test_packing(cloud: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points_write, "read_counted", broken)
    failed = write_pack([Entry(str(cloud))], tmp_path / "pack", CloudPacker(CloudPackConfig()), progress=False)
    assert failed == [(str(cloud), "cannot be used: ZeroDivisionError: a part of nothing")]


def test_verifying(cloud: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pack([Entry(str(cloud))], tmp_path / "pack", CloudPacker(CloudPackConfig()), progress=False)
    monkeypatch.setattr(CloudPack, "open", broken)
    found = verify_pack(str(tmp_path / "pack"), CloudPack, progress=False)
    assert [reason for _, reason in found] == ["cannot be used: ZeroDivisionError: a part of nothing"]


def test_windows_and_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = VideoSource(VideoDataConfig(root=str(tmp_path), num_workers=0))
    monkeypatch.setattr(source.library, "open", broken)
    windows = Windows(source, [Entry("a.mp4")], InputConfig(num_frames=4, size=16), 2, 4)
    piece = windows[(0,)]
    assert piece is not None and piece.content == "cannot be used: ZeroDivisionError: a part of nothing"
    monkeypatch.setattr("st_ssl.data.streams.video.open_video", broken)

    class Encoder:
        modality, input = "video", InputConfig(num_frames=4, size=16)

    with pytest.raises(SampleError, match=r"a.mp4: cannot be used: ZeroDivisionError: a part of nothing"):
        loading.clip(Encoder(), "a.mp4")  # type: ignore[arg-type]


def test_rows_of_a_run_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "bad_samples.jsonl"
    lines = ['{"path": "a", "reason": "b"}', "[1]", "3", '{"path": "c"}', "[" * 100_000, f'{{"path": {"9" * 5000}}}']
    file.write_text("\n".join(lines) + "\n")
    assert Quarantine(file, 10, 0.5).known == {"a": "b"}
