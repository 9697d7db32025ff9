"""PLY (Turk, 1994): text or binary, little or big endian; the vertices with all that is known of them."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from st_ssl.core.errors import SampleError, nearest
from st_ssl.data.streams.limits import check_points, is_count
from st_ssl.data.streams.points.base import RawCloud, ReadOptions, read_bytes
from st_ssl.data.streams.points.columns import from_fields
from st_ssl.data.streams.points.meshes import polygons
from st_ssl.data.streams.points.surface import on_surface
from st_ssl.data.streams.points.text import parse_rows

_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2"},
    **{"int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8", "float32": "f4", "float64": "f8"},
}
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_HEADER = 1 << 20
_MOST_ELEMENTS = 64  # each of them costs a look at the whole file


@dataclass
class _Element:
    """``properties``: name and type of each, of a list "type of its length type of its items"."""

    name: str
    count: int
    properties: list[tuple[str, str]]

    @property
    def fields(self) -> list[tuple[str, str]]:
        return [(name, code) for name, code in self.properties if " " not in code]

    @property
    def lists(self) -> list[str]:
        return [name for name, code in self.properties if " " in code]


def read_ply(path: str, options: ReadOptions) -> RawCloud:
    """The vertices with all that is known of them; of a mesh points on its surface, as of the other formats of meshes.

    A mesh has faces, and no labels for its vertices. One with colours or intensities that has ``surface_points``
    vertices or more is a scan, whose vertices are taken as they are; so are all where ``options.vertices`` says so.
    Other elements are left out.
    """
    return _read(path, options, surfaces=not options.vertices)


def read_vertices(path: str, options: ReadOptions) -> RawCloud:
    """The vertices, in the order of the file, whatever else is in it."""
    return _read(path, options, surfaces=False)


def _read(path: str, options: ReadOptions, surfaces: bool) -> RawCloud:
    data = read_bytes(path)
    order, elements, start = _header(path, data)
    body = memoryview(data)[start:]
    at = 0
    cloud: RawCloud | None = None
    for element in elements:
        if element.name == "vertex":
            check_points(path, element.count, options.max_points)
            cloud = from_fields(path, _vertices(path, element, order, body[at:]))
            dense = element.count >= options.surface_points
            if not surfaces or cloud.labels or (dense and cloud.attributes.keys() & {"color", "intensity"}):
                return cloud
        elif element.name == "face" and cloud is not None and element.count:
            check_points(path, element.count, options.max_points)
            faces = _faces(path, element, order, body[at:])
            return on_surface(path, cloud.xyz.astype(np.float64), faces, options.surface_points, cloud.attributes)
        if cloud is not None and element is elements[-1]:
            break
        at += _skip(path, element, order, body[at:], cloud is None)
    if cloud is None:
        raise SampleError(path, f"has no vertices: its elements are {', '.join(e.name for e in elements) or 'none'}")
    return cloud


def _faces(path: str, element: _Element, order: str, body: memoryview) -> np.ndarray:
    """The triangles int64 [F, 3] of the polygons in a mesh; larger ones become fans."""
    place = next((i for i, (name, _) in enumerate(element.properties) if name.startswith("vertex_ind")), None)
    if place is None or len(element.lists) != 1:
        raise SampleError(
            path, f"its faces have the lists {', '.join(element.lists) or 'none'}: expected vertex_indices"
        )
    if not order:
        if any(name != element.properties[place][0] for name, _ in element.properties[:place]):
            raise SampleError(path, "numbers come before the vertices of its faces: not read")
        return polygons(path, _text_lines(path, element, body))
    count, index = element.properties[place][1].split()
    kinds = [(f"f{i}", order + code) for i, (_, code) in enumerate(element.properties) if i != place]
    kinds[place:place] = [("n", order + count), ("corners", order + index, 3)]  # type: ignore[list-item]
    kind = np.dtype(kinds)
    if element.count * kind.itemsize <= len(body):
        table = np.frombuffer(body, dtype=kind, count=element.count)
        if (table["n"] == 3).all():
            return table["corners"].astype(np.int64)
    return _fans(path, element, place, order, body)


def _fans(path: str, element: _Element, place: int, order: str, body: memoryview) -> np.ndarray:
    """Triangles of polygons of any number of corners, read one by one."""
    before, (count, index), behind = (
        sum(np.dtype(code).itemsize for _, code in element.properties[:place]),
        (np.dtype(order + code) for code in element.properties[place][1].split()),
        sum(np.dtype(code).itemsize for _, code in element.properties[place + 1 :]),
    )
    triangles, at = [], 0
    for number in range(element.count):
        at += before
        if at + count.itemsize > len(body):
            raise SampleError(path, f"promises {element.count} faces, and has {number}")
        corners = int(np.frombuffer(body, count, 1, at)[0])
        at += count.itemsize
        if corners < 0 or at + corners * index.itemsize > len(body):
            raise SampleError(path, f"face {number} promises {corners} corners, which are not there")
        around = np.frombuffer(body, index, corners, at).astype(np.int64)
        triangles.append(np.stack([np.broadcast_to(around[:1], len(around[2:])), around[1:-1], around[2:]], axis=1))
        at += corners * index.itemsize + behind
    return np.concatenate(triangles) if triangles else np.empty((0, 3), dtype=np.int64)


def _text_lines(path: str, element: _Element, body: memoryview) -> list[str]:
    lines = bytes(body).decode("latin-1").split("\n", element.count)[: element.count]
    if len(lines) < element.count or not all(line.strip() for line in lines):
        raise SampleError(path, f"ends within its {element.count} {element.name} elements")
    return lines


def _vertices(path: str, element: _Element, order: str, body: memoryview) -> dict[str, np.ndarray]:
    if element.lists:
        raise SampleError(path, f"its vertices have lists ({', '.join(element.lists)}), which is not read")
    names = [name for name, _ in element.fields]
    if len(set(names)) < len(names):
        raise SampleError(path, "a property of its vertices is there twice")
    if not order:
        rows = parse_rows(path, body, element.count, len(names))
        return {name: _cast(rows[:, i], kind) for i, (name, kind) in enumerate(element.fields)}
    kind = np.dtype([(name, order + code) for name, code in element.fields])
    if element.count * kind.itemsize > len(body):
        raise SampleError(
            path, f"promises {element.count} points of {kind.itemsize} bytes, and has {len(body)} bytes for them"
        )
    table = np.frombuffer(body, dtype=kind, count=element.count)
    return {name: table[name] for name in names}


def _cast(values: np.ndarray, kind: str) -> np.ndarray:
    return values if kind[0] == "f" else values.astype(kind)


def _skip(path: str, element: _Element, order: str, body: memoryview, needed: bool) -> int:
    """Bytes of an element that is left out; with ``needed`` one that cannot be skipped is a ``SampleError``, and else
    the end of what is read."""
    if not order:
        text, at = bytes(body), 0
        for _ in range(element.count):
            at = text.find(b"\n", at) + 1
            if at == 0:
                if not needed:
                    return len(body)
                raise SampleError(path, f"ends within its {element.count} {element.name} elements")
        return at
    if element.lists and needed:
        raise SampleError(path, f"lists ({element.name}.{element.lists[0]}) come before its vertices: not read")
    if element.lists:
        return len(body)
    return element.count * np.dtype([(name, order + code) for name, code in element.fields]).itemsize


def _header(path: str, data: bytes) -> tuple[str, list[_Element], int]:
    """Byte order ("" for text), elements, and where they begin."""
    end = data.find(b"end_header", 0, _HEADER)
    if not data.startswith(b"ply") or end < 0:
        raise SampleError(path, "not a PLY file: no `ply` … `end_header`")
    start = data.find(b"\n", end) + 1
    order: str | None = None
    elements: list[_Element] = []
    for number, line in enumerate(io.StringIO(data[:end].decode("latin-1").replace("\r\n", "\n")), 1):
        words = line.split()
        where = f"line {number}: {line.strip()!r}"
        if words[:1] == ["format"]:
            order = _ORDERS.get(words[1] if len(words) > 1 else "")
            if order is None:
                raise SampleError(path, f"{where}: expected one of {', '.join(_ORDERS)}")
        elif words[:1] == ["element"]:
            if len(words) != 3 or not is_count(words[2]):
                raise SampleError(path, f"{where[:80]}: expected `element name count`")
            if len(elements) == _MOST_ELEMENTS:
                raise SampleError(path, f"{where}: no more than {_MOST_ELEMENTS} elements are read")
            elements.append(_Element(words[1], int(words[2]), []))
        elif words[:1] == ["property"]:
            _property(path, where, words[1:], elements)
    if order is None:
        raise SampleError(path, "its header names no format")
    return order, elements, start if start else len(data)


def _property(path: str, where: str, words: list[str], elements: list[_Element]) -> None:
    if not elements or len(words) != (4 if words[:1] == ["list"] else 2):
        raise SampleError(path, f"{where}: expected `property type name` below an element")
    codes = []
    for word in words[1:3] if words[0] == "list" else words[:1]:
        if word not in _TYPES:
            raise SampleError(path, f"{where}: no type {word!r}{nearest(word, _TYPES)}")
        codes.append(_TYPES[word])
    elements[-1].properties.append((words[-1], " ".join(codes)))
