"""A tiny labelled data set of real files, and the folder of an encoder to probe on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.augment.finetune import FinetuneAugmentConfig
from st_ssl.data.video.dataset import VideoDataConfig, VideoSource
from st_ssl.encoders.base import ENCODERS, InputConfig, random_encoder, save_encoder
from st_ssl.training.optim import OptimConfig
from st_ssl.training.schedule import ScheduleConfig
from st_ssl.transfer.fitting.finetune_config import FinetuneConfig
from st_ssl.transfer.tasks.base import TASKS

INPUT = InputConfig(num_frames=4, stride=2, size=16)
VIT: dict[str, Any] = {"name": "video_vit", "dim": 24, "depth": 1, "heads": 3, "patch": 8}


def write_clip(path: Path, level: int, num_frames: int) -> None:
    """Frames of 32 × 24 pixels of noise around a grey ``level``."""
    av = pytest.importorskip("av")
    rng = np.random.default_rng(level + num_frames)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for _ in range(num_frames):
            image = np.clip(level + 15 * rng.normal(size=(24, 32, 3)), 0, 255).astype(np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode())


def write_dataset(root: Path) -> Path:
    """24 videos, every third one for testing. Their ``light`` shows in the pixels, their ``length`` in the metadata;
    ``chance`` is in neither, ``same`` is the same for all, and ``some`` is ``light`` for half of them."""
    root.mkdir()
    rows = ["path,split,light,length,chance,same,some"]
    for i in range(24):
        light, long = i // 3 % 2, i // 6 % 2
        write_clip(root / f"{i:02d}.mp4", 200 - 140 * light + i % 5, 12 + 6 * long)
        name = ("bright", "dark")[light]
        split = "test" if i % 3 == 0 else "train"
        some = name if i % 4 < 2 else ""
        rows.append(f"{i:02d}.mp4,{split},{name},{('short', 'long')[long]},{i * 7 % 11 % 3},x,{some}")
    (root / "factors.csv").write_text("\n".join(rows) + "\n")
    return root


def source_of(root: Path) -> VideoSource:
    return VideoSource(VideoDataConfig(root=str(root), num_workers=0))


def write_encoder(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """The folder of a run whose encoder is the random one of ``seed``."""
    config = ENCODERS.config("video_vit").model_validate(VIT | changes)
    save_encoder(random_encoder(config, INPUT, seed), folder)
    return folder


STILL = FinetuneAugmentConfig(crop="centre", flip=0, jitter=0, grayscale=0, blur=0)


def recognise_settings(task: dict[str, Any] | None = None, **changes: Any) -> FinetuneConfig:
    """A quick configuration of recognising ``light``; ``changes`` are of keys other than ``task``."""
    keys: dict[str, Any] = {"target": "light", "augment": STILL, "clips": 1, "crops": 1} | (task or {})
    base: dict[str, Any] = {
        "epochs": 6,
        "batch_size": 4,
        "optim": OptimConfig(lr=0.01, lr_batch=None, weight_decay=0.0),
        "schedule": ScheduleConfig(warmup_epochs=1),
        "seeds": 1,
        "curve": False,
        "val_share": 0.0,
        "task": TASKS.config("recognise").model_validate(keys),
        "data": None,
    }
    return FinetuneConfig(**base | changes)
