"""YAML, tables, lists and descriptions that others wrote: a named error within a second, never a traceback."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.core.config import parse_override
from st_ssl.core.errors import ConfigError, DataError, UserError
from st_ssl.core.plain_json import load_json
from st_ssl.core.types import Entry
from st_ssl.data.packs.file_index import read_records
from st_ssl.data.packs.points_index import CloudTable, survey
from st_ssl.data.packs.points_read import CloudPack
from st_ssl.data.packs.points_write import CloudPackConfig, CloudPacker
from st_ssl.data.packs.write_pack import write_pack
from st_ssl.data.sources.video import read_source
from st_ssl.encoders.base import describe_encoder
from st_ssl.engine.run_config import load_runs
from tests.fuzz.child import outcome

LONG = "9" * 5000

YAML = {
    "a date": ("seed: 2020-99-99\n", "not YAML that can be read: month must be in"),
    "a real date": ("seed: 2020-01-01\n", "seed: must be a whole number, not datetime.date"),
    "int": ("a: 1\nseed: !!int x\n", "not YAML"),
    "binary": ("seed: !!binary x\n", "not YAML"),
    "a tag": ("seed: !!python/name:os.system\n", "not YAML"),
    "unknown keys": ("".join(f"k{i}: {i}\n" for i in range(100)), "more mistakes"),
}


@pytest.mark.parametrize("case", YAML)
def test_yaml(tmp_path: Path, case: str) -> None:
    text, said = YAML[case]
    file = tmp_path / "run.yaml"
    file.write_text(text)
    message = outcome(lambda: load_runs(file))
    assert re.search(said, message), message[:2000]
    assert "run.yaml" in message


@pytest.mark.parametrize("value", ["2020-99-99", "!!int x", LONG])
def test_values_of_the_command_line(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^'seed=.*: the value is not YAML: "):
        parse_override(f"seed={value}")


def test_aliases_are_read() -> None:
    assert parse_override("a={x: &one [1, 2], y: *one}") == (("a",), {"x": [1, 2], "y": [1, 2]})


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "-Infinity", "1e999", LONG, str(2**65), "[" * 100_000, "{"])
def test_json_of_no_plain_data(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        load_json(text)


def test_json_of_plain_data() -> None:
    data: dict[str, Any] = {"a": [1, -1.5, 2**63, -(2**63), 1e300, None, True, "9" * 5000, "NaN"]}
    assert load_json(json.dumps(data)) == load_json(json.dumps(data).encode()) == data


@pytest.fixture
def cloud(tmp_path: Path) -> Path:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(24, 3)).astype("f4"))
    return tmp_path / "a.npy"


WRONG: list[tuple[str, Any]] = [
    ("num_points", float("inf")),
    ("num_points", 10**30),
    ("num_points", -1),
    ("num_points", None),
    ("low", [0, 0]),
    ("low", [0, 0, float("nan")]),
    ("low", 3),
    ("attributes", [1]),
    ("labels", {"a": "x"}),
]


@pytest.mark.parametrize(("key", "value"), WRONG, ids=str)
def test_a_wrong_table_of_an_index_or_pack(cloud: Path, tmp_path: Path, key: str, value: Any) -> None:
    def spoil(file: Path) -> None:
        first, second = map(json.loads, file.read_text().splitlines())
        second["table"][key] = value
        file.write_text(json.dumps(first) + "\n" + json.dumps(second) + "\n")

    other = cloud.rename(cloud.with_name("b.npy"))
    cloud.write_bytes(other.read_bytes())
    entries = [Entry(str(cloud)), Entry(str(other))]
    survey(entries, tmp_path / "index.jsonl", progress=False)
    spoil(tmp_path / "index.jsonl")
    with pytest.raises(DataError, match=r"index.jsonl, line 2: not a record"):
        read_records(tmp_path / "index.jsonl", CloudTable.from_json)
    write_pack(entries, tmp_path / "pack", CloudPacker(CloudPackConfig()), progress=False)
    spoil(tmp_path / "pack" / "shard-00000.jsonl")
    with pytest.raises(DataError, match=r"shard-00000.jsonl, line 2: damaged"):
        CloudPack(str(tmp_path / "pack"))


@pytest.mark.parametrize("line", ["[" * 100_000, "[]", "3", '"a"', f'{{"path": {LONG}}}', '{"path": 3}', "null"])
def test_a_line_that_is_no_record(tmp_path: Path, line: str) -> None:
    (tmp_path / "index.jsonl").write_text(f"{line}\n")
    message = outcome(lambda: read_records(tmp_path / "index.jsonl", CloudTable.from_json))
    assert "index.jsonl, line 1: not a record" in message
    assert len(message) < 1000


DESCRIPTIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "shards": lambda told: told.update(clouds=10**12, shards=10**9),
    "one shard": lambda told: told.update(clouds=10**12, config={"shard_size": 10**12}, shards=1),
    "infinite": lambda told: told.update(clouds=float("inf")),
    "negative": lambda told: told.update(clouds=-1),
    "a list": lambda told: told.update(config=[]),
    "text": lambda told: told.update(shards="1"),
}


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_the_description_of_a_pack(cloud: Path, tmp_path: Path, case: str) -> None:
    write_pack([Entry(str(cloud))], tmp_path / "pack", CloudPacker(CloudPackConfig()), progress=False)
    file = tmp_path / "pack" / "pack.json"
    told = json.loads(file.read_text())
    DESCRIPTIONS[case](told)
    file.write_text(json.dumps(told))
    message = outcome(lambda: CloudPack(str(tmp_path / "pack")))
    assert re.search(r"pack.json: not the description|shard-00000.jsonl: damaged: 1 lines", message), message


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "null", "{}", '{"format": []}', '{"format": 1, "encoder": []}'])
def test_the_description_of_an_encoder(tmp_path: Path, text: str) -> None:
    (tmp_path / "encoder.json").write_text(text)
    with pytest.raises(UserError, match=r"encoder.json: not an encoder description"):
        describe_encoder(tmp_path)


@pytest.mark.parametrize("line", [f"b.mp4 0 {LONG}", f"b.mp4 {LONG} 10"])
def test_numbers_of_a_list(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.mp4").write_text("")
    (tmp_path / "list.txt").write_text(f"a.mp4 0 10\n{line}\n")
    with pytest.raises(DataError, match=r"list.txt, line 2: "):
        read_source(tmp_path / "list.txt", format="videomae")
