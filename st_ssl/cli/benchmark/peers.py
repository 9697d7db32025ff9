"""The data pipelines of others, each set up as its authors do for masked pretraining, to run beside ours.

They are imported where they are asked for. What no longer imports with today's numpy and torchvision is given the name
that it looks for and does not use.
"""

from __future__ import annotations

import sys
import tempfile
import types
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from st_ssl.core.errors import ConfigError, MissingDependencyError, UserError

Pass = Callable[[], object]
Build = Callable[[list[str], int, int, int], Pass]
"""(paths, frames, stride, size) to one pass over the files."""


def pytorchvideo(_: str) -> Build:
    """pytorchvideo's ``LabeledVideoDataset`` with its transforms and PyAV, as in its Kinetics tutorial."""

    def build(paths: list[str], num_frames: int, stride: int, size: int) -> Pass:
        """Clips of ``num_frames`` frames from ``num_frames * stride / 30`` s, float [3, T, ``size``, ``size``]."""
        functional = import_module("torchvision.transforms.functional")
        sys.modules.setdefault("torchvision.transforms.functional_tensor", functional)
        try:
            data, transforms = import_module("pytorchvideo.data"), import_module("pytorchvideo.transforms")
        except ImportError as error:
            raise MissingDependencyError("pytorchvideo", "zoo", "--peer pytorchvideo") from error
        vision = import_module("torchvision.transforms")
        steps = [
            transforms.UniformTemporalSubsample(num_frames),
            vision.Lambda(lambda x: x / 255.0),
            transforms.Normalize((0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
            transforms.RandomShortSideScale(min_size=round(size * 8 / 7), max_size=round(size * 10 / 7)),
            vision.RandomCrop(size),
            vision.RandomHorizontalFlip(p=0.5),
        ]
        transform = transforms.ApplyTransformToKey(key="video", transform=vision.Compose(steps))
        dataset = data.LabeledVideoDataset(
            [(path, {"label": 0}) for path in paths],
            data.make_clip_sampler("random", num_frames * stride / 30),
            transform=transform,
            decode_audio=False,
            decoder="pyav",
        )

        def run() -> None:
            seen = sum(1 for _ in dataset)
            assert seen == len(paths), f"{seen} clips of {len(paths)} videos"

        return run

    return build


def videomae(checkout: str) -> Build:
    """The data pipeline of a checkout of MCG-NJU/VideoMAE: decord, PIL, multi-scale crop."""
    if not checkout or not (Path(checkout) / "kinetics.py").is_file():
        raise ConfigError(f"--peer videomae={checkout}: expected the folder of a checkout of MCG-NJU/VideoMAE")

    def build(paths: list[str], num_frames: int, stride: int, size: int) -> Pass:
        """Clips of ``num_frames`` frames ``stride`` apart, float [3, T, ``size``, ``size``], with a mask each."""
        if "numpy.lib.function_base" not in sys.modules:
            gone: Any = types.ModuleType("numpy.lib.function_base")
            gone.disp = print
            sys.modules["numpy.lib.function_base"] = gone
        sys.path.insert(0, checkout)
        try:
            datasets = import_module("datasets")
        except ImportError as error:
            package = {"cv2": "opencv-python"}.get(error.name or "", error.name)
            raise UserError(f"--peer videomae={checkout} needs the package {package}: pip install {package}") from error
        finally:
            sys.path.remove(checkout)
        with tempfile.NamedTemporaryFile("w", suffix=".csv", delete=False) as listing:
            listing.writelines(f"{path} 0\n" for path in paths)
        arguments = types.SimpleNamespace(
            input_size=size,
            mask_type="tube",
            window_size=(num_frames // 2, size // 16, size // 16),
            mask_ratio=0.9,
            data_path=listing.name,
            num_frames=num_frames,
            sampling_rate=stride,
        )
        dataset = datasets.build_pretraining_dataset(arguments)
        Path(listing.name).unlink()

        def run() -> None:
            for index in range(len(dataset)):
                dataset[index]

        return run

    return build


PEERS: dict[str, Callable[[str], Build]] = {"pytorchvideo": pytorchvideo, "videomae": videomae}
