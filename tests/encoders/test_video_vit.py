from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from st_ssl.core.errors import ConfigError
from st_ssl.encoders.base import InputConfig, count_parameters, load_encoder, save_encoder
from st_ssl.encoders.transformer import DropPath, sincos, sincos_1d, sincos_3d
from st_ssl.encoders.video_vit import VideoViT, VideoViTConfig, tubelets, untubelets
from st_ssl.training.optim import is_excluded
from tests.encoders.small import assert_all_trained

INPUT = InputConfig(num_frames=4, size=16)
TINY: dict[str, Any] = {"dim": 24, "depth": 2, "heads": 3, "patch": 8}


def build(seed: int = 0, **changes: Any) -> VideoViT:
    torch.manual_seed(seed)
    return VideoViT(VideoViTConfig(**(TINY | changes)), INPUT).double().eval()


def a_clip(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 4, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
def test_tubelets_and_back(batch: int, time: int, rows: int, tubelet: int, patch: int) -> None:
    clip = torch.arange(batch * 3 * time * tubelet * rows * patch * 2 * patch, dtype=torch.float32)
    clip = clip.view(batch, 3, time * tubelet, rows * patch, 2 * patch)
    tokens = tubelets(clip, tubelet, patch)
    assert tokens.shape == (batch, time * rows * 2, 3 * tubelet * patch**2)
    torch.testing.assert_close(untubelets(tokens, (time, rows, 2), tubelet, patch), clip, rtol=0, atol=0)


def test_order_of_tubelets() -> None:
    clip = torch.randn(1, 3, 4, 6, 8)
    tokens = tubelets(clip, tubelet=2, patch=2)
    for t, row, column in [(0, 0, 0), (0, 0, 3), (1, 2, 1)]:
        piece = clip[0, :, 2 * t : 2 * t + 2, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(tokens[0, t * 12 + row * 4 + column], piece.flatten())


def test_tubelets_by_index() -> None:
    clip = torch.randn(2, 3, 4, 6, 8)
    index = torch.stack([torch.randperm(24)[:5] for _ in range(2)])
    picked = tubelets(clip, 2, 2, index)
    assert torch.equal(picked, tubelets(clip, 2, 2).gather(1, index[..., None].expand(-1, -1, 24)))


@pytest.mark.parametrize("positions", ["sincos_1d", "sincos_3d", "learned", "separable", "rope_3d"])
def test_all_tokens_visible_is_the_whole_clip(positions: Any) -> None:
    encoder, clip = build(positions=positions), a_clip()
    whole = encoder(clip)
    assert whole.tokens is not None
    assert whole.tokens.shape == (2, 8, 24)
    torch.testing.assert_close(whole.pooled, whole.tokens.mean(1))
    kept = encoder(clip, torch.arange(8).expand(2, -1))
    torch.testing.assert_close(kept.tokens, whole.tokens)
    # tokens go by their index, so another order of ``keep`` gives the same tokens in that order
    order = torch.stack([torch.randperm(8), torch.randperm(8)])
    torch.testing.assert_close(encoder(clip, order).tokens, whole.tokens.gather(1, order[..., None].expand(-1, -1, 24)))
    torch.testing.assert_close(encoder(clip, order).pooled, whole.pooled)


@pytest.mark.parametrize("positions", ["sincos_1d", "separable", "rope_3d"])
def test_positions_matter(positions: Any) -> None:
    encoder, clip = build(positions=positions), a_clip()
    assert not torch.allclose(encoder(clip).pooled, encoder(clip.flip(2)).pooled)
    assert not torch.allclose(encoder(clip).pooled, encoder(clip.roll(8, dims=3)).pooled)


def test_hidden_tokens_are_not_seen() -> None:
    encoder, clip = build(), a_clip()
    keep = torch.tensor([[0, 3, 5], [1, 2, 7]])
    seen = encoder(clip, keep).tokens
    assert seen.shape == (2, 3, 24)
    patches = tubelets(clip, 2, 8)
    hidden = torch.ones(2, 8, dtype=torch.bool).scatter(1, keep, False)
    patches[hidden] = 1e3
    torch.testing.assert_close(encoder(untubelets(patches, encoder.grid, 2, 8), keep).tokens, seen, rtol=0, atol=0)


def test_checkpointing_changes_memory_alone() -> None:
    plain, saving = build().train(), build(checkpoint=True).train()
    for encoder in (plain, saving):
        encoder(a_clip()).pooled.square().sum().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert a.grad is not None, name
        assert a.grad.abs().sum() > 0, name
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.3)
    out = drop(torch.ones(20000, 2, 3))
    values = out.flatten(1)
    assert (values == values[:, :1]).all()
    alive = values[:, 0] > 0
    torch.testing.assert_close(values[alive], torch.full_like(values[alive], 1 / 0.7))
    assert abs(alive.float().mean().item() - 0.7) < 0.016  # 5 standard errors
    assert torch.equal(drop.eval()(out), out)
    assert torch.equal(DropPath(0.0)(out), out)


def test_drop_path_grows_linearly_with_depth() -> None:
    encoder = build(depth=5, drop_path=0.4)
    rates = [block.drop_path.p for block in encoder.blocks]  # type: ignore[union-attr]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    clip = a_clip()
    torch.testing.assert_close(encoder(clip).pooled, encoder(clip).pooled)
    encoder.train()
    assert not torch.allclose(encoder(clip).pooled, encoder(clip).pooled)


@pytest.mark.parametrize(
    ("variant", "dim", "depth", "millions"),
    [("Ti", 192, 12, 5.7), ("S", 384, 12, 22), ("B", 768, 12, 87), ("L", 1024, 24, 305), ("H", 1280, 32, 633)],
)
def test_parameters_of_the_published_sizes(variant: Any, dim: int, depth: int, millions: float) -> None:
    with torch.device("meta"):
        encoder = VideoViT(VideoViTConfig(variant=variant), InputConfig(num_frames=16, size=224))
    assert encoder.grid == (8, 14, 14)
    assert encoder.embed_dim == dim
    block = 12 * dim**2 + 13 * dim  # attention and MLP with their biases, and two norms
    assert count_parameters(encoder) == (3 * 2 * 16 * 16 + 1) * dim + depth * block + 2 * dim
    assert count_parameters(encoder) / 1e6 == pytest.approx(millions, rel=0.02)  # published with a classifier


@pytest.mark.parametrize("dim", [8, 24, 66])
def test_sincos_against_the_formula(dim: int) -> None:
    table = sincos(torch.arange(20), dim)
    assert table.shape == (20, dim)
    for p in (0, 1, 19):
        for channel in range(dim):
            angle = p / 10000 ** (2 * (channel // 2) / dim)
            expected = math.cos(angle) if channel % 2 else math.sin(angle)
            assert table[p, channel].item() == pytest.approx(expected, abs=1e-6)


def test_sincos_tables_of_a_grid() -> None:
    grid = (2, 3, 4)
    torch.testing.assert_close(sincos_1d(grid, 16), sincos(torch.arange(24), 16))
    table = sincos_3d(grid, 32)  # 8 channels of time, 12 of height, 12 of width
    assert table.shape == (24, 32)
    for t, row, column in [(0, 0, 0), (1, 2, 3), (0, 1, 2)]:
        parts = [sincos(torch.tensor([p]), d)[0] for p, d in ((t, 8), (row, 12), (column, 12))]
        torch.testing.assert_close(table[t * 12 + row * 4 + column], torch.cat(parts))
    for dim in (2, 6, 10, 24, 192, 66):
        assert sincos_3d(grid, dim).shape == (24, dim)
        assert len(sincos_3d(grid, max(dim, 16)).unique(dim=0)) == 24


def test_a_class_token_stands_for_no_place_and_may_be_what_is_pooled() -> None:
    plain, mean, token = build(), build(class_token=True), build(class_token=True, pooling="class")
    clip, keep = a_clip(), torch.tensor([[0, 3, 5], [1, 2, 7]])
    for encoder in (mean, token):
        encoder.load_state_dict(plain.state_dict() | {"class_token": torch.full((24,), 0.5)})
        assert_all_trained(encoder, clip)
        assert encoder(clip, keep).as_tokens().shape == (2, 3, 24)
    torch.testing.assert_close(token(clip).tokens, mean(clip).tokens)
    torch.testing.assert_close(mean(clip).pooled, mean(clip).as_tokens().mean(1))
    assert not torch.allclose(mean(clip).tokens, plain(clip).tokens)  # it is attended to
    assert not torch.allclose(token(clip).pooled, mean(clip).pooled)


def test_learned_places_and_the_class_token_do_not_decay() -> None:
    encoder = build(class_token=True, positions="separable")
    spared = {name for name, parameter in encoder.named_parameters() if is_excluded(name, parameter)}
    assert {"class_token", "pos_embed_time", "pos_embed_space"} < spared
    assert "embed.weight" not in spared


def test_the_last_norm_may_follow_pooling() -> None:
    tokens, pooled = build(), build(norm="pooled", last_norm_eps=0.5)
    torch.nn.init.normal_(tokens.get_parameter("norm.weight"))
    pooled.load_state_dict(tokens.state_dict())
    raw = pooled(a_clip()).as_tokens()
    torch.testing.assert_close(tokens.norm(raw), tokens(a_clip()).tokens)
    centred = raw.mean(1) - raw.mean(1).mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 0.5).sqrt() * tokens.get_parameter("norm.weight")
    torch.testing.assert_close(pooled(a_clip()).pooled, expected)
    none = build(norm="none")
    none.load_state_dict({name: t for name, t in tokens.state_dict().items() if not name.startswith("norm.")})
    torch.testing.assert_close(none(a_clip()).tokens, raw)
    assert {m.eps for m in build(norm_eps=1e-3).modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-3}
    assert not any(name.endswith("qkv.bias") for name in build(qkv_bias=False).state_dict())


def test_an_encoder_saved_before_these_settings_loads_as_it_was(tmp_path: Path) -> None:
    encoder = build().float()
    save_encoder(encoder, tmp_path)
    described = json.loads((tmp_path / "encoder.json").read_text())
    for name in ("qkv_bias", "class_token", "pooling", "norm", "norm_eps", "last_norm_eps"):
        del described["encoder"][name]
    (tmp_path / "encoder.json").write_text(json.dumps(described))
    assert torch.equal(load_encoder(tmp_path)(a_clip().float()).pooled, encoder(a_clip().float()).pooled)
    keys = {name.split(".")[0] for name in encoder.state_dict()}
    assert keys == {"embed", "blocks", "norm"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "class"}, "pooling=class needs class_token=true"),
        ({"positions": "rope_3d", "class_token": True}, "gives a class token no place"),
        ({"positions": "rope_3d", "dim": 20, "heads": 4}, "at least 6, not 5"),
    ],
)
def test_settings_that_exclude_each_other(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoViTConfig(**(TINY | settings))


def test_sizes_that_do_not_divide_are_named() -> None:
    with pytest.raises(
        ConfigError, match=r"input\.size 20 must be multiples of encoder\.tubelet 2 and encoder\.patch 8"
    ):
        VideoViT(VideoViTConfig(**TINY), InputConfig(num_frames=4, size=20))
    with pytest.raises(ConfigError, match=r"input\.num_frames 3 "):
        VideoViT(VideoViTConfig(**TINY), InputConfig(num_frames=3, size=16))
    with pytest.raises(ValueError, match="dim 25 must be even and divisible by heads 5"):
        VideoViTConfig(dim=25, heads=5)
