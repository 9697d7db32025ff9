"""Convolution and pooling of sparse tensors as modules, for either backend."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Literal, cast

import torch
from torch import Tensor, nn

from st_ssl.core.errors import MissingDependencyError, nearest
from st_ssl.ops.sparse.functional import convolve, pool
from st_ssl.ops.sparse.maps import KernelMap, strided_map, submanifold_map
from st_ssl.ops.sparse.tensor import Size, SparseTensor

Backend = Literal["auto", "torch", "spconv"]
"""``torch`` is ours and runs anywhere; ``spconv`` needs the package; ``auto`` takes spconv for tensors on CUDA if it is
installed, and ``torch`` for all others, which on CPUs is also the faster one."""

Kind = Literal["submanifold", "strided", "transposed", "inverse"]
Sizes = int | Size


def _three(value: Sizes) -> Size:
    return (value, value, value) if isinstance(value, int) else value


def uses_spconv(backend: Backend, x: SparseTensor) -> bool:
    """Whether spconv computes ``x``. A batch without a voxel is always ours: spconv has no answer to it."""
    if backend == "spconv" and find_spec("spconv") is None:
        raise MissingDependencyError("spconv", "points", "the backend 'spconv'")
    if backend == "torch" or len(x) == 0:
        return False
    return backend == "spconv" or (x.features.is_cuda and find_spec("spconv") is not None)


class SparseModule(nn.Module):
    """A module from sparse tensor to sparse tensor: what ``SparseSequential`` does not take apart."""


class SparseConv3d(SparseModule):
    """A convolution over occupied voxels alone, C_in to C_out channels.

    ``submanifold``: at the voxels that there are (Graham and van der Maaten 2017), around each; ``stride`` and
    ``padding`` are not for it. ``strided``: at all cells that the kernel reaches from a voxel; ``transposed`` the same
    with input and output exchanged. ``inverse``: from the outputs of the strided or transposed convolution of the same
    ``key`` back to its inputs. A ``key`` stands for one neighbour map, which layers that name it share.

    ``weight`` [C_out, kx, ky, kz, C_in] is spconv 2's, as are the names in a state dict, so that weights go both ways.
    As there, a kernel of 1 with a stride of 1 reads that memory as [C_in, C_out].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Sizes = 3,
        kind: Kind = "submanifold",
        stride: Sizes = 1,
        padding: Sizes = 0,
        dilation: int = 1,
        bias: bool = False,
        key: str | None = None,
        backend: Backend = "auto",
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.kind = in_channels, out_channels, kind
        self.kernel, self.stride, self.padding = _three(kernel), _three(stride), _three(padding)
        self.dilation, self.key, self.backend = dilation, key, backend
        if kind == "submanifold" and any(k % 2 == 0 for k in self.kernel):
            raise ValueError(f"a submanifold convolution has no middle with kernel {self.kernel}: expected odd sizes")
        if kind == "submanifold" and (max(self.stride) > 1 or max(self.padding) > 0):
            raise ValueError("a submanifold convolution has neither stride nor padding")
        if kind == "inverse" and (key is None or self.kernel == (1, 1, 1)):
            raise ValueError("an inverse convolution needs the key of the one it inverts, and a kernel above 1")
        if kind == "transposed" and dilation > 1:
            raise ValueError("a transposed convolution is not dilated")
        self.pointwise = self.kernel == (1, 1, 1) and self.stride == (1, 1, 1) and kind != "inverse"
        if self.pointwise and max(self.padding) > 0:
            raise ValueError("a kernel of 1 with stride 1 is not padded")
        self.weight = nn.Parameter(torch.empty(out_channels, *self.kernel, in_channels))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform within 1 / sqrt(fan-in), as torch's convolutions."""
        bound = 1 / math.sqrt(self.in_channels * math.prod(self.kernel))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        shape = f"{self.in_channels}, {self.out_channels}, kernel={self.kernel}, kind={self.kind!r}"
        return f"{shape}, stride={self.stride}, key={self.key!r}"

    def forward(self, x: SparseTensor) -> SparseTensor:
        """The convolved tensor; raises ``ValueError`` where its key stands for another geometry, or for none."""
        if self.pointwise:
            out = x.replace(x.features @ self.weight.view(self.in_channels, self.out_channels).to(x.features.dtype))
        elif uses_spconv(self.backend, x):
            from st_ssl.ops.sparse.spconv_backend import convolve_by_spconv

            geometry = (self.kernel, self.stride, self.padding, self.dilation)
            out = convolve_by_spconv(x, self.weight, self.kind, *geometry, self.key, self.training)
        else:
            out = self._convolve(x)
        return out if self.bias is None else out.replace(out.features + self.bias.to(out.features.dtype))

    def _convolve(self, x: SparseTensor) -> SparseTensor:
        map = self._map(x)
        inverse = self.kind == "inverse"
        features = convolve(x.features, self.weight, map, inverse)
        side = 0 if inverse else 1
        return SparseTensor(features, map.coords[side], map.shapes[side], x.batch_size, x.maps)

    def _map(self, x: SparseTensor) -> KernelMap:
        name = ("torch", self.key or "")
        map = cast(KernelMap | None, x.maps.get(name) if self.key else None)
        if map is None:
            if self.kind == "inverse":
                known = [key for backend, key in x.maps if backend == "torch"]
                raise ValueError(f"no map of key {self.key!r} to invert{nearest(self.key or '', known)}")
            map = self._new_map(x)
            if self.key:
                x.maps[name] = map
            return map
        expected = map.coords[1 if self.kind == "inverse" else 0]
        ours = (len(x), self.kernel, self.dilation, self.kind == "submanifold")
        theirs = (len(expected), map.kernel, map.dilation, map.mirrored)
        if ours != theirs or self.kind in ("strided", "transposed"):
            raise ValueError(
                f"key {self.key!r} stands for another map: (voxels, kernel, dilation, submanifold) are {theirs} there, "
                f"and {ours} for this {self.kind} convolution"
            )
        return map

    def _new_map(self, x: SparseTensor) -> KernelMap:
        if self.kind == "submanifold":
            return submanifold_map(x.coords, x.shape, self.kernel, self.dilation)
        transposed = self.kind == "transposed"
        return strided_map(x.coords, x.shape, self.kernel, self.stride, self.padding, self.dilation, transposed)


class SparsePool3d(SparseModule):
    """The ``max`` or the ``mean`` of the voxels that the kernel covers, at all cells that it reaches from one.

    Ours for all backends: on CPUs spconv has no mean, and its largest value is never below 0.
    """

    def __init__(self, mode: Literal["max", "mean"], kernel: Sizes = 2, stride: Sizes = 2, padding: Sizes = 0) -> None:
        super().__init__()
        self.mode = mode
        self.kernel, self.stride, self.padding = _three(kernel), _three(stride), _three(padding)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """[M, C] to [M', C]."""
        map = strided_map(x.coords, x.shape, self.kernel, self.stride, self.padding, 1)
        return SparseTensor(pool(x.features, map, self.mode), map.coords[1], map.shapes[1], x.batch_size, x.maps)


def global_pool(x: SparseTensor, mode: Literal["max", "mean"] = "mean") -> Tensor:
    """[B, C]: the largest or mean features of each of the batch, 0 where it has no voxel."""
    index = x.coords[:, :1].long().expand_as(x.features)
    reduce = "amax" if mode == "max" else "mean"
    zeros = x.features.new_zeros(x.batch_size, x.features.shape[1])
    return zeros.scatter_reduce(0, index, x.features, reduce, include_self=False)


class SparseSequential(SparseModule):
    """Modules in turn; those that are no ``SparseModule`` (norms, activations) are given the features [M, C]."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        for number, module in enumerate(modules):
            self.add_module(str(number), module)

    def forward(self, x: SparseTensor) -> SparseTensor:
        for module in self.children():
            x = module(x) if isinstance(module, SparseModule) else x.replace(module(x.features))
        return x
