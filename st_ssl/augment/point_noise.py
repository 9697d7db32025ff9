"""Noise for clouds that is a function of a seed and a counter: made on whatever device the points are on, the same
numbers everywhere (to the last bits of a logarithm), whatever else is in the batch. B batch, P points in all."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LATTICE = 16
"""Points a side of the lattice of the elastic distortion, which repeats itself after them."""

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # int64 holds the same 64 bits as the unsigned constants
_FIRST = 0xBF58476D1CE4E5B9 - (1 << 64)
_SECOND = 0x94D049BB133111EB - (1 << 64)


def random_bits(seed: Tensor, counter: Tensor | int) -> Tensor:
    """Output number ``counter`` (from 0) of the SplitMix64 generator (Steele, 2014) that starts at ``seed``: 64 bits
    in an int64; both int64, of shapes that broadcast."""
    x = seed + (torch.as_tensor(counter, device=seed.device) + 1) * _GOLDEN
    x = (x ^ _shift(x, 30)) * _FIRST
    x = (x ^ _shift(x, 27)) * _SECOND
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # without the mask the sign would come in from the left


def uniform(seed: Tensor, counter: Tensor | int) -> Tensor:
    """Float32 in [0, 1)."""
    return _shift(random_bits(seed, counter), 40).float() / (1 << 24)


def normal(seed: Tensor, counter: Tensor | int) -> Tensor:
    """Standard normal float32 (Box and Muller, 1958), at most 6 deviations out."""
    bits = random_bits(seed, counter)
    radius = ((_shift(bits, 40).float() + 0.5) / (1 << 24)).log_().mul_(-2).sqrt_()
    return radius * torch.cos((_shift(bits, 16) & 0xFFFFFF).float() * (2 * math.pi / (1 << 24)))


def point_normal(seed: Tensor, cloud: Tensor, place: Tensor, channels: int = 3) -> Tensor:
    """Standard normal [P, channels]: ``seed`` int64 [B]; ``cloud`` int64 [P] is whose point it is and ``place`` int64
    [P] which one of that cloud's."""
    counter = place[:, None] * channels + torch.arange(channels, device=place.device)
    return normal(seed[cloud][:, None], counter)


def elastic(
    xyz: Tensor, cloud: Tensor, seed: Tensor, granularity: float, strength: Tensor, jacobian: bool = False
) -> tuple[Tensor, Tensor | None]:
    """The elastic distortion of SparseConvNet (Graham, 2018): points move by ``strength`` times a smooth noise, which
    is normal on a lattice of ``granularity`` (in the unit of ``xyz``), blurred twice by 3 x 3 x 3 boxes, and linear in
    between. The lattice is tied to the origin.

    ``xyz`` [P, 3], ``cloud`` int64 [P], ``seed`` int64 [B], ``strength`` [B]. Returns the points moved [P, 3] and, if
    asked for, the derivative of the map at each of them [P, 3, 3].
    """
    noise = _lattice(seed)
    at = xyz / granularity
    low = at.floor()
    after = at - low
    corner = low.long()
    base = cloud * LATTICE**3
    move = torch.zeros_like(xyz)
    slope = torch.zeros((len(xyz), 3, 3), dtype=xyz.dtype, device=xyz.device) if jacobian else None
    for number in range(8):
        side = [number >> 2 & 1, number >> 1 & 1, number & 1]
        x, y, z = (torch.remainder(corner[:, axis] + side[axis], LATTICE) for axis in range(3))
        value = noise[base + (x * LATTICE + y) * LATTICE + z]
        weight = [after[:, axis] if side[axis] else 1 - after[:, axis] for axis in range(3)]
        move += (weight[0] * weight[1] * weight[2])[:, None] * value
        if slope is not None:
            for axis in range(3):
                rest = weight[(axis + 1) % 3] * weight[(axis + 2) % 3]
                slope[:, :, axis] += (rest if side[axis] else -rest)[:, None] * value
    by = strength[cloud]
    if slope is not None:
        slope = slope * (by / granularity)[:, None, None] + torch.eye(3, dtype=xyz.dtype, device=xyz.device)
    return xyz + by[:, None] * move, slope


def _lattice(seed: Tensor) -> Tensor:
    """Blurred noise of each cloud, [B * LATTICE ** 3, 3]."""
    counter = torch.arange(3 * LATTICE**3, device=seed.device)
    noise = normal(seed[:, None], counter).view(-1, LATTICE, LATTICE, LATTICE, 3)
    for axis in (1, 2, 3, 1, 2, 3):
        noise = (noise.roll(1, axis) + noise + noise.roll(-1, axis)) / 3
    return noise.reshape(-1, 3)


def cofactor(matrix: Tensor) -> Tensor:
    """The cofactors [..., 3, 3]: the determinant times the inverse transpose, of singular matrices too. It takes
    normals of a surface to those of the surface that ``matrix`` makes of it, up to their length and the sign of the
    determinant."""
    a, b, c = matrix.unbind(-1)
    return torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], dim=-1)


def turn_normals(normal: Tensor, matrix: Tensor) -> Tensor:
    """Normals [P, 3] of a surface to those of its image under the linear maps ``matrix`` [P, 3, 3], of length 1. What
    is outside stays outside, also in a mirror; unknown normals (0) stay unknown."""
    cofactors = cofactor(matrix)
    sign = (matrix[:, :, 0] * cofactors[:, :, 0]).sum(-1, keepdim=True).sign()
    turned = (cofactors * normal[:, None, :]).sum(-1) * torch.where(sign == 0, 1.0, sign)
    return turned / turned.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(turned.dtype).tiny)
