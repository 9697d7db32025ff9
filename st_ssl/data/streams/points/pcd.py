"""PCD, the format of the Point Cloud Library (Rusu and Cousins, 2011): text, binary, and compressed by LZF."""

from __future__ import annotations

from collections import Counter

import numpy as np

from st_ssl.core.errors import SampleError
from st_ssl.data.streams.limits import check_points, check_unpacked
from st_ssl.data.streams.points.base import RawCloud, ReadOptions, read_bytes
from st_ssl.data.streams.points.columns import from_fields
from st_ssl.data.streams.points.text import parse_rows

_HEADER = 1 << 16
_KINDS = {"F": "f", "U": "u", "I": "i"}
_MOST = 88  # no three bytes of LZF stand for more than 264


def read_pcd(path: str, options: ReadOptions) -> RawCloud:
    """All fields of one number each, by name; colours packed into ``rgb`` or ``rgba`` are unpacked."""
    data = read_bytes(path)
    header, start = _header(path, data)
    names, kind, count = _layout(path, header)
    check_points(path, count, options.max_points)
    body = memoryview(data)[start:]
    how = header["DATA"][0].lower()
    if how == "ascii":
        fields = _text(path, body, names, kind, count)
    elif how == "binary":
        if count * kind.itemsize > len(body):
            raise SampleError(
                path, f"promises {count} points of {kind.itemsize} bytes, and has {len(body)} bytes for them"
            )
        table = np.frombuffer(body, dtype=kind, count=count)
        fields = {name: table[name] for name in names}
    elif how == "binary_compressed":
        check_unpacked(path, count * kind.itemsize, len(body), options.max_points)
        fields = _compressed(path, body, names, kind, count)
    else:
        raise SampleError(path, f"DATA {how}: expected ascii, binary or binary_compressed")
    fields = {name: values for name, values in fields.items() if values.ndim == 1}
    packed = next((name for name in fields if name.lower() in ("rgb", "rgba")), None)
    if packed is not None:
        fields |= _unpack(path, fields.pop(packed))
    return from_fields(path, fields)


def _header(path: str, data: bytes) -> tuple[dict[str, list[str]], int]:
    header: dict[str, list[str]] = {}
    at = 0
    while "DATA" not in header:
        end = data.find(b"\n", at, _HEADER)
        if end < 0:
            raise SampleError(path, "not a PCD file: its header has no line DATA")
        words = data[at:end].decode("latin-1").split()
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
        at = end + 1
    missing = [key for key in ("FIELDS", "SIZE", "TYPE", "DATA") if not header.get(key)]
    if missing:
        raise SampleError(path, f"its header has no {', '.join(missing)}")
    return header, at


def _layout(path: str, header: dict[str, list[str]]) -> tuple[list[str], np.dtype, int]:
    """Names of the fields (those for padding get one each), what a point is made of, and how many points there are."""
    fields = header["FIELDS"]
    counts = header.get("COUNT", ["1"] * len(fields))
    try:
        times = Counter(fields)
        names = [name if times[name] == 1 and name != "_" else f"_{i}" for i, name in enumerate(fields)]
        kinds = [f"<{_KINDS[k]}{int(s)}" for k, s in zip(header["TYPE"], header["SIZE"], strict=True)]
        shapes = [(int(c),) if int(c) != 1 else () for c in counts]
        kind = np.dtype([(n, k, s) for n, k, s in zip(names, kinds, shapes, strict=True)])
        points = header.get("POINTS")
        number = int(points[0]) if points else int(header["WIDTH"][0]) * int(header["HEIGHT"][0])
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise SampleError(path, f"its header contradicts itself: {error}") from error
    if number < 0 or kind.itemsize == 0:
        raise SampleError(path, f"its header promises {number} points of {kind.itemsize} bytes")
    return names, kind, number


def _text(path: str, body: memoryview, names: list[str], kind: np.dtype, count: int) -> dict[str, np.ndarray]:
    widths = [max(1, kind[name].itemsize // kind[name].base.itemsize) for name in names]
    rows = parse_rows(path, body, count, sum(widths))
    columns = np.cumsum([0, *widths])
    fields = {}
    for name, first, width in zip(names, columns, widths, strict=False):
        values = rows[:, first] if width == 1 else rows[:, first : first + width]
        base = kind[name].base
        fields[name] = values.astype(base) if name.lower() in ("rgb", "rgba") or base.kind != "f" else values
    return fields


def _compressed(path: str, body: memoryview, names: list[str], kind: np.dtype, count: int) -> dict[str, np.ndarray]:
    """The fields one after the other, each of them whole."""
    sizes = np.frombuffer(body[:8], dtype="<u4") if len(body) >= 8 else np.zeros(2, dtype="<u4")
    packed, size = int(sizes[0]), int(sizes[1])
    if size != count * kind.itemsize or packed > len(body) - 8 or size > _MOST * max(packed, 1):
        raise SampleError(
            path,
            f"promises {count} points of {kind.itemsize} bytes in {packed} compressed ones that give {size}, and has "
            f"{max(0, len(body) - 8)} bytes for them",
        )
    raw = lzf(path, bytes(body[8 : 8 + packed]), size)
    fields, at = {}, 0
    for name in names:
        part = kind[name]
        flat = np.frombuffer(raw, dtype=part.base, count=count * (part.itemsize // part.base.itemsize), offset=at)
        fields[name] = flat.reshape(count, *part.shape)
        at += count * part.itemsize
    return fields


def lzf(path: str, data: bytes, size: int) -> bytes:
    """What LZF (Lehmann, 2000) made ``data`` from: ``size`` bytes. Raises ``SampleError`` where it is damaged."""
    out = bytearray()
    at, end = 0, len(data)
    while at < end:
        control = data[at]
        at += 1
        if control < 32:  # control + 1 bytes as they are
            out += data[at : at + control + 1]
            at += control + 1
            continue
        length = control >> 5
        if length == 7 and at < end:
            length += data[at]
            at += 1
        back = len(out) - ((control & 31) << 8) - 1 - (data[at] if at < end else 0)
        at += 1
        length += 2
        if back < 0 or len(out) + length > size:
            raise SampleError(path, "its compressed data are damaged")
        if back + length <= len(out):
            out += out[back : back + length]
        else:  # it repeats what it is just writing
            piece = out[back:]
            out += (piece * (length // len(piece) + 1))[:length]
    if len(out) != size or at > end:
        raise SampleError(path, "its compressed data are damaged")
    return bytes(out)


def _unpack(path: str, packed: np.ndarray) -> dict[str, np.ndarray]:
    if packed.dtype.itemsize != 4:
        raise SampleError(path, f"its packed colours have {packed.dtype.itemsize} bytes: expected 4")
    bits = np.ascontiguousarray(packed).view("<u4")
    return {name: (bits >> shift & 255).astype(np.uint8) for name, shift in (("red", 16), ("green", 8), ("blue", 0))}
