"""Positions that published video transformers have beside the tables of ``transformer.py``: rotary ones in three
dimensions, and the resizing of learned ones."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate

from st_ssl.augment.masking import Grid


def rotary_table(grid: Grid, head_dim: int) -> Tensor:
    """Cosines and sines of V-JEPA 2's rotary positions (Assran et al. 2025), [2, L, ``head_dim``] float32.

    A third of the channels of a head, rounded down to an even number, turns by the frame, the next by the row, the next
    by the column; what remains is left as it is. The frequencies of a third go once through its first half and again
    through its second, although neighbouring channels make a pair: a slip of the published code that its weights were
    trained with, and that they need.
    """
    width = head_dim // 3 // 2 * 2
    frequency = 1.0 / 10000 ** (torch.arange(width // 2, dtype=torch.float32) / (width / 2))
    places = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in grid), indexing="ij")
    angles = [(place.flatten()[:, None] * frequency).repeat(1, 2) for place in places]
    still = torch.zeros(len(angles[0]), head_dim - 3 * width)
    angle = torch.cat([*angles, still], dim=1)
    return torch.stack([angle.cos(), angle.sin()])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Queries or keys [B, H, L, D] turned by a ``rotary_table``, [2, L, D] or [2, B, L, D] for tokens that differ by
    sample; the result has the type of ``x``."""
    cos, sin = table.unsqueeze(-3)  # for all heads
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return (x * cos + torch.stack([-odd, even], dim=-1).flatten(-2) * sin).to(x.dtype)


def resize_grid(table: Tensor, grid: Grid, target: Grid) -> Tensor:
    """Learned positions [L, D] of ``grid``, flattened, for the ``target`` grid: bicubic over the rows and columns, and
    linear over time, as fine-tuning at another size or length does (Dosovitskiy et al. 2021). Equal grids change
    nothing."""
    if grid[1:] != target[1:]:
        frames = rearrange(table.float(), "(t h w) d -> t d h w", t=grid[0], h=grid[1])
        table = rearrange(interpolate(frames, target[1:], mode="bicubic"), "t d h w -> (t h w) d").to(table.dtype)
    if grid[0] != target[0]:
        lines = rearrange(table.float(), "(t hw) d -> hw d t", t=grid[0])
        table = rearrange(interpolate(lines, target[0], mode="linear"), "hw d t -> (t hw) d").to(table.dtype)
    return table
