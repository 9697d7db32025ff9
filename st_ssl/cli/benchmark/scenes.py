"""Videos that cost a decoder what those of real scenes cost it, for benchmarks that are given none."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

WIDTH, HEIGHT, FPS, NUM_FRAMES, KEYFRAMES = 340, 256, 30, 300, 250
_OCTAVES, _DETAIL = 7, 0.58  # of a texture, and how much fainter each is than the one twice as coarse
_GRAIN = 1.0  # grey levels, standard deviation


def write_scene(path: Path, number: int) -> None:
    """Ten seconds as Kinetics-400 is usually kept: 340 × 256, 30 frames a second, x264's defaults (crf 23) in one
    thread, a key frame every 250 frames.

    Only the macroblock tree is off: it is not the same at every call on frames this small (see ``video.writing``).
    """
    import av

    options = {"crf": "23", "g": str(KEYFRAMES), "threads": "1", "x264-params": "mbtree=0"}
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for image in render(number):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def render(number: int) -> Iterator[np.ndarray]:
    """The frames of scene ``number``, uint8 [H, W, 3]: a texture under a camera that pans and zooms by fractions of a
    pixel, something before it that moves by itself, and a little grain. Scenes with higher numbers move more."""
    generator = torch.Generator().manual_seed(number)
    back, front = _texture(generator, 2 * HEIGHT, 2 * WIDTH), _texture(generator, HEIGHT, WIDTH)
    speed, phase = torch.rand(2, 5, generator=generator, dtype=torch.float64)
    rows, columns = torch.linspace(-1, 1, HEIGHT)[:, None], torch.linspace(-1, 1, WIDTH)[None]
    cycles = ((0.5 + speed) * (1 + 0.3 * number)).tolist()  # over the whole video
    starts = phase.tolist()
    for frame in range(NUM_FRAMES):
        turns = (cycle * frame / NUM_FRAMES + start for cycle, start in zip(cycles, starts, strict=True))
        pan, tilt, zoom, across, along = (math.sin(2 * math.pi * turn) for turn in turns)
        scale = 0.5 + 0.05 * zoom
        image = _look(back, rows * scale + 0.2 * tilt, columns * scale + 0.4 * pan)
        y, x = rows - 0.4 * along, columns - 0.5 * across
        cover = (6 * (1 - (x / 0.35) ** 2 - (y / 0.6) ** 2)).clamp(0, 1)
        image += cover * (_look(front, y, x) - image)
        image += _GRAIN * torch.randn(HEIGHT, WIDTH, generator=generator)
        yield image.clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _texture(generator: torch.Generator, height: int, width: int) -> Tensor:
    """Clouds of all sizes, coarse ones the strongest, as in natural images: float [3, H, W] about 120."""
    out = torch.zeros(1, 3, height, width)
    for octave in range(_OCTAVES):
        cells = torch.randn(1, 4, 3 * 2**octave + 1, 4 * 2**octave + 1, generator=generator)
        cells = 0.8 * cells[:, 3:] + 0.5 * cells[:, :3]  # light varies more than colour
        out += _DETAIL**octave * interpolate(cells, (height, width), mode="bicubic", align_corners=True)
    return 120 + 45 * out[0] / out.std()


def _look(canvas: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The part of a canvas [3, H', W'] at ``rows`` [H, 1] and ``columns`` [1, W] (from -1 to 1), as [3, H, W]."""
    at = torch.stack(torch.broadcast_tensors(columns, rows), dim=-1)[None]
    return grid_sample(canvas[None], at, padding_mode="reflection", align_corners=False)[0]
