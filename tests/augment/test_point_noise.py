"""Random numbers that are a function of where they are wanted, and the elastic distortion that they make."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage, stats
from scipy.interpolate import RegularGridInterpolator

from st_ssl.augment.point_noise import LATTICE, _lattice, elastic, normal, random_bits, turn_normals, uniform
from st_ssl.core.random import keyed_rng

# --- noise


def test_bits_are_those_of_splitmix64() -> None:
    def reference(state: int, count: int) -> list[int]:
        out = []
        for _ in range(count):
            state = (state + 0x9E3779B97F4A7C15) % 2**64
            z = state
            z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
            z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
            out.append(z ^ (z >> 31))
        return out

    assert reference(0, 1) == [0xE220A8397B1DCDAF]  # the published first output
    for seed in (0, 1, 2**63 - 1):
        got = random_bits(torch.tensor(seed), torch.arange(50)).numpy().view(np.uint64)
        assert got.tolist() == reference(seed, 50)


def test_noise_is_uniform_and_normal() -> None:
    counter = torch.arange(100_000)
    assert stats.kstest(uniform(torch.tensor(3), counter).numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(normal(torch.tensor(4), counter).numpy(), "norm").pvalue > 1e-3


# --- the elastic distortion


def test_elastic_is_blurred_noise_in_linear_interpolation() -> None:
    seed = torch.tensor([11, 12])
    counter = torch.arange(3 * LATTICE**3)
    xyz = torch.from_numpy(keyed_rng("xyz").uniform(-2, 3, (300, 3)))
    cloud = (torch.arange(300) >= 140).long()
    got, _ = elastic(xyz, cloud, seed, 0.4, torch.tensor([0.3, 0.7], dtype=torch.float64))
    for b, strength in enumerate((0.3, 0.7)):
        noise = normal(seed[b], counter).view(LATTICE, LATTICE, LATTICE, 3).double().numpy()
        for _ in range(2):
            noise = ndimage.uniform_filter(noise, size=(3, 3, 3, 1), mode="wrap")
        wide = np.pad(noise, [(0, 1)] * 3 + [(0, 0)], mode="wrap")
        points = xyz[cloud == b].numpy()
        moved = RegularGridInterpolator([np.arange(LATTICE + 1)] * 3, wide)(np.mod(points / 0.4, LATTICE))
        assert np.allclose(got[cloud == b].numpy(), points + strength * moved, atol=1e-5)


def test_the_derivative_of_elastic_is_that_of_autograd() -> None:
    xyz = torch.from_numpy(keyed_rng("xyz").uniform(-1, 1, (40, 3))).requires_grad_()
    arguments = (torch.zeros(40, dtype=torch.long), torch.tensor([5]), 0.3, torch.tensor([0.5], dtype=torch.float64))
    _, slope = elastic(xyz.detach(), *arguments, jacobian=True)
    moved, _ = elastic(xyz, *arguments)
    rows = [torch.autograd.grad(moved[:, i].sum(), xyz, retain_graph=True)[0] for i in range(3)]
    assert slope is not None
    assert torch.allclose(slope, torch.stack(rows, dim=1), atol=1e-6)
    assert _lattice(torch.tensor([5])).abs().max() > 0.1


def test_normals_stay_perpendicular_when_a_plane_is_bent() -> None:
    """Against a fine mesh: the normal of a bent plane is the cross product of two close differences along it."""
    at = torch.from_numpy(keyed_rng("plane").uniform(-1, 1, (200, 3)))
    at[:, 2] = 0.05
    step = 1e-5
    places = torch.cat([at, at + torch.tensor([step, 0, 0]), at + torch.tensor([0, step, 0])])
    cloud = torch.zeros(len(places), dtype=torch.long)
    moved, slope = elastic(places, cloud, torch.tensor([8]), 0.5, torch.tensor([0.4], dtype=torch.float64), True)
    here, right, ahead = moved.chunk(3)
    expected = torch.linalg.cross(right - here, ahead - here)
    expected /= expected.norm(dim=1, keepdim=True)
    assert slope is not None
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand(200, 3)
    turned = turn_normals(up, slope[:200])
    assert torch.allclose((turned * expected).sum(1).abs(), torch.ones(200, dtype=torch.float64), atol=1e-6)
