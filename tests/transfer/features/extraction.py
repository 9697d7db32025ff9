"""What the tests of extraction share."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from st_ssl.transfer.features.extract import ExtractConfig, with_data

CPU = torch.device("cpu")
LOST = {"04.mp4": "not a video: it is text", "13.mp4": "file is missing"}


def config_of(root: Path, **changes: Any) -> ExtractConfig:
    data = {"name": "video", "root": str(root), "num_workers": 0} | changes.pop("data", {})
    return with_data(ExtractConfig)(data=data, batch_size=3, device="cpu", **changes)


def rows_of(folder: Path, name: str = "index.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def command(*arguments: object) -> int:
    """``extract`` with these arguments, in this process; its exit code."""
    from st_ssl.cli import guarded
    from st_ssl.cli.extract import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["extract", *map(str, arguments)])
        try:
            return guarded(main)
        except SystemExit as stop:  # argparse
            return int(stop.code or 0)
