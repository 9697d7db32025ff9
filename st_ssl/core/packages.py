"""The packages that st_ssl needs or can use, and the commands that install them. The standard library alone, so that it
runs before anything is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shlex
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds the package: a checkout, or where pip put it."""
IN_CHECKOUT = (ROOT / "tools" / "doctor.py").is_file()
REQUIRED = ["torch", "torchvision", "numpy", "einops", "pydantic", "pyyaml", "safetensors", "rich", "scikit-learn"]
EXTRAS = {
    "video": "av torchcodec decord",
    "points": "h5py laspy lazrs open3d spconv",
    "zoo": "pytorchvideo",
    "viz": "matplotlib jinja2",
    "lora": "peft",
    "export": "onnx onnxscript onnxruntime transformers",
    "hub": "huggingface_hub",
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "bags": "rosbags",
    "poses": "kiss-icp",
}
NOT_MADE = {"decord": platform.machine() != "x86_64", "open3d": sys.version_info >= (3, 13)}
NOT_MADE["spconv"] = sys.platform != "linux"
"""Packages without wheels for some systems: whether this is such a system."""


def version(package: str) -> str:
    """The version of an installed package, "" without one. The name of spconv's tells the version of CUDA."""
    for name in (package, f"{package}-cu120", f"{package}-cu126"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def install(extra: str = "all") -> str:
    """The command that installs st_ssl with an extra."""
    return pip(*(("-e", f"{ROOT}[{extra}]") if IN_CHECKOUT else (f"st_ssl[{extra}]",)))


def not_installed(module: str) -> str:
    """The message on a required package that is not installed, "" where it is there or st_ssl does not require it."""
    package = {"yaml": "pyyaml", "sklearn": "scikit-learn"}.get(module, module)
    if package not in REQUIRED or importlib.util.find_spec(module) is not None:
        return ""
    return f"{package} is not installed in this Python: {install()}"


def pip(*arguments: str) -> str:
    """A pip command. A Python of the system, which pip may not change, gets a virtual environment first."""
    if sys.prefix == sys.base_prefix and Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").is_file():
        return f"python3 -m venv .venv && . .venv/bin/activate && pip install {shlex.join(arguments)}"
    return f"{shlex.quote(sys.executable)} -m pip install {shlex.join(arguments)}"
