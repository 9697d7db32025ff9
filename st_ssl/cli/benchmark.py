"""``benchmark``: what a choice costs, as ratios of paired runs on this machine."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

EPILOG = """\
visible   a training step of the encoder on the visible tokens alone, against the same encoder fed all of them

examples:
  python tools/benchmark.py visible
  python tools/benchmark.py visible --variant S --size 112 --batch 8 --threads 2
"""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measure speed as ratios: every figure is a median over runs that alternate.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=["visible"], help="what to measure")
    parser.add_argument(
        "--variant", default="S", choices=["Ti", "S", "B", "L", "H"], help="size of the video transformer"
    )
    parser.add_argument("--size", type=int, default=112, help="pixels (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=16, help="frames (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="clips (default: %(default)s)")
    parser.add_argument(
        "--ratio", type=float, default=0.9, help="share of tokens that is masked (default: %(default)s)"
    )
    parser.add_argument("--runs", type=int, default=7, help="counted runs of each (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    visible(arguments)


def alternate(first: Callable[[], None], second: Callable[[], None], runs: int) -> tuple[float, float, float]:
    """Median seconds of two functions run in turn after one warm-up each, and the median of their paired ratios
    second / first."""
    pairs = []
    for _ in range(runs + 1):
        marks = [time.perf_counter()]
        for function in (first, second):
            function()
            marks.append(time.perf_counter())
        pairs.append((marks[1] - marks[0], marks[2] - marks[1]))
    pairs = pairs[1:]
    return median(a for a, _ in pairs), median(b for _, b in pairs), median(b / a for a, b in pairs)


def visible(arguments: argparse.Namespace) -> None:
    """The claim of VideoMAE (2022): an encoder that sees what is visible alone is several times as fast."""
    import torch

    from st_ssl.augment.masking import MaskConfig, draw_mask
    from st_ssl.encoders.base import InputConfig
    from st_ssl.encoders.video_vit import VideoViT, VideoViTConfig
    from st_ssl.random import keyed_rng

    input = InputConfig(num_frames=arguments.frames, size=arguments.size)
    encoder = VideoViT(VideoViTConfig(variant=arguments.variant), input).to(arguments.device)
    clip = torch.randn(arguments.batch, 3, input.num_frames, input.size, input.size, device=arguments.device)
    config = MaskConfig(kind="tube", ratio=arguments.ratio)
    keeps = [torch.from_numpy(draw_mask(config, encoder.grid, keyed_rng(i)).keep) for i in range(arguments.batch)]
    keep = torch.stack(keeps).to(arguments.device)

    def step(index: torch.Tensor | None) -> None:
        encoder.zero_grad()
        encoder(clip, index).pooled.sum().backward()
        if clip.is_cuda:
            torch.cuda.synchronize()

    fast, slow, ratio = alternate(lambda: step(keep), lambda: step(None), arguments.runs)
    tokens = encoder.grid[0] * encoder.grid[1] * encoder.grid[2]
    name = f"ViT-{arguments.variant}, {arguments.batch} clips of {input.num_frames} × {input.size}²"
    print(f"{name}, forward and backward, {torch.get_num_threads()} threads, {arguments.device}")
    print(f"visible tokens alone ({keep.shape[1]} of {tokens}): {fast * 1e3:8.1f} ms")
    print(f"all tokens: {slow * 1e3:8.1f} ms, {ratio:.1f} times as long (median of {arguments.runs} pairs)")
