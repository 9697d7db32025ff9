"""CoCLR's files through the import, against torchvision's S3D under CoCLR's names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from st_ssl.weights.base import WeightsError
from tests.weights.published import assert_same, clip, imported, unsettle

video = pytest.importorskip("torchvision.models.video")

# S3D of the repository, layer by layer: the name, and that of the same module in the block it stands in
LAYERS = ["Conv_1a", "", "Conv_2b", "Conv_2c", "", "Mixed_3b", "Mixed_3c", "", "Mixed_4b", "Mixed_4c", "Mixed_4d"]
LAYERS += ["Mixed_4e", "Mixed_4f", "", "Mixed_5b", "Mixed_5c"]
BLOCKS = {
    "Conv_1a": "block1.0",
    "Conv_2b": "block2.1",
    "Mixed_3b": "block3.1",
    "Mixed_4f": "block4.5",
    "Mixed_5c": "block5.2",
}


def renamed(network: Any) -> dict[str, Tensor]:
    """The weights of torchvision's S3D by walking its modules, under the names of CoCLR's."""
    state: dict[str, Tensor] = {}

    def put(name: str, module: nn.Module) -> None:
        state.update({f"{name}.{key}": tensor for key, tensor in module.state_dict().items()})

    def put_unit(name: str, unit: Any, number: str = "") -> None:
        put(f"{name}.conv{number}", unit[0])
        put(f"{name}.bn{number}", unit[1])

    def put_apart(name: str, apart: Any) -> None:
        put_unit(name, apart[0], "1")
        put_unit(name, apart[1], "2")

    for name, layer in zip(LAYERS, network.features, strict=True):
        if name.startswith("Mixed"):
            put_unit(f"{name}.branch0.0", layer.branch0)
            for branch in ("branch1", "branch2"):
                put_unit(f"{name}.{branch}.0", getattr(layer, branch)[0])
                put_apart(f"{name}.{branch}.1", getattr(layer, branch)[1])
            put_unit(f"{name}.branch3.1", layer.branch3[1])
        elif name == "Conv_2b":
            put_unit(name, layer)
        elif name:
            put_apart(name, layer)
    for name, block in BLOCKS.items():
        state |= {key.replace(f"{name}.", f"{block}.", 1): t for key, t in state.items() if key.startswith(f"{name}.")}
    return state


@pytest.fixture(scope="module")
def theirs() -> Any:
    torch.manual_seed(0)
    network = unsettle(video.s3d(weights=None))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-5  # torch's default, which CoCLR's S3D has
            module.get_buffer("running_var").mul_(1e-2)  # so small that it makes a difference
    return network


@pytest.mark.parametrize("form", ["pretraining", "fine-tuned"])
def test_s3d_gives_the_same_features(theirs: Any, form: str) -> None:
    weights = renamed(theirs)
    if form == "pretraining":
        state = {f"module.encoder_q.0.{name}": tensor for name, tensor in weights.items()}
        state |= {f"module.encoder_k.0.{name}": torch.zeros_like(tensor) for name, tensor in weights.items()}
        state |= {"module.queue": torch.zeros(8, 4), "module.queue_ptr": torch.zeros(1)}
        state |= {"module.encoder_q.2.weight": torch.zeros(4, 4, 1, 1, 1), "module.encoder_q.4.bias": torch.zeros(4)}
    else:
        state = {f"backbone.{name}": tensor for name, tensor in weights.items()}
        state |= {"final_fc.1.weight": torch.zeros(101, 1024), "final_bn.weight": torch.zeros(1024)}
    result = imported(state, "coclr")
    assert result.used() == {name for name in state if name.startswith(("module.encoder_q.0.", "backbone."))}
    x = clip(1, 3, 9, 40, 33)
    with torch.inference_mode():
        assert_same(result.encoder(x).map, theirs.features(x))
    if form == "pretraining":
        why = {name.removeprefix("module.").split(".0.")[0]: reason for name, reason in result.left.items()}
        assert why["queue"] == "the queue of pretraining"
        assert why["encoder_q.4.bias"] == "the projection"
        assert why["encoder_k"] == "another network of the file (layout.network=momentum)"
        momentum = imported(state, "coclr", "layout.network=momentum").encoder
        assert all((tensor == 0).all() for tensor in momentum.state_dict().values())


def test_two_names_of_one_weight_have_to_agree(theirs: Any) -> None:
    state = renamed(theirs)
    state["block4.5.branch0.0.conv.weight"] = state["block4.5.branch0.0.conv.weight"] + 1
    with pytest.raises(WeightsError, match=r"'Mixed_4f.branch0.0.conv.weight' and 'block4.5.*' name one weight"):
        imported(state, "coclr")


def test_gates_of_the_blocks_are_told_and_used(theirs: Any) -> None:
    state = renamed(theirs)
    mixed = {name.split(".")[0] for name in state if name.startswith("Mixed")}
    assert len(mixed) == 9
    for name in mixed:
        for branch, last in enumerate(("branch0.0.bn", "branch1.1.bn2", "branch2.1.bn2", "branch3.1.bn")):
            dim = len(state[f"{name}.{last}.weight"])
            state[f"{name}.gating_b{branch}.fc.weight"] = torch.zeros(dim, dim)
            state[f"{name}.gating_b{branch}.fc.bias"] = torch.full((dim,), 30.0)  # open
    result = imported({k: v for k, v in state.items() if not k.startswith("block")}, "coclr")
    assert result.encoder.config.model_dump()["gating"] == "blocks"
    x = clip(1, 3, 5, 33, 33)
    with torch.inference_mode():
        assert_same(result.encoder(x).map, theirs.features(x))
