"""Meshes, read as points on their surface: OFF, OBJ and STL."""

from __future__ import annotations

import io
import re
from array import array

import numpy as np

from st_ssl.core.errors import SampleError
from st_ssl.data.streams.limits import check_points, is_count
from st_ssl.data.streams.points.base import RawCloud, ReadOptions, read_bytes
from st_ssl.data.streams.points.surface import on_surface
from st_ssl.data.streams.points.text import quietly

_STL_HEAD = 84
_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("more", "<u2")])


def read_off(path: str, options: ReadOptions) -> RawCloud:
    """Object File Format, as text; also ModelNet's files whose first line is ``OFF490 518 0``."""
    text = read_bytes(path).decode("latin-1")
    if "#" in text:
        text = re.sub(r"#[^\n]*", "", text)
    lines = [line.rstrip() for line in io.StringIO(text, newline="\n") if line.strip()]
    head = re.fullmatch(r"\s*(?:ST)?C?N?OFF\s*(.*)", lines[0]) if lines else None
    if head is None or "BINARY" in head[1]:
        raise SampleError(path, "not an OFF file in text: its first line does not begin with OFF")
    lines = ([head[1]] if head[1].strip() else []) + lines[1:]
    counts = lines[0].split() if lines else []
    if len(counts) < 2 or not all(map(is_count, counts[:2])):
        raise SampleError(path, f"{' '.join(counts)[:40]!r} below OFF: expected numbers of vertices, faces and edges")
    num_vertices, num_faces = int(counts[0]), int(counts[1])
    if num_vertices + num_faces > len(lines) - 1:
        there = f"{len(lines) - 1} lines"
        raise SampleError(path, f"promises {num_vertices} vertices and {num_faces} faces, and has {there} for them")
    check_points(path, max(num_vertices, num_faces), options.max_points, "vertices or faces")
    vertices = _numbers(path, "vertices", lines[1 : 1 + num_vertices], 3)
    faces = polygons(path, lines[1 + num_vertices : 1 + num_vertices + num_faces])
    return on_surface(path, vertices, faces, options.surface_points)


def _numbers(path: str, what: str, lines: list[str], columns: int) -> np.ndarray:
    if not lines:
        return np.empty((0, columns))
    try:
        return quietly(lines, usecols=range(columns), ndmin=2)
    except ValueError as error:
        raise SampleError(path, f"its {what}: {str(error).split(';')[0]}") from error


def polygons(path: str, lines: list[str]) -> np.ndarray:
    """Triangles int64 [F, 3] of lines ``3 a b c``; larger polygons become fans."""
    if lines and all(line.lstrip().startswith(("3 ", "3\t")) for line in lines):
        return _whole(path, _numbers(path, "faces", lines, 4)[:, 1:])
    corners: list[str] = []
    counts = []
    for line in lines:
        words = line.split()
        if not is_count(words[0]) or len(words) < 1 + int(words[0]):
            raise SampleError(path, f"face {line.strip()[:40]!r}: expected a number of corners, and that many vertices")
        counts.append(int(words[0]))
        corners += words[1 : 1 + counts[-1]]
    try:
        return _fans(_whole(path, np.array(corners, dtype=np.float64)), counts)
    except ValueError as error:
        if isinstance(error, SampleError):
            raise
        raise SampleError(path, f"its faces: {error}") from error


def _fans(corners: np.ndarray, counts: list[int]) -> np.ndarray:
    """Triangles int64 [F, 3] of polygons of so many ``corners`` each, one behind the other: fans around the first."""
    sizes = np.array(counts, dtype=np.int64)
    number = np.maximum(sizes - 2, 0)
    first = np.repeat(np.cumsum(sizes) - sizes, number)
    step = np.arange(len(first)) - np.repeat(np.cumsum(number) - number, number)
    return np.stack([corners[first], corners[first + step + 1], corners[first + step + 2]], axis=1)


def _whole(path: str, numbers: np.ndarray) -> np.ndarray:
    if not (np.isfinite(numbers).all() and (np.floor(numbers) == numbers).all()):
        raise SampleError(path, "a face names a vertex by a number that is not whole")
    return numbers.astype(np.int64)


def read_obj(path: str, options: ReadOptions) -> RawCloud:
    """Wavefront OBJ: ``v`` and ``f`` lines (also ``f 1/2/3`` and negative numbers); all else is left out."""
    vertices: list[str] = []
    faces = array("q")
    counts: list[int] = []
    for number, line in enumerate(io.StringIO(read_bytes(path).decode("latin-1"), newline="\n"), 1):
        if line.startswith("v "):
            vertices.append(line[2:])
        elif line.startswith("f "):
            try:
                corners = [int(word.partition("/")[0]) for word in line[2:].split("#")[0].split()]
                # from 1, or backwards from the last one so far
                faces.extend(c - 1 if c > 0 else len(vertices) + c if c < 0 else -1 for c in corners)
            except (ValueError, OverflowError) as error:
                raise SampleError(
                    path, f"line {number}: {line.strip()[:40]!r}, expected numbers of vertices"
                ) from error
            counts.append(len(corners))
    if not vertices:
        raise SampleError(path, "not an OBJ file with vertices: no line begins with `v `")
    check_points(path, max(len(vertices), len(counts)), options.max_points, "vertices or faces")
    points = _numbers(path, "vertices", vertices, 3)
    return on_surface(path, points, _fans(np.array(faces, dtype=np.int64), counts), options.surface_points)


def read_stl(path: str, options: ReadOptions) -> RawCloud:
    """Stereolithography, binary or text."""
    data = read_bytes(path)
    promised = int.from_bytes(data[80:_STL_HEAD], "little") if len(data) >= _STL_HEAD else -1
    if promised >= 0 and _STL_HEAD + promised * _FACET.itemsize == len(data):
        corners = np.frombuffer(data, dtype=_FACET, count=promised, offset=_STL_HEAD)["corners"].reshape(-1, 3)
    elif data.lstrip()[:5].lower() == b"solid" and b"facet" in data[: 1 << 12]:
        lines = re.findall(rb"^[ \t]*vertex[ \t]+([^\r\n]*)", data, re.IGNORECASE | re.MULTILINE)
        corners = _numbers(path, "vertices", [line.decode("latin-1") for line in lines], 3)
        ends = len(re.findall(rb"\bendfacet\b", data, re.IGNORECASE))
        if len(corners) != 3 * ends:
            raise SampleError(path, f"has {ends} whole facets and {len(corners)} vertices: expected 3 for each")
    else:
        rest = max(0, len(data) - _STL_HEAD)
        raise SampleError(
            path, f"not an STL file: promises {max(promised, 0)} facets of 50 bytes, and has {rest} bytes"
        )
    if len(corners) == 0:
        raise SampleError(path, "has no facets")
    check_points(path, len(corners) // 3, options.max_points, "facets")
    faces = np.arange(len(corners), dtype=np.int64).reshape(-1, 3)
    return on_surface(path, corners.astype(np.float64), faces, options.surface_points)
