"""Three files add a method: nothing that is there already has to be changed for it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.runs import ROOT, metrics, tiny, write_config
from tests.waiting import PATIENCE

METHOD = '''\
"""Clip order: which of two clips of a video was cut earlier?"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from st_ssl.augment.video import VideoAugment, VideoAugmentConfig
from st_ssl.core.config import Config
from st_ssl.core.types import View
from st_ssl.data.clip_plans import ClipPair
from st_ssl.data.views import Views, each
from st_ssl.encoders.base import Encoder
from st_ssl.methods.base import METHODS, Losses, Method, Paper


class ClipOrderConfig(Config):
    """Two clips of a video, at any distance; a linear layer tells which comes first."""

    name: Literal["clip_order"] = "clip_order"
    augment: VideoAugmentConfig = VideoAugmentConfig()


@METHODS.register(ClipOrderConfig)
class ClipOrder(Method[ClipOrderConfig]):
    """A binary question about the pooled features of both clips."""

    paper = Paper("Clip order", "Nobody et al.", "2026", "tell which of two clips comes first")

    def __init__(self, config: ClipOrderConfig, encoder: Encoder) -> None:
        super().__init__(config, encoder)
        clip = encoder.input
        pair = ClipPair(clip.num_frames, clip.stride, "uniform")
        self.views = Views(each(pair, VideoAugment(config.augment, clip.size, clip.mean, clip.std)))
        self.head = nn.Linear(2 * encoder.embed_dim, 1)

    def forward(self, views: list[View]) -> Losses:
        first, second = views
        both = torch.cat([self.encoder(view.clip).pooled for view in views], dim=1)
        earlier = first.at[:, 0] < second.at[:, 0]
        return Losses(binary_cross_entropy_with_logits(self.head(both).squeeze(1), earlier.to(both.dtype)))
'''

TEST = """\
from __future__ import annotations

import math

import torch

from st_ssl.core.types import View
from st_ssl.encoders.base import ENCODERS, InputConfig
from st_ssl.methods.base import METHODS

SMALL = {"encoder": {"name": "r3d", "depth": 10, "width": 4}, "method": {}}


def test_an_untrained_head_has_the_loss_of_a_coin() -> None:
    encoder = ENCODERS.build(ENCODERS.config("r3d")(depth=10, width=4), InputConfig(num_frames=4, size=32))
    method = METHODS.build(METHODS.config("clip_order")(), encoder)
    torch.nn.init.zeros_(method.head.weight)
    torch.nn.init.zeros_(method.head.bias)
    views = [View(torch.randn(2, 3, 4, 32, 32), torch.arange(4).expand(2, -1) + start) for start in (0, 8)]
    assert abs(float(method(views)["loss"]) - math.log(2)) < 1e-6
"""


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_a_method_of_three_files_trains_by_name(videos: Path, tmp_path: Path) -> None:
    home, run = tmp_path / "home", tmp_path / "run"
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    for name in ("st_ssl", "tools", "configs", "tests"):
        shutil.copytree(ROOT / name, home / name, ignore=ignore)
    before = digests(home)

    data = tiny(videos, run, engine={"epochs": 1}) | {"method": {"name": "clip_order"}}
    (home / "st_ssl/methods/contrast/clip_order.py").write_text(METHOD)
    write_config(home / "configs/pretrain/contrast/clip_order.yaml", data)
    (home / "tests/methods/contrast/test_clip_order.py").write_text(TEST)

    for command in (
        ["tools/pretrain.py", "configs/pretrain/contrast/clip_order.yaml"],
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/methods", "-k", "clip_order"],
    ):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=home,
            env=os.environ | {"PYTHONPATH": str(home), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert [row["step"] for row in metrics(run)] == [1, 2, 3]
    assert (run / "encoder.safetensors").is_file()

    after = {path: digest for path, digest in digests(home).items() if not path.startswith(".pytest_cache")}
    assert {path: after.get(path) for path in before} == before
    assert sorted(after.keys() - before.keys()) == [
        "configs/pretrain/contrast/clip_order.yaml",
        "st_ssl/methods/contrast/clip_order.py",
        "tests/methods/contrast/test_clip_order.py",
    ]
