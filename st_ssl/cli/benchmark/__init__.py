"""``benchmark``: what this costs on this machine, as ratios of runs that alternate: to a peer, and to what the machine
can do at most."""

from __future__ import annotations

import argparse
import os

from st_ssl.cli import Parser

EPILOG = """\
visible   a training step of the video transformer on the visible tokens alone, against the same fed all of them
data      clips a second from video files to normalised tensors, against decoding alone
step      a training step of VideoMAE, and the share of the machine's matrix multiplications
points    the same of Point-MAE or Point2Vec
views     a video tested with several clips and crops at once, against view by view
memory    growth of a worker's memory over thousands of samples
ops       sampling and grouping of points, beside open3d and the usual PyTorch
sparse    a sparse convolution, and a training step of the sparse U-Net, on a scanned room

examples:
  st-ssl benchmark visible
  st-ssl benchmark data --peer pytorchvideo --peer videomae=CHECKOUT
  st-ssl benchmark data --size 224 --packed 256 --peer videomae=CHECKOUT
  st-ssl benchmark data --table --peer pytorchvideo --peer videomae=CHECKOUT    # that and four more lines
  st-ssl benchmark data --clips 2                    # CVRL's two clips of a file
  st-ssl benchmark step --precision bf16 --compile --peer transformers
  st-ssl benchmark views --threads 1                 # 5 × 3 views, the quickstart's network
  st-ssl benchmark points --method point2vec
  st-ssl benchmark points --table --threads 1        # that, sparse and ops beside their peers, in minutes
  st-ssl benchmark sparse --peer spconv
"""


def _arguments() -> argparse.Namespace:
    parser = Parser(
        description="Measure speed as ratios: every figure is a median over runs that alternate.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whats = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    visible, data, step, memory, ops = (whats.add_parser(name) for name in ("visible", "data", "step", "memory", "ops"))
    _add_points(whats.add_parser("points"))
    _add_sparse(whats.add_parser("sparse"))
    _add_views(whats.add_parser("views"))
    for part, batch in ((visible, 4), (step, 8)):
        part.add_argument("--variant", default="S", choices=["Ti", "S", "B", "L", "H"], help="size of the transformer")
        part.add_argument("--batch", type=_count, default=batch, help="clips (default: %(default)s)")
        part.add_argument("--ratio", type=_share, default=0.9, help="share of tokens masked (default: %(default)s)")
        part.add_argument("--device", type=_device, default="cpu", help="cpu or cuda (default: %(default)s)")
    for part in (visible, data, step, memory):
        part.add_argument("--size", type=_count, default=112, help="pixels (default: %(default)s)")
        part.add_argument("--frames", type=_count, default=16, help="frames of a clip (default: %(default)s)")
    for part, threads in ((visible, None), (data, 1), (step, None), (memory, 1), (ops, 1)):
        part.add_argument("--runs", type=_count, default=7, help="counted runs of each (default: %(default)s)")
        part.add_argument("--threads", type=_count, default=threads, help=f"CPU threads (default: {threads or 'all'})")
    step.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="of ours and the peer's")
    step.add_argument("--compile", action="store_true", help="torch.compile for ours")
    step.add_argument("--peer", action="append", default=[], choices=["transformers"], help="run it beside ours")
    for part in (data, memory):
        part.add_argument("--root", help="your videos (default: made here: 340 × 256, 30 fps, key frame every 250)")
        part.add_argument("--stride", type=_count, default=4, help="frames from one to the next (default: %(default)s)")
        part.add_argument("--clips", type=_count, default=1, help="clips of a file (default: %(default)s)")
        part.add_argument("--packed", type=_count, metavar="SIDE", help="ours reads a pack of this short side")
    data.add_argument("--peer", action="append", default=[], help="pytorchvideo, or videomae=CHECKOUT")
    data.add_argument("--table", action="store_true", help="five lines in one run: 112², 224², two clips, two packs")
    memory.add_argument("--samples", type=_count, default=10_000, help="how many (default: %(default)s)")
    ops.add_argument("--points", type=_count, default=100_000, help="of the large cloud (default: %(default)s)")
    ops.add_argument("--samples", type=_count, default=4096, help="taken of it (default: %(default)s)")
    ops.add_argument("--batch", type=_count, default=32, help="small clouds (default: %(default)s)")
    arguments, unknown = parser.parse_known_args()
    if unknown:
        whats.choices[arguments.what].refuse(unknown)
    return arguments


def _add_points(part: argparse.ArgumentParser) -> None:
    part.add_argument("--method", default="point_mae", choices=["point_mae", "point2vec"], help="of these two")
    part.add_argument("--variant", default="S", choices=["Ti", "S", "B"], help="size of the transformer")
    part.add_argument("--batch", type=_count, default=32, help="clouds (default: %(default)s)")
    part.add_argument("--points", type=_count, default=1024, help="points of a cloud (default: %(default)s)")
    part.add_argument("--device", type=_device, default="cpu", help="cpu or cuda (default: %(default)s)")
    part.add_argument("--runs", type=_count, default=5, help="counted runs (default: %(default)s)")
    part.add_argument("--threads", type=_count, help="CPU threads (default: all)")
    part.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="of forward and backward")
    part.add_argument("--table", action="store_true", help="this, sparse and ops beside spconv, open3d and the usual")


def _add_views(part: argparse.ArgumentParser) -> None:
    variants = ["small", "Ti", "S", "B", "L", "H"]
    part.add_argument(
        "--variant", default="small", choices=variants, help="size of the transformer; small: the quickstart's"
    )
    part.add_argument("--clips", type=_count, default=5, help="of a video (default: %(default)s)")
    part.add_argument("--crops", type=int, default=3, choices=[1, 3], help="of a clip (default: %(default)s)")
    part.add_argument("--batch", type=_count, default=16, help="views fed at a time (default: %(default)s)")
    part.add_argument("--root", help="your videos (default: made here: 340 × 256, 30 fps, key frame every 250)")
    part.add_argument("--size", type=_count, default=64, help="pixels (default: %(default)s)")
    part.add_argument("--frames", type=_count, default=8, help="frames of a clip (default: %(default)s)")
    part.add_argument("--stride", type=_count, default=3, help="frames from one to the next (default: %(default)s)")
    part.add_argument("--runs", type=_count, default=5, help="counted runs of each (default: %(default)s)")
    part.add_argument("--threads", type=_count, help="CPU threads (default: all)")
    part.add_argument("--device", type=_device, default="cpu", help="cpu or cuda (default: %(default)s)")


def _add_sparse(part: argparse.ArgumentParser) -> None:
    variants = ["spunet", "34C", "18A", "14A", "small", "tiny"]
    part.add_argument("--variant", default="spunet", choices=variants, help="size of the U-Net (default: %(default)s)")
    part.add_argument("--voxels", type=_count, default=150_000, help="of the room, about (default: %(default)s)")
    part.add_argument("--runs", type=_count, default=7, help="counted runs of each (default: %(default)s)")
    part.add_argument("--threads", type=_count, default=1, help="CPU threads (default: %(default)s)")
    part.add_argument("--peer", action="append", default=[], choices=["spconv"], help="run it beside ours")


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
    if arguments.what == "visible":
        from st_ssl.cli.benchmark.visible import visible

        visible(arguments)
    elif arguments.what == "step":
        from st_ssl.cli.benchmark.step import step

        step(arguments)
    elif arguments.what == "sparse":
        from st_ssl.cli.benchmark.sparse import sparse

        sparse(arguments)
    elif arguments.what == "ops":
        from st_ssl.cli.benchmark.ops import ops

        ops(arguments)
    elif arguments.what == "points":
        from st_ssl.cli.benchmark.point_table import point_table
        from st_ssl.cli.benchmark.points import points

        (point_table if arguments.table else points)(arguments)
    elif arguments.what == "views":
        from st_ssl.cli.benchmark.views import views

        views(arguments)
    elif arguments.what == "data":
        from st_ssl.cli.benchmark.data import data

        data(arguments)
    else:
        from st_ssl.cli.benchmark.data import memory

        memory(arguments)
