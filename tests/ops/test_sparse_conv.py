"""Our backend against convolution of the dense grid, in value and in gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv3d, conv_transpose3d

from st_ssl.ops.sparse import SparseConv3d, SparseSequential, SparseTensor, functional, sparse_tensor
from st_ssl.ops.sparse import maps as maps_module
from st_ssl.ops.sparse.functional import convolve
from st_ssl.ops.sparse.maps import strided_map, submanifold_map
from tests.ops.sparse import SHAPE, at, dense, random_tensor, with_gradient


@pytest.fixture(params=[2048, 16], autouse=True)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """All rows in one block and gathered at once, and in many, some offsets alone."""
    monkeypatch.setitem(maps_module.BLOCK, "cpu", request.param)
    if request.param == 16:
        monkeypatch.setattr(functional, "CACHED", 50)
    return int(request.param)


def layer(**settings: Any) -> SparseConv3d:
    torch.manual_seed(1)
    return SparseConv3d(4, 5, backend="torch", bias=True, **settings)


def as_dense(weight: Tensor) -> Tensor:
    return weight.permute(0, 4, 1, 2, 3)


def reached(x: SparseTensor, conv: SparseConv3d) -> Tensor:
    """Which cells of the grid a strided or transposed convolution reaches: bool [B, X', Y', Z']."""
    ones = dense(x, torch.ones(len(x), 1))
    kernel = torch.ones(1, 1, *conv.kernel)
    if conv.kind == "transposed":
        return conv_transpose3d(ones, kernel, stride=conv.stride, padding=conv.padding)[:, 0] > 0
    return conv3d(ones, kernel, stride=conv.stride, padding=conv.padding, dilation=conv.dilation)[:, 0] > 0


def compare(x: SparseTensor, conv: SparseConv3d, out: SparseTensor, expected: Tensor) -> None:
    """``out`` with ``expected`` [B, C', X', Y', Z'] at its voxels, and the gradients of a sum with random weights."""
    wanted = at(expected, out)
    torch.testing.assert_close(out.features, wanted, rtol=1e-5, atol=1e-5)
    probe = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(2))
    inputs = [x.features, *conv.parameters()]
    ours = torch.autograd.grad((out.features * probe).sum(), inputs)
    theirs = torch.autograd.grad((wanted * probe).sum(), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [3, 5, (1, 3, 1), (3, 1, 5)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_submanifold(kernel: Any, dilation: int) -> None:
    x, conv = with_gradient(random_tensor()), layer(kernel=kernel, dilation=dilation)
    out = conv(x)
    padding = tuple(k // 2 * dilation for k in conv.kernel)
    compare(x, conv, out, conv3d(dense(x), as_dense(conv.weight), conv.bias, padding=padding, dilation=dilation))
    assert torch.equal(out.coords, x.coords)


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel": 2, "stride": 2},
        {"kernel": 3, "stride": 2, "padding": 1},
        {"kernel": 3, "stride": 1, "padding": 1},
        {"kernel": 3, "stride": 1},
        {"kernel": 1, "stride": 2},
        {"kernel": 2, "stride": 1},
        {"kernel": 3, "stride": 2, "padding": 2, "dilation": 2},
        {"kernel": (3, 2, 1), "stride": (1, 2, 3), "padding": (1, 0, 0)},
    ],
)
def test_strided(settings: dict[str, Any]) -> None:
    x, conv = with_gradient(random_tensor()), layer(kind="strided", **settings)
    out = conv(x)
    expected = conv3d(
        dense(x), as_dense(conv.weight), conv.bias, stride=conv.stride, padding=conv.padding, dilation=conv.dilation
    )
    assert out.shape == expected.shape[2:]
    assert torch.equal(out.coords.long(), reached(x, conv).nonzero())
    compare(x, conv, out, expected)


@pytest.mark.parametrize(
    "settings",
    [{"kernel": 2, "stride": 2}, {"kernel": 3, "stride": 2, "padding": 1}, {"kernel": 1, "stride": 2}, {"kernel": 3}],
)
def test_transposed(settings: dict[str, Any]) -> None:
    x, conv = with_gradient(random_tensor()), layer(kind="transposed", **settings)
    out = conv(x)
    weight = as_dense(conv.weight).transpose(0, 1)
    expected = conv_transpose3d(dense(x), weight, conv.bias, stride=conv.stride, padding=conv.padding)
    assert out.shape == expected.shape[2:]
    assert torch.equal(out.coords.long(), reached(x, conv).nonzero())
    compare(x, conv, out, expected)


@pytest.mark.parametrize("settings", [{"kernel": 2, "stride": 2}, {"kernel": 3, "stride": 2, "padding": 1}])
def test_inverse_returns_to_the_voxels_it_came_from(settings: dict[str, Any]) -> None:
    start = random_tensor()
    down = SparseConv3d(4, 4, kind="strided", key="down", backend="torch", **settings)
    up = layer(kind="inverse", kernel=settings["kernel"], key="down")
    x = with_gradient(down(start))
    out = up(x)
    assert torch.equal(out.coords, start.coords)
    assert out.shape == SHAPE
    output_padding = [
        n - ((m - 1) * s - 2 * p + k) for n, m, s, p, k in zip(SHAPE, x.shape, *down_sizes(down), strict=True)
    ]
    weight = as_dense(up.weight).transpose(0, 1)
    expected = conv_transpose3d(
        dense(x), weight, up.bias, stride=down.stride, padding=down.padding, output_padding=output_padding
    )
    compare(x, up, out, expected)


def down_sizes(conv: SparseConv3d) -> tuple[Any, Any, Any]:
    return conv.stride, conv.padding, conv.kernel


def test_pointwise_is_a_matrix_product() -> None:
    x, conv = random_tensor(), layer(kernel=1)
    assert conv.bias is not None
    torch.testing.assert_close(conv(x).features, x.features @ conv.weight.reshape(4, 5) + conv.bias)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("kind", ["submanifold", "strided", "transposed"])
def test_gradients_by_finite_differences(kind: str, inverse: bool) -> None:
    x = random_tensor(channels=2, share=0.05, dtype=torch.float64)
    if kind == "submanifold":
        map = submanifold_map(x.coords, x.shape, (3, 3, 3))
    else:
        map = strided_map(x.coords, x.shape, (2, 3, 2), (2, 2, 1), (0, 1, 0), 1, kind == "transposed")
    features = torch.randn(len(map.coords[1 if inverse else 0]), 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, *map.kernel, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, w: convolve(f, w, map, inverse), (features, weight), fast_mode=True)


def test_gradient_of_the_weights_alone_is_the_same() -> None:
    x, conv = random_tensor(), layer(kernel=3)
    conv(x).features.square().sum().backward()
    alone = conv.weight.grad
    conv.zero_grad()
    conv(with_gradient(x)).features.square().sum().backward()
    assert alone is not None and conv.weight.grad is not None
    torch.testing.assert_close(alone, conv.weight.grad, rtol=1e-5, atol=1e-5)


def network() -> SparseSequential:
    torch.manual_seed(0)
    return SparseSequential(
        SparseConv3d(4, 6, key="a", backend="torch"),
        torch.nn.ReLU(),
        SparseConv3d(6, 8, 2, "strided", stride=2, key="down", backend="torch"),
        SparseConv3d(8, 8, backend="torch"),
        SparseConv3d(8, 4, 2, "inverse", key="down", backend="torch"),
        SparseConv3d(4, 4, key="a", backend="torch"),
    )


def test_the_order_of_voxels_means_nothing() -> None:
    x, model = random_tensor(), network()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(4))
    shuffled = sparse_tensor(x.features[order], x.coords[order], x.shape, x.batch_size)
    first, second = with_gradient(x), with_gradient(shuffled)
    one, two = model(first).features, model(second).features
    torch.testing.assert_close(two, one[order])
    one.square().sum().backward()
    two.square().sum().backward()
    assert first.features.grad is not None and second.features.grad is not None
    torch.testing.assert_close(second.features.grad, first.features.grad[order])


def test_entries_of_a_batch_do_not_meet() -> None:
    x, model = random_tensor(), network()
    last = x.coords[:, 0] == 2
    coords = x.coords[last] - torch.tensor([2, 0, 0, 0])
    alone = model(sparse_tensor(x.features[last], coords, x.shape, 1))
    torch.testing.assert_close(alone.features, model(x).features[last])


def test_no_voxel_at_all() -> None:
    x = sparse_tensor(torch.zeros(0, 4), torch.zeros(0, 4), SHAPE, 2)
    model = network()
    out = model(with_gradient(x))
    assert out.features.shape == (0, 4)
    out.features.sum().backward()
    assert all(p.grad is not None and (p.grad == 0).all() for p in model.parameters())


def test_half_precision_adds_gradients_in_single() -> None:
    x, conv = random_tensor(share=0.9), layer(kernel=3)
    exact = torch.autograd.grad(conv(x).features.sum(), conv.weight)[0]
    low = conv(x.replace(x.features.bfloat16())).features
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(torch.autograd.grad(low.sum(), conv.weight)[0], exact, rtol=0.02, atol=0.5)


@pytest.mark.parametrize("channels", [3, functional.NARROW])
def test_gradients_of_narrow_weights_lie_as_the_weights_do(channels: int) -> None:
    x, conv = random_tensor(channels=channels), SparseConv3d(channels, 5, backend="torch")
    (gradient,) = torch.autograd.grad(conv(x).features.square().sum(), conv.weight)
    dense_out = conv3d(dense(x), as_dense(conv.weight), padding=1)
    (expected,) = torch.autograd.grad(at(dense_out, x).square().sum(), conv.weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)
    assert gradient.stride() == conv.weight.stride()  # what DistributedDataParallel's buckets expect
