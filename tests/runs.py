"""Tiny pretraining runs for tests: data, configuration, the run in this process or one of its own, and its files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.core.config import merge, to_yaml
from st_ssl.engine.run_config import RunConfig, load_runs
from st_ssl.engine.runtime import Preempted, Runtime
from st_ssl.engine.trainer import Trainer
from tests.forked import ROOT, Forked
from tests.methods.small import recorded, small
from tests.waiting import PATIENCE

CPU = torch.device("cpu")
# Of a projector: each of its batch norms makes what two ways of adding differ in larger.
SHALLOW: dict[str, Any] = {"method": {"hidden_dim": 16, "output_dim": 8, "projector_layers": 2}}
TIMING = {"clips_per_second", "data_wait", "seconds"}


def write_video(path: Path, number: int, num_frames: int = 24) -> None:
    """A grating of its own frequency, direction, speed and colour, as H.264."""
    av = pytest.importorskip("av")
    rng = np.random.default_rng(number)
    angle, frequency, speed = rng.uniform(0, np.pi), rng.uniform(0.1, 0.6), rng.uniform(0.2, 1.5)
    y, x = np.mgrid[:48, :64]
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=24, options={"preset": "ultrafast", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        colour = rng.uniform(0.2, 1, 3)
        for t in range(num_frames):
            wave = 127 + 120 * np.sin(frequency * (x * np.cos(angle) + y * np.sin(angle)) + speed * t)
            image = (wave[..., None] * colour).astype(np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode())


def write_videos(folder: Path, count: int) -> Path:
    """``count`` videos ``00.mp4``, ``01.mp4``, …"""
    folder.mkdir()
    for number in range(count):
        write_video(folder / f"{number:02}.mp4", number)
    return folder


def tiny(root: Path, output: Path, method: str = "cvrl", **changes: Any) -> dict[str, Any]:
    """The configuration of a run of 12 steps of 4 of the 12 videos or clouds in ``root``; ``changes`` are laid on it,
    mapping by mapping."""
    modality = recorded(method)
    base: dict[str, Any] = {
        "output_dir": str(output),
        "input": {"num_frames": 4, "stride": 2, "size": 32} if modality == "video" else {"num_points": 64},
        "data": {"name": modality, "root": str(root), "num_workers": 0},
        "optim": {"name": "adamw", "lr": 1e-3},
        "schedule": {"warmup_epochs": 1},
        "engine": {"epochs": 4, "batch_size": 4, "log_every": 1, "device": "cpu"},
        "probe": None,
        "report": {"enabled": False},
    }
    return merge(merge(base, small(method)), changes)


def write_config(file: Path, data: dict[str, Any]) -> Path:
    """``data`` as a YAML file."""
    file.write_text(to_yaml(data))
    return file


def load(data: dict[str, Any]) -> RunConfig:
    """``data`` as a checked configuration, by way of a file beside the output."""
    output = Path(data["output_dir"])
    output.parent.mkdir(parents=True, exist_ok=True)
    # One file a process: several ranks may do this at once.
    return load_runs(write_config(output.with_name(f"{output.name}-{os.getpid()}.yaml"), data))[0].config


def train(data: dict[str, Any], stop_at: int | None = None, runtime: Runtime | None = None) -> Trainer:
    """Run in this process: to the end, or until it has stopped and saved itself at step ``stop_at``."""
    runtime = runtime or Runtime(CPU)
    trainer = Trainer(load(data), runtime)
    update = trainer._update

    def watched(batch: Any) -> Any:
        runtime.stop_requested = trainer.step + 1 == stop_at
        return update(batch)

    trainer._update = watched  # type: ignore[method-assign]
    try:
        trainer.fit()
    except Preempted:
        assert trainer.step == stop_at
    else:
        assert stop_at is None
    return trainer


def start(tool: str | Path, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """``python tools/<tool>.py <arguments>``, or that of another script, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(_script(tool)), *map(str, arguments)],
        env=_environment(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _script(tool: str | Path) -> Path:
    return tool if isinstance(tool, Path) else ROOT / "tools" / f"{tool}.py"


def _environment(own: dict[str, str]) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"} | own


def fork(tool: str | Path, folder: Path, *arguments: object, **environment: str) -> Forked:
    """As ``start``, from a process that has imported torch; what it says goes to ``folder``."""
    return Forked(_script(tool), [str(a) for a in arguments], _environment(environment), folder)


def call(tool: str | Path, *arguments: object, **environment: str) -> tuple[int, str, str]:
    """As ``fork``, to its end: exit code, stdout, stderr."""
    with tempfile.TemporaryDirectory() as folder:
        process = fork(tool, Path(folder), *arguments, **environment)
        code = process.wait(PATIENCE)
        return code, process.said.read_text(), process.complained.read_text()


def metrics(output: Path) -> list[dict[str, Any]]:
    """The rows of ``metrics.jsonl`` without what the clock wrote into them."""
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMING} for row in rows]


def weights(output: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint, and of the exported encoder."""
    from safetensors.torch import load_file

    newest = max((output / "checkpoints").glob("step_*"))
    files = [*newest.glob("*.safetensors"), output / "encoder.safetensors"]
    return {f"{file.stem}/{name}": tensor for file in files for name, tensor in load_file(file).items()}
