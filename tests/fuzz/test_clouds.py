"""Clouds made to take memory or time, to read other files, or to break the reader: each is one named broken sample."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.core.errors import SampleError
from st_ssl.data.sources.points import read_source
from st_ssl.data.streams.points import ReadOptions, read_cloud
from tests.fuzz.child import outcome

h5py = pytest.importorskip("h5py")
XYZ = np.random.default_rng(0).normal(size=(24, 3)).astype("f4")
LONG = "9" * 5000
PCD = "VERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT {1} 1 1\nWIDTH {0}\nHEIGHT 1\nPOINTS {0}\nDATA {2}\n"
PLY = "ply\nformat ascii 1.0\nelement vertex {}\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
TEXT = h5py.string_dtype()
MANY = "element a 1\n" * 20_000
TRIANGLE = "0 0 0\n1 0 0\n0 1 0\n"


def hdf5(fill: Callable[[Any], object]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with h5py.File(path, "w") as file:
            fill(file)

    return write


def npy(shape: object) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(100)


def npz(**arrays: np.ndarray) -> Callable[[Path], object]:
    return lambda path: np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(4 << 30)


def lzf(path: Path) -> None:
    body = b"\0\0" + b"\xe0\xff\x00" * 400_000  # three bytes that stand for 264
    size = 264 * 400_000
    path.write_bytes(
        PCD.format(size // 12, 1, "binary_compressed").encode() + struct.pack("<2I", len(body), size) + body
    )


def outside(file: Any) -> None:
    file.create_dataset("data", (8, 3), "u1", external=[("/etc/passwd", 0, 24)])


def elsewhere(file: Any) -> None:
    layout = h5py.VirtualLayout((24, 3), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "data", (24, 3))
    file.create_virtual_dataset("data", layout)


def group(file: Any) -> None:
    file["data"] = XYZ
    file.create_group("normal")


HOSTILE: dict[str, tuple[str, Any, str]] = {
    "points of nothing": (
        ".h5",
        hdf5(lambda f: f.create_dataset("data", (2**27, 3), "f4", chunks=(2**20, 3))),
        "promises 134217728",
    ),
    "a chunk": (".h5", hdf5(lambda f: f.create_dataset("data", (2**24, 3), "f8", chunks=(2**24, 3))), "would become"),
    "a group": (".h5", hdf5(group), "its `normal` is a group"),
    "a link": (".h5", hdf5(lambda f: f.update(data=h5py.ExternalLink("/etc/passwd", "x"))), "is a link"),
    "a soft link": (".h5", hdf5(lambda f: f.update(data=h5py.SoftLink("/x"))), "is a link"),
    "another file": (
        ".h5",
        hdf5(lambda f: f.create_dataset("data", (8, 3), "u1", external=[("/etc/passwd", 0, 24)])),
        "other",
    ),
    "a virtual array": (".h5", hdf5(elsewhere), "in another file"),
    "text in an array": (
        ".h5",
        hdf5(lambda f: f.create_dataset("data", (8, 3), h5py.string_dtype())),
        "expected numbers",
    ),
    "no shape": (".h5", hdf5(lambda f: f.update(data=h5py.Empty("f4"))), "no array"),
    "an array that unpacks": (".npz", npz(xyz=np.zeros((10**7, 3))), "would become 240000128"),
    "an array beside it": (".npz", npz(xyz=XYZ, normal=np.zeros((10**8, 1), "u1")), "promises 100000000 points"),
    "a shape of 2^70": (".npy", npy((2**70, 3)), "not an array"),
    "a negative shape": (".npy", npy((-5, 3)), "not an array"),
    "vertices, off": (".off", f"OFF\n{LONG} 3 0\n", "expected numbers of vertices"),
    "corners, off": (".off", f"OFF\n3 1 0\n{TRIANGLE}{LONG} 0 1 2\n", "expected a number of corners"),
    "a corner, off": (".off", f"OFF\n3 1 0\n{TRIANGLE}4 0 1 2 {LONG}\n", "not whole"),
    "a corner, obj": (".obj", f"v {TRIANGLE}v 1 0 0\nf 1 1 {LONG}\n", "line 5: 'f 1 1 999"),
    "beyond int64, obj": (".obj", f"v 0 0 0\nv 1 0 0\nf 1 2 {2**70}\n", "line 3: 'f 1 2 1180"),
    "vertices, ply": (".ply", PLY.format(LONG) + TRIANGLE, "line 3: 'element vertex 999"),
    "elements, ply": (
        ".ply",
        PLY.format(1).replace("ele", "element a 1\n" * 20_000 + "ele", 1),
        "no more than 64 elements",
    ),
    "points, pts": (".pts", f"{LONG}\n{TRIANGLE}", "promises 9999"),
    "points, pcd": (".pcd", PCD.format(LONG, 1, "ascii"), "contradicts itself"),
    "columns, pcd": (".pcd", PCD.format(2, 10**9, "binary"), "contradicts itself"),
    "compressed, pcd": (".pcd", lzf, "would become 105600000"),
    "many points, pcd": (".pcd", PCD.format(2**27, 1, "binary_compressed"), "promises 134217728 points"),
    "blank lines, stl": (".stl", "solid a\nfacet\n" + "\n" * 500_000 + "vertex 0 0 0\nendfacet\n", "1 whole facets"),
    "lists, pkl": (".pkl", b"\x80\x04" + b"]" * 5_000_000 + b".", "takes more than 1048576 steps"),
    "4 GiB, bin": (".bin", sparse, "promises 268435456 points|has 4294967296 bytes"),
    "4 GiB, txt": (".txt", sparse, "has 4294967296 bytes"),
    "4 GiB, ply": (".ply", sparse, "has 4294967296 bytes"),
    "a pipe": (".ply", os.mkfifo, "file is empty"),
}


def put(path: Path, content: Any) -> Path:
    if callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_cloud_is_one_broken_sample(tmp_path: Path, case: str) -> None:
    suffix, content, said = HOSTILE[case]
    path = put(tmp_path / f"a{suffix}", content)
    message = outcome(lambda: read_cloud(path))
    assert message.startswith(f"{path}: ")
    assert len(message) < 1200
    assert re.search(said, message), message


@pytest.mark.parametrize("name", ["a\0b.ply", f"a.h5#{LONG}", "a.h5#" + "1" * 30])
def test_names_that_no_file_has(tmp_path: Path, name: str) -> None:
    hdf5(lambda file: file.update(data=XYZ))(tmp_path / "a.h5")
    with pytest.raises(SampleError):
        read_cloud(tmp_path / name)


def test_what_nobody_asked_for_costs_nothing(tmp_path: Path) -> None:
    """1 GB of zeros beside the points, which no attribute is made of."""
    path = tmp_path / "a.npz"
    np.savez_compressed(path, xyz=XYZ, other=np.broadcast_to(np.uint8(0), 10**9))
    assert outcome(lambda: read_cloud(path)) == ""
    assert np.array_equal(read_cloud(path).xyz, XYZ)


@pytest.mark.parametrize("suffix", [".off", ".obj"])
def test_one_polygon_of_a_million_corners(tmp_path: Path, suffix: str) -> None:
    corners = "0 1 2 " if suffix == ".off" else "1 2 3 "
    head = (
        f"OFF\n3 1 0\n{TRIANGLE}1000002 "
        if suffix == ".off"
        else f"v {TRIANGLE}".replace("\n1", "\nv 1") + "v 0 1 0\nf "
    )
    path = put(tmp_path / f"a{suffix}", head.replace("\n0 1 0\nv", "\nv 0 1 0\nv") + corners * 333_334)
    assert outcome(lambda: read_cloud(path, ReadOptions(surface_points=50))) == ""
    cloud = read_cloud(path, ReadOptions(surface_points=50))
    assert len(cloud) == 50
    assert (cloud.xyz[:, :2] >= -1e-6).all() and (cloud.xyz[:, :2].sum(axis=1) <= 1 + 1e-6).all()


def test_polygons_are_fans(tmp_path: Path) -> None:
    """The square is the same as its two triangles, whichever way the file says it, and to the last bit."""
    square = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n"
    put(tmp_path / "four.off", f"OFF\n4 2 0\n{square}4 0 1 2 3\n3 0 1 3\n")
    put(tmp_path / "three.off", f"OFF\n4 3 0\n{square}3 0 1 2\n3 0 2 3\n3 0 1 3\n")
    put(tmp_path / "four.obj", "".join(f"v {line}\n" for line in square.splitlines()) + "f 1 2 3 4\nf -4 -3 -1\n")
    clouds = [
        read_cloud(tmp_path / name, ReadOptions(surface_points=200)) for name in ("four.off", "three.off", "four.obj")
    ]
    for cloud in clouds[1:]:
        assert np.array_equal(cloud.xyz, clouds[0].xyz)
        assert np.array_equal(cloud.attributes["normal"], clouds[0].attributes["normal"])


@pytest.mark.parametrize("suffix", [".bin", ".npy", ".xyz", ".ply", ".pcd", ".las", ".npz", ".h5"])
def test_more_points_are_read_by_who_asks(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".las":
        laspy = pytest.importorskip("laspy")
        las = laspy.LasData(laspy.LasHeader(point_format=3, version="1.2"))
        las.x, las.y, las.z = XYZ.T.astype(np.float64)
        las.write(str(path))
    else:
        lines = "\n".join(" ".join(map(str, row)) for row in XYZ.tolist()) + "\n"
        texts = {".xyz": lines, ".ply": PLY.format(24) + lines, ".pcd": PCD.format(24, 1, "ascii") + lines}
        made: dict[str, Callable[[], object]] = {
            ".bin": lambda: np.c_[XYZ, np.abs(XYZ[:, :1])].astype("<f4").tofile(path),
            ".npy": lambda: np.save(path, XYZ),
            ".npz": lambda: np.savez(path, xyz=XYZ),
            ".h5": lambda: hdf5(lambda file: file.update(data=XYZ))(path),
        }
        made.get(suffix, lambda: path.write_text(texts[suffix]))()
    with pytest.raises(SampleError, match=r"data\.max_points=20 allows"):
        read_cloud(path, ReadOptions(max_points=20))
    assert len(read_cloud(path, ReadOptions(max_points=24 if suffix in (".npy", ".npz", ".h5", ".las") else 100))) == 24


def test_a_list_of_numbers_too_long_is_a_list_of_files(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", XYZ)
    (tmp_path / "list.txt").write_text(f"a.npy chair\nb.h5#{LONG} chair\n")
    entries = read_source(tmp_path / "list.txt")
    assert [entry.labels["label"] for entry in entries] == ["chair", "chair"]
    with pytest.raises(SampleError):
        read_cloud(entries[1].path)
