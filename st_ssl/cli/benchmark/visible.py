"""The claim of VideoMAE (2022): an encoder that sees what is visible alone is several times as fast."""

from __future__ import annotations

import argparse
from statistics import median

import torch

from st_ssl.augment.masking import MaskConfig, draw_mask
from st_ssl.cli.benchmark.timing import alternate, ratio
from st_ssl.core.random import keyed_rng
from st_ssl.encoders.base import InputConfig
from st_ssl.encoders.video_vit import VideoViT, VideoViTConfig


def visible(arguments: argparse.Namespace) -> None:
    """Print the time of an encoder step on the visible tokens, and on all of them."""
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

    seconds = alternate({"visible": lambda: step(keep), "all": lambda: step(None)}, arguments.runs)
    tokens = encoder.grid[0] * encoder.grid[1] * encoder.grid[2]
    name = f"ViT-{arguments.variant}, {arguments.batch} clips of {input.num_frames} × {input.size}²"
    print(f"{name}, forward and backward, {torch.get_num_threads()} threads, {arguments.device}")
    print(f"visible tokens alone ({keep.shape[1]} of {tokens}): {median(seconds['visible']) * 1e3:8.1f} ms")
    times = ratio(seconds, "all", "visible")
    print(f"all tokens: {median(seconds['all']) * 1e3:8.1f} ms, {times:.1f} times as long (median of {arguments.runs})")
