from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from st_ssl.encoders.transformer import sincos_3d
from st_ssl.parts.latent_predictor import LatentPredictor, PredictorConfig

GRID = (2, 3, 4)


def predictor() -> LatentPredictor:
    torch.manual_seed(0)
    return LatentPredictor(12, GRID, 2, PredictorConfig(dim=16, depth=2, heads=2)).double()


def places(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    order = torch.stack([torch.randperm(24, generator=torch.Generator().manual_seed(seed + i)) for i in range(3)])
    return order[:, :7].sort(1).values, order[:, 10:15].sort(1).values


def test_it_begins_as_published() -> None:
    net = LatentPredictor(1024, (8, 14, 14), 2, PredictorConfig())
    assert (len(net.blocks), net.blocks[0].attn.heads, net.embed.out_features) == (12, 16, 384)  # type: ignore[union-attr]
    assert net.mask_tokens.shape == (2, 384)
    assert not net.mask_tokens.any()
    assert "pos_embed" not in net.state_dict()
    for layer in net.modules():
        if isinstance(layer, torch.nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
            assert not layer.bias.any()


def test_predictions_by_hand_token_by_token() -> None:
    net, (keep, masked) = predictor(), places()
    with torch.no_grad():
        net.mask_tokens.normal_()
    table = sincos_3d(GRID, 16).double()
    tokens = torch.randn(3, 7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for number in range(2):
        found = net(tokens, keep, masked, number)
        assert found.shape == (3, 5, 12)
        for sample in range(3):
            rows = [net.embed(token) + table[at] for token, at in zip(tokens[sample], keep[sample], strict=True)]
            rows += [net.mask_tokens[number] + table[at] for at in masked[sample]]
            x = torch.stack(rows)[None]
            for block in net.blocks:
                x = block(x)
            torch.testing.assert_close(found[sample], net.head(net.norm(x[0, 7:])))


def test_a_prediction_knows_its_place_and_its_mask_but_no_other_prediction() -> None:
    net, (keep, masked) = predictor(), places()
    tokens = torch.randn(3, 7, 12, dtype=torch.float64)
    torch.testing.assert_close(net(tokens, keep, masked, 0), net(tokens, keep, masked, 1))  # both tokens are 0 at first
    with torch.no_grad():
        net.mask_tokens[1, ::3] = 1.0
    assert not torch.allclose(net(tokens, keep, masked, 0), net(tokens, keep, masked, 1))
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(net(tokens, keep, masked[:, order]), net(tokens, keep, masked)[:, order])


def test_heads_must_divide() -> None:
    with pytest.raises(ValidationError, match="dim 16 must be even and divisible by heads 3"):
        PredictorConfig(dim=16, heads=3)
