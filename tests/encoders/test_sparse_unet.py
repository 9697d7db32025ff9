from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d, conv_transpose3d

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.types import PointBatch
from st_ssl.encoders.base import ENCODERS, count_parameters
from st_ssl.encoders.sparse_unet import Residual, SparseEncoder, SparseUNet, SparseUNetConfig
from st_ssl.ops.sparse import SparseConv3d, SparseSequential

BOTH = pytest.mark.parametrize("name", ["sparse_unet", "sparse_resnet"])
SIZE = 0.1


def build(name: str = "sparse_unet", attributes: tuple[str, ...] = ("color",), **changes: Any) -> SparseEncoder:
    config = ENCODERS.config(name).model_validate({"name": name, "variant": "tiny", "stem": 4, **changes})
    input = PointInputConfig.model_validate({"voxel_size": SIZE, "attributes": attributes})
    torch.manual_seed(0)
    encoder = ENCODERS.build(config, input)
    assert isinstance(encoder, SparseEncoder)
    for module in encoder.modules():  # what is 0 or 1 at first would hide mistakes
        if isinstance(module, nn.BatchNorm1d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return encoder.eval()


def scene(counts: tuple[int, ...] = (300, 200), seed: int = 0, spread: float = 2.0) -> PointBatch:
    """Points in a box of ``spread`` metres around the origin."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    xyz = (torch.rand(total, 3, generator=generator) - 0.5) * spread
    colour = torch.rand(total, 3, generator=generator)
    return PointBatch(xyz, torch.tensor([0, *counts]).cumsum(0), {"color": colour})


@pytest.mark.parametrize(
    ("variant", "attributes", "published"),
    [("spunet", ("color", "normal"), 39.16), ("34C", ("color",), 37.86), ("18A", ("color",), 15.49)],
)
def test_size_is_the_published_one(variant: str, attributes: tuple[str, ...], published: float) -> None:
    with torch.device("meta"):
        config = SparseUNetConfig.model_validate({"variant": variant})
        encoder = SparseUNet(config, PointInputConfig.model_validate({"attributes": attributes}))
        head = nn.Linear(encoder.embed_dim, 20)  # the published ones end in the classes of ScanNet
    assert round((count_parameters(encoder) + count_parameters(head)) / 1e6, 2) == published


def dense_conv(x: Tensor, conv: SparseConv3d, occupied: Tensor) -> Tensor:
    """A layer on the dense grid [B, C, X, Y, Z], 0 where ``occupied`` [B, 1, X', Y', Z'] is."""
    if conv.pointwise:
        weight = conv.weight.view(conv.in_channels, conv.out_channels).T[:, :, None, None, None]
    else:
        weight = conv.weight.permute(0, 4, 1, 2, 3)
    if conv.kind == "inverse":
        return conv_transpose3d(x, weight.transpose(0, 1), stride=2) * occupied
    strided = conv.kind == "strided"
    return conv3d(x, weight, stride=2 if strided else 1, padding=0 if strided else conv.kernel[0] // 2) * occupied


def dense_norm(x: Tensor, norm: nn.Module, occupied: Tensor) -> Tensor:
    assert isinstance(norm, nn.BatchNorm1d)
    out = nn.functional.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return out * occupied


def dense_block(x: Tensor, block: Residual, occupied: Tensor) -> Tensor:
    out = dense_norm(dense_conv(x, block.conv1, occupied), block.norm1, occupied).relu()
    out = dense_norm(dense_conv(out, block.conv2, occupied), block.norm2, occupied)
    if block.shortcut is not None:
        conv, norm = block.shortcut.children()
        assert isinstance(conv, SparseConv3d)
        x = dense_norm(dense_conv(x, conv, occupied), norm, occupied)
    return (out + x).relu()


def dense_unit(x: Tensor, unit: nn.Module, occupied: Tensor) -> Tensor:
    assert isinstance(unit, SparseSequential)
    conv, norm, _ = unit.children()
    assert isinstance(conv, SparseConv3d)
    return dense_norm(dense_conv(x, conv, occupied), norm, occupied).relu()


def dense_stage(x: Tensor, stage: nn.Module, occupied: Tensor) -> Tensor:
    assert isinstance(stage, SparseSequential)
    for block in stage.children():
        assert isinstance(block, Residual)
        x = dense_block(x, block, occupied)
    return x


def dense_network(encoder: SparseUNet, x: Tensor, occupied: Tensor) -> Tensor:
    levels, masks = [dense_unit(x, encoder.stem, occupied)], [occupied]
    for step, stage in zip(encoder.down.steps, encoder.down.stages, strict=True):
        masks.append(nn.functional.max_pool3d(masks[-1], 2))
        levels.append(dense_stage(dense_unit(levels[-1], step, masks[-1]), stage, masks[-1]))
    x = levels.pop()
    for step, stage, skip, mask in zip(encoder.up.steps, encoder.up.stages, levels[::-1], masks[-2::-1], strict=True):
        x = dense_stage(torch.cat([dense_unit(x, step, mask), skip], 1), stage, mask)
    return x


def test_features_are_those_of_the_dense_network() -> None:
    encoder, points = build().double(), scene(spread=1.5)
    assert isinstance(encoder, SparseUNet)
    found, _ = encoder.voxels(points)
    b, i, j, k = found.coords.long().unbind(1)
    grid = torch.zeros(found.batch_size, *found.shape, 4, dtype=torch.float64)
    grid[b, i, j, k] = torch.cat([found.features, torch.ones(len(found), 1, dtype=torch.float64)], 1)
    x, occupied = grid.permute(0, 4, 1, 2, 3).split([3, 1], 1)
    expected = dense_network(encoder, x, occupied)[b, :, i, j, k]
    torch.testing.assert_close(encoder.network(found).features, expected)


@BOTH
def test_backends_are_the_same_with_the_same_weights(name: str) -> None:
    pytest.importorskip("spconv", reason="spconv is not installed")
    ours, theirs, points = build(name, backend="torch"), build(name, backend="spconv"), scene()
    theirs.load_state_dict(ours.state_dict())
    outcomes = []
    for encoder in (ours, theirs):
        features = encoder.train()(points)
        features.points.square().mean().backward()
        outcomes.append([features.points, features.pooled, *(p.grad for p in encoder.parameters())])
    for a, b in zip(*outcomes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@BOTH
def test_points_of_a_voxel_are_one(name: str) -> None:
    encoder, points = build(name), scene()
    x, point_to_voxel = encoder.voxels(points)
    features = encoder(points).points
    step = SIZE * (16 if name == "sparse_resnet" else 1)
    cells = torch.cat(
        [
            torch.bucketize(torch.arange(500), points.offsets[1:], right=True)[:, None],
            (points.xyz.double() / step).floor(),
        ],
        1,
    )
    for rows in torch.unique(cells, dim=0, return_inverse=True)[1].argsort().split(50):
        for row in rows[1:]:
            if torch.equal(cells[row], cells[rows[0]]):
                assert torch.equal(features[row], features[rows[0]])
    inside = points.attributes["color"][point_to_voxel == 7]
    torch.testing.assert_close(x.features[7], inside.mean(0))


@BOTH
def test_pooled_is_the_mean_over_voxels_of_the_last_level(name: str) -> None:
    encoder, points = build(name), scene()
    features = encoder(points)
    for cloud in range(2):
        own = features.points[points.offsets[cloud] : points.offsets[cloud + 1]]
        torch.testing.assert_close(features.pooled[cloud], torch.unique(own, dim=0).mean(0), rtol=1e-4, atol=1e-5)


@BOTH
def test_the_order_of_points_and_a_step_of_the_coarsest_grid_mean_nothing(name: str) -> None:
    encoder, points = build(name), scene((300,))
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    features = encoder(points)
    # 16 voxels of 0.1 m; nothing lies so near to the side of a voxel that rounding moves it
    moved = PointBatch(
        points.xyz[order] + torch.tensor([1.6, -3.2, 0.0]), points.offsets, {"color": points.attributes["color"][order]}
    )
    again = encoder(moved)
    torch.testing.assert_close(again.points, features.points[order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again.pooled, features.pooled, rtol=1e-4, atol=1e-5)


@BOTH
def test_a_cloud_without_points(name: str) -> None:
    encoder, points = build(name), scene((100, 0, 50))
    features = encoder(points)
    assert (features.pooled[1] == 0).all() and (features.pooled[2] != 0).any()
    nothing = encoder(PointBatch(torch.zeros(0, 3), torch.zeros(3, dtype=torch.int64), {"color": torch.zeros(0, 3)}))
    assert nothing.pooled.shape == (2, encoder.embed_dim) and nothing.points.shape == (0, encoder.embed_dim)


def test_what_is_fed() -> None:
    points = scene()
    assert torch.equal(build(attributes=()).voxels(points)[0].features, torch.ones(len(build().voxels(points)[0]), 1))
    x, point_to_voxel = build(attributes=(), offsets=True).voxels(points)
    inside = points.xyz[point_to_voxel == 3].double() / SIZE
    torch.testing.assert_close(x.features[3].double(), (inside - inside.floor() - 0.5).mean(0), rtol=0, atol=1e-5)
    assert x.features.abs().max() <= 0.5
    with pytest.raises(
        DataError, match=r"input\.attributes has 'normal', which these points lack: they have \['color'\]"
    ):
        build(attributes=("normal",))(points)
    assert SparseUNet(SparseUNetConfig(variant="tiny"), PointInputConfig()).voxel_size == 0.02


def test_channels_of_ones_own() -> None:
    own = build(channels=(4, 4, 4, 4, 4, 4, 4, 6), blocks=(1, 1, 1, 1, 1, 1, 1, 2))
    assert own.embed_dim == 6 and own(scene()).points.shape == (500, 6)
    with pytest.raises(ConfigError, match=r"encoder\.channels=\[4, 4\]: sparse_unet takes 8 numbers"):
        build(channels=(4, 4))
    with pytest.raises(ConfigError, match=r"encoder\.blocks=\[1, 0, 1, 1\]: sparse_resnet takes 4 numbers"):
        build("sparse_resnet", blocks=(1, 0, 1, 1))
