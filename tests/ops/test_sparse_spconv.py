"""Our backend and spconv's are the same, in output, gradient and weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from st_ssl.core.errors import MissingDependencyError
from st_ssl.ops.sparse import SparseConv3d, SparsePool3d, SparseSequential, SparseTensor, global_pool, layers
from tests.ops.sparse import random_tensor, with_gradient

pytest.importorskip("spconv", reason="spconv is not installed")

from spconv import pytorch as spconv
from spconv.core import ConvAlgo

STRIDED: list[dict[str, Any]] = [
    {"kernel": 2, "stride": 2},
    {"kernel": 3, "stride": 2, "padding": 1},
    {"kernel": 3, "padding": 1},
    {"kernel": 1, "stride": 2},
    {"kernel": 3, "stride": 2, "padding": 2, "dilation": 2},
]
CASES: list[dict[str, Any]] = [
    {"kind": "submanifold", "kernel": 1},
    {"kind": "submanifold", "kernel": 3},
    {"kind": "submanifold", "kernel": 3, "dilation": 2},
    {"kind": "submanifold", "kernel": 5},
    *({"kind": "strided", **settings} for settings in STRIDED),
    {"kind": "strided", "kernel": 1},
    {"kind": "transposed", "kernel": 2, "stride": 2},
    {"kind": "transposed", "kernel": 3, "stride": 2, "padding": 1},
    {"kind": "transposed", "kernel": 1, "stride": 2},
]


def sorted_rows(x: SparseTensor) -> Tensor:
    """Features in the order of coordinates: spconv has one of its own."""
    c = x.coords.long()
    return x.features[(((c[:, 0] * 100 + c[:, 1]) * 100 + c[:, 2]) * 100 + c[:, 3]).argsort()]


def outcome(model: torch.nn.Module, x: SparseTensor) -> list[Tensor]:
    """Output and gradients of a sum of squares."""
    x = with_gradient(x)
    rows = sorted_rows(model(x))
    inputs = [x.features, *model.parameters()]
    return [rows, *torch.autograd.grad(rows.square().sum(), inputs)]


def assert_same(build: Any, x: SparseTensor) -> None:
    ours, theirs = build("torch"), build("spconv")
    theirs.load_state_dict(ours.state_dict())
    for a, b in zip(outcome(ours, x), outcome(theirs, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("settings", CASES)
def test_convolutions(settings: dict[str, Any], training: bool) -> None:
    assert_same(
        lambda backend: SparseConv3d(4, 6, bias=True, backend=backend, **settings).train(training), random_tensor()
    )


@pytest.mark.parametrize("settings", [settings for settings in STRIDED if settings["kernel"] != 1])
def test_inverse(settings: dict[str, Any]) -> None:
    kernel, dilation = settings["kernel"], settings.get("dilation", 1)

    def build(backend: Any) -> SparseSequential:
        down = SparseConv3d(4, 6, kind="strided", key="down", backend=backend, **settings)
        up = SparseConv3d(6, 5, kernel, "inverse", dilation=dilation, key="down", backend=backend)
        return SparseSequential(down, torch.nn.Tanh(), up)

    assert_same(build, random_tensor())


class PeerPool(torch.nn.Module):
    """spconv's largest value of each cell, which is right for features above 0."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.pool = spconv.SparseMaxPool3d(*sizes, algo=ConvAlgo.Native)

    def forward(self, x: SparseTensor) -> SparseTensor:
        return from_peer(self.pool(to_peer(x)), x)


def to_peer(x: SparseTensor) -> Any:
    return spconv.SparseConvTensor(x.features, x.coords, list(x.shape), x.batch_size)


def from_peer(out: Any, x: SparseTensor) -> SparseTensor:
    shape = out.spatial_shape
    return SparseTensor(out.features, out.indices, (shape[0], shape[1], shape[2]), x.batch_size)


@pytest.mark.parametrize("sizes", [(2, 2, 0), (3, 2, 1)])
def test_pooling(sizes: tuple[int, int, int]) -> None:
    x = random_tensor()
    x = x.replace(x.features.abs())
    for a, b in zip(outcome(SparsePool3d("max", *sizes), x), outcome(PeerPool(*sizes), x), strict=True):
        torch.testing.assert_close(a, b)


def test_global_pooling() -> None:
    x = random_tensor(batch=1, seed=1)
    torch.testing.assert_close(global_pool(x, "max"), spconv.SparseGlobalMaxPool()(to_peer(x)))


PEERS = [
    ({"kernel": 3}, spconv.SubMConv3d),
    ({"kernel": 1}, spconv.SubMConv3d),
    ({"kernel": 3, "kind": "strided", "stride": 2, "padding": 1}, spconv.SparseConv3d),
    ({"kernel": 2, "kind": "transposed", "stride": 2}, spconv.SparseConvTranspose3d),
]


@pytest.mark.parametrize(("settings", "peer"), PEERS)
def test_state_dicts_go_both_ways(settings: dict[str, Any], peer: Any) -> None:
    x, ours = random_tensor(), SparseConv3d(4, 6, bias=False, backend="torch", **settings)
    sizes = {name: settings[name] for name in ("stride", "padding") if name in settings}
    theirs = peer(4, 6, settings["kernel"], bias=False, algo=ConvAlgo.Native, **sizes)
    theirs.load_state_dict(ours.state_dict())
    rows = sorted_rows(from_peer(theirs(to_peer(x)), x))
    torch.testing.assert_close(sorted_rows(ours(x)), rows, rtol=1e-4, atol=1e-5)
    ours.load_state_dict(peer(4, 6, settings["kernel"], bias=False, algo=ConvAlgo.Native, **sizes).state_dict())


def test_bfloat16() -> None:
    x = random_tensor()
    ours, theirs = SparseConv3d(4, 6, backend="torch"), SparseConv3d(4, 6, backend="spconv")
    theirs.load_state_dict(ours.state_dict())
    low = x.replace(x.features.bfloat16())
    for a, b in zip(outcome(ours, low), outcome(theirs, low), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(sorted_rows(theirs(x)), sorted_rows(ours(x)), rtol=1e-4, atol=1e-4)


def test_no_voxel_at_all() -> None:
    x = random_tensor(share=0.0)
    assert SparseConv3d(4, 6, backend="spconv")(x).features.shape == (0, 6)


def test_auto_takes_ours_on_cpus_and_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    x = random_tensor()
    SparseConv3d(4, 4, key="a")(x)
    assert list(x.maps) == [("torch", "a")]
    monkeypatch.setattr(layers, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"st_ssl\[points\]"):
        SparseConv3d(4, 4, backend="spconv")(x)
