"""The same layers by spconv 2, which is fast on CUDA. Imported only where it is asked for."""

from __future__ import annotations

from typing import Any

import spconv.pytorch as spconv
import torch
from spconv.core import ConvAlgo
from spconv.pytorch.conv import SparseConvolutionBase
from torch import Tensor

from st_ssl.ops.sparse.tensor import Size, SparseTensor


def _to_spconv(x: SparseTensor) -> Any:
    known = {key: map for (backend, key), map in x.maps.items() if backend == "spconv"}
    return spconv.SparseConvTensor(x.features, x.coords, list(x.shape), x.batch_size, indice_dict=known)


def _from_spconv(out: Any, x: SparseTensor) -> SparseTensor:
    x.maps.update({("spconv", key): map for key, map in out.indice_dict.items()})
    shape = (out.spatial_shape[0], out.spatial_shape[1], out.spatial_shape[2])
    return SparseTensor(out.features, out.indices, shape, x.batch_size, x.maps)


def convolve_by_spconv(
    x: SparseTensor,
    weight: Tensor,
    kind: str,
    kernel: Size,
    stride: Size,
    padding: Size,
    dilation: int,
    key: str | None,
    training: bool,
) -> SparseTensor:
    """``x`` convolved with ``weight`` [C_out, kx, ky, kz, C_in]. No bias is added: spconv cannot on CPUs."""
    peer = SparseConvolutionBase(
        3,
        weight.shape[-1],
        weight.shape[0],
        list(kernel),
        list(stride),
        list(padding),
        dilation,
        bias=False,
        subm=kind == "submanifold",
        transposed=kind == "transposed",
        inverse=kind == "inverse",
        indice_key=key,
        algo=None
        if x.features.is_cuda
        else ConvAlgo.Native,  # on CPUs there is one, which it does not choose by itself
    )
    device = x.features.device.type
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
    if not autocast and x.features.dtype != torch.bfloat16:
        return _from_spconv(peer._conv_forward(training, _to_spconv(x), weight, None), x)
    with torch.autocast(device, enabled=False):  # spconv knows no bfloat16, and would take float16 in its place
        single = _to_spconv(x.replace(x.features.float()))
        out = _from_spconv(peer._conv_forward(training, single, weight.float(), None), x)
    return out.replace(out.features.to(x.features.dtype))
