"""Sparse tensors and their convolutions: ours in plain torch, and spconv's behind the same layers."""

from st_ssl.ops.sparse.layers import Backend, SparseConv3d, SparseModule, SparsePool3d, SparseSequential, global_pool
from st_ssl.ops.sparse.tensor import SparseTensor, sparse_tensor

__all__ = [
    "Backend",
    "SparseConv3d",
    "SparseModule",
    "SparsePool3d",
    "SparseSequential",
    "SparseTensor",
    "global_pool",
    "sparse_tensor",
]
