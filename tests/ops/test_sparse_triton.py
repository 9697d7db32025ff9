"""Convolution by Triton is that of plain torch: in Triton's interpreter, and on a GPU where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from st_ssl.core.errors import MissingDependencyError, MissingLibraryError
from st_ssl.ops.sparse import SparseConv3d, SparseTensor, layers
from st_ssl.ops.sparse.maps import strided_map
from tests.ops.sparse import random_tensor

ROOT = Path(__file__).parents[2]


def test_the_interpreter_gives_what_torch_gives() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    settings = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.ops.triton_cases"]
    done = subprocess.run(command, env=settings, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "16 tensors are the same, 12 sums by Triton\n"


def test_kernels_compile_for_a_gpu_that_is_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the interpreter takes, the compiler may not."""
    triton = pytest.importorskip("triton", reason="triton is not installed")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from st_ssl.ops.sparse import triton_backend

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"number": 27, "turned": True, "block_rows": 64, "block_in": 32, "block_out": 64, "precision": "tf32"}
    types = dict.fromkeys(("values", "kernels", "other", "out"), "*bf16") | {"table": "*i32", "totals": "*fp32"}
    for kernel in (triton_backend._gather_and_sum, triton_backend._sum_weights):
        known = {name: value for name, value in constants.items() if name in kernel.arg_names}
        signature = {name: "constexpr" if name in known else types.get(name, "i32") for name in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=signature, constexprs=known)
        assert "mma.sync" in triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["ptx"]


def test_a_table_has_the_source_of_every_target() -> None:
    x = random_tensor()
    map = strided_map(x.coords, x.shape, (2, 3, 2), (2, 2, 1), (0, 1, 0), 1)
    order = torch.arange(len(x)) if map.order is None else map.order
    table, inputs, outputs = map.forward.table, x.coords[order].long(), map.coords[1].long()
    assert table.shape == (12, len(outputs))
    offset = torch.tensor([[i, j, k] for i in range(2) for j in range(3) for k in range(2)])
    place = outputs[None, :, 1:] * torch.tensor([2, 2, 1]) - torch.tensor([0, 1, 0]) + offset[:, None]
    at = {tuple(row): number for number, row in enumerate(inputs.tolist())}
    cells = [[(b, *p) for b, p in zip(outputs[:, 0].tolist(), row, strict=True)] for row in place.tolist()]
    assert table.tolist() == [[at.get(cell, -1) for cell in row] for row in cells]


def test_on_cpus_it_is_torch_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what was pretrained with it is read where there is no GPU, nor Triton."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(layers, "find_spec", lambda name: None)
    x, conv = random_tensor(), SparseConv3d(4, 6, backend="triton")
    same = SparseConv3d(4, 6, backend="torch")
    same.load_state_dict(conv.state_dict())
    assert conv(x).features.equal(same(x).features)


def test_without_triton_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(layers, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"'triton' needs the package triton: .*st_ssl\[triton\]"):
        SparseConv3d(4, 6, backend="triton")(random_tensor())


UNBUILT = {
    "none": RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
    "gone": FileNotFoundError(2, "No such file or directory", "my-gcc"),
    "headers": subprocess.CalledProcessError(1, ["gcc", "driver.c"]),
}


@pytest.mark.parametrize("name", [*UNBUILT, "other"])
def test_without_a_compiler_it_is_told_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    from st_ssl.ops.sparse import triton_backend  # before the interpreter is asked for, which other tests do without

    def refuse(*args: object) -> None:
        raise UNBUILT.get(name) or RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(triton_backend, "gather_and_sum", refuse)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    told = (RuntimeError, "CUDA error") if name == "other" else (MissingLibraryError, r"'triton' needs .*install gcc")
    with pytest.raises(told[0], match=told[1]):
        SparseConv3d(4, 6, backend="triton")(random_tensor())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_gives_what_torch_gives() -> None:
    from tests.ops.triton_cases import compare

    assert compare("cuda") == 16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_gives_the_same_bits_twice() -> None:
    cells = torch.rand(3, 40, 40, 40, generator=torch.Generator().manual_seed(0)) < 0.2
    coords = cells.nonzero().int().cuda()
    features = torch.randn(len(coords), 32, device="cuda", requires_grad=True)
    conv = SparseConv3d(32, 64, backend="triton").cuda()
    first, second = (
        torch.autograd.grad(
            conv(SparseTensor(features, coords, (40, 40, 40), 3)).features.square().sum(), [features, conv.weight]
        )
        for _ in range(2)
    )
    assert all(a.equal(b) for a, b in zip(first, second, strict=True))
