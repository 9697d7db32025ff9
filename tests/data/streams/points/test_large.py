"""Ten million points: read and thinned in seconds, or a named error."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from st_ssl.augment.point_cuts import one_per_voxel
from st_ssl.core.errors import SampleError
from st_ssl.core.random import keyed_rng
from st_ssl.data.streams.points import read_cloud, read_counted

COUNT, CELLS = 10_000_000, 100_000


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred points in each of 100,000 cells of 0.5 m; one is nowhere, and one lower than all others."""
    cells = np.stack(np.unravel_index(np.arange(CELLS), (100, 100, 10)), axis=1)
    block = np.zeros((CELLS, 4), dtype="<f4")
    file = tmp_path_factory.mktemp("large") / "sweep.bin"
    with file.open("wb") as out:
        for part in range(COUNT // CELLS):
            block[:, :3] = (cells + (0.3 + 0.004 * part)) * 0.5
            if part < 2:
                block[0, :3] = (np.nan, 0.025)[part]
            out.write(block.tobytes())
    return file


def test_ten_million_points_are_read_and_thinned(sweep: Path) -> None:
    keys = np.random.default_rng(0).integers(0, 1 << 40, COUNT)
    begun = time.process_time()
    keys.argsort(kind="stable")
    sorting = time.process_time() - begun  # how fast this machine is right now, whatever vector instructions it has
    begun = time.process_time()
    cloud, lost = read_counted(sweep)
    assert (len(cloud), lost) == (COUNT - 1, 1)
    assert cloud.xyz.dtype == np.float32
    chosen = one_per_voxel(cloud.xyz, 0.5, keyed_rng("large"))
    assert time.process_time() - begun < 10 * sorting  # twice as long, three seconds, where nothing else runs
    assert len(chosen) == len(np.unique(np.floor(cloud.xyz[chosen] / 0.5), axis=0)) == CELLS


def test_a_size_that_does_not_fit_is_named(sweep: Path) -> None:
    with sweep.open("r+b") as file:
        file.truncate(16 * COUNT - 3)
    with pytest.raises(SampleError, match=f"has {16 * COUNT - 3} bytes: no whole number of points"):
        read_cloud(sweep)
