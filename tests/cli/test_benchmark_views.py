from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from st_ssl.cli.benchmark.views import Recogniser, alone, one_by_one, planned, together
from st_ssl.core.inputs import InputConfig
from st_ssl.data.video.views import multi_views
from tests.cli.test_benchmark import SMALL, run
from tests.runs import write_videos


def test_views(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = str(write_videos(tmp_path / "videos", 2))
    out = run(capsys, monkeypatch, "views", "--root", root, "--stride", "2", *SMALL, "--batch", "4")
    assert "ViT small, 5 × 3 views of 4 × 32², stride 2, 2 videos, batch 4, 1 threads, cpu" in out
    for name in ("together", "one by one", "network alone"):
        assert re.search(rf"\n{name} +[\d.]+ ms a video, +[\d.]+ views/s\n", out)
    assert re.search(r"\none by one takes [\d.]+ times as long as together\n", out)
    found = re.search(r"largest difference of a score: (\S+)\n", out)
    assert found and float(found[1]) < 1e-5


@pytest.mark.parametrize("batch", [4, 15, 64])
def test_both_ways_say_the_same(tmp_path: Path, batch: int) -> None:
    path = str(write_videos(tmp_path / "videos", 1) / "00.mp4")
    input = InputConfig(num_frames=4, stride=2, size=32)
    declared = multi_views(input, 5, 3)
    torch.manual_seed(0)
    model = Recogniser("small", input).eval()
    with torch.inference_mode():
        ours = together(path, declared, model, batch)
        theirs = one_by_one(path, planned(path, declared), declared, model)
        assert alone(model, torch.zeros(batch, 3, 4, 32, 32), 15).shape == ours.shape == (15, 400)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert ours.std(0).max() > 1e-3  # the views differ
