"""Measure speed as ratios: every figure is a median over runs that alternate.

data      clips a second from video files to normalised tensors, against decoding alone
step      a training step of VideoMAE, and the share of the machine's matrix products
visible   an encoder's step on the visible tokens alone, against all of them
sparse    a sparse convolution, and a training step of the sparse U-Net, on a scanned room
sweep     a training step of SECOND's backbone on a sweep of a LiDAR, forward and backward
sampling  farthest points and patches of clouds, beside open3d and the usual PyTorch

examples:
  st-ssl benchmark data --peer pytorchvideo --peer videomae=CHECKOUT
  st-ssl benchmark data --size 224 --packed 256 --peer videomae=CHECKOUT
  st-ssl benchmark data --table --peer pytorchvideo --peer videomae=CHECKOUT    # that and four more lines
  st-ssl benchmark data --clips 2                    # CVRL's two clips of a file
  st-ssl benchmark step --precision bf16 --compile --peer transformers
  st-ssl benchmark visible --threads 1
  st-ssl benchmark sparse --peer spconv
  st-ssl benchmark sweep --file training/velodyne/000000.bin --peer spconv
"""

from __future__ import annotations

import argparse
import os
from importlib import import_module

from st_ssl.cli import Parser


def _arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    whats = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    data, step, visible, sparse, sweep, sampling = (
        whats.add_parser(name) for name in ("data", "step", "visible", "sparse", "sweep", "sampling")
    )
    for part, threads in ((data, 1), (step, None), (visible, None), (sparse, 1), (sweep, 1), (sampling, 1)):
        part.add_argument("--runs", type=_count, default=7, help="counted runs of each (default: %(default)s)")
        part.add_argument("--threads", type=_count, default=threads, help=f"CPU threads (default: {threads or 'all'})")
    for part in (data, step, visible):
        part.add_argument("--size", type=_count, default=112, help="pixels (default: %(default)s)")
        part.add_argument("--frames", type=_count, default=16, help="frames of a clip (default: %(default)s)")
    for part, batch in ((step, 8), (visible, 4)):
        part.add_argument("--variant", default="S", choices=["Ti", "S", "B", "L", "H"], help="size of the transformer")
        part.add_argument("--batch", type=_count, default=batch, help="clips (default: %(default)s)")
        part.add_argument("--ratio", type=_share, default=0.9, help="share of tokens masked (default: %(default)s)")
        part.add_argument("--device", type=_device, default="cpu", help="cpu or cuda (default: %(default)s)")
    step.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="of ours and the peer's")
    step.add_argument("--compile", action="store_true", help="torch.compile for ours")
    step.add_argument("--peer", action="append", default=[], choices=["transformers"], help="run it beside ours")
    data.add_argument("--root", help="your videos (default: made here: 340 × 256, 30 fps, key frame every 250)")
    data.add_argument("--stride", type=_count, default=4, help="frames from one to the next (default: %(default)s)")
    data.add_argument("--clips", type=_count, default=1, help="clips of a file (default: %(default)s)")
    data.add_argument("--packed", type=_count, metavar="SIDE", help="ours reads a pack of this short side")
    data.add_argument("--peer", action="append", default=[], help="pytorchvideo, or videomae=CHECKOUT")
    data.add_argument("--table", action="store_true", help="five lines in one run: 112², 224², two clips, two packs")
    variants = ["spunet", "34C", "18A", "14A", "small", "tiny"]
    sparse.add_argument("--variant", default="spunet", choices=variants, help="of the U-Net (default: %(default)s)")
    sparse.add_argument("--voxels", type=_count, default=150_000, help="of the room, about (default: %(default)s)")
    sparse.add_argument("--peer", action="append", default=[], choices=["spconv"], help="run it beside ours")
    sweep.add_argument("--file", help="a sweep as KITTI has it: float32 x, y, z, intensity (default: a planted one)")
    sweep.add_argument("--residual", action="store_true", help="the residual backbone")
    sweep.add_argument("--peer", action="append", default=[], choices=["spconv"], help="run it beside ours")
    sampling.add_argument("--points", type=_count, default=100_000, help="of the large cloud (default: %(default)s)")
    sampling.add_argument("--samples", type=_count, default=4096, help="taken of it (default: %(default)s)")
    sampling.add_argument("--batch", type=_count, default=32, help="small clouds (default: %(default)s)")
    return parser.parse_step(whats)[0]


def _count(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return int(text)


def _share(text: str) -> float:
    try:
        if 0 < (share := float(text)) < 1:
            return share
    except ValueError:
        share = 0  # no number at all
    raise argparse.ArgumentTypeError(f"{text}: expected a share between 0 and 1")


def _device(text: str) -> str:
    name, _, number = text.partition(":")
    if not (text == "cpu" or (name == "cuda" and (text == name or number.isdigit()))):
        raise argparse.ArgumentTypeError(f"{text}: expected cpu, cuda or one of several such as cuda:1")
    return text


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    if arguments.threads:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    import torch

    from st_ssl.core.errors import ConfigError

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if getattr(arguments, "device", "cpu") != "cpu" and not torch.cuda.is_available():
        raise ConfigError(f"--device {arguments.device}: torch finds no CUDA device here")
    module = {"visible": "step", "sparse": "points", "sweep": "points", "sampling": "points"}.get(
        arguments.what, arguments.what
    )
    getattr(import_module(f"st_ssl.cli.benchmark.{module}"), arguments.what)(arguments)
