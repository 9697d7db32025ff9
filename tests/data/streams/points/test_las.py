"""LAS and LAZ against laspy, whole and damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from st_ssl.core.errors import SampleError
from st_ssl.data.streams.points import read_cloud
from tests.data.streams.points.test_readers import COLOR, XYZ, close


def test_las_and_laz(tmp_path: Path) -> None:
    laspy = pytest.importorskip("laspy")
    las = laspy.LasData(laspy.LasHeader(point_format=3, version="1.2"))
    las.header.scales = [1e-4] * 3
    las.x, las.y, las.z = XYZ.T.astype(np.float64)
    las.intensity = np.arange(50) * 1000
    las.red, las.green, las.blue = COLOR.T.astype(np.uint16) * 257
    las.classification = np.arange(50) % 30
    for suffix in (".las", ".laz"):
        las.write(str(tmp_path / f"a{suffix}"))
        cloud = read_cloud(tmp_path / f"a{suffix}")
        close(cloud.xyz, XYZ, 1e-4)
        close(cloud.attributes["color"], COLOR / 255, 1e-6)
        close(cloud.attributes["intensity"][:, 0], np.arange(50) * 1000 / 65535, 1e-6)
        assert cloud.labels["segment"].tolist() == (np.arange(50) % 30).tolist()
        data = (tmp_path / f"a{suffix}").read_bytes()
        (tmp_path / f"cut{suffix}").write_bytes(data[: len(data) * 3 // 4])
        with pytest.raises(SampleError, match=r"promises 50 points|not a whole LAS or LAZ file|not a LAS or LAZ file"):
            read_cloud(tmp_path / f"cut{suffix}")


def test_laz_whose_chunks_would_fill_the_memory(tmp_path: Path) -> None:
    """Each of these once ended the whole process: the decoder asked for the memory before it looked at the file."""
    laspy = pytest.importorskip("laspy")
    las = laspy.LasData(laspy.LasHeader(point_format=3, version="1.2"))
    las.x, las.y, las.z = XYZ.T.astype(np.float64)
    las.write(str(tmp_path / "good.laz"))
    good = (tmp_path / "good.laz").read_bytes()
    points = struct.unpack_from("<I", good, 96)[0]
    table = struct.unpack_from("<q", good, points)[0]
    many = bytearray(good)
    struct.pack_into("<I", many, table + 4, 2**32 - 1)
    far = bytearray(good)
    struct.pack_into("<q", far, points, 2**40)
    for data, message in (
        (many, "promises 4294967295 chunks"),
        (far, "chunks would be at byte 1099511627776 of"),
    ):
        (tmp_path / "bad.laz").write_bytes(data)
        with pytest.raises(SampleError, match=message):
            read_cloud(tmp_path / "bad.laz")
    wide = bytearray(good)
    struct.pack_into("<I", wide, good.index(struct.pack("<I", 50_000)), 2**32 - 2)  # points of a chunk
    (tmp_path / "wide.laz").write_bytes(wide)
    close(read_cloud(tmp_path / "wide.laz").xyz, XYZ, 1e-2)  # all of its points are there
    end = good + struct.pack("<q", table)
    (tmp_path / "end.laz").write_bytes(end[:points] + struct.pack("<q", -1) + end[points + 8 :])
    close(read_cloud(tmp_path / "end.laz").xyz, XYZ, 1e-2)
