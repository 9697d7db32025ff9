"""Points on meshes, against open3d's reading of the same files and its distances to them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.core.types import PointCloud
from st_ssl.data.account import account_lines
from st_ssl.data.streams.points import ReadOptions, read_cloud
from st_ssl.data.streams.points.reading import decide
from st_ssl.encoders.base import parse_prepared

o3d = pytest.importorskip("open3d", exc_type=ImportError)
COUNT = ReadOptions(surface_points=4000)


@pytest.fixture(scope="module")
def mesh() -> Any:
    """A torus: 1,200 triangles of many sizes."""
    mesh = o3d.geometry.TriangleMesh.create_torus(1.0, 0.4, 30, 20)
    mesh.compute_triangle_normals()
    return mesh


def write(mesh: Any, path: Path) -> None:
    assert o3d.io.write_triangle_mesh(str(path), mesh, write_ascii=path.suffix != ".stl")


def on_the_mesh(cloud: PointCloud, mesh: Any) -> None:
    """Every point lies on a triangle, and its normal is that of the triangle (or of a neighbour, on an edge)."""
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(o3d.t.geometry.TriangleMesh.from_legacy(mesh))
    hit = scene.compute_closest_points(o3d.core.Tensor(cloud.xyz))
    assert np.linalg.norm(hit["points"].numpy() - cloud.xyz, axis=1).max() < 1e-5
    along = (hit["primitive_normals"].numpy() * cloud.attributes["normal"]).sum(axis=1)
    assert np.mean(along > 0.999) > 0.99


@pytest.mark.parametrize("suffix", [".off", ".obj", ".stl"])
def test_points_lie_on_the_surface_with_its_normals(mesh: Any, tmp_path: Path, suffix: str) -> None:
    write(mesh, tmp_path / f"a{suffix}")
    cloud = read_cloud(tmp_path / f"a{suffix}", COUNT)
    assert cloud.xyz.shape == (4000, 3)
    assert cloud.xyz.dtype == np.float32
    on_the_mesh(cloud, mesh)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(tmp_path / f"a{suffix}", tmp_path / "elsewhere" / f"b{suffix}")
    assert np.array_equal(read_cloud(tmp_path / "elsewhere" / f"b{suffix}", COUNT).xyz, cloud.xyz)
    assert len(read_cloud(tmp_path / f"a{suffix}", ReadOptions(surface_points=7))) == 7


def test_points_are_even_by_area(tmp_path: Path) -> None:
    """Two squares, one of them cut into many small triangles: their areas are 1 and 3."""
    lines, faces = ["0 0 0", "1 0 0", "1 1 0", "0 1 0"], ["4 0 1 2 3"]
    for i in range(100):
        x, start = 5 + 3 * i / 100, len(lines)
        lines += [f"{x} 0 0", f"{x + 0.03} 0 0", f"{x + 0.03} 1 0", f"{x} 1 0"]
        faces += [f"3 {start} {start + 1} {start + 2}", f"3 {start} {start + 2} {start + 3}"]
    text = "\n".join(["OFF", f"{len(lines)} {len(faces)} 0", *lines, *faces])
    (tmp_path / "a.off").write_text(text)
    cloud = read_cloud(tmp_path / "a.off", ReadOptions(surface_points=20_000))
    small = cloud.xyz[:, 0] > 3
    assert abs(small.mean() - 0.75) < 0.015  # five standard deviations
    square = cloud.xyz[~small]
    counts = np.histogram2d(square[:, 0], square[:, 1], bins=4, range=[[0, 1], [0, 1]])[0]
    assert np.abs(counts / len(square) - 1 / 16).max() < 0.02


HEADS = {
    "usual": "OFF\n4 2 0\n",
    "ModelNet's fused one": "OFF4 2 0\n",
    "one line": "OFF 4 2 0\n",
    "comments": "# made\n\nOFF # header\n4 2 0 # counts\n\n",
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("head", HEADS)
def test_heads_of_off_files(tmp_path: Path, head: str, end: str) -> None:
    body = "0 0 0\n2 0 0\n0 2 0\n0 0 2\n3 0 1 2\n3  0 1 3 255 0 0\n"
    (tmp_path / "a.off").write_bytes((HEADS[head] + body).replace("\n", end).encode())
    (tmp_path / "b.off").write_text(HEADS["usual"] + body)
    assert np.array_equal(read_cloud(tmp_path / "a.off").xyz, read_cloud(tmp_path / "b.off").xyz)


def test_vertices_with_colours_and_larger_polygons(tmp_path: Path) -> None:
    """A pentagon as a fan, and its vertices with colours behind them."""
    angles = np.arange(5) * 2 * np.pi / 5
    lines = [f"{np.cos(a)} {np.sin(a)} 0 255 0 0 255" for a in angles]
    (tmp_path / "a.off").write_text("\n".join(["COFF", "5 1 0", *lines, "5 0 1 2 3 4"]))
    cloud = read_cloud(tmp_path / "a.off", ReadOptions(surface_points=5000))
    assert np.abs(cloud.xyz.mean(axis=0)).max() < 0.05
    assert np.allclose(cloud.attributes["normal"], [0, 0, 1])


def test_obj_with_slashes_and_negative_numbers(tmp_path: Path) -> None:
    vertices = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvn 0 0 1\nvt 0 0\n"
    files = {"plain": "f 1 2 3 4\n", "slashes": "f 1/1/1 2//1 3/1 4\n", "negative": "f -4 -3 -2 -1\n"}
    clouds = []
    for name, faces in files.items():
        (tmp_path / f"{name}.obj").write_text(f"# made\no square\n{vertices}g a\n{faces}")
        clouds.append(read_cloud(tmp_path / f"{name}.obj").xyz)
    assert all(np.array_equal(clouds[0], other) for other in clouds[1:])
    (tmp_path / "points.obj").write_text(vertices)
    assert len(read_cloud(tmp_path / "points.obj")) == 4  # no faces: the vertices


def test_text_stl_is_read_like_binary_stl(mesh: Any, tmp_path: Path) -> None:
    write(mesh, tmp_path / "a.stl")
    corners = np.asarray(mesh.vertices, dtype=np.float32)[np.asarray(mesh.triangles)]
    text = ["solid torus"]
    for face in corners.tolist():
        rows = [f"      vertex {' '.join(map(repr, corner))}" for corner in face]
        text += ["facet normal 0 0 0", "   outer loop", *rows, "   endloop", "endfacet"]
    (tmp_path / "b.stl").write_text("\n".join([*text, "endsolid torus"]))
    assert np.allclose(read_cloud(tmp_path / "a.stl", COUNT).xyz, read_cloud(tmp_path / "b.stl", COUNT).xyz, atol=1e-6)


@pytest.mark.parametrize("how", ["ascii", "binary"])
def test_a_mesh_in_ply_is_what_it_is_in_off(mesh: Any, tmp_path: Path, how: str) -> None:
    assert o3d.io.write_triangle_mesh(str(tmp_path / "a.ply"), mesh, write_ascii=how == "ascii")
    write(mesh, tmp_path / "a.off")
    cloud = read_cloud(tmp_path / "a.ply", COUNT)
    assert cloud.xyz.shape == (4000, 3)
    on_the_mesh(cloud, mesh)
    assert np.abs(cloud.xyz.mean(axis=0) - read_cloud(tmp_path / "a.off", COUNT).xyz.mean(axis=0)).max() < 0.05


SQUARE = """ply
format ascii 1.0
element vertex 4
property float x
property float y
property float z
{more}element face 1
property list uchar int vertex_indices
end_header
0 0 0{0}
1 0 0{1}
1 1 0{1}
0 1 0{0}
4 0 1 2 3
"""


def test_what_is_known_of_the_vertices_of_a_ply(tmp_path: Path) -> None:
    """Colours are interpolated; vertices with labels, and those of dense scans, are points."""
    colour = "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    (tmp_path / "a.ply").write_text(SQUARE.format(" 0 0 0", " 200 200 200", more=colour))
    cloud = read_cloud(tmp_path / "a.ply", COUNT)
    assert len(cloud) == 4000
    assert np.abs(cloud.attributes["color"] * 255 - 200 * cloud.xyz[:, :1]).max() < 1
    assert len(read_cloud(tmp_path / "a.ply", ReadOptions(surface_points=4))) == 4  # as many vertices as points
    (tmp_path / "b.ply").write_text(SQUARE.format(" 3", " 5", more="property uchar label\n"))
    assert read_cloud(tmp_path / "b.ply", COUNT).labels["segment"].tolist() == [3, 5, 5, 3]
    (tmp_path / "c.ply").write_text(SQUARE.format("", "", more="").replace("4 0 1 2 3", "3 0 1 2"))
    assert read_cloud(tmp_path / "c.ply", COUNT).xyz[:, 1].max() <= 1


def test_vertices_of_all_are_read_where_some_have_labels(tmp_path: Path) -> None:
    """Also of scans to predict, by an encoder that was trained on such."""
    paths = [str(tmp_path / name) for name in ("a.ply", "b.ply")]
    for path in paths:
        Path(path).write_text(SQUARE.format("", "", more=""))
    alone = decide(paths[:1])
    assert alone.prepared == {} and alone.facts["meshes"] == [1, 8192]
    assert len(read_cloud(paths[0], alone.options)) == 8192
    Path(paths[1]).write_text(SQUARE.format(" 3", " 5", more="property uchar label\n"))
    both = decide(paths)
    assert "1 of the files looked at are meshes, read as their vertices" in account_lines({"reading": both.facts})[0]
    assert [len(read_cloud(path, both.options)) for path in paths] == [4, 4]
    trained = parse_prepared({"data": both.prepared}, "encoder.json")
    assert trained == {"vertices": True}
    assert len(read_cloud(paths[0], decide(paths[:1], prepared=trained).options)) == 4


def test_polygons_of_a_binary_ply(tmp_path: Path) -> None:
    """A square, a triangle, and a number beside each; big end first."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [2, 0, 0], [2, 1, 0]], ">f4").tobytes()
    head = SQUARE.split("end_header")[0].format(more="").replace("ascii", "binary_big_endian")
    head = head.replace("vertex 4", "vertex 6").replace("face 1", "face 2") + "property float quality\nend_header\n"
    faces = b"\x04" + np.arange(4, dtype=">i4").tobytes() + b"\0\0\0\0"
    faces += b"\x03" + np.array([1, 4, 5], ">i4").tobytes() + b"\0\0\0\0"
    (tmp_path / "a.ply").write_bytes(head.encode() + corners + faces)
    cloud = read_cloud(tmp_path / "a.ply", COUNT)
    assert np.mean(cloud.xyz[:, 0] > 1) == pytest.approx(1 / 3, abs=0.03)  # of the area
    (tmp_path / "a.ply").write_bytes(head.encode() + corners + faces[:-9])
    with pytest.raises(ValueError, match=r"face 1 promises 3 corners, which are not there"):
        read_cloud(tmp_path / "a.ply", COUNT)
