"""Files of Point-BERT, Point-MAE and Point2Vec, against the papers' networks, written down here by layers of torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv1d, gelu, layer_norm, linear, relu, scaled_dot_product_attention

from st_ssl.core.types import PointBatch
from st_ssl.weights.base import WeightsError
from tests.weights.published import imported

DIM, DEPTH, HIDDEN, TOKEN = 24, 3, (8, 16, 32), 20
_NORM = ("running_mean", "running_var", "weight", "bias")
GIVEN = ("layout.heads=3", "encoder.num_groups=6", "encoder.group_size=5", "input.num_points=40")


Shapes = dict[str, tuple[int, ...]]


def bn(width: int) -> Shapes:
    return dict.fromkeys(_NORM, (width,))


def shapes(qkv_bias: bool, conv_bias: bool, token: int = DIM) -> dict[str, Shapes]:
    """Names and shapes of the parts, as in all repositories; tokens are ``token`` wide."""
    first, middle, last = HIDDEN
    convs = {"first_conv.0": (first, 3), "first_conv.3": (middle, first)}
    convs |= {"second_conv.0": (last, 2 * middle), "second_conv.3": (token, last)}
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
    """A file of a pretraining, or "tuned", of Point-MAE fine-tuned."""
    torch.manual_seed(1)
    parts = shapes(kind == "point2vec", kind != "point2vec", TOKEN if kind == "point_bert" else DIM)
    before = {"point_mae": "MAE_encoder.", "point_bert": "transformer_q."}.get(kind, "")
    where = [f"{before}{name}" for name in ("encoder", "pos_embed", "blocks.blocks", "norm")]
    if kind == "point2vec":
        where = ["tokenizer.embedding", "positional_encoding", "student.blocks", "student.norm"]
    rows = [(where[0], parts["tokeniser"]), (where[1], parts["position"]), (where[3], parts["norm"])]
    rows += [(f"{where[2]}.{number}", parts["block"]) for number in range(DEPTH)]
    state = {f"{place}.{name}": drawn(shape, name) for place, own in rows for name, shape in own.items()}
    if kind in ("point_bert", "tuned"):
        state |= {f"{before}{name}": torch.randn(1, 1, DIM) for name in ("cls_token", "cls_pos")}
    if kind == "point_bert":
        state |= {f"{before}reduce_dim.weight": torch.randn(DIM, TOKEN), f"{before}reduce_dim.bias": torch.randn(DIM)}
    more = {
        "point_mae": ("mask_token", "MAE_decoder.norm.weight"),
        "point2vec": ("mask_token", "teacher.norm.weight"),
        "point_bert": (
            "transformer_q.lm_head.weight",
            "transformer_k.norm.weight",
            "dvae.encoder.first_conv.0.weight",
            "queue",
        ),
        "tuned": ("cls_head_finetune.0.weight",),
    }
    return state | {name: torch.zeros(3) for name in more[kind]}


def reference(state: dict[str, Tensor], kind: str, patches: Tensor, centres: Tensor) -> Tensor:
    """Tokens [B, G, D] of patches [B, G, K, 3] by the papers: convolutions over the points of a patch, the maximum over
    them beside each, the maximum again; blocks that norm first, positions added before each; a last norm."""
    own = {name.removeprefix("MAE_encoder.").removeprefix("transformer_q."): value for name, value in state.items()}
    place, blocks, position = "encoder", "blocks.blocks", "pos_embed"
    if kind == "point2vec":
        place, blocks, position = "tokenizer.embedding", "student.blocks", "positional_encoding"

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
    x = x.view(*centres.shape[:2], -1)
    if "reduce_dim.weight" in own:
        x = linear(x, own["reduce_dim.weight"], own["reduce_dim.bias"])
    weights = [own[f"{position}.{name}"] for name in ("0.weight", "0.bias", "2.weight", "2.bias")]
    where = linear(gelu(linear(centres, *weights[:2])), *weights[2:])
    if "cls_token" in own:
        x, where = (torch.cat([own[f"cls_{n}"].expand(len(x), 1, -1), y], 1) for n, y in (("token", x), ("pos", where)))
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
    last = "student.norm" if kind == "point2vec" else "norm"
    return layer_norm(x, (DIM,), own[f"{last}.weight"], own[f"{last}.bias"])[:, -centres.shape[1] :]


@pytest.mark.parametrize("kind", ["point_mae", "tuned", "point2vec", "point_bert"])
def test_tokens_are_those_of_the_paper(kind: str) -> None:
    state = made(kind)
    layout = {"tuned": "point_mae"}.get(kind, kind)
    read = imported(state, layout, *GIVEN, container="state_dict" if kind == "point2vec" else "base_model")
    encoder: Any = read.encoder
    points = torch.randn(2, 40, 3)
    cloud = PointBatch(points.flatten(0, 1), torch.tensor([0, 40, 80]))
    found = encoder(cloud)
    centres = found.centres
    index = torch.cdist(centres, points).topk(5, dim=2, largest=False).indices
    patches = torch.stack([points[b][index[b]] for b in range(2)]) - centres[:, :, None]
    with torch.no_grad():
        torch.testing.assert_close(found.tokens, reference(state, kind, patches, centres), rtol=1e-4, atol=1e-5)
    told = set(read.left.values())
    assert told == {"of the classifier" if kind == "tuned" else "of pretraining alone"}
    assert len(read.left) == {"tuned": 1, "point_bert": 4}.get(kind, 2)
    assert encoder.config.depth == DEPTH and encoder.config.qkv_bias == (kind == "point2vec")


def test_what_is_not_told_or_not_there() -> None:
    with pytest.raises(WeightsError, match=r"width 24, of which nothing tells the heads .* layout\.heads=NUMBER"):
        imported(made("point_mae"), "point_mae", container="base_model")
    tuned = {name.removeprefix("transformer_q."): value for name, value in made("point_bert").items()}
    with pytest.raises(WeightsError, match="not of the layout point_mae: it has reduce_dim, as Point-BERT"):
        imported(tuned, "point_mae", *GIVEN, container="base_model")
    with pytest.raises(WeightsError, match=r"not of the layout point_bert: it has no 'reduce_dim\.weight'"):
        imported(made("tuned"), "point_bert", *GIVEN, container="base_model")
