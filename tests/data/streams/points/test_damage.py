"""Files damaged in any way are named errors or clouds, and never anything else."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from st_ssl.core.errors import SampleError
from st_ssl.data.streams.points import ReadOptions, read_cloud

XYZ = np.random.default_rng(0).normal(size=(12, 3)).astype("f4")
SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4\n"
FEW = ReadOptions(surface_points=20)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small file of every kind that has a header or a structure."""
    folder = tmp_path_factory.mktemp("files")
    np.save(folder / "a.npy", XYZ)
    np.savez(folder / "a.npz", xyz=XYZ, normal=XYZ)
    np.savez_compressed(folder / "b.npz", xyz=XYZ)
    (folder / "a.obj").write_text(SQUARE)
    (folder / "a.off").write_text("OFF 4 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n3 0 1 2\n4 0 1 2 3\n")
    np.savetxt(folder / "a.pts", XYZ, header="12", comments="")
    np.savetxt(folder / "a.csv", XYZ, delimiter=",", header="x,y,z")
    _write_optional(folder)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _write_optional(folder: Path) -> None:
    o3d = pytest.importorskip("open3d", exc_type=ImportError)
    laspy, h5py = pytest.importorskip("laspy"), pytest.importorskip("h5py")
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(np.repeat(XYZ, 3, axis=0)))
    cloud.paint_uniform_color([0.5, 0.2, 0.9])
    for name, text, packed in (("a", True, False), ("b", False, False), ("c", False, True)):
        for suffix in ("ply", "pcd"):
            o3d.io.write_point_cloud(str(folder / f"{name}.{suffix}"), cloud, "auto", text, packed)
    mesh = o3d.geometry.TriangleMesh.create_tetrahedron()
    mesh.compute_triangle_normals()
    o3d.io.write_triangle_mesh(str(folder / "a.stl"), mesh)
    las = laspy.LasData(laspy.LasHeader(point_format=3, version="1.2"))
    las.x, las.y, las.z = XYZ.T.astype(np.float64)
    las.write(str(folder / "a.las"))
    las.write(str(folder / "a.laz"))
    with h5py.File(folder / "a.h5", "w") as file:
        file["data"] = XYZ


def looks_right(path: Path) -> None:
    """A named error, or a cloud that can be used."""
    try:
        cloud = read_cloud(path, FEW)
    except SampleError as error:
        failure = error
        cloud = None
    if cloud is None:
        assert failure.path == str(path)
        assert failure.reason
        return
    assert cloud.xyz.dtype == np.float32
    assert cloud.xyz.shape[1] == 3
    assert len(cloud) >= 2
    assert np.isfinite(cloud.xyz).all()
    assert all(len(values) == len(cloud) for values in (*cloud.attributes.values(), *cloud.labels.values()))
    assert all(np.isfinite(values).all() for values in cloud.attributes.values())


@settings(max_examples=250)
@given(data=st.data())
def test_damaged_files(files: dict[str, bytes], data: Any) -> None:
    name = data.draw(st.sampled_from(sorted(files)))
    content = bytearray(files[name])
    for _ in range(data.draw(st.integers(0, 3))):  # bytes of the header most of all
        at = data.draw(st.integers(0, min(len(content), data.draw(st.sampled_from([40, 400, 10**9]))) - 1))
        content[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(content)) | st.just(len(content)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(bytes(content[:end]))
        looks_right(path)
