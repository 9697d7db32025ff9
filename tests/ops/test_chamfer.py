from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from st_ssl.ops.chamfer import chamfer


def slow(a: torch.Tensor, b: torch.Tensor, order: int) -> torch.Tensor:
    """Point by point, in the words of the docstring."""
    values = []
    for one, other in zip(a, b, strict=True):
        ways = []
        for left, right in ((one, other), (other, one)):
            squares = torch.stack([min((point - match).square().sum() for match in right) for point in left])
            ways.append((squares if order == 2 else squares.sqrt()).mean())
        values.append(ways[0] + ways[1] if order == 2 else (ways[0] + ways[1]) / 2)
    return torch.stack(values)


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8), st.sampled_from([1, 2]), st.integers(0, 999))
def test_equals_the_definition_in_value_and_gradient(batch: int, n: int, m: int, order: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(batch, size, 3, generator=generator, dtype=torch.float64).requires_grad_() for size in (n, m))
    ours, theirs = chamfer(a, b, order), slow(a, b, order)
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(
        torch.autograd.grad(ours.sum(), (a, b)), torch.autograd.grad(theirs.sum(), (a, b)), strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("order", [1, 2])
def test_gradcheck(order: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sets = [torch.rand(2, size, 3, generator=generator, dtype=torch.float64).requires_grad_() for size in (5, 7)]
    assert torch.autograd.gradcheck(lambda a, b: chamfer(a, b, order), sets)


def test_by_hand() -> None:
    a, b = torch.tensor([[[0.0, 0, 0], [0, 0, 3]]]), torch.tensor([[[0.0, 4, 0]]])
    assert chamfer(a, b, order=2).item() == (16 + 25) / 2 + 16
    assert chamfer(a, b, order=1).item() == ((4 + 5) / 2 + 4) / 2


@pytest.mark.parametrize("order", [1, 2])
def test_sets_that_coincide_have_no_distance_and_a_finite_gradient(order: int) -> None:
    a = torch.rand(1, 9, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    value = chamfer(a, a.detach().flip(1), order)
    value.sum().backward()
    assert value.item() == 0
    assert a.grad is not None and a.grad.abs().max() == 0


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="order 3: expected 1 or 2"):
        chamfer(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), order=3)
    with pytest.raises(ValueError, match="sets of 2 and 0 points"):
        chamfer(torch.zeros(1, 2, 3), torch.zeros(1, 0, 3))
