"""Write the features of all videos or clouds of a data set, with an index of what each row is.

FOLDER then holds, in the order of the data set:
  features.npy        float32 [N, D], with --clips [N, clips, D]: numpy.load(..., mmap_mode="r") reads what is used
  tokens.npy          float16 [N, L, D] or [N, clips, L, D], with --tokens, of videos
  tokens/000000.npz   with --tokens, of the cloud of row 0: features float16 [L, D] of its points or patches, and where
                      they are, xyz float64 [L, 3] in the frame of the file; with --clips also the view int64 [L]
  index.jsonl         for each row: row, path, split, labels; of a video also the frames [clips][T] of the file that
                      were looked at, and start and num_frames (null: up to the end) where a row is a part of it; of a
                      cloud with --tokens also the file of them
  bad_samples.jsonl   videos or clouds that could not be read and have no row, if any
  extract.json        the settings
With --format safetensors the arrays are tensors in features.safetensors, and in tokens/*.safetensors. index.jsonl
comes last: where it is, all is.

With --sliding there is a file for each video instead, for temporal action localisation (ActionFormer, OpenTAD):
  NAME.npy            float32 [N, D], row i of the window that begins at frame i * window_stride; NAME is that of the
                      video, in the folders that it is in where several have the same
  index.jsonl         for each video: file, windows, path, split, labels, frames, fps, duration in seconds, times (the
                      second at the middle of each row), variable_rate (then only times tell where a row is)
  sliding.json        what their configurations have to be told: feat_stride, num_frames, offset_frames, input_dim

The same command goes on where it was stopped. With torchrun each process does its share; the result is the same.

keys that are often set:
  data.num_workers, data.reader, data.list, data.max_bad_share    as in pretraining
  batch_size=32, device=cpu

examples:
  st-ssl extract runs/mine --data /data/ucf101 --output features/ucf101
  st-ssl extract runs/mine --data /data/ucf101 --output features/ten --clips 10 data.num_workers=8
  st-ssl extract runs/clouds --data /data/modelnet40 --output features/modelnet40
  st-ssl extract runs/mine --data /data/thumos14 --output features/thumos14 --sliding --window-stride 4
  torchrun --nproc-per-node 8 -m st_ssl extract runs/mine --data /data/kinetics400 --output features/k400 --tokens
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st_ssl.cli import Parser, configured, progress_bar

if TYPE_CHECKING:
    from st_ssl.transfer.features.extract import ExtractConfig
    from st_ssl.transfer.features.sliding_windows import SlidingConfig


def _arguments() -> argparse.Namespace:
    parser = Parser(__doc__, allow_abbrev=False)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, or any with its encoder.* files")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="dotted keys, see below")
    parser.add_argument("--data", metavar="ROOT", help="a folder or list of videos or clouds (default: the run's own)")
    parser.add_argument("--output", type=Path, metavar="FOLDER", required=True, help="where the features go")
    parser.add_argument("--format", metavar="npy|safetensors", help="of the arrays (default: npy)")
    parser.add_argument("--clips", metavar="N", help="evenly spaced clips of a video, or views of a cloud (default: 1)")
    parser.add_argument("--tokens", action="store_true", help="local features too")
    parser.add_argument("--sliding", action="store_true", help="windows over each whole video, a file for each video")
    parser.add_argument("--window-stride", metavar="N", help="frames from one window to the next (default: 4)")
    parser.add_argument("--frame-stride", metavar="N", help="frames from one frame of a window to the next")
    return parser.parse()


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    from contextlib import ExitStack

    from st_ssl.engine.runtime import start_runtime
    from st_ssl.transfer.features.extract import ExtractConfig, extract
    from st_ssl.transfer.features.sliding_windows import slide

    config = _config(arguments)
    with start_runtime(config.device, "device=") as runtime, ExitStack() as stack:
        show = progress_bar(stack, "extract", "samples", runtime.is_main)
        begun: list[tuple[int, float]] = []  # how many were done at the first call, and when

        def progress(done: int, total: int) -> None:
            now = time.monotonic()
            if not begun:
                begun.append((done, now))
            first, started = begun[0]
            show(done, total, f"{(done - first) / max(now - started, 1e-9):.1f} samples/s")

        if isinstance(config, ExtractConfig):
            extract(arguments.run, config, arguments.output, runtime.device, progress)
        else:
            slide(arguments.run, config, arguments.output, runtime.device, progress)
    if runtime.is_main:
        _summarise(arguments.output)


def _config(arguments: argparse.Namespace) -> ExtractConfig | SlidingConfig:
    """Options and keys as one configuration; a mistake in either is named."""
    from st_ssl.encoders.base import describe_encoder
    from st_ssl.transfer.features.extract import ExtractConfig, with_data
    from st_ssl.transfer.features.sliding_windows import SlidingConfig

    describe_encoder(arguments.run)  # raises where it is none, before its data are asked for
    names = ("format", "clips", "tokens", "window_stride", "frame_stride")
    given = {name: value for name in names if (value := getattr(arguments, name))}
    options = {name: f"--{name.replace('_', '-')} {value}" for name, value in given.items()}
    model = with_data(SlidingConfig if arguments.sliding else ExtractConfig)
    return configured(model, arguments.overrides, {"data": _data(arguments), **given}, options)


def _data(arguments: argparse.Namespace) -> dict[str, Any]:
    from st_ssl.core.errors import ConfigError
    from st_ssl.core.inputs import PointInputConfig
    from st_ssl.encoders.base import describe_encoder
    from st_ssl.engine.run_files import load_run_config

    if arguments.data is not None:
        points = isinstance(describe_encoder(arguments.run)[1], PointInputConfig)
        return {"name": "points" if points else "video", "root": arguments.data}
    if not (arguments.run / "config.yaml").is_file():
        raise ConfigError(f"{arguments.run} has no config.yaml that tells its data: --data ROOT is needed")
    return load_run_config(arguments.run).data.model_dump(mode="json")


def _summarise(output: Path) -> None:
    from st_ssl.engine.run_files import whole_rows

    rows, bad = (len(whole_rows(output / name)) for name in ("index.jsonl", "bad_samples.jsonl"))
    broken = f"; {bad} broken, listed in {output / 'bad_samples.jsonl'}" if bad else ""
    print(f"{output}: features of {rows} samples{broken}")
