"""Every encoder of clips comes out as a program, which tells nothing of the machine that it was made on."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import st_ssl
from st_ssl.core.errors import UserError
from st_ssl.weights.exporting.base import Network
from st_ssl.weights.exporting.torch_export import TorchExport
from tests.encoders.small import NAMES, modality
from tests.weights.exported import encoder_of, export
from tests.weights.test_exporting import fresh

CLIPS = [name for name in NAMES if modality(str(name.values[0])) == "video"]
MACHINE = [str(Path(package.__file__ or "").parents[1]).encode() for package in (st_ssl, torch)]
"""Where the code lies."""


def bytes_of(place: Path) -> bytes:
    """All that is in a file, unpacked."""
    if not zipfile.is_zipfile(place):
        return place.read_bytes()
    with zipfile.ZipFile(place) as archive:
        return b"".join(archive.read(name) for name in archive.namelist())


@pytest.mark.parametrize("name", CLIPS)
def test_every_encoder_of_clips(name: str, tmp_path: Path) -> None:
    encoder = encoder_of(name)
    place, _ = export("torch-export", encoder, tmp_path)
    program = torch.export.load(place).module()
    clip = fresh(encoder)
    with torch.no_grad():
        torch.testing.assert_close(program(clip)["pooled"], encoder(clip).pooled, rtol=1e-4, atol=1e-5)
    assert not any(folder in bytes_of(place) for folder in MACHINE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [place.name, f"{place.name}.json"]


def test_outputs_of_another_size_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: TorchExport, network: Network, place: Path, clips: list[Tensor]) -> list[dict[str, Tensor]]:
        return [{name: value[:1] for name, value in network(torch.cat([clip, clip])).items()} for clip in clips]

    monkeypatch.setattr(TorchExport, "run", wrong)
    with pytest.raises(UserError, match=r"out\.pt2: not kept: .*pooled .*\[1, .*\], and .*\[3, "):
        export("torch-export", encoder_of("c3d"), tmp_path)
    assert not any(tmp_path.iterdir())


def test_what_an_exporter_cannot_do_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any) -> None:
        raise RuntimeError("no such operation\nand much more")

    monkeypatch.setattr(TorchExport, "write", fails)
    with pytest.raises(
        UserError, match=r"out\.pt2: not kept: c3d could .*--to torch-export: RuntimeError: no such operation$"
    ):
        export("torch-export", encoder_of("c3d"), tmp_path)
    assert not any(tmp_path.iterdir())
