from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from st_ssl.core.inputs import InputConfig
from st_ssl.encoders.positions import resize_grid, rotary_table, rotate
from st_ssl.encoders.video_vit import VideoViT, VideoViTConfig


def test_rotary_positions_written_out() -> None:
    grid, head_dim = (2, 2, 3), 14  # a third is 4 channels; the last 2 stay
    x = torch.randn(1, 2, 12, head_dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = x.clone()
    for token in range(12):
        place = (token // 6, token // 3 % 2, token % 3)
        for channel in range(12):
            third, within = divmod(channel, 4)
            angle = place[third] / 10000 ** ((within % 2) / 2)
            partner = -x[..., token, channel + 1] if channel % 2 == 0 else x[..., token, channel - 1]
            expected[..., token, channel] = x[..., token, channel] * math.cos(angle) + partner * math.sin(angle)
    table = rotary_table(grid, head_dim)
    torch.testing.assert_close(rotate(x, table), expected, rtol=0, atol=1e-6)
    assert rotate(x.bfloat16(), table).dtype == torch.bfloat16
    keep = torch.tensor([[3, 7, 11]])
    torch.testing.assert_close(rotate(x[:, :, keep[0]], table[:, keep]), rotate(x, table)[:, :, keep[0]])


def test_rotary_attention_of_a_part_agrees_with_transformers() -> None:
    modelling = pytest.importorskip("transformers.models.vjepa2.modeling_vjepa2")
    torch.manual_seed(0)
    theirs = modelling.VJEPA2RopeAttention(
        modelling.VJEPA2Config(crop_size=16, patch_size=8, frames_per_clip=4, attn_implementation="sdpa"), 48, 3
    )
    ours: Any = VideoViT(
        VideoViTConfig(dim=48, depth=1, heads=3, patch=8, positions="rope_3d"), InputConfig(num_frames=4, size=16)
    )
    attention = ours.blocks[0].attn
    parts = [theirs.query, theirs.key, theirs.value]
    attention.qkv.weight.data.copy_(torch.cat([part.weight for part in parts]))
    attention.qkv.bias.data.copy_(torch.cat([part.bias for part in parts]))
    attention.proj.load_state_dict(theirs.proj.state_dict())
    keep, x = torch.tensor([[0, 3, 5], [1, 2, 7]]), torch.randn(2, 3, 48)
    expected = theirs(x, position_mask=keep)[0]
    torch.testing.assert_close(attention(x, 0, ours.rotary[:, keep]), expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(attention(x), expected, atol=1e-3)


def test_separable_positions_are_the_sum_of_both() -> None:
    torch.manual_seed(0)
    encoder = VideoViT(
        VideoViTConfig(dim=8, depth=1, heads=1, patch=8, positions="separable"), InputConfig(num_frames=6, size=16)
    )
    table = encoder._places(None)[0]
    assert table is not None
    for token in range(12):
        expected = encoder.pos_embed_time[token // 4] + encoder.pos_embed_space[token % 4]  # type: ignore[index]
        assert torch.equal(table[0, token], expected)


def test_learned_positions_of_another_grid() -> None:
    table = torch.randn(2 * 4 * 4, 3)
    assert resize_grid(table, (2, 4, 4), (2, 4, 4)) is table
    longer = resize_grid(table, (2, 4, 4), (4, 4, 4)).view(4, 16, 3)
    for frame, share in enumerate((0.0, 0.25, 0.75, 1.0)):
        torch.testing.assert_close(longer[frame], torch.lerp(table[:16], table[16:], share))
    row = torch.rand(8)
    wider = resize_grid(row[None, :, None].expand(8, 8, 1).reshape(64, 1), (1, 8, 8), (1, 4, 16)).view(4, 16)
    for column in range(4, 12):  # away from the edges: Keys' cubic convolution (1981), a = -0.75
        source = (column + 0.5) / 2 - 0.5
        taps = range(int(source) - 1, int(source) + 3)
        expected = sum(float(row[tap]) * cubic(abs(source - tap)) for tap in taps)
        torch.testing.assert_close(wider[:, column], torch.full((4,), expected))


def cubic(d: float) -> float:
    if d <= 1:
        return 1.25 * d**3 - 2.25 * d**2 + 1
    return -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
