from __future__ import annotations

import torch
from torch import Tensor, nn

from st_ssl.encoders.base import Encoder
from st_ssl.parts.momentum_network import MomentumNetwork
from st_ssl.parts.projector import projector
from tests.methods.steps import TINY_ENCODERS, tiny_encoder


def networks() -> tuple[Encoder, nn.Module, MomentumNetwork, Tensor]:
    encoder = tiny_encoder(TINY_ENCODERS[0]).train()
    torch.manual_seed(0)
    head = projector(encoder.embed_dim, 8, 5)
    return encoder, head, MomentumNetwork(encoder, head), torch.randn(4, 3, 4, 16, 16)


def test_at_first_it_is_the_same_and_has_no_gradient() -> None:
    encoder, head, slow, clip = networks()
    expected = head(encoder(clip).pooled)
    found = slow(clip)
    torch.testing.assert_close(found, expected.detach())
    assert expected.requires_grad
    assert not found.requires_grad
    assert not any(p.requires_grad for p in slow.parameters())


def test_it_follows_the_parameters_and_counts_its_own_batches() -> None:
    encoder, head, slow, clip = networks()
    before = {name: value.clone() for name, value in slow.state_dict().items()}
    with torch.no_grad():
        for p in (*encoder.parameters(), *head.parameters()):
            p.add_(1.0)
    for _ in range(3):
        encoder(clip)
    slow.follow(encoder, head, 0.75)
    parameters = dict(slow.named_parameters())
    for name, value in slow.state_dict().items():
        expected = before[name] + 0.25 if name in parameters else before[name]
        torch.testing.assert_close(value, expected)
    slow(clip)
    counts = [value for name, value in slow.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counts
    assert all(int(count) == 1 for count in counts)


def test_the_ends_of_the_momentum() -> None:
    encoder, head, slow, _ = networks()
    before = slow.projector[0].weight.clone()  # type: ignore[index]
    with torch.no_grad():
        head[0].weight.mul_(2)  # type: ignore[index]
    slow.follow(encoder, head, 1.0)
    assert torch.equal(slow.projector[0].weight, before)  # type: ignore[index]
    slow.follow(encoder, head, 0.0)
    assert torch.equal(slow.projector[0].weight, 2 * before)  # type: ignore[index]
