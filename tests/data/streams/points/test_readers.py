"""Every format against an independent oracle: open3d, laspy, h5py and NumPy write, or read beside."""

from __future__ import annotations

import errno
import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.core.errors import SampleError
from st_ssl.data.streams.points import READERS, ReadOptions, read_cloud, read_counted
from st_ssl.data.streams.points import las as reader
from st_ssl.data.streams.points.pcd import lzf

RNG = np.random.default_rng(0)
XYZ = RNG.normal(size=(50, 3)).astype(np.float32)
NORMAL = RNG.normal(size=(50, 3))
NORMAL = (NORMAL / np.linalg.norm(NORMAL, axis=1, keepdims=True)).astype(np.float32)
COLOR = RNG.integers(0, 256, (50, 3)).astype(np.uint8)
KITTI = Path(__file__).parents[4] / "../shared/data/points/kitti/training"


@pytest.fixture(scope="module")
def o3d() -> Any:
    return pytest.importorskip("open3d", exc_type=ImportError)


def o3d_cloud(o3d: Any) -> Any:
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(XYZ))
    cloud.normals = o3d.utility.Vector3dVector(NORMAL)
    cloud.colors = o3d.utility.Vector3dVector(COLOR / 255)
    return cloud


def close(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-5) -> None:
    assert a.shape == b.shape
    assert np.abs(a.astype(np.float64) - b).max() <= tolerance


@pytest.mark.parametrize("suffix", [".ply", ".pcd"])
@pytest.mark.parametrize("how", ["ascii", "binary", "compressed"])
def test_what_open3d_writes_is_read_as_open3d_reads_it(o3d: Any, tmp_path: Path, suffix: str, how: str) -> None:
    path = tmp_path / f"cloud{suffix}"
    assert o3d.io.write_point_cloud(
        str(path), o3d_cloud(o3d), write_ascii=how == "ascii", compressed=how == "compressed"
    )
    cloud, truth = read_cloud(path), o3d.io.read_point_cloud(str(path))
    close(cloud.xyz, np.asarray(truth.points))
    close(cloud.attributes["normal"], np.asarray(truth.normals))
    close(cloud.attributes["color"], np.asarray(truth.colors), 1 / 255)
    close(cloud.xyz, XYZ)
    close(cloud.attributes["color"], COLOR / 255, 1e-6)
    assert cloud.xyz.dtype == cloud.attributes["color"].dtype == np.float32


def test_large_compressed_pcd_with_repetitions(o3d: Any, tmp_path: Path) -> None:
    grid = np.stack(np.meshgrid(*[np.arange(20.0)] * 3), -1).reshape(-1, 3)
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(grid))
    o3d.io.write_point_cloud(str(tmp_path / "grid.pcd"), cloud, compressed=True)
    assert (tmp_path / "grid.pcd").stat().st_size < grid.size * 4 / 3  # it is compressed indeed
    close(read_cloud(tmp_path / "grid.pcd").xyz, grid)


def test_lzf_copies_what_it_is_just_writing() -> None:
    assert lzf("", bytes([0, ord("a"), (7 << 5), 1, 0]), 11) == b"a" * 11
    for damaged in (bytes([1 << 5, 5]), bytes([3, 65]), bytes([0, 65, 7 << 5, 200, 0])):
        with pytest.raises(SampleError, match="damaged"):
            lzf("", damaged, 4)


def write_ply(path: Path, order: str, properties: list[tuple[str, str, np.ndarray]], before: str = "") -> None:
    """Written by hand: properties of any order and type, another element before and faces behind."""
    lines = [f"element vertex {len(XYZ)}", *(f"property {kind} {name}" for kind, name, _ in properties)]
    extra = ["element camera 2", "property float fov"] if before else []
    head = ["ply", f"format {order} 1.0", "comment made by a test", *extra, *lines]
    head += ["element face 1", "property list uchar int vertex_indices", "end_header"]
    body = b""
    if order == "ascii":
        rows = zip(*(values.tolist() for *_, values in properties), strict=True)
        text = ("1.5\n2.5\n" if before else "") + "".join(" ".join(map(repr, row)) + "\n" for row in rows) + "3 0 1 2\n"
        body = text.encode()
    else:
        mark: Any = "<" if "little" in order else ">"
        table = np.empty(len(XYZ), [(name, values.dtype.newbyteorder(mark)) for _, name, values in properties])
        for _, name, values in properties:
            table[name] = values
        body = (struct.pack(f"{mark}2f", 1, 2) if before else b"") + table.tobytes()
        body += struct.pack(f"{mark}B3i", 3, 0, 1, 2)
    path.write_bytes("\n".join(head).encode() + b"\n" + body)


@pytest.mark.parametrize("before", ["", "camera"])
@pytest.mark.parametrize("order", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_ply_in_any_order_and_type(tmp_path: Path, order: str, before: str) -> None:
    label = np.arange(50).astype(np.int16)
    properties: list[tuple[str, str, np.ndarray]] = [
        ("uchar", "red", COLOR[:, 0]),
        ("double", "z", XYZ[:, 2].astype(np.float64)),
        ("short", "label", label),
        ("float", "quality", XYZ[:, 0]),
        ("float", "x", XYZ[:, 0]),
        ("uint8", "blue", COLOR[:, 2]),
        ("float32", "y", XYZ[:, 1]),
        ("uchar", "green", COLOR[:, 1]),
        ("ushort", "intensity", np.full(50, 32768, np.uint16)),
    ]
    write_ply(tmp_path / "a.ply", order, properties, before)
    cloud = read_cloud(tmp_path / "a.ply")
    assert np.array_equal(cloud.xyz, XYZ)
    close(cloud.attributes["color"], COLOR / 255, 1e-6)
    assert cloud.labels["segment"].tolist() == label.tolist()
    assert cloud.labels["segment"].dtype == np.int64
    close(cloud.attributes["intensity"], np.full((50, 1), 32768 / 65535), 1e-6)
    assert set(cloud.attributes) == {"color", "intensity"}


def test_arrays(tmp_path: Path) -> None:
    tables = {3: XYZ, 6: np.hstack([XYZ, COLOR]), 7: np.hstack([XYZ, NORMAL, np.arange(50)[:, None]])}
    for columns, table in tables.items():
        np.save(tmp_path / f"{columns}.npy", table)
        cloud = read_cloud(tmp_path / f"{columns}.npy")
        assert np.array_equal(cloud.xyz, XYZ)
    assert set(read_cloud(tmp_path / "6.npy").attributes) == {"color"}
    part = read_cloud(tmp_path / "7.npy")
    close(part.attributes["normal"], NORMAL)
    assert part.labels["part"].tolist() == list(range(50))
    np.savez_compressed(tmp_path / "a.npz", points=XYZ, colors=COLOR, normals=NORMAL * 3, labels=np.arange(50), label=7)
    cloud = read_cloud(tmp_path / "a.npz")
    close(cloud.attributes["normal"], NORMAL)
    close(cloud.attributes["color"], COLOR / 255, 1e-6)
    assert cloud.labels["segment"].tolist() == list(range(50))


def test_bin_columns(tmp_path: Path) -> None:
    four = np.hstack([XYZ, np.linspace(0, 1, 50, dtype=np.float32)[:, None]])
    five = np.hstack([four * [1, 1, 1, 255], np.full((50, 1), 31)]).astype(np.float32)
    four.tofile(tmp_path / "kitti.bin")
    five[:49].tofile(tmp_path / "odd.bin")  # 980 bytes are no multiple of 16
    five.tofile(tmp_path / "sweep.pcd.bin")
    five.tofile(tmp_path / "same.bin")  # 1,000 bytes: 62.5 points of four
    for name, count in (("kitti.bin", 50), ("odd.bin", 49), ("sweep.pcd.bin", 50), ("same.bin", 50)):
        cloud = read_cloud(tmp_path / name)
        assert np.array_equal(cloud.xyz, XYZ[:count])
        close(cloud.attributes["intensity"][:, 0], np.linspace(0, 1, 50)[:count], 1e-6)
    five[:40].tofile(tmp_path / "either.bin")  # 800 bytes: 50 points of four or 40 of five
    assert np.array_equal(read_cloud(tmp_path / "either.bin").xyz, XYZ[:40])  # as the numbers in it tell
    assert len(read_cloud(tmp_path / "either.bin", ReadOptions(bin_columns=4))) == 50
    with pytest.raises(SampleError, match=r"has 800 bytes: no whole number of points of 3 float32 numbers"):
        read_cloud(tmp_path / "either.bin", ReadOptions(bin_columns=3))


@pytest.mark.skipif(not KITTI.is_dir(), reason="no KITTI frames here")
def test_real_sweeps() -> None:
    for path in sorted((KITTI / "velodyne").glob("*.bin")):
        cloud, lost = read_counted(path)
        assert lost == 0
        assert len(cloud) > 100_000
        assert np.abs(cloud.xyz).max() < 130  # metres
        assert cloud.attributes["intensity"].max() <= 1


TEXTS = {
    "plain.xyz": ("{0} {1} {2}\n", ()),
    "commas.txt": ("{0},{1},{2},{3},{4},{5}\n", ("color",)),
    "commas and spaces.csv": ("{0}, {1}, {2}\n", ()),
    "semicolons.csv": ("{0};{1};{2}\n", ()),
    "tabs.asc": ("{0}\t{1}\t{2}\t{6}\t{7}\t{8}\n", ("normal",)),
    "both.txt": ("{0} {1} {2} {3} {4} {5} {6} {7} {8}\n", ("color", "normal")),
    "other.txt": ("{0} {1} {2} {6} {7} {8} {3} {4} {5}\n", ("color", "normal")),
    "intensity.xyz": ("{0} {1} {2} 0.5\n", ("intensity",)),
    "leica.pts": ("{0} {1} {2} -100 {3} {4} {5}\n", ("intensity", "color")),
    "room.txt": ("{0} {1} {2} {3} {4} {5} 0.1 0.2 0.3\n", ("color",)),
}
HEADERS = ["", "# made by hand\n", "50\n"]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("name", TEXTS)
def test_text(tmp_path: Path, name: str, header: str) -> None:
    line, attributes = TEXTS[name]
    rows = np.hstack([XYZ, COLOR, NORMAL]).tolist()
    (tmp_path / name).write_text(header + "".join(line.format(*row) for row in rows))
    cloud = read_cloud(tmp_path / name)
    close(cloud.xyz, XYZ, 1e-6)
    assert set(cloud.attributes) == set(attributes)
    if "color" in attributes:
        close(cloud.attributes["color"], COLOR / 255, 1e-6)
    if "normal" in attributes:
        close(cloud.attributes["normal"], NORMAL)


@pytest.mark.parametrize("header", ["//R G B X Y Z label", "r,g,b,x,y,z,label", '"R";"G";"B";"X";"Y";"Z";"Label"'])
def test_names_in_a_header_tell_the_columns(tmp_path: Path, header: str) -> None:
    mark = next((mark for mark in ",;" if mark in header), " ")
    rows = np.hstack([COLOR, XYZ, np.arange(50)[:, None]]).tolist()
    (tmp_path / "a.txt").write_text(header + "\n" + "".join(mark.join(map(str, row)) + "\n" for row in rows))
    cloud = read_cloud(tmp_path / "a.txt")
    close(cloud.xyz, XYZ, 1e-6)
    close(cloud.attributes["color"], COLOR / 255, 1e-6)
    assert cloud.labels["segment"].tolist() == list(range(50))


def test_columns_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    for table, message in (
        (np.zeros((4, 11)), "has 11 columns without names"),
        (np.zeros((4, 2, 3)), r"\[4, 2, 3\]: expected numbers"),
        (np.array([["a"] * 3]), "expected numbers"),
        (np.full((4, 6), -3.0), r"none of \[x,y,z,nx,ny,nz\], \[x,y,z,red,green,blue\]"),
        (np.hstack([XYZ, COLOR, np.full((50, 1), 0.5)]), "has 7 columns without names that are none of"),
    ):
        np.save(tmp_path / "a.npy", table)
        with pytest.raises(SampleError, match=message):
            read_cloud(tmp_path / "a.npy")


def test_points_that_are_nowhere(tmp_path: Path) -> None:
    xyz = XYZ.copy()
    xyz[3] = np.nan
    xyz[7, 1] = np.inf
    xyz[9, 0] = 1e30
    np.savez(tmp_path / "a.npz", xyz=xyz, normal=np.where(np.arange(50)[:, None] == 5, np.nan, NORMAL), label=range(50))
    cloud, lost = read_counted(tmp_path / "a.npz")
    assert lost == 3
    kept = [i for i in range(50) if i not in (3, 7, 9)]
    assert np.array_equal(cloud.xyz, XYZ[kept])
    assert cloud.labels["segment"].tolist() == kept
    assert cloud.attributes["normal"][4].tolist() == [0, 0, 0]
    for table, message in (
        (np.full((9, 3), np.nan), "none of its 9 points is finite"),
        (xyz[2:4], "has 1 point that is finite, of 2: a cloud needs at least 2"),
        (XYZ[:1], "has 1 point: a cloud needs at least 2"),
        (XYZ[:0], "has no points: a cloud needs at least 2"),
    ):
        np.savez(tmp_path / "b.npz", xyz=table)
        with pytest.raises(SampleError, match=message):
            read_cloud(tmp_path / "b.npz")
    np.save(tmp_path / "same.npy", np.ones((5, 3), np.float32))
    assert len(read_cloud(tmp_path / "same.npy")) == 5


def test_far_from_the_origin_nothing_is_rounded_away(tmp_path: Path) -> None:
    utm = XYZ.astype(np.float64) + np.array([512_345.25, 5_403_210.5, 250])
    np.save(tmp_path / "utm.npy", utm)
    cloud = read_cloud(tmp_path / "utm.npy")
    assert cloud.pose is not None
    assert np.abs(cloud.xyz).max() < 20
    close(cloud.xyz @ cloud.pose[:3, :3].T + cloud.pose[:3, 3], utm, 1e-6)


def test_a_stray_point_leaves_the_others_where_they_are(tmp_path: Path) -> None:
    """One return at 0, 0, 0 in a tile in UTM metres."""
    utm = np.vstack([XYZ.astype(np.float64) + np.array([512_345.25, 5_403_210.5, 250]), np.zeros((1, 3))])
    np.save(tmp_path / "utm.npy", utm)
    cloud = read_cloud(tmp_path / "utm.npy")
    assert cloud.pose is not None
    close(cloud.xyz[:-1] @ cloud.pose[:3, :3].T + cloud.pose[:3, 3], utm[:-1], 1e-5)


def test_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "many.h5", "w") as file:
        file["data"] = np.stack([XYZ, XYZ + 1])
        file["normal"] = np.stack([NORMAL, -NORMAL])
        file["mask"] = np.stack([np.full(50, -1), np.arange(50)])
        file["label"] = [[3], [4]]
    cloud = read_cloud(tmp_path / "many.h5#1")
    assert np.array_equal(cloud.xyz, XYZ + 1)
    close(cloud.attributes["normal"], -NORMAL)
    assert cloud.labels["segment"].tolist() == list(range(50))
    with pytest.raises(SampleError, match=r"holds 2 clouds: one of them is .*many.h5#0"):
        read_cloud(tmp_path / "many.h5")
    with pytest.raises(SampleError, match="holds 2 clouds, counted from 0"):
        read_cloud(tmp_path / "many.h5#2")
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(SampleError, match="not an HDF5 file"):
        read_cloud(tmp_path / "text.h5#0")


@pytest.mark.parametrize("suffix", READERS)
def test_every_extension_refuses_what_is_not_one(tmp_path: Path, suffix: str) -> None:
    if suffix in (".h5", ".hdf5"):
        pytest.importorskip("h5py")
    for content, message in ((b"", "file is empty"), (b"\x00\xffnot a cloud \x80" * 7, "a[.]")):
        (tmp_path / f"a{suffix}").write_bytes(content)
        with pytest.raises(SampleError, match=message):
            read_cloud(tmp_path / f"a{suffix}")
    with pytest.raises(SampleError, match="file is missing"):
        read_cloud(tmp_path / f"missing{suffix}")


def test_what_has_no_reader(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"no reader for '.plx'; did you mean '.ply'\?"):
        read_cloud(tmp_path / "a.plx")
    with pytest.raises(SampleError, match="a folder that is no scene"):
        read_cloud(tmp_path)


PLY = "ply\nformat {} 1.0\nelement vertex {}\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
PCD = "VERSION .7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH {0}\nHEIGHT 1\nPOINTS {0}\nDATA {1}\n"
HUGE = 10**12
MALFORMED: dict[str, tuple[str, bytes | str, str]] = {
    "ply, binary, huge": (".ply", PLY.format("binary_little_endian", HUGE) + "x" * 24, "promises 1000000000000 points"),
    "ply, text, huge": (".ply", PLY.format("ascii", HUGE) + "1 2 3\n", "promises 1000000000000 points"),
    "ply, text, short": (".ply", PLY.format("ascii", 3) + "1 2 3.0000000\n4 5 6.0000000\n", "promises 3 points"),
    "ply, no number": (".ply", PLY.format("ascii", 2) + "1 2 3\n4 oops 6\n", "could not convert string 'oops'"),
    "ply, no end": (".ply", "ply\nformat ascii 1.0\n", "end_header"),
    "ply, format": (".ply", PLY.format("binary", 2), "expected one of ascii"),
    "ply, type": (".ply", PLY.format("ascii", 2).replace("float x", "flot x"), "no type 'flot'; did you mean 'float'"),
    "ply, count": (".ply", PLY.format("ascii", -1), "expected `element name count`"),
    "ply, no z": (".ply", PLY.format("ascii", 2).replace(" z", " w") + "1 2 3\n1 2 3\n", "has no x, y and z"),
    "ply, no vertex": (".ply", PLY.format("ascii", 2).replace("vertex", "face"), "ends within its 2 face"),
    "pcd, binary, huge": (".pcd", PCD.format(HUGE, "binary") + "x" * 24, "promises 1000000000000 points"),
    "pcd, text, huge": (".pcd", PCD.format(HUGE, "ascii") + "1 2 3\n", "promises 1000000000000 points"),
    "pcd, compressed, huge": (".pcd", PCD.format(HUGE, "binary_compressed") + "x" * 24, "promises 1000000000000"),
    "pcd, compressed bomb": (
        ".pcd",
        PCD.format(10**6, "binary_compressed").encode() + struct.pack("<2I", 8, 12 * 10**6) + b"x" * 8,
        "in 8 compressed ones",
    ),
    "pcd, data": (".pcd", PCD.format(2, "zip") + "1", "expected ascii, binary or binary_compressed"),
    "pcd, header": (".pcd", PCD.format(2, "ascii").replace("SIZE 4 4 4", "SIZE 4 4") + "1", "contradicts itself"),
    "off, huge": (".off", f"OFF\n{HUGE} {HUGE} 0\n0 0 0\n", "promises 1000000000000 vertices"),
    "off, counts": (".off", "OFF\n0 0 0\n1 0 0\n", "has no points"),
    "off, no counts": (".off", "OFF\nvertices\n", "expected numbers of vertices"),
    "off, face": (".off", "OFF 3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 3\n", "face 0 names vertex 3, of 3"),
    "off, no area": (".off", "OFF 3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n", "none of its 1 faces has an area"),
    "off, corners": (".off", "OFF 3 1 0\n0 0 0\n1 0 0\n2 0 0\n4 0 1 2\n", "expected a number of corners"),
    "obj, face": (".obj", "v 0 0 0\nv 1 0 0\nf 1 2 x\n", "line 3"),
    "obj, vertex 0": (".obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 0 1 2\n", "names vertex -1"),
    "stl, huge": (".stl", b"\0" * 80 + struct.pack("<I", 2**32 - 1) + b"\0" * 50, "promises 4294967295 facets"),
    "stl, text, cut": (".stl", "solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\n", "0 whole facets and 1 vert"),
    "xyz, ragged": (".xyz", "1 2 3\n4 5\n", "number of columns changed"),
    "xyz, word": (".xyz", "1 2 3\n4 5 x\n", "at row 1"),
    "pts, count": (".pts", "9\n1 2 3\n4 5 6\n", "promises 9 points, and has 2"),
    "txt, prose": (".txt", "no numbers here\n", "no numbers in its first"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_files_are_named_errors(tmp_path: Path, case: str) -> None:
    suffix, content, message = MALFORMED[case]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SampleError, match=message) as caught:
        read_cloud(path)
    assert caught.value.path == str(path)


def test_arrays_that_promise_too_much(tmp_path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (HUGE, 3)})
    np.save(tmp_path / "whole.npy", XYZ)
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}, None], dtype=object))
    (tmp_path / "huge.npy").write_bytes(head.getvalue() + b"x" * 60)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-1])
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.write(tmp_path / "huge.npy", "xyz.npy")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "huge.npz").read_bytes()[:-30])
    np.savez(tmp_path / "objects.npz", xyz=np.array([{"a": 1}, None], dtype=object))
    np.savez(tmp_path / "names.npz", pionts=XYZ)
    np.savez(tmp_path / "rows.npz", xyz=XYZ, normal=NORMAL[:9])
    for name, message in (
        ("cut.npy", "not an array"),
        ("objects.npy", "not an array"),
        ("huge.npy", "not an array"),
        ("huge.npz", "promises .1000000000000, 3."),
        ("cut.npz", "not a file of arrays"),
        ("objects.npz", "not a file of arrays"),
        ("names.npz", "did you mean 'pionts'"),
        ("rows.npz", r"normal is float32 \[9, 3\], for 50 points"),
    ):
        with pytest.raises(SampleError, match=message):
            read_cloud(tmp_path / name)


@pytest.mark.parametrize("damage", ["disk", "cut"])
def test_laz_that_cannot_be_read_any_more_is_one_broken_sample(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its header has been read."""
    laspy = pytest.importorskip("laspy")
    las = laspy.LasData(laspy.LasHeader(point_format=3, version="1.2"))
    las.x, las.y, las.z = XYZ.T.astype(np.float64)
    las.write(str(tmp_path / "a.laz"))
    check_header = reader._check_header

    def checked(path: str, most: int) -> tuple[bool, int]:
        found = check_header(path, most)
        if damage == "disk":
            monkeypatch.setattr(reader, "open", refused, raising=False)
        else:
            size = os.path.getsize(path)
            os.truncate(path, 100)
            monkeypatch.setattr(os.path, "getsize", lambda path: size)  # as it was a moment before
        return found

    def refused(path: str, mode: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    monkeypatch.setattr(reader, "_check_header", checked)
    said = os.strerror(errno.EIO) if damage == "disk" else "it became shorter"
    with pytest.raises(SampleError, match=f"a.laz: file cannot be read: {said}"):
        read_cloud(tmp_path / "a.laz")
