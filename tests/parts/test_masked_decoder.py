"""The decoder of masked autoencoders against the same network with all tokens in the order of the grid."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from st_ssl.parts.masked_decoder import DecoderConfig, MaskedDecoder


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("positions", ["separable", "learned", "sincos_1d"])
def test_it_is_the_network_over_the_whole_grid(positions: Any, class_token: bool) -> None:
    torch.manual_seed(0)
    config = DecoderConfig(dim=8, depth=2, heads=2, positions=positions, class_token=class_token, embed_bias=True)
    decoder: Any = MaskedDecoder(6, (2, 2, 2), 5, config).double()
    torch.nn.init.normal_(decoder.embed.bias)
    tokens = torch.randn(2, 3, 6, dtype=torch.float64)
    keep, masked = torch.tensor([[0, 3, 5], [1, 2, 7]]), torch.tensor([[7, 1, 2, 4, 6], [0, 3, 4, 5, 6]])
    rows = []
    for row in range(2):
        grid = [decoder.mask_token] * 8
        for token, place in zip(tokens[row], keep[row].tolist(), strict=True):
            grid[place] = decoder.embed(token)
        for place in range(8):
            if positions == "separable":
                grid[place] = grid[place] + decoder.pos_embed_time[place // 4] + decoder.pos_embed_space[place % 4]
            else:
                grid[place] = grid[place] + decoder.pos_embed[place]
        x = torch.stack([*([decoder.class_token] if class_token else []), *grid])[None]
        for block in decoder.blocks:
            x = block(x)
        rows.append(decoder.head(decoder.norm(x))[0, -8:][masked[row]])
    found, expected = decoder(tokens, keep, masked), torch.stack(rows)
    torch.testing.assert_close(found, expected)
    weights = list(decoder.parameters())
    gradients = (torch.autograd.grad(x.square().sum(), weights, retain_graph=True) for x in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert theirs.abs().sum() > 0
