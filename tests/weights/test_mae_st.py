"""MAE of space and time against its network written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from st_ssl.encoders.positions import resize_grid
from st_ssl.weights.base import WeightsError
from tests.weights.published import clip, imported
from tests.weights.references import MAEST, largest_difference, randomise

TINY = ("layout.heads=3", "layout.depth=2")


def clips(frames: int = 4, size: int = 24) -> Tensor:
    return clip(2, 3, frames, size, size)


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("single", [True, False])
def test_pretrained(single: bool, class_token: bool) -> None:
    theirs = randomise(MAEST(single=single, class_token=class_token))
    decoder = {name: torch.zeros(2) for name in ("decoder_pos_embed_spatial", "decoder_blocks.0.attn.q.bias")}
    state = theirs.state_dict() | decoder | {"mask_token": torch.zeros(2)}
    ours = imported(state, "mae_st", *TINY, container="model_state", args={"num_frames": 4})
    assert (ours.encoder.input.num_frames, ours.encoder.input.size) == (4, 24)
    assert ours.encoder.input.mean == (0.45, 0.45, 0.45)
    assert largest_difference(ours.encoder(clips()).as_tokens(), theirs(clips())) < 1e-5
    assert set(ours.left) == {*decoder, "mask_token"}


def test_fine_tuned_has_its_last_norm_after_pooling() -> None:
    theirs = randomise(MAEST(tuned=True))
    ours = imported(theirs.state_dict(), "mae_st", *TINY, container="model")
    assert largest_difference(ours.encoder(clips()).pooled, theirs(clips())) < 1e-5
    assert set(ours.left) == {"head.weight", "head.bias"}


@pytest.mark.parametrize(("single", "setting"), [(False, "input.num_frames"), (True, "input.num_frames or input.size")])
def test_learned_positions_are_resized_only_when_asked(single: bool, setting: str) -> None:
    theirs = randomise(MAEST(single=single))
    args = {"num_frames": 4}
    told = (*TINY, "input.num_frames=8", "input.size=32")
    with pytest.raises(WeightsError, match=rf"{setting} \(layout\.interpolate=true resizes.*input.num_frames=4, not 8"):
        imported(theirs.state_dict(), "mae_st", *told, args=args)
    ours = imported(theirs.state_dict(), "mae_st", *told, "layout.interpolate=true", args=args)
    assert ours.encoder(clips(8, 32)).as_tokens().shape == (2, 64, 24)
    state, key = ours.encoder.state_dict(), "pos_embed" if single else "pos_embed_space"
    assert "resized from" in ours.made[key].note
    if single:
        expected = resize_grid(theirs.pos_embed[0, 1:], (2, 3, 3), (4, 4, 4))
    else:
        expected = resize_grid(theirs.pos_embed_spatial[0], (1, 3, 3), (1, 4, 4))
        shares = torch.tensor([0.0, 0.25, 0.75, 1.0])[:, None]
        first, last = theirs.pos_embed_temporal[0]
        torch.testing.assert_close(state["pos_embed_time"], torch.lerp(first, last, shares))
    torch.testing.assert_close(state[key], expected)
    same = imported(theirs.state_dict(), "mae_st", *TINY, "layout.interpolate=true", args=args)
    assert same.made[key].note == ""


def test_frames_that_nothing_tells_are_asked_for() -> None:
    theirs = randomise(MAEST(single=True))
    with pytest.raises(WeightsError, match=r"a table of 18 positions and no args.*give layout\.frames=NUMBER"):
        imported(theirs.state_dict(), "mae_st", *TINY)
    ours = imported(theirs.state_dict(), "mae_st", *TINY, "layout.frames=4")
    assert largest_difference(ours.encoder(clips()).as_tokens(), theirs(clips())) < 1e-5


def test_places_that_make_no_square() -> None:
    state = MAEST().state_dict() | {"pos_embed_spatial": torch.zeros(1, 8, 24)}
    with pytest.raises(WeightsError, match=r"'pos_embed_spatial' has 8 places, which make no square"):
        imported(state, "mae_st", *TINY)
    with pytest.raises(WeightsError, match=r"not of the layout mae_st: it has no 'blocks\.0.attn.q.weight'"):
        imported({"blocks.0.attn.qkv.weight": torch.zeros(3, 1)}, "mae_st")
