"""Sparse convolution by Triton beside its plain twin. Run as a module under TRITON_INTERPRET=1, which has to be set
before Triton is imported, for all but ``gpu`` tests."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch

from st_ssl.ops.sparse import SparseConv3d, SparseSequential, SparseTensor
from st_ssl.ops.sparse import triton_backend as kernels
from tests.ops.sparse import random_tensor, with_gradient

Layers = list[dict[str, Any]]
DOWN = {"kernel": 2, "kind": "strided", "stride": 2, "key": "a"}
CASES: list[tuple[Layers, int, int, bool]] = [
    ([{"kernel": 3}], 3, 20, False),
    ([{"kernel": (1, 3, 1), "dilation": 2}], 20, 40, True),
    ([{"kernel": (3, 2, 1), "kind": "strided", "stride": 2, "padding": (1, 0, 0)}], 20, 40, False),
    ([{"kernel": (1, 3, 1), "kind": "transposed", "stride": 2}], 20, 5, False),
    (
        [{"kernel": 2, "kind": "strided", "stride": 2, "key": "a"}, {"kernel": 2, "kind": "inverse", "key": "a"}],
        4,
        4,
        False,
    ),
]
"""Layers, their channels in and out, and whether in half precision."""


def outcome(backend: Any, layers: Layers, x: SparseTensor, channels: int) -> list[torch.Tensor]:
    """Output, and gradients of a sum of squares by features and weights."""
    torch.manual_seed(0)
    widths = [x.features.shape[1], *[channels] * len(layers)]
    convolutions = [
        SparseConv3d(a, b, backend=backend, **layer)
        for a, b, layer in zip(widths[:-1], widths[1:], layers, strict=True)
    ]
    model = SparseSequential(*convolutions).to(x.features)
    x = with_gradient(SparseTensor(x.features, x.coords, x.shape, x.batch_size))
    out = model(x).features
    return [out, *torch.autograd.grad(out.float().square().sum(), [x.features, *model.parameters()])]


def compare(device: str) -> int:
    """How many tensors were compared; raises ``AssertionError`` where one differs."""
    number = 0
    half = torch.bfloat16 if device == "cuda" else torch.float16  # the interpreter multiplies no bfloat16
    for layers, width, channels, low in CASES:
        x = random_tensor(width, 0.1, seed=1)
        features = x.features.to(device, half if low else torch.float32)
        x = SparseTensor(features, x.coords.to(device), x.shape, x.batch_size)
        ours, theirs = outcome("triton", layers, x, channels), outcome("torch", layers, x, channels)
        rtol, atol = (0.05, 0.1) if low else (1e-4, 1e-4)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=rtol, atol=atol)
            assert a.stride() == b.stride()
            number += 1
    return number


def main() -> None:
    """Compare on the CPU, with tiles of which even small tensors need several."""
    kernels.COLUMNS, kernels.CHANNELS, kernels.PROGRAMS = 32, 16, 64
    with patch.object(kernels, "gather_and_sum", wraps=kernels.gather_and_sum) as counted:
        number = compare("cpu")
    print(f"{number} tensors are the same, {counted.call_count} sums by Triton")


if __name__ == "__main__":
    main()
