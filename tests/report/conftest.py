"""A tiny suite of both kinds of methods, made once: hostile names, one broken file, probes of one run."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from st_ssl.data.base import DATA
from st_ssl.data.synthetic.videos import SyntheticVideoConfig, write_dataset
from st_ssl.engine.run_config import load_runs
from st_ssl.engine.runtime import Runtime
from st_ssl.engine.trainer import Trainer
from st_ssl.transfer.probes.probe import probe_runs

from .browser import Browser

SCRIPT = "train/<script>alert(1)<!--.mp4"
BROKEN = "train/<img src=x onerror=alert(1)>&amp;.mp4"
LABEL = "<i>$x_\"'"

CONFIG = """
output_dir: OUT
data: {root: ROOT, num_workers: 0, max_bad_share: 0.5}
probe: {kinds: [knn, linear, retrieval], seeds: 2, recall: [1, 5]}
report: {samples: 20}
engine: {epochs: 3, batch_size: 6, log_every: 1, device: cpu}
optim: {name: adamw, lr: 1.0e-3}
runs:
  cvrl:
    input: {num_frames: 4, stride: 2, size: 32}
    encoder: {name: r3d, depth: 10, width: 8}
    method: {name: cvrl, hidden_dim: 16}
  videomae:
    input: {num_frames: 4, stride: 2, size: 32}
    encoder: {name: video_vit, dim: 24, depth: 1, heads: 2, patch: 8, tubelet: 2}
    method: {name: videomae, decoder: {dim: 24, depth: 1, heads: 2}}
"""


def write_videos(root: Path) -> Path:
    """18 training and 24 test videos with factors; names and a label that are markup, and one file cut short."""
    write_dataset(root, SyntheticVideoConfig(num_train=18, num_test=24, num_frames=16, size=32), 1, progress=False)
    with (root / "factors.csv").open() as file:
        rows = list(csv.DictReader(file))
    scene = rows[0]["scene"]
    for row, name in zip(rows, (SCRIPT, BROKEN), strict=False):
        (root / row["path"]).rename(root / name)
        row["path"] = name
    for row in rows:
        row["scene"] = LABEL if row["scene"] == scene else row["scene"]
    (root / BROKEN).write_bytes((root / BROKEN).read_bytes()[:100])
    with (root / "factors.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of a trained cvrl run, probed, and of a videomae run that is not."""
    home = tmp_path_factory.mktemp("suite")
    file = home / "suite.yaml"
    file.write_text(CONFIG.replace("OUT", str(home)).replace("ROOT", str(write_videos(home / "videos"))))
    runs = [run.config for run in load_runs(file)]
    for config in runs:
        Trainer(config, Runtime(torch.device("cpu"))).fit()
    first = Path(runs[0].output_dir)
    assert runs[0].probe is not None
    result = probe_runs(DATA.build(runs[0].data), [first], runs[0].probe, torch.device("cpu"))
    (first / "probe.json").write_text(json.dumps(result))
    return [Path(config.output_dir) for config in runs]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with closing(Browser(tmp_path_factory.mktemp("browser"))) as browser:
        yield browser
