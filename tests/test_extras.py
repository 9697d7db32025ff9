"""What is optional is needed where it is used and nowhere else, and its absence says what to install."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
import tomllib
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from st_ssl.cli.benchmark import peers, points, step
from st_ssl.core.errors import MissingDependencyError
from st_ssl.core.inputs import InputConfig
from st_ssl.data.drives.odometry import track_sensor
from st_ssl.data.packs import video_encoding as writing
from st_ssl.data.streams.points import read_cloud
from st_ssl.data.streams.video import open_video
from st_ssl.data.synthetic import videos as planted
from st_ssl.encoders.base import random_encoder
from st_ssl.encoders.pytorchvideo_zoo import Pytorchvideo, PytorchvideoConfig
from st_ssl.encoders.video_vit import VideoViTConfig
from st_ssl.engine.loggers import require_loggers
from st_ssl.engine.run_config import LoggingConfig
from st_ssl.ops.sparse import SparseConv3d
from st_ssl.report.figures import require_matplotlib
from st_ssl.report.viewers import show_clouds
from st_ssl.transfer.fitting.finetune_config import LoraConfig
from st_ssl.transfer.fitting.finetune_model import add_lora
from st_ssl.weights.hub import require_hub
from st_ssl.weights.loading import load
from tests.ops.sparse import random_tensor
from tests.runs import ROOT
from tests.weights.exported import encoder_of, export

CLIP = torch.zeros(1, 4, 4, 3, dtype=torch.uint8).numpy()
USES: dict[str, list[Callable[[Path], object]]] = {
    "av": [
        lambda folder: open_video(folder / "a.mp4", "pyav"),
        lambda folder: writing.encode(str(folder / "b.mp4"), CLIP, 25, (4, 4), 20, 8),
        lambda folder: planted.encode(folder / "c.mp4", CLIP, 25),
    ],
    "decord": [lambda folder: open_video(folder / "a.mp4", "decord")],
    "torchcodec": [lambda folder: open_video(folder / "a.mp4", "torchcodec")],
    "h5py": [lambda folder: read_cloud(folder / "a.h5#0")],
    "laspy": [lambda folder: read_cloud(folder / "a.las")],
    "lazrs": [lambda folder: read_cloud(folder / "a.laz")],
    "kiss-icp": [lambda folder: next(track_sensor([], 100.0, 1.0))],
    "rosbags": [lambda folder: read_cloud(f"{folder}/a.bag#/points@1")],
    "open3d": [lambda folder: points.sampling(Namespace()), lambda folder: show_clouds([])],
    "spconv": [
        lambda folder: SparseConv3d(4, 4, backend="spconv")(random_tensor()),
        lambda folder: points.sparse(Namespace(peer=["spconv"])),
    ],
    "pytorchvideo": [
        lambda folder: Pytorchvideo(PytorchvideoConfig(model="csn_r101"), InputConfig()),
        lambda folder: peers.pytorchvideo("")([], 4, 2, 16),
    ],
    "matplotlib": [lambda folder: require_matplotlib()],
    "jinja2": [lambda folder: require_matplotlib()],
    "tensorboard": [lambda folder: require_loggers(LoggingConfig(tensorboard=True))],
    "wandb": [lambda folder: require_loggers(LoggingConfig(wandb="x"))],
    "peft": [
        lambda folder: add_lora(random_encoder(VideoViTConfig(dim=8, depth=1, heads=1), InputConfig(), 0), LoraConfig())
    ],
    "transformers": [
        lambda folder: step._transformers(*[None] * 4),  # type: ignore[arg-type]
        lambda folder: export("hf-videomae", encoder_of("video_vit"), folder),
    ],
    "onnx": [lambda folder: export("onnx", encoder_of("c3d"), folder)],
    "onnxscript": [lambda folder: export("onnx", encoder_of("c3d"), folder)],
    "onnxruntime": [lambda folder: export("onnx", encoder_of("c3d"), folder)],
    "huggingface_hub": [lambda folder: require_hub(), lambda folder: load("me/mine", download=True)],
}
IMPORTERS = {"lazrs": ("laspy",), "tensorboard": ("torch.utils.tensorboard",)}
"""Modules that look for a package as they are imported."""
MODULES = {"kiss-icp": "kiss_icp"}
"""Of packages that are imported by another name."""
TOOLS = {
    "pytest",
    "shapely",
    "pytest-timeout",
    "pytest-xdist",
    "hypothesis",
    "ruff",
    "mypy",
    "types-PyYAML",
    "hatchling",
}


def extras() -> dict[str, set[str]]:
    """The packages of each extra; of spconv's, whose names tell the version of CUDA, without that."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = {}
    for extra, requirements in table.items():
        names = {name for text in requirements for name in re.findall(r"[\w-]+", re.split(r"[<>=;]", text)[0])}
        found[extra] = {re.sub(r"-cu\d+$", "", name) for name in names - TOOLS}
    return {extra: names for extra, names in found.items() if "st_ssl" not in names}


def test_every_optional_package_has_a_use_here() -> None:
    assert set().union(*extras().values()) == USES.keys()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files that are what they are called as far as one can see without the package for them."""
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(12))
    (tmp_path / "a.h5").write_bytes(b"some")
    for name, kind in (("a.las", 0), ("a.laz", 0x80)):
        head = bytearray(227)
        head[:4] = b"LASF"
        struct.pack_into("<IBHI", head, 100, 0, kind, 20, 1)
        (tmp_path / name).write_bytes(head + bytes(20))
    return tmp_path


@pytest.mark.parametrize("package", USES)
def test_a_missing_package_is_named_with_the_extra_that_has_it(
    package: str, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if package == "lazrs":
        pytest.importorskip("laspy")
    module = MODULES.get(package, package)
    stale = (module, *IMPORTERS.get(package, ()))
    for name in [name for name in sys.modules if name.startswith(stale)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    for use in USES[package]:
        with pytest.raises(MissingDependencyError) as caught:
            use(files)
        told = re.search(r'needs the package (\S+): pip install "st_ssl\[(\w+)\]"', str(caught.value))
        assert told is not None, caught.value
        assert told[1] == package
        assert package in extras()[told[2]]


def test_open3d_without_a_library_of_the_system_is_missing_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open3d.py").write_text("raise OSError('libGL.so.1: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "open3d"]:
        monkeypatch.delitem(sys.modules, name)
    for use in USES["open3d"]:
        with pytest.raises(MissingDependencyError, match=r"needs the package open3d: .*libGL\.so\.1.*apt-get .*libgl1"):
            use(tmp_path)


NOTHING = """
import importlib, pkgutil, sys
from pathlib import Path
sys.modules.update(dict.fromkeys({packages}))
import st_ssl
for module in pkgutil.walk_packages(st_ssl.__path__, "st_ssl."):
    if module.name != "st_ssl.__main__" and not module.name.endswith("spconv_backend"):
        importlib.import_module(module.name)
from tests.runs import tiny, train
train(tiny(Path({clouds!r}), Path({output!r}), "point_contrast", engine={{"epochs": 1}}))
"""


def test_scenes_are_learned_from_without_any_of_them(clouds: Path, tmp_path: Path) -> None:
    packages = sorted(USES.keys() - {"jinja2"})  # which torch needs itself
    code = NOTHING.format(packages=packages, clouds=str(clouds), output=str(tmp_path / "run"))
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert (tmp_path / "run" / "encoder.safetensors").is_file()
