"""Few-shot folds of ModelNet40 (Sharma and Kaul 2020), as Point-BERT hands them around: pickled lists of arrays.

A pickle is a program, and loading one runs what it names. Here nothing is run and no name is looked up: the opcodes
that ``pickletools`` finds in the bytes are carried out on plain data by this file alone, and the few names that NumPy
writes for its arrays stand for functions below. Any other name is refused.
"""

from __future__ import annotations

import math
import os
import pickletools
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from st_ssl.core.errors import SampleError
from st_ssl.data.streams.limits import check_points
from st_ssl.data.streams.points.base import RawCloud, ReadOptions, read_bytes
from st_ssl.data.streams.points.hdf5 import split_item

PARTS = ("train", "test")
_MARK = object()
_MOST_AXES = 64  # of NumPy
_MOST_BYTES, _MOST_COLUMNS = 4, 64  # made in all, for each byte of a file; of a cloud
_MOST_STEPS = 1 << 20  # a step may make a list of one byte; a fold of 600 clouds has 20,000 steps
_MOST_LABEL = 1 << 31
_PLAIN_DTYPE = re.compile(r"[biuf]\d{1,2}")


class _RefusedError(ValueError):
    """What a file asks for, and does not get."""


class FewShotSample(NamedTuple):
    """One cloud of a fold: ``part`` "train" or "test", ``points`` [N, C], ``label`` a class of the fold, from 0."""

    part: str
    points: np.ndarray
    label: int


def read_few_shot(path: str, options: ReadOptions) -> RawCloud:
    """One cloud of a fold, ``0.pkl#3``, counted through "train" and then "test"."""
    file, item = split_item(path)
    samples = few_shot_samples(file)
    if item is None:
        raise SampleError(path, f"holds {len(samples)} clouds: one of them is {path}#0")
    if item >= len(samples):
        raise SampleError(path, f"holds {len(samples)} clouds, counted from 0")
    check_points(path, len(samples[item].points), options.max_points)
    points = samples[item].points.copy()  # others may ask for it again
    return RawCloud(np.empty((0, 3)), table=points)


def few_shot_samples(path: str) -> list[FewShotSample]:
    """The clouds of a fold: {"train": [(points, label, …), …], "test": […]}. ``SampleError`` for anything else."""
    try:
        status = os.stat(path)
        return _samples(path, status.st_size, status.st_mtime_ns)
    except (OSError, ValueError) as error:
        if isinstance(error, SampleError):
            raise
        raise SampleError(path, "file is missing") from error


@lru_cache(maxsize=1)  # all clouds of a fit are in one file
def _samples(path: str, size: int, mtime_ns: int) -> list[FewShotSample]:
    data = load_plain(path)
    if not isinstance(data, dict) or any(not isinstance(data.get(part), list) for part in PARTS):
        raise SampleError(path, "no few-shot fold: expected a dict of two lists, train and test")
    return [_sample(path, part, number, row) for part in PARTS for number, row in enumerate(data[part])]


def _sample(path: str, part: str, number: int, row: Any) -> FewShotSample:
    points, label = row[:2] if isinstance(row, tuple | list) and len(row) > 1 else (None, None)
    if isinstance(label, np.ndarray) and label.size == 1:
        label = label.reshape(-1)[0]
    if not isinstance(points, np.ndarray) or not isinstance(label, int | np.integer):
        raise SampleError(path, f"{part} {number} (from 0): expected (points, label): an array and a whole number")
    if not 0 <= label < _MOST_LABEL:
        raise SampleError(path, f"{part} {number} (from 0): its label is no number of a class")
    if points.ndim != 2 or not 3 <= points.shape[1] <= _MOST_COLUMNS:
        shape = f"an array {list(points.shape)}: expected [points, 3 … {_MOST_COLUMNS} columns]"
        raise SampleError(path, f"{part} {number} (from 0): the points of (points, label) are {shape}")
    return FewShotSample(part, points, int(label))


def load_plain(path: str) -> Any:
    """What is pickled in a file, of any protocol: None, numbers, text, bytes, lists, tuples, dicts, and NumPy's arrays
    of numbers. ``SampleError`` where it asks for anything else, or is damaged."""
    data = read_bytes(path)
    try:
        return _Machine().run(data)
    except _RefusedError as error:
        raise SampleError(
            path, f"{error}: only plain data and arrays of numbers are read, and nothing is run"
        ) from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError) as error:
        raise SampleError(path, f"damaged, or no file of pickled data: {error!r}") from error


class _Dtype:
    """The type of an array on its way: its byte order comes later."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype


class _Array:
    """An array on its way: its shape, type and numbers come later, once."""

    made: np.ndarray | None = None


def _dtype(code: str, align: object = False, copy: object = False) -> _Dtype:
    if not isinstance(code, str):  # what is nested may be endless to print
        raise _RefusedError(f"has an array of a type that is no text, but {type(code).__name__}")
    if not _PLAIN_DTYPE.fullmatch(code):
        raise _RefusedError(f"has an array of type {code!r}")
    return _Dtype(np.dtype(code))


def _ndarray(*arguments: object) -> None:
    raise _RefusedError("asks for numpy.ndarray(…)")


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    if kind is not _ndarray:
        raise _RefusedError(f"asks for an array of {type(kind).__name__}")
    return _Array()


def _from_buffer(raw: object, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    if len(shape) > _MOST_AXES or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"no shape of an array: {len(shape)} axes")
    numbers = _bytes(raw)  # what cannot change any more: the array is a view of it
    if math.prod(shape) * dtype.dtype.itemsize != len(numbers):
        raise ValueError(f"{len(numbers)} bytes for an array {list(shape)} of {dtype.dtype}")
    return np.frombuffer(numbers, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: _Dtype, raw: object) -> Any:
    return np.frombuffer(_bytes(raw), dtype.dtype)[0]


def _encode(text: object = b"", how: object = "latin1") -> bytes:
    """Bytes, as protocols before the third have them."""
    return _bytes(text)


def _bytes(raw: object) -> bytes:
    if not isinstance(raw, bytes | bytearray | str):
        raise TypeError(f"{type(raw).__name__} in place of bytes")
    return raw.encode("latin-1") if isinstance(raw, str) else bytes(raw)


_CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): _encode,  # without arguments: those of no length
    ("__builtin__", "bytes"): _encode,
}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
    _CALLS[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    _CALLS[f"{_core}.multiarray", "scalar"] = _scalar
    _CALLS[f"{_core}.numeric", "_frombuffer"] = _from_buffer

_ARGUMENTS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}


class _Machine:
    """The stack and the memo of PEP 307 and its successors, and what each opcode does to them."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.left = 0
        push, pop = self.stack.append, self.stack.pop
        self.acts: dict[str, Callable[[Any], Any]] = {
            **dict.fromkeys(_ARGUMENTS, push),
            **dict.fromkeys(("PROTO", "FRAME"), lambda _: None),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda at: self.memo.update({at: self.stack[-1]})),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda at: push(_made(self.memo[at]))),
            "MEMOIZE": lambda _: self.memo.update({len(self.memo): self.stack[-1]}),
            "NONE": lambda _: push(None),
            "NEWTRUE": lambda _: push(True),
            "NEWFALSE": lambda _: push(False),
            "EMPTY_LIST": lambda _: push([]),
            "EMPTY_DICT": lambda _: push({}),
            "EMPTY_TUPLE": lambda _: push(()),
            "MARK": lambda _: push(_MARK),
            "POP": lambda _: pop(),
            "POP_MARK": lambda _: self._above(),
            "DUP": lambda _: push(self.stack[-1]),
            "LIST": lambda _: push(self._above()),
            "TUPLE": lambda _: push(tuple(self._above())),
            "TUPLE1": lambda _: push((pop(),)),
            "TUPLE2": lambda _: push((pop(-2), pop())),
            "TUPLE3": lambda _: push((pop(-3), pop(-2), pop())),
            "DICT": lambda _: push(_filled({}, self._above())),
            "APPEND": lambda _: _extended(self.stack[-2], [pop()]),
            "APPENDS": lambda _: self._onto(_extended),
            "SETITEM": lambda _: _filled(self.stack[-3], [pop(-2), pop()]),
            "SETITEMS": lambda _: self._onto(_filled),
            "GLOBAL": lambda name: push(_call(*name.split(" ", 1))),
            "STACK_GLOBAL": lambda _: push(_call(pop(-2), pop())),
            "REDUCE": lambda _: push(self._called(pop(-2), pop())),
            "BUILD": lambda _: self._build(pop()),
        }

    def run(self, data: bytes) -> Any:
        """What is left on the stack at the end."""
        self.left = _MOST_BYTES * len(data)
        for step, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if step == _MOST_STEPS:
                raise _RefusedError(f"takes more than {_MOST_STEPS} steps")
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name not in self.acts:
                raise _RefusedError(f"asks for what is not in it (opcode {opcode.name})")
            self.acts[opcode.name](argument)
        raise ValueError("no end")

    def _above(self) -> list[Any]:
        """What is above the last mark, which goes as well."""
        at = next(at for at in range(len(self.stack) - 1, -2, -1) if at < 0 or self.stack[at] is _MARK)
        if at < 0:
            raise IndexError("no mark")
        above = self.stack[at + 1 :]
        del self.stack[at:]
        return above

    def _onto(self, put: Callable[[Any, list[Any]], Any]) -> None:
        above = self._above()
        put(self.stack[-1], above)

    def _spend(self, arguments: Any) -> None:
        """Count what may become new bytes. Writers give a call each text once, and an array those that come of it."""
        if not isinstance(arguments, tuple):
            raise TypeError(f"{type(arguments).__name__} in place of a tuple")
        self.left -= sum(len(part) for part in arguments if isinstance(part, bytes | bytearray | str))
        if self.left < 0:
            raise _RefusedError("makes far more bytes than it has")

    def _called(self, function: Any, arguments: Any) -> Any:
        if not any(function is known for known in _CALLS.values()):
            raise _RefusedError(f"asks to call {type(function).__name__}")
        self._spend(arguments)
        return function(*arguments)

    def _build(self, state: Any) -> None:
        """The rest of a type (its byte order) or of an array (its shape, type and numbers)."""
        target = self.stack[-1]
        self._spend(state)
        if isinstance(target, _Array) and target.made is None:
            _, shape, kind, by_columns, raw = state
            made = _from_buffer(raw, kind, shape, "F" if by_columns else "C")
            self.stack[-1] = target.made = made.astype(made.dtype.newbyteorder("="), copy=False)  # as NumPy does
            return
        if not isinstance(target, _Dtype):
            raise _RefusedError(f"asks to change the state of {type(target).__name__}")
        if any(part is not None for part in state[2:5]):
            raise _RefusedError("has arrays of several fields")
        target.dtype = target.dtype.newbyteorder(">" if state[1] == ">" else "<")


def _extended(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        raise TypeError(f"{type(target).__name__} in place of a list")
    target.extend(items)


def _filled(target: Any, items: list[Any]) -> dict[Any, Any]:
    if type(target) is not dict:
        raise TypeError(f"{type(target).__name__} in place of a dict")
    if any(type(key) not in (str, int) for key in items[::2]):
        raise _RefusedError("has keys that are neither text nor whole numbers")
    target.update(zip(items[::2], items[1::2], strict=True))
    return target


def _call(module: Any, name: Any) -> Callable[..., Any]:
    if not all(isinstance(part, str | int) for part in (module, name)):  # what is nested may be endless to hash
        raise _RefusedError(f"asks for {type(module).__name__}.{type(name).__name__}")
    if (module, name) not in _CALLS:
        raise _RefusedError(f"asks for {module}.{name}")
    return _CALLS[module, name]


def _made(value: Any) -> Any:
    """The array itself once it is made: the memo has it from before."""
    return value.made if isinstance(value, _Array) and value.made is not None else value
