from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from st_ssl.core.errors import ConfigError, UserError
from st_ssl.core.inputs import InputConfig
from st_ssl.encoders.base import ENCODERS, Encoder, random_encoder, save_encoder
from st_ssl.encoders.positions import resize_grid
from st_ssl.encoders.start import start_from

SMALL = InputConfig(num_frames=4, size=16)
LARGE = InputConfig(num_frames=8, size=32)


def vit(input: InputConfig, seed: int, **changes: Any) -> Any:
    row = {"name": "video_vit", "dim": 24, "depth": 2, "heads": 3, "patch": 8, **changes}
    return random_encoder(ENCODERS.config("video_vit").model_validate(row), input, seed)


def test_all_of_the_same_network_is_taken(tmp_path: Path) -> None:
    before, encoder = vit(SMALL, 0), vit(SMALL, 1)
    save_encoder(before, tmp_path)
    started = start_from(encoder, tmp_path)
    assert all(torch.equal(value, before.state_dict()[name]) for name, value in encoder.state_dict().items())
    assert len(started.taken) == len(before.state_dict())
    assert (started.resized, started.other, started.missing, started.unused) == ([], [], [], [])
    assert started.told() == f"{len(started.taken)} tensors taken from {tmp_path}"
    assert len(started.digest) == 64


@pytest.mark.parametrize("positions", ["learned", "separable"])
def test_positions_are_interpolated_to_another_size(tmp_path: Path, positions: str) -> None:
    before, encoder = vit(SMALL, 0, positions=positions), vit(LARGE, 1, positions=positions)
    save_encoder(before, tmp_path)
    started = start_from(encoder, tmp_path)
    names = ["pos_embed"] if positions == "learned" else ["pos_embed_time", "pos_embed_space"]
    assert started.resized == names
    if positions == "learned":
        torch.testing.assert_close(encoder.pos_embed, resize_grid(before.pos_embed, (2, 2, 2), (4, 4, 4)))
    else:
        torch.testing.assert_close(encoder.pos_embed_time, resize_grid(before.pos_embed_time, (2, 1, 1), (4, 1, 1)))
        torch.testing.assert_close(encoder.pos_embed_space, resize_grid(before.pos_embed_space, (1, 2, 2), (1, 4, 4)))
    assert "resized to this input (pos_embed" in started.told()


def test_what_does_not_match_is_counted_and_told(tmp_path: Path) -> None:
    before, encoder = vit(SMALL, 0, depth=3), vit(SMALL, 1, patch=4, class_token=True)
    kept = encoder.state_dict()["embed.weight"].clone()
    save_encoder(before, tmp_path)
    started = start_from(encoder, tmp_path)
    assert started.other == ["embed.weight"]
    assert started.missing == ["class_token"]
    assert started.unused and all(name.startswith("blocks.2.") for name in started.unused)
    assert torch.equal(encoder.state_dict()["embed.weight"], kept)
    told = started.told()
    assert "1 left out, of another shape (embed.weight)" in told and "1 not in the file (class_token)" in told
    assert (
        f"{len(started.unused)} of the file not used (blocks.2." in told and f"({len(started.unused) - 3} more)" in told
    )


def test_an_encoder_of_another_kind_or_none_is_refused(tmp_path: Path) -> None:
    row = ENCODERS.config("r3d").model_validate({"name": "r3d", "depth": 10, "width": 4})
    save_encoder(random_encoder(row, SMALL, 0), tmp_path)
    with pytest.raises(ConfigError, match="nothing of this r3d fits"):
        start_from(vit(SMALL, 1), tmp_path)
    with pytest.raises(ConfigError, match=r"no encoder\.json"):
        start_from(vit(SMALL, 1), tmp_path / "nowhere")
    (tmp_path / "encoder.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"encoder\.safetensors: cannot be loaded"):
        start_from(vit(SMALL, 1), tmp_path)


def test_a_frozen_encoder_stays_in_evaluation_and_has_no_gradients() -> None:
    encoder: Encoder = vit(SMALL, 0, drop_path=0.5).train()
    assert encoder.training
    encoder.freeze()
    torch.nn.Sequential(encoder).train()
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
