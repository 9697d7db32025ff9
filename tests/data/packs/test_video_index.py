from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from st_ssl.core.errors import ConfigError, DataError, SampleError
from st_ssl.core.types import Entry, VideoMeta
from st_ssl.data.packs import video_index as index
from st_ssl.data.packs.video_index import INDEX_FILE, Library, Record, decode, probe, read_index, survey
from st_ssl.data.sources.video import read_source
from st_ssl.data.streams.video import open_video, pyav
from st_ssl.data.streams.video.frame_table import FORMAT, FrameTable, compact
from st_ssl.data.video.dataset import VideoDataConfig, VideoSource
from tests.data.loading.disasters import crash
from tests.runs import write_videos


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return write_videos(tmp_path / "videos", 5)


def frames(path: str, library: Library | None = None) -> np.ndarray:
    with library.open(path) if library else open_video(path) as reader:
        return np.stack([image for _, image in reader.read(range(0, reader.meta.num_frames, 3))])


@pytest.mark.parametrize("pts", [[0, 512, 1024, 1536], [7], [0, 1, 5], [3, 3 + 2, 3 + 4, 3 + 7]])
def test_a_table_survives_the_trip_through_json(pts: Sequence[int]) -> None:
    table = FrameTable(VideoMeta(len(pts), 29.97, 64, 48), compact(list(pts)), {0: (0, None), 2: (1024, 512)}, 3)
    back = FrameTable.from_json(json.loads(json.dumps(table.to_json())))
    assert list(back.pts or []) == list(pts)
    assert (back.meta, back.keys, back.turns) == (table.meta, table.keys, table.turns)


def test_even_time_stamps_are_kept_as_three_numbers() -> None:
    assert compact([5, 8, 11]) == range(5, 12, 3)
    assert compact([5, 8, 12]) == [5, 8, 12]


def test_indexed_videos_open_without_a_scan(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = read_source(videos)
    records = survey(entries, videos / INDEX_FILE, progress=False)
    plain = [frames(entry.path) for entry in entries]
    pyav._TABLES.clear()
    monkeypatch.setattr(pyav, "scan", lambda video: pytest.fail("scanned"))
    source = VideoSource(VideoDataConfig(root=str(videos)))
    assert isinstance(source.library, Library)
    assert source.library.records == records == read_index(videos / INDEX_FILE)
    for entry, expected in zip(entries, plain, strict=True):
        np.testing.assert_array_equal(frames(entry.path, source.library), expected)


def test_a_file_that_changed_is_looked_at_anew(videos: Path) -> None:
    entries = read_source(videos)
    records = survey(entries, videos / INDEX_FILE, progress=False)
    first, second = Path(entries[0].path), Path(entries[1].path)
    os.replace(second, first)
    library = Library(records=records)
    np.testing.assert_array_equal(frames(str(first), library), frames(str(first)))
    again = survey(entries, videos / INDEX_FILE, progress=False)
    assert again[os.path.abspath(second)].error == "file is missing"
    assert again[os.path.abspath(first)].table == probe("auto", str(first)).table


def test_an_index_goes_on_where_it_was_stopped(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = read_source(videos)
    whole = survey(entries, videos / "whole.jsonl", progress=False)
    file = videos / INDEX_FILE
    lines = (videos / "whole.jsonl").read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:2]) + lines[2][:30])  # killed while it wrote the third
    looked: list[str] = []

    def counted(reader: str, path: str, max_pixels: int) -> Record:
        looked.append(path)
        return probe(reader, path)

    counted.__name__ = probe.__name__
    assert survey(entries, file, counted, progress=False) == whole
    assert len(looked) == 3
    assert file.read_text() == "".join(lines)


def test_several_processes_write_the_same_index(videos: Path) -> None:
    entries = read_source(videos)
    one = survey(entries, videos / "one.jsonl", progress=False)
    assert survey(entries, videos / "two.jsonl", num_workers=2, progress=False) == one
    assert (videos / "one.jsonl").read_text() == (videos / "two.jsonl").read_text()


def test_verifying_finds_what_opening_does_not(videos: Path, tmp_path: Path) -> None:
    whole = Path(read_source(videos)[0].path).read_bytes()
    broken = videos / "spoilt.mp4"
    at = whole.index(b"mdat") + len(whole) // 3
    broken.write_bytes(whole[:at] + bytes(200) + whole[at + 200 :])
    entry = Entry(str(broken))
    assert probe("auto", entry.path).error is None
    reason = decode("auto", entry.path).error
    assert reason is not None
    with pytest.raises(SampleError, match=reason.partition(":")[0]):
        frames(entry.path) if "damaged" not in reason else list(
            open_video(entry.path).read(range(open_video(entry.path).meta.num_frames))
        )


def test_a_line_that_is_no_record_is_named(videos: Path) -> None:
    file = videos / INDEX_FILE
    survey(read_source(videos), file, progress=False)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(lines[0] + '{"path": "a.mp4"}\n' + lines[1])
    with pytest.raises(DataError, match=r"st_ssl_index.jsonl, line 2: not a record of these data"):
        read_index(file)


def test_a_missing_index_is_told(videos: Path) -> None:
    with pytest.raises(DataError, match=r"data.index: .*none.jsonl does not exist"):
        VideoSource(VideoDataConfig(root=str(videos), index=str(videos / "none.jsonl")))


def test_a_folder_that_cannot_be_written_is_told(videos: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be written .*--output"):
        survey(read_source(videos), Path("/proc/none") / index.INDEX_FILE, progress=False)


def test_what_was_looked_at_in_another_way_is_looked_at_again(videos: Path) -> None:
    entries = read_source(videos)
    file = videos / INDEX_FILE
    survey(entries, file, progress=False)
    whole = Path(entries[0].path).read_bytes()
    at = whole.index(b"mdat") + len(whole) // 3
    damaged = Path(entries[1].path)
    damaged.write_bytes(whole[:at] + bytes(200) + whole[at + 200 :])
    survey(entries, file, progress=False)
    assert {r.made_by for r in read_index(file).values()} == {f"probe auto {FORMAT}"}
    found = survey(entries, file, decode, progress=False)
    assert found[os.path.abspath(damaged)].error is not None
    assert {r.made_by for r in read_index(file).values()} == {f"decode auto {FORMAT}"}


def test_other_videos_stay_in_the_file(videos: Path) -> None:
    entries = read_source(videos)
    file = videos / INDEX_FILE
    survey(entries[:3], file, progress=False)
    assert len(survey(entries[3:], file, progress=False)) == 2
    assert read_index(file).keys() == {os.path.abspath(entry.path) for entry in entries}


def crash_on_two(reader: str, path: str, max_pixels: int) -> Record:
    if path.endswith("02.mp4"):
        crash()
    return probe(reader, path)


def test_a_video_that_crashes_the_decoder_is_named(videos: Path) -> None:
    entries = read_source(videos)
    found = survey(entries, videos / INDEX_FILE, crash_on_two, num_workers=2, progress=False)
    errors = {Path(path).name: record.error for path, record in found.items() if record.error}
    assert errors == {"02.mp4": "the decoder crashed on it"}


def test_an_index_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\n")
    for path in (tmp_path, tmp_path / "binary.jsonl"):
        with pytest.raises(DataError, match="not an index: "):
            read_index(path)


def test_an_unknown_reader_is_told_before_anything_is_written(videos: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'pyav'"):
        survey(read_source(videos), videos / INDEX_FILE, reader="pyva", progress=False)
    assert not (videos / INDEX_FILE).exists()
