"""The decoder of the VideoMAE in ``transformers`` in our own layout: the two are checked against each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SHAPE: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 8,
    "num_frames": 4,
    "tubelet_size": 2,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
    "use_mean_pooling": False,
    "layer_norm_eps": 1e-6,
}
"""A tiny VideoMAE: 4 frames of 16 × 16 pixels, 8 tokens."""


def randomise(module: nn.Module) -> nn.Module:
    """Random numbers in every parameter (biases and norms, too: at their defaults they would hide mistakes)."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(std=0.2).add_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return module.eval()


def _blocks(source: nn.ModuleList) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for i, layer in enumerate(source):
        theirs = layer.state_dict()
        names = [f"attention.attention.{part}" for part in ("query", "key", "value")]
        biases = [theirs.get(f"{name}.bias", torch.zeros(len(theirs[f"{name}.weight"]))) for name in names]
        result[f"blocks.{i}.attn.qkv.weight"] = torch.cat([theirs[f"{name}.weight"] for name in names])
        result[f"blocks.{i}.attn.qkv.bias"] = torch.cat(biases)
        for ours, name in {
            "attn.proj": "attention.output.dense",
            "mlp.0": "intermediate.dense",
            "mlp.2": "output.dense",
            "norm1": "layernorm_before",
            "norm2": "layernorm_after",
        }.items():
            for kind in ("weight", "bias"):
                result[f"blocks.{i}.{ours}.{kind}"] = theirs[f"{name}.{kind}"]
    return result


def decoder_weights(model: Any) -> dict[str, Tensor]:
    """The decoder of a ``VideoMAEForPreTraining`` as the state of a ``MaskedDecoder``; it predicts pixels with the
    colour last, ours with the colour first."""
    head = model.decoder.head
    order = torch.arange(len(head.bias)).view(-1, 3).T.flatten()
    return {
        "embed.weight": model.encoder_to_decoder.weight,
        "mask_token": model.mask_token.flatten(),
        "norm.weight": model.decoder.norm.weight,
        "norm.bias": model.decoder.norm.bias,
        "head.weight": head.weight[order],
        "head.bias": head.bias[order],
        **_blocks(model.decoder.decoder_layers),
    }
