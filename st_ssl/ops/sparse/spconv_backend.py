"""The same layers by spconv 2, which is fast on CUDA. Imported only where it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import spconv.pytorch as spconv
import torch
from spconv.core import ConvAlgo
from spconv.pytorch.conv import SparseConvolutionBase

from st_ssl.ops.sparse.tensor import SparseTensor

if TYPE_CHECKING:
    from st_ssl.ops.sparse.layers import SparseConv3d


def _to_spconv(x: SparseTensor) -> Any:
    known = {key: map for (backend, key), map in x.maps.items() if backend == "spconv"}
    return spconv.SparseConvTensor(x.features, x.coords, list(x.shape), x.batch_size, indice_dict=known)


def _from_spconv(out: Any, x: SparseTensor) -> SparseTensor:
    x.maps.update({("spconv", key): map for key, map in out.indice_dict.items()})
    shape = (out.spatial_shape[0], out.spatial_shape[1], out.spatial_shape[2])
    return SparseTensor(out.features, out.indices, shape, x.batch_size, x.maps)


def convolve_by_spconv(layer: SparseConv3d, x: SparseTensor) -> SparseTensor:
    """``layer`` without its bias, which spconv cannot add on CPUs."""
    peer = SparseConvolutionBase(
        3,
        layer.in_channels,
        layer.out_channels,
        list(layer.kernel),
        list(layer.stride),
        list(layer.padding),
        layer.dilation,
        bias=False,
        subm=layer.kind == "submanifold",
        transposed=layer.kind == "transposed",
        inverse=layer.kind == "inverse",
        indice_key=layer.key,
        algo=None
        if x.features.is_cuda
        else ConvAlgo.Native,  # on CPUs there is one, which it does not choose by itself
    )
    device = x.features.device.type
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.bfloat16
    if not autocast and x.features.dtype != torch.bfloat16:
        return _from_spconv(peer._conv_forward(layer.training, _to_spconv(x), layer.weight, None), x)
    with torch.autocast(device, enabled=False):  # spconv knows no bfloat16, and would take float16 in its place
        single = _to_spconv(x.replace(x.features.float()))
        out = _from_spconv(peer._conv_forward(layer.training, single, layer.weight.float(), None), x)
    return out.replace(out.features.to(x.features.dtype))
