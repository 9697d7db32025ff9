"""Arrays on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from st_ssl.core.errors import UserError
from st_ssl.transfer.features.array_shards import Part, PartFolder, Stream, write_npy, write_safetensors


def test_a_full_disk_is_told_without_a_traceback(tmp_path: Path) -> None:
    parts = PartFolder(tmp_path / "nowhere", 5, 5)
    with pytest.raises(UserError, match=r"000000\.safetensors: could not be written: No such file"):
        parts.save(0, Part([], [], {}))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64])
def test_arrays_are_written_as_their_libraries_read_them(tmp_path: Path, dtype: Any) -> None:
    array = np.arange(60).reshape(10, 2, 3).astype(dtype)

    def stream() -> Stream:
        return Stream(array.dtype, array.shape, iter([array[:4], array[4:4], array[4:]]))

    write_npy(tmp_path / "x.npy", stream())
    found = np.load(tmp_path / "x.npy", mmap_mode="r", allow_pickle=False)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == dtype
    write_safetensors(tmp_path / "x.safetensors", {"long name": stream(), "b": stream()})
    with safe_open(tmp_path / "x.safetensors", framework="np") as file:
        for name in ("long name", "b"):
            np.testing.assert_array_equal(file.get_tensor(name), array)
            assert file.get_tensor(name).dtype == dtype
    with pytest.raises(AssertionError):
        write_npy(tmp_path / "y.npy", Stream(array.dtype, (11, 2, 3), iter([array])))
    assert not (tmp_path / "y.npy").exists()
