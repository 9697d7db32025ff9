"""VideoMAE and VideoMAE V2 of their authors, and VideoMAE of transformers, against the networks they come from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from st_ssl.core.inputs import InputConfig
from st_ssl.encoders.base import load_encoder
from st_ssl.encoders.video_vit import VideoViT, VideoViTConfig
from st_ssl.weights.base import LAYOUTS, WeightsError
from st_ssl.weights.importing import guess, import_weights, save_imported
from st_ssl.weights.plain_vit import mlp_ratio
from tests.weights.published import clip, imported, published
from tests.weights.references import MAEST, VideoMAE, largest_difference, randomise

TINY = ("layout.heads=3", "layout.depth=2")
TINY_INPUT = ("input.num_frames=4", "input.size=16")


def clips(frames: int = 4, size: int = 16) -> Tensor:
    return clip(2, 3, frames, size, size)


def decoder() -> dict[str, Tensor]:
    return {
        "mask_token": torch.zeros(1, 1, 8),
        "encoder_to_decoder.weight": torch.zeros(8, 24),
        "decoder.blocks.0.attn.qkv.weight": torch.zeros(24, 8),
        "decoder.norm.weight": torch.zeros(8),
    }


@pytest.mark.parametrize(("layout", "prefix"), [("videomae", "encoder."), ("videomae2", "module.encoder.")])
def test_pretrained(layout: str, prefix: str) -> None:
    theirs = randomise(VideoMAE())
    state = {f"{prefix}{name}": tensor for name, tensor in theirs.state_dict().items()} | decoder()
    ours = imported(state, layout, *TINY, *TINY_INPUT, container="model")
    assert largest_difference(ours.encoder(clips()).tokens, theirs(clips())) < 1e-5
    assert set(ours.left) == set(decoder())
    assert {ours.left[name] for name in decoder()} == {"the decoder of pretraining"}
    bias = ours.made["blocks.1.attn.qkv.bias"]
    assert bias.sources == ("blocks.1.attn.q_bias", "blocks.1.attn.v_bias")
    assert "zeros" in bias.note
    assert bias.tensor[24:48].eq(0).all()
    assert ours.encoder.input.mean == (0.485, 0.456, 0.406)


def test_fine_tuned_has_its_last_norm_after_pooling(tmp_path: Path) -> None:
    theirs = randomise(VideoMAE(tuned=True))
    args = {"num_frames": 4, "input_size": 16, "sampling_rate": 2}
    torch.save({"module": theirs.state_dict(), "args": args, "epoch": 3}, tmp_path / "weights.pth")
    ours = import_weights(tmp_path / "weights.pth", "videomae", list(TINY))
    assert (ours.encoder.input.num_frames, ours.encoder.input.size, ours.encoder.input.stride) == (4, 16, 2)
    assert largest_difference(ours.encoder(clips()).pooled, theirs(clips())) < 1e-5
    assert set(ours.left) == {"head.weight", "head.bias"}
    save_imported(ours, tmp_path / "encoder")
    assert torch.equal(load_encoder(tmp_path / "encoder")(clips()).pooled, ours.encoder(clips()).pooled)


def test_videomae2_of_the_hub() -> None:
    theirs = randomise(VideoMAE(tuned=True, hidden=104))
    state = {f"model.{name}": tensor for name, tensor in theirs.state_dict().items()}
    ours = imported(state, "videomae2", *TINY, *TINY_INPUT)
    assert largest_difference(ours.encoder(clips()).pooled, theirs(clips())) < 1e-5


def test_the_giant_of_videomae2_is_told_by_its_sizes() -> None:
    with torch.device("meta"):
        giant = VideoMAE(dim=1408, depth=40, heads=16, hidden=6144).state_dict()
        giant["patch_embed.proj.weight"] = torch.empty(1408, 3, 2, 14, 14)
    told = LAYOUTS.build(LAYOUTS.config("videomae2")(), published(giant, "module")).settings()
    encoder = VideoViTConfig.model_validate(told["encoder"])
    assert (encoder.shape, encoder.patch, int(1408 * encoder.mlp_ratio)) == ((1408, 40, 16), 14, 6144)
    assert InputConfig.model_validate(told["input"]) == InputConfig(num_frames=16, size=224)
    with pytest.raises(WeightsError, match="width 1408, whose heads no size tells"):
        LAYOUTS.build(LAYOUTS.config("videomae")(), published(giant, "module")).settings()


@pytest.mark.parametrize(("hidden", "dim"), [(6144, 1408), (8192, 1664), (96, 24), (103, 24)])
def test_ratios_of_odd_widths_come_out_whole(hidden: int, dim: int) -> None:
    assert int(dim * mlp_ratio(hidden, dim)) == hidden


def test_what_no_size_tells_is_asked_for() -> None:
    state = VideoMAE().state_dict()
    with pytest.raises(WeightsError, match=r"width 24, whose heads no size tells.*768 \(12 heads\).*layout\.heads=NUM"):
        imported(state, "videomae")
    with pytest.raises(WeightsError, match=r"5 heads \(layout\.heads\) do not divide the width 24"):
        imported(state, "videomae", "layout.heads=5")


def test_all_that_is_missing_is_asked_for_at_once() -> None:
    with pytest.raises(WeightsError, match=r"give layout\.heads=NUMBER; and it has 2 blocks.*give layout\.depth=2"):
        imported(VideoMAE().state_dict(), "videomae")


def test_a_file_without_all_blocks_is_no_smaller_network() -> None:
    state = VideoMAE().state_dict()
    first = {name: tensor for name, tensor in state.items() if not name.startswith("blocks.1.")}
    with pytest.raises(WeightsError, match=r"1 blocks of width 24.*nothing tells whether .*: give layout\.depth=1"):
        imported(first, "videomae", "layout.heads=3", *TINY_INPUT)
    with pytest.raises(WeightsError, match=r"has 1 blocks, and layout\.depth has 2: is the file whole"):
        imported(first, "videomae", *TINY, *TINY_INPUT)
    last = {name: tensor for name, tensor in state.items() if not name.startswith("blocks.0.mlp")}
    with pytest.raises(WeightsError, match=r"has no 'blocks.0.mlp.fc1.weight'"):
        imported(last, "videomae", *TINY, *TINY_INPUT)
    later = {name.replace("blocks.1.", "blocks.2."): tensor for name, tensor in state.items()}
    with pytest.raises(WeightsError, match=r"has blocks up to 2, but not 1"):
        imported(later, "videomae", *TINY, *TINY_INPUT)
    with torch.device("meta"):
        small = VideoMAE(dim=384, depth=11, heads=6).state_dict()
    with pytest.raises(WeightsError, match=r"11 blocks, and the published network of width 384 has 12"):
        imported(small, "videomae")


@pytest.mark.parametrize(
    ("gone", "changes", "told"),
    [
        (r"encoder\.layer\.1\..*", {}, "has 1 blocks, and num_hidden_layers of config.json has 2"),
        (r"layernorm\..*", {}, "use_mean_pooling is False, and .* it is True"),
        (r".*(query\.|value\.|q_|v_)bias", {}, "qk?v_bias is True, and .* it is False"),
        ("", {"qkv_bias": False}, "qkv_bias is False, and .* it is True"),
        ("", {"hidden_size": 48}, "hidden_size is 48, and .* it is 24"),
        ("", {"intermediate_size": 48}, "intermediate_size is 48, and .* it is 96"),
        ("", {"tubelet_size": 1}, "tubelet_size is 1, and .* it is 2"),
        ("", {"patch_size": 4}, "patch_size is 4, and .* it is 8"),
    ],
)
def test_a_configuration_that_is_not_of_the_file(gone: str, changes: dict[str, Any], told: str) -> None:
    theirs = of_transformers("VideoMAEModel", **SHAPES["small random"])
    state = {name: tensor for name, tensor in theirs.state_dict().items() if not re.fullmatch(gone, name)}
    with pytest.raises(WeightsError, match=told):
        imported(state, "hf-videomae", config=theirs.config.to_dict() | changes)


def test_tubelets_of_another_shape_and_the_same_size() -> None:
    told = ("encoder.patch=4", "encoder.tubelet=8", "input.num_frames=8", "input.size=16")
    with pytest.raises(WeightsError, match=r"tubelets of 'patch_embed.*\[2, 8, 8\].*encoder\.patch \[8, 4, 4\]"):
        imported(VideoMAE().state_dict(), "videomae", *TINY, *told)


def test_settings_that_are_none_are_not_taken_for_some() -> None:
    with torch.device("meta"):
        state = VideoMAE(dim=384, depth=12, heads=6).state_dict()
    for about in ({"config": "pretrain.yaml"}, {"metadata": 3, "preprocessor": [1]}, {"metadata": {"st_ssl": 3}}):
        assert guess(published(state, "model", **about)) == "videomae"
        assert guess(published(state, **about)) == "videomae"


def test_files_of_other_networks_are_told() -> None:
    state = VideoMAE().state_dict()
    with pytest.raises(WeightsError, match=r"not of the layout hf-videomae"):
        imported(state, "hf-videomae")
    with pytest.raises(WeightsError, match=r"not of the layout videomae: it has no 'blocks.0.attn.q_bias'"):
        imported({name: t for name, t in state.items() if "_bias" not in name}, "videomae")
    with pytest.raises(WeightsError, match=r"not of the layout vjepa2: it has no 'blocks.0.attn.qkv.bias'"):
        imported(state, "vjepa2")
    with pytest.raises(WeightsError, match=r"expected \[D, 3, frames, pixels, pixels\]"):
        imported(state | {"patch_embed.proj.weight": torch.zeros(24, 3, 8, 8)}, "videomae")
    with pytest.raises(WeightsError, match=r"'blocks.0.attn.scale': attention by cosine"):
        imported(state | {"blocks.0.attn.scale": torch.zeros(3, 1, 1)}, "videomae2")
    with pytest.raises(WeightsError, match=r"knows nothing of: 'blocks.0.gamma_1'"):
        imported(state | {"blocks.0.gamma_1": torch.ones(24)}, "videomae", *TINY, *TINY_INPUT)


SHAPES: dict[str, dict[str, Any]] = {
    "small random": {
        "image_size": 16,
        "patch_size": 8,
        "num_frames": 4,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 96,
    },
    "S": {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "image_size": 32},
    "B": {"image_size": 32},
}


def of_transformers(kind: str, **settings: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    small = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    config = transformers.VideoMAEConfig(**{"use_mean_pooling": False, **small, **settings})
    return randomise(getattr(transformers, kind)(config))


@pytest.mark.parametrize("size", SHAPES)
def test_agrees_with_transformers(size: str) -> None:
    theirs = of_transformers("VideoMAEModel", **SHAPES[size])
    ours = imported(theirs.state_dict(), "hf-videomae", config=theirs.config.to_dict())
    assert not ours.left
    assert isinstance(ours.encoder, VideoViT)
    assert size not in ("S", "B") or ours.encoder.vit.variant == size
    x = clips(theirs.config.num_frames, theirs.config.image_size)
    hidden = torch.zeros(2, len(ours.encoder.pos_embed), dtype=torch.bool)  # type: ignore[arg-type]
    hidden[0, 1::4] = hidden[1, 2::4] = True
    keep = (~hidden).nonzero()[:, 1].view(2, -1)
    with torch.inference_mode():
        whole = theirs(x.transpose(1, 2)).last_hidden_state
        part = theirs(x.transpose(1, 2), bool_masked_pos=hidden).last_hidden_state
        assert largest_difference(ours.encoder(x).tokens, whole) < 1e-5
        assert largest_difference(ours.encoder(x, keep).tokens, part) < 1e-5


def test_a_saved_folder_of_transformers(tmp_path: Path) -> None:
    settings = SHAPES["small random"] | {"layer_norm_eps": 0.01}
    theirs = of_transformers("VideoMAEForPreTraining", **settings)
    theirs.save_pretrained(tmp_path)
    colours = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.1, 0.3], "do_normalize": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(colours))
    ours = import_weights(tmp_path, "hf-videomae")
    assert (ours.encoder.input.mean, ours.encoder.input.std) == ((0.5, 0.4, 0.3), (0.2, 0.1, 0.3))
    with torch.inference_mode():
        tokens = theirs.videomae(clips().transpose(1, 2)).last_hidden_state
    assert largest_difference(ours.encoder(clips()).tokens, tokens) < 1e-5
    assert set(ours.left.values()) == {"the decoder of pretraining"}


def test_classifiers_of_transformers() -> None:
    theirs = of_transformers("VideoMAEForVideoClassification", **SHAPES["small random"], use_mean_pooling=True)
    state, config = theirs.state_dict(), theirs.config.to_dict()
    ours = imported(state, "hf-videomae", config=config)
    logits = theirs.classifier(ours.encoder(clips()).pooled)
    with torch.inference_mode():
        assert ours.encoder.get_submodule("norm").eps == theirs.fc_norm.eps
        assert largest_difference(logits, theirs(clips().transpose(1, 2)).logits) < 1e-5
    assert set(ours.left) == {"classifier.weight", "classifier.bias"}
    square = config | {"image_size": [16, 16]}
    bare = imported(theirs.videomae.state_dict(), "hf-videomae", config=square)  # without the norm of the classifier
    assert torch.equal(bare.encoder(clips()).as_tokens(), ours.encoder(clips()).as_tokens())


def test_biases_as_the_hub_names_them() -> None:
    theirs = of_transformers("VideoMAEModel", **SHAPES["small random"])
    config = theirs.config.to_dict()
    hub = {"query.bias": "q_bias", "value.bias": "v_bias"}
    state = theirs.state_dict()  # with the one names or the other, by the version of transformers
    for old, new in hub.items():
        state = {name.replace(new, old): tensor for name, tensor in state.items()}
    renamed = state
    for old, new in hub.items():
        renamed = {name.replace(old, new): tensor for name, tensor in renamed.items()}
    assert renamed.keys() != state.keys()
    ours = imported(state, "hf-videomae", config=config).encoder(clips()).pooled
    assert torch.equal(imported(renamed, "hf-videomae", config=config).encoder(clips()).pooled, ours)
    without = {name: tensor for name, tensor in renamed.items() if "q_bias" not in name and "v_bias" not in name}
    unbiased = imported(without, "hf-videomae", config=config | {"qv_bias": False, "qkv_bias": False}).encoder
    assert not any(name.endswith("qkv.bias") for name in unbiased.state_dict())


def test_another_activation_is_refused() -> None:
    theirs = of_transformers("VideoMAEModel", **SHAPES["small random"])
    with pytest.raises(WeightsError, match="hidden_act 'relu'"):
        imported(theirs.state_dict(), "hf-videomae", config=theirs.config.to_dict() | {"hidden_act": "relu"})


def test_layouts_are_guessed() -> None:
    state, told = VideoMAE().state_dict(), (*TINY, *TINY_INPUT)
    assert imported(state, guess(published(state, "model")), *told).encoder.vit.shape == (24, 2, 3)
    theirs = of_transformers("VideoMAEModel", **SHAPES["small random"])
    with torch.device("meta"):
        files = {
            "videomae": VideoMAE(dim=384, depth=12, heads=6).state_dict(),
            "videomae2": VideoMAE(dim=1408, depth=40, heads=16, hidden=6144).state_dict(),
            "hf-videomae": theirs.state_dict(),
            "mae_st": MAEST().state_dict(),
            "vjepa2": {
                "module.backbone.patch_embed.proj.weight": torch.empty(768, 3, 2, 16, 16),
                "module.backbone.blocks.0.norm1.weight": torch.empty(768),
                "module.backbone.blocks.0.mlp.fc1.weight": torch.empty(3072, 768),
                "module.backbone.blocks.0.attn.qkv.bias": torch.empty(3 * 768),
            },
        }
    assert {layout: guess(published(state)) for layout, state in files.items()} == {name: name for name in files}
