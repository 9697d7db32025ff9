"""Packs, or videos to pack, that are not as they should be."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from st_ssl.cli.prepare import main
from st_ssl.core.errors import DataError, SampleError
from st_ssl.core.inputs import InputConfig
from st_ssl.core.types import Entry
from st_ssl.data.base import BadSample
from st_ssl.data.loading.sample_dataset import collate
from st_ssl.data.packs import write_pack as packing
from st_ssl.data.packs.read_pack import verify_pack
from st_ssl.data.packs.video_read import VideoPack
from st_ssl.data.packs.video_write import PackConfig, VideoPacker
from st_ssl.data.packs.write_pack import write_pack
from st_ssl.data.sources.video import read_source
from st_ssl.data.video.dataset import VideoDataConfig, VideoSource
from tests.data.loading.disasters import crash
from tests.runs import write_videos

CONFIG = PackConfig(short_side=32, shard_size=2)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    entries = read_source(write_videos(tmp_path_factory.mktemp("raw") / "videos", 5))
    return [replace(entry, labels={"number": Path(entry.path).stem}) for entry in entries]


@pytest.fixture(scope="module")
def whole(raw: list[Entry], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("pack") / "pack"
    assert write_pack(raw, output, VideoPacker(CONFIG), progress=False) == []
    return output


@pytest.fixture
def pack(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "pack"))


def edit(file: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    change(rows)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("left", [0, 1])
def test_a_list_that_was_cut_is_named(raw: list[Entry], pack: Path, left: int) -> None:
    file = pack / "shard-00001.jsonl"
    edit(file, lambda rows: rows.__delitem__(slice(left, None)))
    for use in (
        lambda: VideoPack(str(pack)),
        lambda: write_pack(raw, pack, VideoPacker(CONFIG), progress=False),
    ):
        with pytest.raises(DataError, match=rf"shard-00001.jsonl: damaged: {left} lines, expected 2; remove the file"):
            use()
    file.unlink()
    assert write_pack(raw, pack, VideoPacker(CONFIG), progress=False) == []
    assert len(VideoPack(str(pack)).entries) == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shards": 1}, "1 shards, expected 3 of 5 videos"),
        ({"shards": -1}, "-1 shards, expected 3"),
        ({"videos": 0}, "0 videos in shards of 2"),
        ({"videos": "5"}, "'5' videos in shards"),
        ({"config": {"shard_size": 0}}, "5 videos in shards of 0"),
        ({"config": None}, "not subscriptable"),
    ],
)
def test_a_description_that_contradicts_itself(pack: Path, change: dict[str, Any], said: str) -> None:
    stamp = pack / "pack.json"
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | change))
    with pytest.raises(DataError, match=rf"pack.json: not the description of a pack: .*{said}"):
        VideoPack(str(pack))


WRONG = [
    ({"labels": "abc"}, "labels: 'abc'"),
    ({"labels": {"number": 3}}, "a label or tag is 3"),
    ({"tags": "abc"}, "tags: 'abc'"),
    ({"tags": None}, "tags: None"),
    ({"tags": [["a"]]}, r"a label or tag is \['a'\]"),
    ({"split": 3}, "split: 3"),
    ({"source": 5}, "source: 5"),
    ({"error": 1}, "error: 1"),
    ({"offset": -5}, "bytes from -5"),
    ({"size": 0}, "0 bytes from"),
    ({"size": 1.5}, "size: 1.5"),
    ({"table": []}, r"table: \[\]"),
    ({"table": {}}, "KeyError"),
    ({"name": "00001-000000.mp4"}, "00001-000000.mp4 is not 00001-000001.mp4"),
]


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_a_row_that_cannot_be_meant_is_named(raw: list[Entry], pack: Path, change: dict[str, Any], said: str) -> None:
    edit(pack / "shard-00001.jsonl", lambda rows: rows[1].update(change))
    for use in (lambda: VideoPack(str(pack)), lambda: write_pack(raw, pack, VideoPacker(CONFIG), progress=False)):
        with pytest.raises(DataError, match=rf"shard-00001.jsonl, line 2: damaged: .*{said}"):
            use()


@pytest.mark.parametrize("line", ["[1]", "3", '"name"', "{", "\xff", '{"error": null}'])
def test_a_line_that_is_no_row_is_named(pack: Path, line: str) -> None:
    file = pack / "shard-00001.jsonl"
    file.write_bytes(line.encode("latin-1") + b"\n" + file.read_bytes())
    with pytest.raises(DataError, match=r"shard-00001.jsonl, line 1: damaged: "):
        VideoPack(str(pack))


def test_a_key_that_is_missing_is_named(raw: list[Entry], pack: Path) -> None:
    edit(pack / "shard-00001.jsonl", lambda rows: rows[1].pop("source"))
    with pytest.raises(DataError, match=r"line 2: damaged: KeyError\('source'\)"):
        write_pack(raw, pack, VideoPacker(CONFIG), progress=False)


def test_a_list_that_asks_for_more_than_there_is(pack: Path) -> None:
    edit(pack / "shard-00001.jsonl", lambda rows: rows[1].update(size=10**15))
    opened = VideoPack(str(pack))
    with pytest.raises(SampleError, match=r"shard-00001\.tar"):
        opened.open(opened.entries[3].path)


@pytest.mark.parametrize("change", [{"crc32": 1}, {"offset": 0}])
def test_what_the_list_says_wrongly_is_found(pack: Path, change: dict[str, int]) -> None:
    edit(pack / "shard-00001.jsonl", lambda rows: rows[1].update(change))
    ((path, reason),) = verify_pack(str(pack), VideoPack, progress=False)
    assert path.endswith("00001-000001.mp4")
    assert reason == "damaged: its bytes are not those that were packed"


def test_a_damaged_sample_is_told_by_the_file_that_was_packed(
    pack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    edit(pack / "shard-00001.jsonl", lambda rows: rows[1].update(crc32=1))
    place, reason = f"{pack}/shard-00001.tar/00001-000001.mp4", "damaged: its bytes are not those that were packed"
    source = VideoSource(VideoDataConfig(root=str(pack), num_workers=0))
    dataset = source.dataset(source.entries(), source.evaluation(InputConfig(num_frames=4, size=32)))
    assert collate([dataset[0, 3]]).bad == [BadSample("03.mp4", f"{reason} ({place})")]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(pack.parent)
    monkeypatch.setattr(sys, "argv", ["prepare", "verify", pack.name, "--workers", "0"])
    assert main() == 1
    assert f"broken: {place}: {reason} (packed from 03.mp4)\n" in capsys.readouterr().out


class DyingPacker(VideoPacker):
    def shrunken(self, entry: Entry) -> bytes:
        if entry.path.endswith(("02.mp4", "03.mp4")):
            crash()
        return super().shrunken(entry)


@pytest.mark.parametrize("workers", [1, 2])
def test_videos_that_crash_the_decoder_are_named_and_left_out(raw: list[Entry], tmp_path: Path, workers: int) -> None:
    packer = DyingPacker(CONFIG)
    broken = packing.write_pack(raw, tmp_path / "pack", packer, num_workers=workers, progress=False)
    assert broken == [(raw[number].path, "the decoder crashed on it") for number in (2, 3)]
    assert [entry.labels["number"] for entry in VideoPack(str(tmp_path / "pack")).entries] == ["00", "01", "04"]
    assert not list((tmp_path / "pack").glob(".*"))
    for file in (tmp_path / "pack").glob("*.jsonl"):
        file.unlink()
    assert write_pack(raw, tmp_path / "pack", VideoPacker(CONFIG), progress=False) == []
