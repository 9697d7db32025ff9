"""The VideoMAE of Hugging Face's ``transformers``: a folder that ``VideoMAEModel.from_pretrained`` loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from st_ssl.core.errors import ConfigError, MissingDependencyError, UserError
from st_ssl.core.inputs import InputConfig
from st_ssl.encoders.base import Encoder
from st_ssl.weights.exporting.base import Export, Network

FITS: dict[str, tuple[Any, ...]] = {
    "positions": ("sincos_1d",),
    "class_token": (False,),
    "norm": ("tokens", "none"),
    "pooling": ("mean",),
}
"""What that model can be of the settings of ``video_vit``."""
LAYERS = {
    "attn.proj": "attention.output.dense",
    "mlp.0": "intermediate.dense",
    "mlp.2": "output.dense",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
}


class HfVideomae(Export):
    """``config.json``, ``model.safetensors`` and ``preprocessor_config.json``. The model is fed clips
    [B, T, 3, H, W]; its ``last_hidden_state`` are our ``tokens``, whose mean is ``pooled``."""

    name = "hf-videomae"
    suffix = ""
    heads = False

    def require(self, network: Network) -> None:
        check_fits(network.encoder)
        try:
            import transformers  # noqa: F401
        except ImportError as error:
            raise MissingDependencyError("transformers", "export", "--to hf-videomae") from error

    def write(self, network: Network, place: Path, about: dict[str, Any]) -> None:
        from safetensors.torch import save_file

        _write(place / "config.json", model_config(network.encoder))
        _write(place / "preprocessor_config.json", preprocessor_config(network.encoder.input))
        save_file(renamed(network.encoder), place / "model.safetensors", metadata={"format": "pt"})

    def run(self, network: Network, place: Path, clips: list[Tensor]) -> list[dict[str, Tensor]]:
        from transformers import VideoMAEModel

        loaded: Any = VideoMAEModel.from_pretrained(place, output_loading_info=True)
        model, told = loaded
        wrong = {kind: sorted(map(str, keys)) for kind, keys in told.items() if keys}
        if wrong:
            raise UserError(f"transformers does not take the keys of the export as they are: {wrong}")
        tokens = [model.eval()(clip.transpose(1, 2)).last_hidden_state for clip in clips]
        return [{"tokens": value, "pooled": value.mean(1)} for value in tokens]


def check_fits(encoder: Encoder) -> None:
    """Raise ``ConfigError`` that names what of ``encoder`` the model of transformers cannot be."""
    settings = encoder.config.model_dump()
    if settings["name"] != "video_vit":
        raise ConfigError(
            f"--to hf-videomae: that model is a video transformer (encoder.name=video_vit), not {settings['name']}"
        )
    for key, able in FITS.items():
        if settings[key] not in able:
            only = " or ".join(map(str, able))
            raise ConfigError(
                f"--to hf-videomae: encoder.{key}={settings[key]} has no place in that model, which has {key}={only}"
            )
    last = settings["last_norm_eps"]
    if last is not None and last != settings["norm_eps"] and settings["norm"] == "tokens":
        raise ConfigError(
            f"--to hf-videomae: encoder.last_norm_eps={last} has no place in that model, which has one for all "
            f"norms (encoder.norm_eps={settings['norm_eps']})"
        )


def model_config(encoder: Any) -> dict[str, Any]:
    """``config.json`` of a ``VideoViT``."""
    settings = encoder.config.model_dump()
    dim, depth, heads = encoder.config.shape
    return {
        "architectures": ["VideoMAEModel"],
        "model_type": "videomae",
        "image_size": encoder.input.size,
        "patch_size": settings["patch"],
        "num_channels": 3,
        "num_frames": encoder.input.num_frames,
        "tubelet_size": settings["tubelet"],
        "hidden_size": dim,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": encoder.blocks[0].mlp[0].out_features,
        "hidden_act": "gelu",
        "layer_norm_eps": settings["norm_eps"],
        "qkv_bias": settings["qkv_bias"],
        "use_mean_pooling": settings["norm"] == "none",  # which is what leaves the last norm out
        "torch_dtype": "float32",
    }


def preprocessor_config(input: InputConfig) -> dict[str, Any]:
    """``preprocessor_config.json``: the short side to the size of the clip, its centre, normalised."""
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": input.size},
        "resample": 2,  # bilinear
        "do_center_crop": True,
        "crop_size": {"height": input.size, "width": input.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(input.mean),
        "image_std": list(input.std),
    }


def renamed(encoder: Any) -> dict[str, Tensor]:
    """The weights of a ``VideoViT`` under the names on the Hub. The bias of the keys has none: it adds the same to all
    scores of a query, and softmax takes that away."""
    own = encoder.state_dict()
    tubelet, patch = encoder.config.tubelet, encoder.config.patch
    result = {
        "embeddings.patch_embeddings.projection.weight": own["embed.weight"].unflatten(1, (3, tubelet, patch, patch)),
        "embeddings.patch_embeddings.projection.bias": own["embed.bias"],
    }
    result |= {f"layernorm.{kind}": own[f"norm.{kind}"] for kind in ("weight", "bias") if f"norm.{kind}" in own}
    for number in range(len(encoder.blocks)):
        ours, theirs = f"blocks.{number}", f"encoder.layer.{number}"
        inner = f"{theirs}.attention.attention"
        for part, weight in zip(("query", "key", "value"), own[f"{ours}.attn.qkv.weight"].chunk(3), strict=True):
            result[f"{inner}.{part}.weight"] = weight
        if f"{ours}.attn.qkv.bias" in own:
            query, _, value = own[f"{ours}.attn.qkv.bias"].chunk(3)
            result |= {f"{inner}.q_bias": query, f"{inner}.v_bias": value}
        for name, other in LAYERS.items():
            for kind in ("weight", "bias"):
                result[f"{theirs}.{other}.{kind}"] = own[f"{ours}.{name}.{kind}"]
    return {name: torch.clone(tensor, memory_format=torch.contiguous_format) for name, tensor in result.items()}


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
