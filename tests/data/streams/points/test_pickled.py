"""Few-shot folds are read without running what they ask for; Python's own pickle module is the oracle."""

from __future__ import annotations

import ast
import os
import pickle
import pickletools
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from st_ssl.core.errors import DataError, SampleError
from st_ssl.data.sources.points import read_source
from st_ssl.data.streams.points import pickled, read_cloud
from st_ssl.data.streams.points.pickled import few_shot_samples, load_plain

RNG = np.random.default_rng(0)
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def renamed(data: bytes, ours: str, theirs: str) -> bytes:
    """``data`` as another NumPy writes it: other names, of other lengths, in their opcodes."""
    out = b""
    ops = list(pickletools.genops(data))
    for (op, argument, at), (_, _, end) in zip(ops, [*ops[1:], (None, None, len(data))], strict=True):
        piece = data[at:end]
        if op.name == "FRAME":
            continue  # its length would be another one; frames are optional
        if isinstance(argument, str) and argument.startswith(ours):
            name = argument.replace(ours, theirs)
            piece = piece.replace(argument.encode(), name.encode())
            if op.name == "SHORT_BINUNICODE":
                piece = piece[:1] + bytes([len(name)]) + name.encode()
            elif op.name == "GLOBAL":
                piece = b"c" + name.replace(" ", "\n").encode() + b"\n"
        out += piece
    return out


def fold(ways: int = 2, shots: int = 3, queries: int = 2) -> dict[str, list[tuple[Any, ...]]]:
    def row(way: int) -> tuple[Any, ...]:
        normals = np.tile(np.array([0, 0, 1], np.float32), (12, 1))
        return np.hstack([RNG.normal(size=(12, 3)).astype(np.float32), normals]), np.int32(way), "name"

    return {
        part: [row(way) for way in range(ways) for _ in range(n)] for part, n in (("train", shots), ("test", queries))
    }


def write_few_shot(root: Path, number: int = 2) -> dict[str, dict[str, list[tuple[Any, ...]]]]:
    """``number`` folds of two settings each, as Point-BERT has them."""
    folds = {}
    for ways, shots in ((2, 3), (3, 1)):
        folder = root / f"{ways}way_{shots}shot"
        folder.mkdir(parents=True)
        for at in range(number):
            folds[f"{folder.name}/{at}"] = made = fold(ways, shots)
            (folder / f"{at}.pkl").write_bytes(pickle.dumps(made, protocol=2 + at))
    return folds


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray | np.generic):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    return bool(type(a) is type(b) and a == b)


VALUES: dict[str, Any] = {
    "a fold": fold(),
    "plain data": {
        "a": [1, -5, 2**70, 1.5, None, True, "é", b"\x00\xff", b"", (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {}],
        7: [],
    },
    "types": [np.arange(6).astype(kind) for kind in ("?", "i1", "<u2", ">i4", "<i8", "<f2", ">f4", "<f8")],
    "shapes": [
        np.zeros((2, 0, 3)),
        np.asfortranarray(np.eye(3, 4)),
        np.eye(4)[::2],
        np.array(3.0),
    ],
    "scalars": [np.float32(1.5), np.int64(-3), np.bool_(True)],
    "shared": [[array := np.arange(3), array], [text := "abc" * 9, text]],
    "read-only": [np.frombuffer(bytes(16), "<f4")],
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("case", VALUES)
def test_plain_data_are_what_was_pickled(tmp_path: Path, case: str, protocol: int) -> None:
    data = pickle.dumps(VALUES[case], protocol=protocol)
    (tmp_path / "a.pkl").write_bytes(data)
    expected = pickle.loads(data)
    assert equal(load_plain(str(tmp_path / "a.pkl")), expected)
    old, new = renamed(data, "numpy._core.", "numpy.core."), renamed(data, "numpy.core.", "numpy._core.")
    assert case == "plain data" or old != new
    for name, renewed in (("old.pkl", old), ("new.pkl", new)):
        (tmp_path / name).write_bytes(renewed)
        assert equal(load_plain(str(tmp_path / name)), expected)


class Malicious:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_run(tmp_path: Path, protocol: int) -> None:
    proof = tmp_path / "proof"
    data = pickle.dumps({"train": [Malicious(os.system, f"touch {proof}")], "test": []}, protocol=protocol)
    file = tmp_path / "0.pkl"
    file.write_bytes(data)
    with pytest.raises(
        SampleError, match=r"asks for (posix|nt).system: only plain data .* are read, and nothing is run"
    ):
        read_cloud(f"{file}#0")
    assert not proof.exists()
    pickle.loads(data)
    assert proof.exists()  # it would have done it


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Malicious(eval, "1"), "asks for (builtins|__builtin__).eval"),
        (Malicious(np.load, "x.npy"), r"asks for numpy\.load"),
        (Malicious(np.ndarray, (3,)), r"asks for numpy.ndarray\(…\)"),
        (np.array([{"a": 1}, None], dtype=object), "has an array of type 'O8'"),
        (np.zeros(2, [("a", "f4"), ("b", "i2")]), "has an array of type 'V6'"),
        (np.array(["a", "b"]), "has an array of type 'U1'"),
        (np.array(["2020-01-01"], "datetime64[D]"), "has an array of type 'M8'"),
        (np.ma.masked_array([1, 2]), r"asks for numpy\.ma"),
        ({1, 2}, "EMPTY_SET"),
        (Path("a"), "asks for pathlib"),
        ({(1, 2): 3}, "keys that are neither text nor whole numbers"),
        (PROTOCOLS, "asks for builtins.range"),
    ],
)
def test_what_is_not_plain_is_refused(tmp_path: Path, value: Any, told: str) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, protocol=4))
    with pytest.raises(SampleError, match=told):
        load_plain(str(tmp_path / "a.pkl"))


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
BYTES = b"cnumpy\ndtype\n(X\x02\0\0\0u1I00\nI01\ntR"
SET = b"(K\x01(K\x04t" + BYTES + b"I00\nC\x04abcdtb"  # the state of an array of four bytes
VIEW = b"cnumpy.core.numeric\n_frombuffer\n("
TEXT, ENCODE = b"X\xe8\3\0\0" + 1000 * b"a" + b"q\0", b"c_codecs\nencode\n("  # a text of 1,000, in the memo

WRITTEN = {
    "an array changed": (ARRAY + SET + SET + b".", "asks to change the state of ndarray"),
    "a copy of an array changed": (ARRAY + b"2" + SET + b"0" + SET + b".", "asks to change the state of _Array"),
    "a view of an array": (VIEW + ARRAY + SET + BYTES + b"(K\x04tX\1\0\0\0CtR.", "ndarray in place of bytes"),
    "an object by state": (b"cnumpy\ndtype\n(K\x01K\x02tb.", "asks to change the state of function"),
    "a call of data": (b"(K\x01K\x02t)R.", "asks to call tuple"),
    "a name that is no text": (b"\x80\x04K\x01K\x02\x93.", "asks for 1.2"),
    "numbers as a size": (b"c_codecs\nencode\n(J\xff\xff\xff\x7fK\x02tR.", "int in place of bytes"),
    "bytes again and again": (TEXT + 9 * (ENCODE + b"h\0tR") + b".", "makes far more bytes than it has"),
    "arrays again and again": (
        TEXT + ENCODE + b"h\0tRq\x01" + 9 * (ARRAY + b"(K\x01(M\xe8\x03t" + BYTES + b"I00\nh\x01tb") + b".",
        "makes far more bytes than it has",
    ),
    "a name without end": (b")" + 60 * b"2\x86" + b"2\x93.", r"asks for tuple\.tuple"),
    "persistent": (b"Pabc\n.", "opcode PERSID"),
    "extension": (b"\x80\x02\x82\x01.", "opcode EXT1"),
    "no mark": (b"K\x01t.", "no mark"),
    "nothing": (b".", "damaged"),
    "no end": (b"K\x01", "damaged"),
    "not one": (b"\xff\xff", "damaged"),
    "memo": (b"h\x05.", "damaged"),
    "onto a number": (b"K\x01K\x02a.", "int in place of a list"),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_opcodes_that_no_writer_makes(tmp_path: Path, case: str) -> None:
    data, told = WRITTEN[case]
    (tmp_path / "a.pkl").write_bytes(data)
    with pytest.raises(SampleError, match=told):
        load_plain(str(tmp_path / "a.pkl"))


def test_clouds_that_no_memory_could_hold(tmp_path: Path) -> None:
    shapes: list[tuple[int, ...]] = [(0, 2**62, 2**62), (0, 2**60), (0, 3, 1), (0, 2), (0,)]
    for shape in shapes:
        state = b"(K\x01" + pickle.dumps(shape, 2)[2:-1] + BYTES + b"I00\nC\0tb"
        part = b"X\5\0\0\0train](" + ARRAY + state + b"K\1\x86eX\4\0\0\0test]"
        (tmp_path / "0.pkl").write_bytes(b"}(" + part + b"u.")
        with pytest.raises(SampleError, match=r"damaged|train 0 \(from 0\): .* \[0"):
            few_shot_samples(str(tmp_path / "0.pkl"))


SMALL = [pickle.dumps(fold(1, 1, 1), protocol=protocol) for protocol in PROTOCOLS]


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_files_are_named_errors(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    content = bytearray(data.draw(st.sampled_from(SMALL)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 400) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "damaged.pkl"
    file.write_bytes(bytes(content[: data.draw(st.integers(1, len(content)))]))
    with suppress(SampleError):
        assert len(read_cloud(f"{file}#0")) > 1  # and no other error


def test_the_reader_imports_and_looks_up_nothing_by_name() -> None:
    tree = ast.parse(Path(pickled.__file__).read_text())
    imported = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    allowed = {"__future__", "collections.abc", "functools", "math", "numpy", "os", "pickletools", "re", "typing"}
    assert {name for name in imported if not str(name).startswith("st_ssl.")} == allowed
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"getattr", "__import__", "globals", "vars", "eval", "exec", "compile"}
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {name for name in used if name.startswith(("os.", "pickletools."))} == {"os.stat", "pickletools.genops"}


def test_folds_as_a_source(tmp_path: Path) -> None:
    root = tmp_path / "ModelNetFewShot"
    folds = write_few_shot(root)
    entries = read_source(root)
    assert entries == read_source(tmp_path, format="modelnet_few_shot")
    shutil.copytree(root / "3way_1shot", tmp_path / "3way_1shot")  # of a fold that lies in two places one counts
    assert len(read_source(tmp_path, format="modelnet_few_shot")) == len(entries)
    assert list(dict.fromkeys(entry.labels["fold"] for entry in entries)) == list(folds)
    for name, made in folds.items():
        own = [entry for entry in entries if entry.labels["fold"] == name]
        rows = [(part, row) for part in ("train", "test") for row in made[part]]
        expected = [(part, {"label": str(row[1]), "fold": name}) for part, row in rows]
        assert [(entry.split, entry.labels) for entry in own] == expected
        for entry, (_, row) in zip(own, rows, strict=True):
            cloud = read_cloud(entry.path)
            assert np.array_equal(cloud.xyz, row[0][:, :3].astype(np.float32))
            assert np.array_equal(cloud.attributes["normal"], row[0][:, 3:])
    one = read_source(root / "3way_1shot")
    assert one == [entry for entry in entries if entry.labels["fold"].startswith("3way_1shot/")]
    assert read_source(root, root / "3way_1shot", "modelnet_few_shot") == one
    first = root / "2way_3shot" / "0.pkl"
    with pytest.raises(SampleError, match=r"holds 10 clouds: one of them is .*0.pkl#0"):
        read_cloud(first)
    with pytest.raises(SampleError, match="holds 10 clouds, counted from 0"):
        read_cloud(f"{first}#10")
    first.write_bytes(pickle.dumps({"train": []}))
    with pytest.raises(DataError, match=r"0.pkl: no few-shot fold: expected a dict of two lists, train and test"):
        read_source(root)
    first.write_bytes(pickle.dumps({"train": [([1.0], 3)], "test": []}))
    with pytest.raises(DataError, match=r"0.pkl: train 0 \(from 0\): expected \(points, label\)"):
        read_source(root)


def test_a_fold_is_gone_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_few_shot(tmp_path, 1)
    file = str(tmp_path / "2way_3shot" / "0.pkl")
    asked: list[str] = []

    def noted(path: str) -> Any:
        asked.append(path)
        return load_plain(path)

    monkeypatch.setattr(pickled, "load_plain", noted)
    clouds = [read_cloud(f"{file}#{i}") for i in range(10)]
    assert len(asked) == 1
    clouds[3].xyz[:] = 0  # whoever has it may change it
    assert read_cloud(f"{file}#3").xyz.any()
    Path(file).write_bytes(pickle.dumps(fold(1, 1, 1)))
    assert len(few_shot_samples(file)) == 2
