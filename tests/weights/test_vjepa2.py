"""V-JEPA 2 of transformers, and of its authors, against transformers' network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from st_ssl.encoders.video_vit import VideoViT
from st_ssl.weights.base import LAYOUTS, Published, WeightsError
from tests.weights.published import clip, imported, published
from tests.weights.references import largest_difference, randomise

SHAPES: dict[str, dict[str, Any]] = {
    "small random": {
        "hidden_size": 48,  # of a head 4 channels for each axis and 4 that stay
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "patch_size": 8,
        "crop_size": 24,
        "frames_per_clip": 6,
    },
    "S": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "B": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
}


def of_transformers(**settings: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    size = {"crop_size": 32, "frames_per_clip": 8}
    predictor = {"pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    return randomise(transformers.VJEPA2Model(transformers.VJEPA2Config(**{**size, **predictor, **settings})))


def clips(frames: int = 6, size: int = 24) -> Tensor:
    return clip(2, 3, frames, size, size)


def tokens(theirs: Any, x: Tensor) -> Tensor:
    with torch.inference_mode():
        output: Tensor = theirs(x.transpose(1, 2), skip_predictor=True).last_hidden_state
    return output


@pytest.mark.parametrize("size", SHAPES)
def test_agrees_with_transformers(size: str) -> None:
    theirs = of_transformers(**SHAPES[size])
    ours = imported(theirs.state_dict(), "vjepa2", config=theirs.config.to_dict())
    assert {name.split(".")[0] for name in ours.left} == {"predictor"}
    assert set(ours.left.values()) == {"the predictor of pretraining"}
    assert isinstance(ours.encoder, VideoViT)
    assert size not in ("S", "B") or ours.encoder.vit.variant == size
    x = clips(theirs.config.frames_per_clip, theirs.config.crop_size)
    assert largest_difference(ours.encoder(x).as_tokens(), tokens(theirs, x)) < 1e-5


def test_classifiers_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = of_transformers(**SHAPES["small random"]).config
    theirs = randomise(transformers.VJEPA2ForVideoClassification(config))
    ours = imported(theirs.state_dict(), "vjepa2", config=config.to_dict())
    assert largest_difference(ours.encoder(clips()).as_tokens(), tokens(theirs.vjepa2, clips())) < 1e-5
    assert {name.split(".")[0] for name in ours.left} == {"vjepa2", "pooler", "classifier"}
    assert all(name.startswith("vjepa2.predictor.") for name in ours.left if name.startswith("vjepa2."))


def test_a_part_of_the_tokens() -> None:
    theirs = of_transformers(**SHAPES["small random"])
    ours = imported(theirs.state_dict(), "vjepa2", config=theirs.config.to_dict()).encoder
    keep = torch.tensor([[0, 4, 9, 26], [1, 13, 20, 25]])
    with torch.inference_mode():
        x = theirs.encoder.embeddings(clips().transpose(1, 2))
        x = x.gather(1, keep[..., None].expand(-1, -1, 48))
        for layer in theirs.encoder.layer:
            x = layer(x, keep)[0]
        expected = theirs.encoder.layernorm(x)
    assert largest_difference(ours(clips(), keep).tokens, expected) < 1e-5


def authors(theirs: Any) -> dict[str, Tensor]:
    """The encoder under its authors' names."""
    state: dict[str, list[Tensor]] = {}
    for name, tensor in theirs.encoder.state_dict().items():
        new = name.replace("embeddings.patch_embeddings.", "patch_embed.").replace("layernorm.", "norm.")
        new = new.replace("layer.", "blocks.").replace("attention.", "attn.")
        if match := re.fullmatch(r"(.*attn\.)(query|key|value)(\..*)", new):
            state.setdefault(f"{match[1]}qkv{match[3]}", []).append(tensor)
        else:
            state[new] = [tensor]
    return {f"module.backbone.{name}": torch.cat(parts) for name, parts in state.items()}


TINY = ("layout.heads=3", "layout.depth=2")
TOLD = (*TINY, "input.num_frames=6", "input.size=24")


def test_of_its_authors_the_target_encoder_is_taken() -> None:
    theirs = of_transformers(**SHAPES["small random"])
    state = authors(theirs)
    groups = {
        "encoder": {name: tensor + 1 for name, tensor in state.items()},
        "predictor": {"module.backbone.predictor_norm.weight": torch.ones(8)},
        "target_encoder": state,
    }
    file = Published(Path("vitl.pt"), groups, {}, {})
    ours = imported(file, "vjepa2", *TOLD)
    assert largest_difference(ours.encoder(clips()).as_tokens(), tokens(theirs, clips())) < 1e-5
    assert "another part of the file" in ours.left["predictor.*"]
    online = imported(file, "vjepa2", *TOLD, "layout.container=encoder")
    assert not torch.equal(online.encoder(clips()).pooled, ours.encoder(clips()).pooled)


def test_what_no_size_tells_is_that_of_the_published_ones() -> None:
    with torch.device("meta"):
        giant = {
            "module.backbone.patch_embed.proj.weight": torch.empty(1408, 3, 2, 16, 16),
            **{f"module.backbone.blocks.{number}.norm1.weight": torch.empty(1408) for number in range(40)},
            "module.backbone.blocks.0.mlp.fc1.weight": torch.empty(6144, 1408),
            "module.backbone.blocks.0.attn.qkv.bias": torch.empty(3 * 1408),
        }
    told = LAYOUTS.build(LAYOUTS.config("vjepa2")(), published(giant, "encoder")).settings()
    assert {key: told["encoder"][key] for key in ("dim", "heads", "patch")} == {"dim": 1408, "heads": 22, "patch": 16}
    assert told["input"] == {"num_frames": 64, "size": 256}


def test_rotary_positions_go_on() -> None:
    theirs = of_transformers(**SHAPES["small random"])
    ours = imported(authors(theirs), "vjepa2", *TINY, "input.num_frames=8", "input.size=24").encoder
    longer = of_transformers(**(SHAPES["small random"] | {"frames_per_clip": 8}))
    longer.load_state_dict(theirs.state_dict())
    assert largest_difference(ours(clips(8)).as_tokens(), tokens(longer, clips(8))) < 1e-5


def test_the_first_vjepa_is_not_taken_for_the_second() -> None:
    state = authors(of_transformers(**(SHAPES["small random"] | {"patch_size": 16})))
    table = torch.randn(1, 1568, 48)
    first = state | {"module.backbone.pos_embed": table}
    with pytest.raises(WeightsError, match=r"1568 positions, as the first V-JEPA has.*layout\.rotary=false adds it"):
        imported(first, "vjepa2", *TINY)
    ours = imported(first, "vjepa2", *TINY, "layout.rotary=false").encoder
    assert (ours.input.num_frames, ours.input.size) == (16, 224)
    assert torch.equal(ours.state_dict()["pos_embed"], table[0])
    rotary = imported(first, "vjepa2", *TINY, "input.num_frames=6", "input.size=32", "layout.rotary=true")
    assert rotary.left["module.backbone.pos_embed"] == "a table of positions that rotary ones are in place of"
    zeros = imported(
        first | {"module.backbone.pos_embed": table * 0}, "vjepa2", *TINY, "input.num_frames=6", "input.size=32"
    )
    assert torch.equal(zeros.encoder.state_dict()["norm.weight"], rotary.encoder.state_dict()["norm.weight"])
    with pytest.raises(WeightsError, match=r"layout\.rotary=false, but it has no 'pos_embed'"):
        imported(state, "vjepa2", *TINY, "layout.rotary=false")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_hidden_layers": 3}, "has 2 blocks, and num_hidden_layers of config.json has 3"),
        ({"hidden_size": 96}, "hidden_size is 96, and .* it is 48"),
        ({"mlp_ratio": 2.0}, r"mlp_ratio is 2\.0, and .* it is 4\.0"),
        ({"qkv_bias": False}, "qkv_bias is False, and .* it is True"),
        ({"tubelet_size": 1}, "tubelet_size is 1, and .* it is 2"),
    ],
)
def test_a_configuration_that_is_not_of_the_file(changes: dict[str, Any], told: str) -> None:
    theirs = of_transformers(**SHAPES["small random"])
    with pytest.raises(WeightsError, match=told):
        imported(theirs.state_dict(), "vjepa2", config=theirs.config.to_dict() | changes)


def test_newer_ones_are_told() -> None:
    state = {"module.backbone.video_mod_embed": torch.zeros(1, 1, 48)}
    with pytest.raises(WeightsError, match=r"V-JEPA 2\.1"):
        imported(state, "vjepa2", container="ema_encoder")
