from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from st_ssl.encoders.transformer import Attention, Block, attend


def qkv(length: int, dtype: torch.dtype, queries: int | None = None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 3, n, 16, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for n in (queries or length, length, length)
    ]


@pytest.mark.parametrize(
    ("dtype", "length", "tolerance"),
    [(torch.float32, 40, 1e-5), (torch.bfloat16, 40, 2e-2), (torch.bfloat16, 1025, 2e-2)],
)
def test_attention_and_its_gradients_are_the_exact_ones(dtype: torch.dtype, length: int, tolerance: float) -> None:
    ours, exact = qkv(length, dtype, queries=7), [x.detach().double().requires_grad_() for x in qkv(length, dtype, 7)]
    (q, k, v), output = exact, attend(*ours)
    expected = scaled_dot_product_attention(q, k, v)
    assert output.dtype == dtype
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    output.backward(weight)
    expected.backward(weight.double())
    for value, truth in [(output, expected), *((a.grad, b.grad) for a, b in zip(ours, exact, strict=True))]:
        assert value is not None
        assert truth is not None
        assert (value.double() - truth).norm() < tolerance * truth.norm()


def test_attention_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(24, 3).double(), nn.MultiheadAttention(24, 3, batch_first=True).double()
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x, x, x)[0])


def test_dropout_of_attention_is_of_its_weights_and_in_training_alone() -> None:
    torch.manual_seed(0)
    dropping, plain = Attention(8, 2, dropout=0.5), Attention(8, 2)
    plain.load_state_dict(dropping.state_dict())
    x = torch.randn(1, 5, 8).expand(4000, -1, -1)
    expected = plain(x[:1])
    torch.testing.assert_close(dropping.eval()(x[:1]), expected)
    dropped = dropping.train()(x)
    assert (dropped - expected).std() > 0.01
    torch.testing.assert_close(dropped.mean(0, keepdim=True), expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("start", [0, 1, 4])
def test_a_block_asked_for_the_last_tokens_gives_those_of_the_whole(start: int) -> None:
    torch.manual_seed(0)
    block, x = Block(24, 3).double(), torch.randn(2, 5, 24, dtype=torch.float64)
    torch.testing.assert_close(block(x, start), block(x)[:, start:])
    assert not torch.allclose(block(x[:, start:]), block(x)[:, start:]) or start == 0  # the others are attended to
