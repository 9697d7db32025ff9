"""A training step of VideoMAE, and its encoder's on the visible tokens alone."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from st_ssl.augment.masking import MaskConfig, draw_mask
from st_ssl.cli.benchmark.timing import compare, ratio
from st_ssl.core.errors import MissingDependencyError
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import Mask, View
from st_ssl.encoders.base import InputConfig
from st_ssl.encoders.video_vit import VideoViT, VideoViTConfig
from st_ssl.engine.runtime import require_compiler
from st_ssl.methods.masked.videomae import VideoMAE, VideoMAEConfig
from st_ssl.parts.masked_decoder import DecoderConfig

DECODER_DEPTH = 4
SIZE, PRODUCTS = 1024, 20
"""Matrices [SIZE, SIZE] are multiplied so many times: what the machine can do at most."""


def step(arguments: argparse.Namespace) -> None:
    """Print the time of a whole step (forward, backward, AdamW) beside transformers' and that of matrix products."""
    if arguments.compile:
        require_compiler(torch.device(arguments.device), "--compile")
    encoder, mask, view = _inputs(arguments)
    dim, heads = encoder.embed_dim // 2, encoder.config.shape[2] // 2  # type: ignore[attr-defined]
    decoder = DecoderConfig(dim=dim, depth=DECODER_DEPTH, heads=heads)
    method = VideoMAE(VideoMAEConfig(mask=mask, decoder=decoder), encoder).to(arguments.device)
    count = operations(method, view)
    forward: Callable[..., Any] = torch.compile(method) if arguments.compile else method
    contestants: dict[str, Callable[[], object]] = {
        "st_ssl": trainer(method, lambda: forward([view])["loss"], arguments)
    }
    if "transformers" in arguments.peer:
        contestants["transformers"] = _transformers(arguments, encoder, decoder, view)
    if arguments.device == "cpu":
        matrix = torch.randn(SIZE, SIZE)
        contestants[f"{PRODUCTS} matmuls"] = lambda: [matrix @ matrix for _ in range(PRODUCTS)]
    compiled = ", ours compiled" if arguments.compile else ""
    how = f"{arguments.precision}{compiled}, {torch.get_num_threads()} threads"
    seconds = compare(f"VideoMAE {_shape(arguments)}, {how}", contestants, arguments.runs)
    taken = median(seconds["st_ssl"])
    print(f"{1 / taken:.2f} steps/s, {arguments.batch / taken:.1f} clips/s")
    if arguments.device == "cpu":
        share = ratio(seconds, f"{PRODUCTS} matmuls", "st_ssl") * count / (2 * SIZE**3 * PRODUCTS)
        print(f"{count / taken / 1e9:.0f} GFLOP/s: {share:.0%} of what matrix products alone do meanwhile in fp32")


def visible(arguments: argparse.Namespace) -> None:
    """Print the time of an encoder step on the visible tokens, and on all of them (VideoMAE, 2022)."""
    encoder, _, view = _inputs(arguments)

    def run(index: Tensor | None) -> None:
        encoder.zero_grad()
        encoder(view.clip, index).pooled.sum().backward()
        if view.clip.is_cuda:
            torch.cuda.synchronize()

    tokens = f"{view.mask.keep.shape[1]} of {math.prod(encoder.grid)} tokens visible"
    title = f"{_shape(arguments)}, {tokens}, forward and backward"
    contestants = {"visible tokens": lambda: run(view.mask.keep), "all tokens": lambda: run(None)}
    compare(f"{title}, {torch.get_num_threads()} threads, {arguments.device}", contestants, arguments.runs)


def _inputs(arguments: argparse.Namespace) -> tuple[VideoViT, MaskConfig, View]:
    """An encoder, and a masked view [B, 3, T, S, S] of noise for it."""
    input = InputConfig(num_frames=arguments.frames, size=arguments.size)
    encoder = VideoViT(VideoViTConfig(variant=arguments.variant), input).to(arguments.device)
    mask = MaskConfig(kind="tube", ratio=arguments.ratio)
    clip = torch.randn(arguments.batch, 3, input.num_frames, input.size, input.size)
    draws = [draw_mask(mask, encoder.grid, keyed_rng(i)) for i in range(arguments.batch)]
    keep, masked = (torch.stack([torch.from_numpy(draw[i]) for draw in draws]) for i in (0, 1))
    view = View(clip, torch.zeros(arguments.batch, input.num_frames, dtype=torch.int64), masks=(Mask(keep, masked),))
    return encoder, mask, view.map(lambda t: t.to(arguments.device))


def _shape(arguments: argparse.Namespace) -> str:
    clips = f"{arguments.frames} × {arguments.size}², batch {arguments.batch}"
    return f"ViT-{arguments.variant}, {clips}, {arguments.ratio:.0%} tube mask"


def operations(method: nn.Module, view: View) -> float:
    """Floating point operations of forward and backward, convolutions and matrix products alone."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        method([view])["loss"].backward()
    return counter.get_total_flops()


def trainer(model: nn.Module, loss: Callable[[], Tensor], arguments: argparse.Namespace) -> Callable[[], None]:
    """A function that takes one training step of ``model`` on ``loss``, at ``arguments.precision``."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        with torch.autocast(arguments.device.partition(":")[0], torch.bfloat16, arguments.precision == "bf16"):
            value = loss()
        value.backward()
        optimizer.step()
        if arguments.device != "cpu":
            torch.cuda.synchronize()

    return run


def _transformers(
    arguments: argparse.Namespace, encoder: VideoViT, decoder: DecoderConfig, view: View
) -> Callable[[], None]:
    try:
        from transformers import VideoMAEConfig as PeerConfig
        from transformers import VideoMAEForPreTraining
    except ImportError as error:
        raise MissingDependencyError("transformers", "test", "--peer transformers") from error
    dim, depth, heads = encoder.config.shape  # type: ignore[attr-defined]
    config = PeerConfig(
        image_size=arguments.size,
        num_frames=arguments.frames,
        hidden_size=dim,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * dim,
        decoder_hidden_size=decoder.dim,
        decoder_num_hidden_layers=decoder.depth,
        decoder_num_attention_heads=decoder.heads,
        decoder_intermediate_size=4 * decoder.dim,
    )
    assert config._attn_implementation in (None, "sdpa"), config._attn_implementation
    model = VideoMAEForPreTraining(config).to(arguments.device).train()
    hidden = torch.zeros(arguments.batch, math.prod(encoder.grid), dtype=torch.bool, device=arguments.device)
    hidden.scatter_(1, view.mask.masked, True)
    pixels = view.clip.transpose(1, 2).contiguous()
    return trainer(model, lambda: model(pixels, bool_masked_pos=hidden).loss, arguments)
