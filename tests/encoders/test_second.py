from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv3d

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.types import PointBatch
from st_ssl.encoders.base import ENCODERS, count_parameters
from st_ssl.encoders.second import ResidualBlock, Second
from st_ssl.encoders.volume_encoder import VolumeEncoder
from st_ssl.ops.sparse import SparseConv3d

BOTH = pytest.mark.parametrize("name", ["second", "pillars"])
SMALL: dict[str, dict[str, Any]] = {
    "second": {"range": (0, -2, -1, 4, 2, 0.6), "voxel": (0.25, 0.25, 0.1), "widths": (4, 6, 8), "out": 10},
    "pillars": {"range": (0, -2, -1, 4, 2, 0.6), "pillar": (0.25, 0.25), "widths": (6, 8)},
}


def build(name: str, **changes: Any) -> VolumeEncoder:
    config = ENCODERS.config(name).model_validate({"name": name, **SMALL[name], **changes})
    torch.manual_seed(0)
    encoder = ENCODERS.build(config, PointInputConfig(num_points=None, attributes=("intensity",)))
    assert isinstance(encoder, VolumeEncoder)
    for module in encoder.modules():  # what is 0 or 1 at first would hide mistakes
        if isinstance(module, nn.BatchNorm1d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return encoder.eval()


def clouds(counts: tuple[int, ...] = (60, 40), seed: int = 0) -> PointBatch:
    """Points in and around the range."""
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.rand(sum(counts), 3, generator=generator) * torch.tensor([5.0, 5.0, 2.4]) - torch.tensor(
        [0.5, 2.5, 1.4]
    )
    intensity = torch.rand(sum(counts), 1, generator=generator)
    return PointBatch(xyz, torch.tensor([0, *counts]).cumsum(0), {"intensity": intensity})


def dense_conv(x: Tensor, conv: SparseConv3d, occupied: Tensor) -> tuple[Tensor, Tensor]:
    """A layer on the whole grid, and which cells are then occupied."""
    if conv.kind == "submanifold":
        stride, padding = (1, 1, 1), (1, 1, 1)
    else:
        stride, padding = conv.stride, conv.padding
        occupied = (conv3d(occupied, torch.ones(1, 1, *conv.kernel), stride=stride, padding=padding) > 0).float()
    out = conv3d(x, conv.weight.permute(0, 4, 1, 2, 3), conv.bias, stride, padding)
    return out * occupied, occupied


def dense_norm(x: Tensor, norm: nn.Module, occupied: Tensor) -> Tensor:
    assert isinstance(norm, nn.BatchNorm1d)
    return batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-3) * occupied


def dense_network(encoder: nn.Module, x: Tensor, occupied: Tensor) -> Tensor:
    """The layers of a network in turn, on the whole grid."""
    for module in encoder.children():
        if isinstance(module, ResidualBlock):
            out, _ = dense_conv(x, module.conv1, occupied)
            out, _ = dense_conv(dense_norm(out, module.bn1, occupied).relu(), module.conv2, occupied)
            x = (dense_norm(out, module.bn2, occupied) + x).relu()
        elif isinstance(module, SparseConv3d):
            x, occupied = dense_conv(x, module, occupied)
        elif isinstance(module, nn.BatchNorm1d):
            x = dense_norm(x, module, occupied).relu()
        elif len(list(module.children())):
            both = dense_network(module, x, occupied)
            x, occupied = both[:, :-1], both[:, -1:]
    return torch.cat([x, occupied], 1)


@pytest.mark.parametrize("residual", [False, True])
def test_equals_dense_convolutions(residual: bool) -> None:
    encoder, points = build("second", residual=residual), clouds()
    voxels = encoder.voxelise(points)
    grid = torch.zeros(2, 5, 17, 16, 16)
    b, z, y, x = voxels.coordinates.T
    grid[b, :4, z, y, x] = voxels.features
    grid[b, 4, z, y, x] = 1
    expected = dense_network(encoder, grid[:, :4], grid[:, 4:])[:, :-1]
    found = encoder.volume(points)
    assert found.values.shape == (2, 10, 1, 4, 4)
    assert found.values.std() > 0.1
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-5)


def test_voxels_have_the_means_of_their_points() -> None:
    encoder, points = build("second"), clouds((900, 700))
    voxels = encoder.voxelise(points)
    fullest = int(voxels.counts.argmax())
    b, z, y, x = voxels.coordinates[fullest].tolist()
    low = torch.tensor([0.25 * x, 0.25 * y - 2, 0.1 * z - 1])
    near = ((points.xyz >= low) & (points.xyz < low + torch.tensor([0.25, 0.25, 0.1]))).all(1)
    near[: points.offsets[b]] = near[points.offsets[b + 1] :] = False
    values = torch.cat([points.xyz, points.attributes["intensity"]], 1)
    assert near.sum() == voxels.counts[fullest] > 1
    torch.testing.assert_close(voxels.features[fullest], values[near].mean(0))


def test_cells_are_where_their_values_come_from() -> None:
    """Convolutions that only pass the middle of their kernel on: every cell then has the place of its own voxel."""
    encoder = build("second", range=(0, 1, 2, 4, 5, 3.6), widths=(3, 3, 3), out=3)
    for module in encoder.modules():
        if isinstance(module, SparseConv3d):
            nn.init.zeros_(module.weight)
            middle = tuple(k // 2 for k in module.kernel)
            module.weight.data[(range(3), *([m] * 3 for m in middle), range(3))] = 1
        elif isinstance(module, nn.BatchNorm1d):
            module.reset_parameters()
            module.eps = 0
    x, y, z = (torch.arange(n, dtype=torch.float32) + 0.5 for n in (16, 16, 16))
    xyz = torch.stack(torch.meshgrid(0.25 * x, 1 + 0.25 * y, 2 + 0.1 * z, indexing="ij"), 3).view(-1, 3)
    points = PointBatch(xyz, torch.tensor([0, len(xyz)]), {"intensity": torch.zeros(len(xyz), 1)})
    for stage in (0, 1, 2, -1):
        volume = encoder.volume_of(encoder.voxelise(points), stage)
        values = volume.values[0].permute(1, 2, 3, 0)
        occupied = values.any(3)
        assert occupied.sum() >= 16
        torch.testing.assert_close(values[occupied], volume.centres()[occupied], rtol=0, atol=1e-4)


def test_pillars_are_a_layer_and_a_maximum() -> None:
    encoder, points = build("pillars", widths=(8,)), clouds((900, 700))
    voxels = encoder.voxelise(points)
    for number in (0, 30):
        b, _, y, x = voxels.coordinates[number].tolist()
        own = points.xyz[voxels.of_point == number]
        middle = torch.tensor([0.25 * x + 0.125, 0.25 * y - 1.875, -0.2])
        parts = [own, points.attributes["intensity"][voxels.of_point == number], own - own.mean(0), own - middle]
        layer = encoder.get_submodule("pfn_layers.0")
        values = layer.norm(layer.linear(torch.cat(parts, 1))).relu()  # type: ignore[operator]
        torch.testing.assert_close(encoder.volume(points).values[b, :, 0, y, x], values.amax(0))


@BOTH
def test_points_outside_count_nowhere(name: str) -> None:
    encoder, points = build(name), clouds()
    low, high = torch.tensor([0, -2, -1.0]), torch.tensor([4, 2, 0.6])
    inside = ((points.xyz >= low) & (points.xyz < high)).all(1)
    assert 20 < inside.sum() < 80
    counts = [int(inside[:60].sum()), int(inside[60:].sum())]
    within = PointBatch(
        points.xyz[inside],
        torch.tensor([0, *counts]).cumsum(0),
        {"intensity": points.attributes["intensity"][inside]},
    )
    all, some = encoder(points), encoder(within)
    torch.testing.assert_close(all.pooled, some.pooled)
    torch.testing.assert_close(all.points[inside], some.points)
    assert not all.points[~inside].any()


@BOTH
def test_a_cloud_with_nothing_in_range(name: str) -> None:
    encoder, points = build(name).train(), clouds()
    points.xyz[60:] += 100
    features = encoder(points)
    assert not features.pooled[1].any()
    assert features.pooled[0].any()
    points.xyz[:60] += 100
    encoder.eval()
    assert not encoder(points).pooled.any()


@BOTH
def test_a_part_of_the_voxels_is_as_if_the_others_were_not_there(name: str) -> None:
    encoder, points = build(name), clouds()
    voxels = encoder.voxelise(points)
    keep = torch.arange(0, len(voxels), 2)
    seen = torch.isin(voxels.of_point, keep)
    counts = [int(seen[:60].sum()), int(seen[60:].sum())]
    rest = PointBatch(
        points.xyz[seen], torch.tensor([0, *counts]).cumsum(0), {"intensity": points.attributes["intensity"][seen]}
    )
    torch.testing.assert_close(encoder.volume_of(voxels.take(keep)).values, encoder.volume(rest).values)


def test_names_and_sizes_are_those_of_openpcdet() -> None:
    input = PointInputConfig(attributes=("intensity",))
    plain = ENCODERS.build(ENCODERS.config("second")(), input)
    names = set(plain.state_dict())
    assert {"conv_input.0.weight", "conv1.0.0.weight", "conv2.2.1.running_var", "conv_out.1.bias"} <= names
    assert plain.get_parameter("conv2.0.0.weight").shape == (32, 3, 3, 3, 16)
    assert plain.get_parameter("conv_out.0.weight").shape == (128, 3, 1, 1, 64)
    assert isinstance(plain, Second) and plain.shape == (41, 1600, 1408)
    wide = ENCODERS.config("second").model_validate({"residual": True, "widths": (16, 32, 64, 128)})
    residual = ENCODERS.build(wide, input)
    assert {"conv1.1.conv2.bias", "conv2.0.0.weight", "conv4.2.bn1.weight"} <= set(residual.state_dict())
    assert [round(count_parameters(net) / 1e6, 2) for net in (plain, residual)] == [0.71, 2.69]


@BOTH
def test_an_attribute_that_points_lack(name: str) -> None:
    points = clouds()
    with pytest.raises(DataError, match="'intensity', which these points lack"):
        build(name)(PointBatch(points.xyz, points.offsets))


def test_a_range_too_low_for_its_stages() -> None:
    with pytest.raises(ConfigError, match="8 voxels high: too few for 4 stages"):
        build("second", range=(0, -2, -1, 4, 2, -0.2), widths=(4, 4, 4, 4))
