"""Point-MAE's and Point2Vec's files, against the networks of their papers written down here by layers of torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv1d, gelu, layer_norm, linear, relu, scaled_dot_product_attention

from st_ssl.core.types import PointBatch
from st_ssl.weights.base import WeightsError
from tests.weights.published import imported

DIM, DEPTH, HIDDEN = 24, 3, (8, 16, 32)
_NORM = ("running_mean", "running_var", "weight", "bias")
GIVEN = ("layout.heads=3", "encoder.num_groups=6", "encoder.group_size=5", "input.num_points=40")


Shapes = dict[str, tuple[int, ...]]


def bn(width: int) -> Shapes:
    return dict.fromkeys(_NORM, (width,))


def shapes(qkv_bias: bool, conv_bias: bool) -> dict[str, Shapes]:
    """Names and shapes of the parts, as in both repositories."""
    first, middle, last = HIDDEN
    convs = {"first_conv.0": (first, 3), "first_conv.3": (middle, first)}
    convs |= {"second_conv.0": (last, 2 * middle), "second_conv.3": (DIM, last)}
    tokeniser: Shapes = {}
    for name, shape in convs.items():
        tokeniser[f"{name}.weight"] = (*shape, 1)
        if conv_bias or name.endswith("3"):
            tokeniser[f"{name}.bias"] = shape[:1]
    for name, width in (("first_conv.1", first), ("second_conv.1", last)):
        tokeniser |= {f"{name}.{part}": shape for part, shape in bn(width).items()}
    block: Shapes = {f"{one}.{part}": (DIM,) for one in ("norm1", "norm2") for part in ("weight", "bias")}
    block |= {"attn.qkv.weight": (3 * DIM, DIM), "attn.proj.weight": (DIM, DIM), "attn.proj.bias": (DIM,)}
    block |= {"mlp.fc1.weight": (4 * DIM, DIM), "mlp.fc1.bias": (4 * DIM,)}
    block |= {"mlp.fc2.weight": (DIM, 4 * DIM), "mlp.fc2.bias": (DIM,)}
    block |= {"attn.qkv.bias": (3 * DIM,)} if qkv_bias else {}
    position: Shapes = {"0.weight": (128, 3), "0.bias": (128,), "2.weight": (DIM, 128), "2.bias": (DIM,)}
    norm: Shapes = {"weight": (DIM,), "bias": (DIM,)}
    return {"tokeniser": tokeniser, "block": block, "position": position, "norm": norm}


def drawn(shape: tuple[int, ...], name: str) -> Tensor:
    return torch.randn(shape) * 0.3 if "running_var" not in name else torch.rand(shape) + 0.5


def made(kind: str) -> dict[str, Tensor]:
    """A file of a pretraining."""
    torch.manual_seed(1)
    parts = shapes(kind == "point2vec", kind == "point_mae")
    where = {
        "point_mae": ("MAE_encoder.encoder", "MAE_encoder.pos_embed", "MAE_encoder.blocks.blocks", "MAE_encoder.norm"),
        "point2vec": ("tokenizer.embedding", "positional_encoding", "student.blocks", "student.norm"),
    }[kind]
    rows = [(where[0], parts["tokeniser"]), (where[1], parts["position"]), (where[3], parts["norm"])]
    rows += [(f"{where[2]}.{number}", parts["block"]) for number in range(DEPTH)]
    state = {f"{place}.{name}": drawn(shape, name) for place, own in rows for name, shape in own.items()}
    more = {"point_mae": ("mask_token", "MAE_decoder.norm.weight"), "point2vec": ("mask_token", "teacher.norm.weight")}
    return state | {name: torch.zeros(3) for name in more[kind]}


def reference(state: dict[str, Tensor], kind: str, patches: Tensor, centres: Tensor) -> Tensor:
    """Tokens [B, G, D] of patches [B, G, K, 3] by the papers: convolutions over the points of a patch, the maximum over
    them beside each, the maximum again; blocks that norm first, positions added before each; a last norm."""
    own = {name.removeprefix("MAE_encoder."): value for name, value in state.items()}
    place, blocks, position = {
        "point_mae": ("encoder", "blocks.blocks", "pos_embed"),
        "point2vec": ("tokenizer.embedding", "student.blocks", "positional_encoding"),
    }[kind]

    def conv(x: Tensor, name: str) -> Tensor:
        return conv1d(x, own[f"{place}.{name}.weight"], own.get(f"{place}.{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            own[f"{place}.{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias")
        )
        return relu(batch_norm(x, mean, var, weight, bias))

    x = patches.flatten(0, 1).transpose(1, 2)
    x = conv(norm(conv(x, "first_conv.0"), "first_conv.1"), "first_conv.3")
    x = torch.cat([x.max(2, keepdim=True).values.expand(-1, -1, x.shape[2]), x], 1)
    x = conv(norm(conv(x, "second_conv.0"), "second_conv.1"), "second_conv.3").max(2).values
    x = x.view(*centres.shape[:2], DIM)
    weights = [own[f"{position}.{name}"] for name in ("0.weight", "0.bias", "2.weight", "2.bias")]
    where = linear(gelu(linear(centres, *weights[:2])), *weights[2:])
    for number in range(DEPTH):
        part = {n.removeprefix(f"{blocks}.{number}."): v for n, v in own.items() if n.startswith(f"{blocks}.{number}.")}
        x = x + where
        y = layer_norm(x, (DIM,), part["norm1.weight"], part["norm1.bias"])
        qkv = linear(y, part["attn.qkv.weight"], part.get("attn.qkv.bias"))
        q, k, v = qkv.unflatten(2, (3, 3, -1)).permute(2, 0, 3, 1, 4)
        y = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + linear(y, part["attn.proj.weight"], part["attn.proj.bias"])
        y = layer_norm(x, (DIM,), part["norm2.weight"], part["norm2.bias"])
        y = gelu(linear(y, part["mlp.fc1.weight"], part["mlp.fc1.bias"]))
        x = x + linear(y, part["mlp.fc2.weight"], part["mlp.fc2.bias"])
    last = "norm" if kind == "point_mae" else "student.norm"
    return layer_norm(x, (DIM,), own[f"{last}.weight"], own[f"{last}.bias"])


@pytest.mark.parametrize(("kind", "container"), [("point_mae", "base_model"), ("point2vec", "state_dict")])
def test_tokens_are_those_of_the_paper(kind: str, container: str) -> None:
    state = made(kind)
    read = imported(state, kind, *GIVEN, container=container)
    encoder: Any = read.encoder
    points = torch.randn(2, 40, 3)
    cloud = PointBatch(points.flatten(0, 1), torch.tensor([0, 40, 80]))
    found = encoder(cloud)
    centres = found.centres
    index = torch.cdist(centres, points).topk(5, dim=2, largest=False).indices
    patches = torch.stack([points[b][index[b]] for b in range(2)]) - centres[:, :, None]
    with torch.no_grad():
        torch.testing.assert_close(found.tokens, reference(state, kind, patches, centres), rtol=1e-4, atol=1e-5)
    assert len(read.left) == 2 and set(read.left.values()) == {"of pretraining alone"}
    assert encoder.config.depth == DEPTH and encoder.config.qkv_bias == (kind == "point2vec")


def test_what_is_not_told_or_not_there() -> None:
    with pytest.raises(WeightsError, match=r"width 24, of which nothing tells the heads .* layout\.heads=NUMBER"):
        imported(made("point_mae"), "point_mae", container="base_model")
    tuned = {name.removeprefix("MAE_encoder."): value for name, value in made("point_mae").items()}
    with pytest.raises(WeightsError, match="has a class token, as Point-MAE has it once fine-tuned"):
        imported(tuned | {"cls_token": torch.zeros(1, 1, DIM)}, "point_mae", *GIVEN, container="base_model")
