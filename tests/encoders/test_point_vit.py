from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.types import Mask, PointBatch
from st_ssl.encoders.base import count_parameters
from st_ssl.encoders.point_vit import MiniPointNet, Patches, PointViT, PointViTConfig, split_patches

TINY: dict[str, Any] = {"dim": 24, "depth": 3, "heads": 3, "num_groups": 8, "group_size": 6, "drop_path": 0.0}


def build(attributes: tuple[str, ...] = (), seed: int = 0, **changes: Any) -> PointViT:
    torch.manual_seed(seed)
    input = PointInputConfig.model_validate({"num_points": 40, "attributes": attributes})
    encoder = PointViT(PointViTConfig(**(TINY | changes)), input).double()
    for module in encoder.modules():  # what is 0 or 1 at first would hide mistakes
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.2)
    return encoder.eval()


def clouds(counts: tuple[int, ...] = (40, 40), seed: int = 1, **attributes: int) -> PointBatch:
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    values = {
        name: torch.randn(total, width, dtype=torch.float64, generator=generator) for name, width in attributes.items()
    }
    xyz = torch.randn(total, 3, dtype=torch.float64, generator=generator)
    return PointBatch(xyz, torch.tensor([0, *np.cumsum(counts)]), values)


def tokens_of(encoder: PointViT, *args: Any, **kwargs: Any) -> Tensor:
    tokens = encoder(*args, **kwargs).tokens
    assert tokens is not None
    return tokens


def test_size_is_the_published_one() -> None:
    with torch.device("meta"):
        encoder = PointViT(PointViTConfig(), PointInputConfig())
        head = nn.Sequential(  # Point-MAE's for ModelNet40, on the class token and the maximum of the others
            nn.Linear(768, 256), nn.BatchNorm1d(256), nn.Linear(256, 256), nn.BatchNorm1d(256), nn.Linear(256, 40)
        )
    assert count_parameters(encoder) == 21_825_024
    assert count_parameters(encoder) + count_parameters(head) + 2 * 384 == 22_099_752  # "22.1 M"
    with torch.device("meta"):
        biased = PointViT(PointViTConfig(qkv_bias=True), PointInputConfig())
    assert count_parameters(biased) - count_parameters(encoder) == 12 * 3 * 384


def test_patches_are_the_nearest_points_of_farthest_points() -> None:
    encoder, points = build(("normal",)), clouds(normal=3)
    patches = encoder.patches(points)
    assert patches.points.shape == (2, 8, 6, 6)
    for cloud in range(2):
        xyz = points.dense()[cloud]
        normal = points.attributes["normal"].view(2, 40, 3)[cloud]
        taken = [0]
        while len(taken) < 8:
            taken.append(int(torch.cdist(xyz, xyz[taken]).min(1).values.argmax()))
        torch.testing.assert_close(patches.centres[cloud], xyz[taken], rtol=0, atol=0)
        for patch, centre in enumerate(taken):
            near = (xyz - xyz[centre]).square().sum(1).argsort()[:6]
            torch.testing.assert_close(patches.points[cloud, patch, :, :3], xyz[near] - xyz[centre], rtol=0, atol=0)
            torch.testing.assert_close(patches.points[cloud, patch, :, 3:], normal[near], rtol=0, atol=0)


def test_clouds_of_several_sizes_are_cut_as_each_by_itself() -> None:
    encoder, points = build(("intensity",)), clouds((40, 25, 33), intensity=1)
    together = encoder(points)
    for i, (first, last) in enumerate([(0, 40), (40, 65), (65, 98)]):
        attributes = {"intensity": points.attributes["intensity"][first:last]}
        alone = encoder(PointBatch(points.xyz[first:last], torch.tensor([0, last - first]), attributes))
        torch.testing.assert_close(together.tokens[i], alone.tokens[0])
        torch.testing.assert_close(together.pooled[i], alone.pooled[0])


class PublishedTokeniser(nn.Module):
    """The mini-PointNet as it is drawn in Point-BERT (2022), with convolutions, from the weights of ours."""

    def __init__(self, ours: MiniPointNet) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, patches: Tensor) -> Tensor:
        ours, x = self.ours, patches.flatten(0, 1).transpose(1, 2)

        def conv(x: Tensor, linear: nn.Linear) -> Tensor:
            return nn.functional.conv1d(x, linear.weight[..., None], linear.bias)

        def norm(x: Tensor, n: nn.BatchNorm2d) -> Tensor:
            return nn.functional.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, n.training, 0.1)

        x = conv(norm(conv(x, ours.linear1), ours.norm1).relu(), ours.linear2)
        x = torch.cat([x.max(2, keepdim=True).values.expand_as(x), x], 1)
        x = conv(norm(conv(x, ours.linear3), ours.norm2).relu(), ours.linear4)
        return x.max(2).values.view(*patches.shape[:2], -1)


@pytest.mark.parametrize("training", [False, True])
def test_tokens_and_gradients_are_those_of_the_published_tokeniser(training: bool) -> None:
    torch.manual_seed(0)
    ours = MiniPointNet(4, 10, (5, 6, 7)).double().train(training)
    again = MiniPointNet(4, 10, (5, 6, 7)).double().train(training)
    again.load_state_dict(ours.state_dict())
    patches = torch.randn(3, 4, 5, 4, dtype=torch.float64)
    weight = torch.randn(3, 4, 10, dtype=torch.float64)
    found, expected = ours(patches), PublishedTokeniser(again)(patches)
    torch.testing.assert_close(found, expected)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    for (name, p), q in zip(ours.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)
    for a, b in ((ours.norm1, again.norm1), (ours.norm2, again.norm2)):
        torch.testing.assert_close(a.running_mean, b.running_mean)
        torch.testing.assert_close(a.running_var, b.running_var)


def test_positions_enter_every_block() -> None:
    encoder, points = build(), clouds()
    patches = encoder.patches(points)
    x, positions = encoder.tokeniser(patches.points), encoder.position(patches.centres)
    for block in encoder.blocks:
        x = block(x + positions)
    x = encoder.norm(x)
    features = encoder(points)
    torch.testing.assert_close(features.tokens, x)
    torch.testing.assert_close(features.pooled, x.mean(1))
    torch.testing.assert_close(features.centres, patches.centres)


def test_positions_alone_begin_as_they_are_told_to() -> None:
    weights = {}
    for kind in ("published", "xavier"):
        torch.manual_seed(0)
        weights[kind] = PointViT(
            PointViTConfig.model_validate(TINY | {"position_init": kind}), PointInputConfig()
        ).state_dict()
    changed = [name for name, value in weights["xavier"].items() if not value.equal(weights["published"][name])]
    assert changed == ["position.0.weight", "position.2.weight"]
    for name in changed:
        widest = (6 / sum(weights["xavier"][name].shape)) ** 0.5
        assert 0.95 * widest < float(weights["xavier"][name].abs().max()) <= widest
        assert float(weights["published"][name].std()) == pytest.approx(0.02, rel=0.1)


def test_the_order_of_points_is_nothing_to_the_tokens() -> None:
    encoder, points = build(), clouds()
    order = torch.stack([torch.randperm(40, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    mixed = PointBatch(points.dense().gather(1, order[..., None].expand(-1, -1, 3)).flatten(0, 1), points.offsets)
    start = (order == 0).int().argmax(1)  # where the first points of before are now
    expected = tokens_of(encoder, points)
    torch.testing.assert_close(tokens_of(encoder, mixed, patches=encoder.patches(mixed, start)), expected)
    assert not torch.allclose(tokens_of(encoder, mixed), expected)


@pytest.mark.parametrize("training", [False, True])
def test_hidden_patches_do_not_reach_the_others(training: bool) -> None:
    encoder, points = build().train(training), clouds()
    keep = torch.tensor([[0, 3, 6], [1, 2, 7]])
    patches = encoder.patches(points)
    hidden = torch.ones(2, 8, dtype=torch.bool).scatter(1, keep, False)
    noise = torch.randn(8 * 2 - 6, 6, 3, dtype=torch.float64)
    other = Patches(patches.points.clone(), patches.centres.clone())
    other.points[hidden], other.centres[hidden] = noise, noise[:, 0]
    seen = tokens_of(encoder, points, keep)
    assert seen.shape == (2, 3, 24)
    assert torch.equal(tokens_of(encoder, points, keep, other), seen)
    assert not torch.allclose(tokens_of(encoder, points)[:, :3], seen)


def test_all_patches_kept_is_the_whole_cloud_and_known_tokens_are_taken() -> None:
    encoder, points = build(), clouds()
    whole = tokens_of(encoder, points)
    torch.testing.assert_close(tokens_of(encoder, points, torch.arange(8).expand(2, -1)), whole)
    patches = encoder.patches(points)
    patches.tokens = encoder.tokeniser(patches.points)
    patches.points = torch.zeros_like(patches.points)
    torch.testing.assert_close(tokens_of(encoder, points, None, patches), whole)


def test_clouds_too_small_are_refused() -> None:
    encoder = build()
    with pytest.raises(DataError, match=r"a cloud of 7 points cannot be cut into encoder\.num_groups=8 .* it needs 8"):
        encoder(clouds((40, 7)))
    with pytest.raises(ConfigError, match=r"input\.num_points 40 must be at least encoder\.num_groups 64"):
        build(num_groups=64)


def test_blocks_are_found_where_the_centres_are() -> None:
    encoder, points = build(), clouds()
    patches = encoder.patches(points)
    keep, masked = split_patches(Mask(None, torch.tensor([[2], [7]])), patches, 0.5)
    for cloud, first in enumerate([2, 7]):
        near = (patches.centres[cloud] - patches.centres[cloud, first]).norm(dim=1).argsort()[:4].tolist()
        assert masked[cloud].tolist() == sorted(near)
        assert keep[cloud].tolist() == sorted(set(range(8)) - set(near))


@pytest.mark.parametrize("counts", [(40, 40), (40, 55)])
def test_patches_in_space_and_time(counts: tuple[int, ...]) -> None:
    """Against distances in four coordinates, the last of them the time in its scale."""
    encoder, points = build(("intensity", "time"), time_scale=0.7), clouds(counts, intensity=1, time=1)
    patches = encoder.patches(points)
    assert patches.points.shape == (2, 8, 6, 5) and patches.centres.shape == (2, 8, 4)
    place = torch.cat([points.xyz, 0.7 * points.attributes["time"]], 1)
    for cloud in range(2):
        own = slice(int(points.offsets[cloud]), int(points.offsets[cloud + 1]))
        xyzt, intensity, taken = place[own], points.attributes["intensity"][own], [0]
        while len(taken) < 8:
            taken.append(int(torch.cdist(xyzt, xyzt[taken]).min(1).values.argmax()))
        torch.testing.assert_close(patches.centres[cloud], xyzt[taken], rtol=0, atol=0)
        for patch, centre in enumerate(taken):
            near = (xyzt - xyzt[centre]).square().sum(1).argsort()[:6]
            torch.testing.assert_close(patches.points[cloud, patch, :, :4], xyzt[near] - xyzt[centre], rtol=0, atol=0)
            torch.testing.assert_close(patches.points[cloud, patch, :, 4:], intensity[near], rtol=0, atol=0)
    features = encoder(points)
    assert features.centres is not None and features.centres.shape == (2, 8, 3)


def test_patches_in_time_need_a_time() -> None:
    with pytest.raises(ConfigError, match=r"encoder.time_scale needs input.attributes with time"):
        build(("intensity",), time_scale=0.7)
