"""PLY (Turk, 1994): text or binary, little or big endian; the vertices with all that is known of them."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from st_ssl.core.errors import SampleError, nearest
from st_ssl.core.types import PointCloud
from st_ssl.data.streams.points.base import ReadOptions, from_fields, read_bytes
from st_ssl.data.streams.points.text import parse_rows

_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2"},
    **{"int32": "i4", "uint32": "u4", "int64": "i8", "uint64": "u8", "float32": "f4", "float64": "f8"},
}
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_HEADER = 1 << 20


@dataclass
class _Element:
    name: str
    count: int
    fields: list[tuple[str, str]]
    lists: list[str]


def read_ply(path: str, options: ReadOptions) -> PointCloud:
    """The vertices; faces and other elements are left out."""
    return read_vertices(path, options)


def read_vertices(path: str, options: ReadOptions) -> PointCloud:
    """The vertices, in the order of the file, whatever else is in it."""
    data = read_bytes(path)
    order, elements, start = _header(path, data)
    body = memoryview(data)[start:]
    at = 0
    for element in elements:
        if element.name == "vertex":
            return from_fields(path, _vertices(path, element, order, body[at:]))
        at += _skip(path, element, order, bytes(body[at:]) if not order else b"")
    raise SampleError(path, f"has no vertices: its elements are {', '.join(e.name for e in elements) or 'none'}")


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


def _skip(path: str, element: _Element, order: str, text: bytes) -> int:
    """Bytes of an element that comes before the vertices."""
    if not order:
        at = 0
        for _ in range(element.count):
            at = text.find(b"\n", at) + 1
            if at == 0:
                raise SampleError(path, f"ends within its {element.count} {element.name} elements")
        return at
    if element.lists:
        raise SampleError(path, f"lists ({element.name}.{element.lists[0]}) come before its vertices: not read")
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
            if len(words) != 3 or not words[2].isdecimal():
                raise SampleError(path, f"{where}: expected `element name count`")
            elements.append(_Element(words[1], int(words[2]), [], []))
        elif words[:1] == ["property"]:
            _property(path, where, words[1:], elements)
    if order is None:
        raise SampleError(path, "its header names no format")
    return order, elements, start if start else len(data)


def _property(path: str, where: str, words: list[str], elements: list[_Element]) -> None:
    if not elements or len(words) != (4 if words[:1] == ["list"] else 2):
        raise SampleError(path, f"{where}: expected `property type name` below an element")
    if words[0] == "list":
        elements[-1].lists.append(words[3])
    elif words[0] in _TYPES:
        elements[-1].fields.append((words[1], _TYPES[words[0]]))
    else:
        raise SampleError(path, f"{where}: no type {words[0]!r}{nearest(words[0], _TYPES)}")
