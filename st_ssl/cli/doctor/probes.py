"""What runs in processes of its own: each probe imports one package, uses it, and answers what it found.

Of the probes nothing is imported but the standard library until they run."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SAMPLE = Path(__file__).with_name("colours.mp4")
"""Eight frames of 64 × 64, H.264, each of one colour."""
SHOWN = (0, 5, 7)
"""The frames that every decoder has to show."""
DECODE_SECONDS = 0.5


def answer(arguments: Sequence[str]) -> None:
    """Run the probes named, and write a line of JSON for each. Options come first: ``clip=FILE`` is what decoders are
    timed on."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is none of the answers
    clip = next((text.partition("=")[2] for text in arguments if text.startswith("clip=")), "")
    for name in arguments:
        if "=" not in name:
            print(json.dumps(_answer(name, clip)), file=out, flush=True)
    os._exit(0)  # some libraries crash as they are unloaded, after all has been said


def _answer(name: str, clip: str) -> dict[str, Any]:
    try:
        return {"facts": PROBES[name](clip)}
    except (Exception, SystemExit) as error:
        root: BaseException = error
        while isinstance(root.__cause__, (ImportError, OSError, RuntimeError)):
            root = root.__cause__
        missing = root.name if isinstance(root, ModuleNotFoundError) else ""
        return {"error": _first_lines(str(root)), "kind": type(root).__name__, "missing": missing or ""}


def _first_lines(text: str) -> str:
    return " ".join(text.split())[:300]


# -------------------------------------------------------------------- torch


def _torch(clip: str) -> dict[str, Any]:
    import torch

    build = torch.version
    both = (torch.eye(8) @ torch.ones(8, 8)).sum().item()
    if both != 64:
        raise RuntimeError(f"a product of matrices is wrong: {both}, not 64")
    return {"version": str(torch.__version__), "cuda": build.cuda, "hip": build.hip}


def _cuda(clip: str) -> dict[str, Any]:
    import torch

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
        devices = [_device(torch, number) for number in range(torch.cuda.device_count())] if available else []
        arch_list = torch.cuda.get_arch_list()
    said = [_first_lines(str(warning.message)) for warning in caught if "CUDA" in str(warning.message)]
    nccl = available and torch.distributed.is_available() and torch.distributed.is_nccl_available()
    version = torch.cuda.nccl.version() if nccl else ""
    return {
        "available": available,
        "devices": devices,
        "arch_list": arch_list,
        "warnings": said,
        "nccl": ".".join(map(str, version)) if isinstance(version, tuple) else str(version),
        "gloo": torch.distributed.is_available() and torch.distributed.is_gloo_available(),
    }


def _device(torch: Any, number: int) -> dict[str, Any]:
    facts = {
        "name": torch.cuda.get_device_name(number),
        "capability": list(torch.cuda.get_device_capability(number)),
        "error": "",
    }
    try:
        total = (torch.eye(8, device=f"cuda:{number}") @ torch.ones(8, 8, device=f"cuda:{number}")).sum().item()
    except RuntimeError as error:
        return facts | {"error": _first_lines(str(error))}
    return facts if total == 64 else facts | {"error": f"a product of matrices is wrong: {total}, not 64"}


def _torchvision(clip: str) -> dict[str, Any]:
    import torch
    import torchvision
    from torchvision.ops import nms

    kept = nms(torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]]), torch.tensor([0.9, 0.8]), 0.5)
    if kept.tolist() != [0]:
        raise RuntimeError(f"torchvision::nms is wrong: {kept.tolist()}, not [0]")
    return {"version": str(torchvision.__version__)}


# -------------------------------------------------------------------- decoders


def _decoder(package: str, backend: str) -> Callable[[str], dict[str, Any]]:
    """A probe of one reader: the mean colours of the frames ``SHOWN``, and its speed on the clip if there is one."""

    def probe(clip: str) -> dict[str, Any]:
        from st_ssl.data.streams.video import open_video

        with open_video(SAMPLE, backend) as video:
            colours = [image.mean((0, 1)).round(1).tolist() for _, image in video.read(SHOWN)]
        facts = {"version": _version(package), "colours": colours}
        return facts | _speed(open_video, clip, backend) if clip else facts

    return probe


def _speed(open_video: Callable[..., Any], clip: str, backend: str) -> dict[str, Any]:
    done, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < DECODE_SECONDS:
        with open_video(clip, backend) as video:
            done += sum(1 for _ in video.read(range(video.meta.num_frames)))
            width, height = video.meta.width, video.meta.height
    return {"speed": done / seconds, "size": f"{width} × {height}"}


def _clip(clip: str) -> dict[str, Any]:
    """Write what decoders are timed on: two seconds of drifting noise, in the way packed clips are written."""
    import numpy as np

    from st_ssl.data.packs.video_encoding import encode

    coarse = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    wide = coarse.repeat(8, 0).repeat(8, 1)
    frames = (wide[at : at + 240, 2 * at : 2 * at + 320] for at in range(60))
    encode(clip, frames, 30, (320, 240), crf=23, keyframes=30, preset="ultrafast")
    return {}


_FFMPEG_LIBRARIES = {"avutil": 52, "avcodec": 54, "avformat": 54, "avfilter": 3, "avdevice": 54, "swscale": 1}
"""How far the version of each library is ahead of FFmpeg's own: FFmpeg 5 has libavutil.so.57."""


def _ffmpeg(clip: str) -> dict[str, Any]:
    """The versions of FFmpeg's libraries that the system has, and those that the installed torchcodec takes."""
    found = [v for v in range(4, 13) if all(_loads(name, v + ahead) for name, ahead in _FFMPEG_LIBRARIES.items())]
    spec = importlib.util.find_spec("torchcodec")
    folder = Path(spec.origin).parent if spec is not None and spec.origin else None
    files = folder.glob("libtorchcodec_core*") if folder is not None else ()
    takes = sorted({int(number) for file in files for number in re.findall(r"core(\d+)\.", file.name)})
    return {"found": found, "takes": takes}


def _loads(name: str, number: int) -> bool:
    try:
        ctypes.CDLL(f"lib{name}.{number}.dylib" if sys.platform == "darwin" else f"lib{name}.so.{number}")
    except OSError:
        return False
    return True


# -------------------------------------------------------------------- point clouds


def _spconv(clip: str) -> dict[str, Any]:
    """A convolution by spconv beside the same one by our own backend."""
    import spconv.pytorch  # noqa: F401  (so that its absence is told by its own name)
    import torch

    from st_ssl.ops.sparse import SparseConv3d, sparse_tensor

    coords = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 2], [0, 3, 2, 1], [0, 2, 2, 2]])
    x = sparse_tensor(torch.arange(8.0).view(4, 2), coords, (4, 4, 4), 1)
    ours, theirs = (SparseConv3d(2, 3, backend=backend) for backend in ("torch", "spconv"))
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        apart = (ours(x).features - theirs(x).features).abs().max().item()
    if apart > 1e-4:
        raise RuntimeError(f"its convolution is {apart:.2g} away from ours")
    name = next((f"spconv-cu{v}" for v in ("120", "126", "124", "121", "118") if _version(f"spconv-cu{v}")), "spconv")
    return {"version": _version(name), "package": name}


def _open3d(clip: str) -> dict[str, Any]:
    try:
        import open3d
    except (ImportError, OSError):
        absent = _absent_libraries("open3d")
        if absent:
            raise OSError(f"{', '.join(absent)}: cannot open shared object file") from None
        raise
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]))
    cloud.estimate_normals()
    return {"version": str(open3d.__version__)}


def _absent_libraries(package: str) -> list[str]:
    """All libraries of the system that the binaries of a package lack, where ``ldd`` can tell: an import tells one."""
    spec = importlib.util.find_spec(package)
    ldd = shutil.which("ldd")
    if spec is None or not spec.origin or ldd is None:
        return []
    folder = Path(spec.origin).parent
    files = [str(file) for file in folder.rglob("*.so*") if not file.name.endswith(("_tf_ops.so", "_torch_ops.so"))]
    told = subprocess.run([ldd, *files], capture_output=True, text=True, check=False).stdout if files else ""
    own = {Path(file).name for file in files}
    return sorted(set(re.findall(r"^\s*(\S+) => not found", told, re.MULTILINE)) - own)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


PROBES: dict[str, Callable[[str], dict[str, Any]]] = {
    "torch": _torch,
    "cuda": _cuda,
    "torchvision": _torchvision,
    "torchcodec": _decoder("torchcodec", "torchcodec"),
    "spconv": _spconv,
    "open3d": _open3d,
    "pyav": _decoder("av", "pyav"),
    "decord": _decoder("decord", "decord"),
    "ffmpeg": _ffmpeg,
    "clip": _clip,
}
