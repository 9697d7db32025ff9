"""OpenPCDet's names and kernels, in and out.

The names and shapes are those of its ``VoxelBackBone8x`` and ``VoxelResBackBone8x``, ``BaseBEVBackbone`` and
``CenterHead`` (8caccce), read from its code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from st_ssl.core.errors import ConfigError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.types import PointBatch
from st_ssl.encoders.base import ENCODERS, load_encoder, random_encoder
from st_ssl.transfer.tasks.base import TASKS
from st_ssl.weights.base import WeightsError
from st_ssl.weights.exporting.base import Network, export_network
from tests.transfer.streets import DETECTOR, write_encoder
from tests.weights.published import imported

AXES = {"2.2": (0, 1, 2, 3, 4), "1": (1, 2, 3, 4, 0), "2.0": (1, 2, 3, 0, 4)}
SMALL = {"encoder.range=[0,-8,-3,16,8,1]", "encoder.voxel=[0.5,0.5,0.1]"}


def norms(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}


def shapes(residual: bool, numbers: int = 4) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a ``backbone_3d``, with kernels of spconv 2.2."""
    widths = (16, 32, 64, 128) if residual else (16, 32, 64, 64)
    found: dict[str, tuple[int, ...]] = {"conv_input.0.weight": (16, 3, 3, 3, numbers), **norms("conv_input.1", 16)}
    for stage, width in enumerate(widths, 1):
        blocks = 2 if residual else (1 if stage == 1 else 2)
        first = 0
        if stage > 1:
            found |= {
                f"conv{stage}.0.0.weight": (width, 3, 3, 3, widths[stage - 2]),
                **norms(f"conv{stage}.0.1", width),
            }
            first = 1
        for block in range(first, first + blocks):
            if residual:
                for part in (1, 2):
                    found[f"conv{stage}.{block}.conv{part}.weight"] = (width, 3, 3, 3, width)
                    found[f"conv{stage}.{block}.conv{part}.bias"] = (width,)
                    found |= norms(f"conv{stage}.{block}.bn{part}", width)
            else:
                found[f"conv{stage}.{block}.0.weight"] = (width, 3, 3, 3, width)
                found |= norms(f"conv{stage}.{block}.1", width)
    return found | {"conv_out.0.weight": (128, 3, 1, 1, widths[-1]), **norms("conv_out.1", 128)}


def made(residual: bool, spconv: str = "2.2", numbers: int = 4) -> dict[str, Tensor]:
    torch.manual_seed(0)
    found = {}
    for name, shape in shapes(residual, numbers).items():
        value = torch.randn(shape) * 0.05 + ("running_var" in name or name.endswith("1.weight"))
        found[f"backbone_3d.{name}"] = value.permute(AXES[spconv]).contiguous() if len(shape) == 5 else value
    more = {"global_step": torch.zeros(1, dtype=torch.int64), "dense_head.conv_cls.weight": torch.zeros(18, 512, 1, 1)}
    return {**found, **more, "backbone_2d.blocks.0.1.weight": torch.zeros(128, 256, 3, 3)}


@pytest.mark.parametrize("spconv", AXES)
@pytest.mark.parametrize("residual", [False, True])
def test_detectors_come_in(residual: bool, spconv: str) -> None:
    read = imported(made(residual, spconv), "openpcdet", *SMALL, container="model_state")
    state, plain = read.encoder.state_dict(), made(residual)
    for name in shapes(residual):
        torch.testing.assert_close(state[name], plain[f"backbone_3d.{name}"], rtol=0, atol=0)
    assert set(read.left) == {"global_step", "dense_head.conv_cls.weight", "backbone_2d.blocks.0.1.weight"}
    assert read.encoder.input.attributes == ("intensity",)
    points = PointBatch(
        torch.rand(300, 3) * torch.tensor([16, 16, 4]) - torch.tensor([0, 8, 3]), torch.tensor([0, 300])
    )
    points.attributes["intensity"] = torch.rand(300, 1)
    assert read.encoder(points).pooled.isfinite().all()


def test_what_a_point_has_tells_the_range() -> None:
    read = imported(made(False, numbers=5), "openpcdet", container="model_state")
    assert read.encoder.input.attributes == ("intensity", "time")
    assert read.encoder.range == (-51.2, -51.2, -5, 51.2, 51.2, 3)
    with pytest.raises(WeightsError, match=r"is for 6 numbers a point: expected 4 \(with intensity\) or 5"):
        imported(made(False, numbers=6), "openpcdet", container="model_state")
    odd = made(False)
    odd["backbone_3d.conv_input.0.weight"] = torch.zeros(3, 3, 3, 7, 7)
    with pytest.raises(WeightsError, match=r"is \[3, 3, 3, 7, 7\], which is no kernel of spconv for 16 channels"):
        imported(odd, "openpcdet", container="model_state")


@pytest.mark.parametrize("residual", [False, True])
def test_ours_have_their_names(residual: bool) -> None:
    widths = (16, 32, 64, 128) if residual else (16, 32, 64, 64)
    config = ENCODERS.config("second").model_validate({"widths": widths, "residual": residual})
    input = PointInputConfig(num_points=None, unit_sphere=False, centre=False, attributes=("intensity",))
    state = random_encoder(config, input, 0).state_dict()
    ours = {name: tuple(value.shape) for name, value in state.items() if "num_batches" not in name}
    assert ours == shapes(residual)


def test_detectors_go_out(tmp_path: Path) -> None:
    encoder = load_encoder(write_encoder(tmp_path / "encoder"))
    task: Any = TASKS.build(TASKS.config("detect").model_validate({"detector": DETECTOR}))
    task.restore(["car", "pedestrian"])
    network = Network(encoder, task.head(encoder), ["car", "pedestrian"])
    export_network(network, "openpcdet", tmp_path / "out.pth")
    state = torch.load(tmp_path / "out.pth", weights_only=True)["model_state"]
    assert {name.partition(".")[0] for name in state} == {"backbone_3d", "backbone_2d", "dense_head"}
    assert state["backbone_2d.blocks.0.1.weight"].shape[0] == 32
    assert "dense_head.shared_conv.0.weight" in state and "dense_head.heads_list.0.hm.1.bias" in state
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(state[f"backbone_3d.{name}"], value, rtol=0, atol=0)
    pillars = random_encoder(ENCODERS.config("pillars").model_validate({}), encoder.input, 0)
    with pytest.raises(ConfigError, match="for encoders of its form: second"):
        export_network(Network(pillars), "openpcdet", tmp_path / "other.pth")
    assert not (tmp_path / "other.pth").exists()
