"""Recordings that begin, end or break in the middle of a stream: what decoding the whole file gives is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.core.errors import SampleError
from st_ssl.core.types import Entry
from st_ssl.data.packs.video_index import INDEX_FILE, Library, read_index, survey
from st_ssl.data.streams.video import open_video, pyav
from st_ssl.data.streams.video.av_stream import AVStream
from tests.data.made import KINDS, REAL, number, skip_without, without_first, write_video

av = pytest.importorskip("av")
pytestmark = pytest.mark.usefixtures("fresh_tables")

HEVC = "log-level=none:pools=1:bframes=4:keyint=12:min-keyint=12:scenecut=0"
STREAMS: dict[str, dict[str, Any]] = {
    "h264.ts": {"g": "12", "bf": "3", "sc_threshold": "0"},
    "h264.mkv": {"g": "12", "bf": "3", "sc_threshold": "0"},
    "h264.mp4": {"g": "12", "bf": "3", "sc_threshold": "0"},
    "h264.flv": {"g": "12", "bf": "3", "sc_threshold": "0"},
    "open_gop.mkv": KINDS["open_gop.mkv"],
    "refresh.ts": {"x264-params": "intra-refresh=1:keyint=12"},
    "refresh.mkv": {"x264-params": "intra-refresh=1:keyint=12", "bf": "2"},
    "hevc.ts": {"codec": "libx265", "x265-params": f"{HEVC}:open-gop=0"},
    "hevc_open_gop.ts": {"codec": "libx265", "x265-params": f"{HEVC}:open-gop=1"},
    "hevc_open_gop.mp4": {"codec": "libx265", "x265-params": f"{HEVC}:open-gop=1"},
    "hevc_radl.mkv": {"codec": "libx265", "x265-params": f"{HEVC}:open-gop=0:radl=2"},
    "mpeg2.ts": {"codec": "mpeg2video", "bf": "2", "g": "12"},
    "mpeg2.mpg": {"codec": "mpeg2video", "bf": "2", "g": "12"},
    "mpeg4.mkv": {"codec": "mpeg4", "bf": "2", "g": "12"},
    "vp8.webm": {"codec": "libvpx", "g": "20", "lag-in-frames": "10", "auto-alt-ref": "1"},
    "vp9.webm": KINDS["vp9.webm"],
}


def whole(path: Path) -> list[tuple[int, np.ndarray]]:
    """(what it shows, pixels) of every frame that decoding from the start gives; packets that fail give none."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for packet in container.demux(stream):
            try:
                images = [frame.to_ndarray(format="rgb24") for frame in packet.decode()]
            except av.FFmpegError:
                continue
            found += [(number(image), image) for image in images]
    return found


def assert_as_decoded(path: Path) -> int:
    """The number of frames of a file, each of which is what decoding the whole file gives, in any order of asking."""
    truth = whole(path)
    with open_video(path) as reader:
        assert reader.meta.num_frames == len(truth) == len(reader.times())
        for index, image in reader.read(range(len(truth))):
            np.testing.assert_array_equal(image, truth[index][1])
        for index in (len(truth) - 1, 0, len(truth) // 2):
            (found,) = reader.read([index])
            assert found[0] == index
            np.testing.assert_array_equal(found[1], truth[index][1])
    return len(truth)


@pytest.mark.parametrize("name", STREAMS)
def test_packets_in_front_of_the_first_key_frame_are_no_frames(tmp_path: Path, name: str) -> None:
    source = write_video(tmp_path / f"source{Path(name).suffix}", 64, **STREAMS[name])
    for packets in (1, 5, 13):
        path = without_first(source, tmp_path / f"{packets}_{name}", packets)
        assert 0 < assert_as_decoded(path) <= 64


def test_the_first_frame_that_comes_is_frame_0(tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.ts", 64, g="12", bf="3", sc_threshold="0")
    with open_video(without_first(source, tmp_path / "cut.ts", 5)) as reader:
        assert reader.meta.num_frames == 52
        assert [number(image) for _, image in reader.read(range(52))] == list(range(12, 64))
        assert reader.times()[:3] == pytest.approx([0, 0.04, 0.08], abs=1e-9)
        assert reader.duration() == pytest.approx(52 / 25)


def test_ordinary_files_are_decoded_up_to_their_first_frame(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Any] = []
    decode = AVStream.decode

    def counted(self: AVStream, packet: Any) -> list[Any]:
        decoded.append(packet)
        return decode(self, packet)

    monkeypatch.setattr(AVStream, "decode", counted)
    for name in ("long_gop.mp4", "b_frames.mp4", "variable_rate.mkv", "vp9.webm", "hevc.mp4", "fragmented.mp4"):
        decoded.clear()
        open_video(made / name).close()
        assert len(decoded) < 25, name  # the delay of the decoder: VP9 shows its first frame after a hidden one


@pytest.mark.parametrize("name", ["h264.ts", "hevc.ts", "mpeg2.ts", "mpeg2.mpg", "h264.flv", "fragmented.mp4"])
def test_streams_that_end_or_break_anywhere(tmp_path: Path, name: str) -> None:
    source = write_video(tmp_path / name, 64, size=(128, 96), **(STREAMS | KINDS)[name])
    data = source.read_bytes()
    for left in (len(data) - 37, len(data) - 188 * 9 - 5, len(data) * 2 // 3):
        (tmp_path / f"end_{left}_{name}").write_bytes(data[:left])
        assert assert_as_decoded(tmp_path / f"end_{left}_{name}") > 30
    if name.endswith(".ts"):
        half = len(data) // 2 // 188 * 188
        (tmp_path / f"hole_{name}").write_bytes(data[:half] + data[half + 6 * 188 :])
        assert assert_as_decoded(tmp_path / f"hole_{name}") > 50
        (tmp_path / f"twice_{name}").write_bytes(data + data)  # time stamps begin anew
        assert assert_as_decoded(tmp_path / f"twice_{name}") == 128


def test_an_index_knows_the_frames_that_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_video(tmp_path / "source.ts", 64, g="12", bf="3", sc_threshold="0")
    path = without_first(source, tmp_path / "set.ts", 5)
    survey([Entry(str(path))], tmp_path / INDEX_FILE, progress=False)
    pyav._TABLES.clear()
    monkeypatch.setattr(pyav, "scan", lambda video: pytest.fail("scanned"))
    with Library(records=read_index(tmp_path / INDEX_FILE)).open(str(path)) as reader:
        assert [number(image) for _, image in reader.read(range(52))] == list(range(12, 64))


def test_an_index_of_an_older_version_is_not_believed(tmp_path: Path) -> None:
    source = write_video(tmp_path / "source.ts", 64, g="12", bf="3", sc_threshold="0")
    path, file = without_first(source, tmp_path / "set.ts", 5), tmp_path / INDEX_FILE
    records = survey([Entry(str(path))], file, progress=False)
    new = file.read_text()
    old = new.replace('"num_frames": 52', '"num_frames": 59').replace(', "format": 2', "").replace("auto 2", "auto")
    assert old.count("59") and old != new
    file.write_text(old)
    with pytest.warns(UserWarning, match=r"1 of its 1 videos were indexed by another version.*st-ssl prepare index"):
        found = read_index(file)
    with Library(records=found).open(str(path)) as reader:
        assert reader.meta.num_frames == 52
    assert survey([Entry(str(path))], file, progress=False) == records
    assert file.read_text() == new


@pytest.mark.parametrize("backend", ["torchcodec", "decord"])
def test_other_readers_agree_or_refuse(made: Path, tmp_path: Path, backend: str) -> None:
    skip_without(backend, made)
    source = write_video(tmp_path / "source.mkv", 64, g="12", bf="3", sc_threshold="0")
    path = without_first(source, tmp_path / "cut.mkv", 5)
    refused = ""
    try:
        with open_video(path, backend) as reader:
            shown = [number(image) for _, image in reader.read(range(52))]
    except SampleError as error:
        shown, refused = list(range(12, 64)), error.reason
    assert shown == list(range(12, 64))
    assert not refused or refused.endswith("data.reader=pyav reads those")


FAULTS = REAL.parents[1] / "faults/video/01-phantom-frames/ts"


@pytest.mark.skipif(not FAULTS.is_dir(), reason="no such files")
def test_real_recordings() -> None:
    for name in sorted(os.listdir(FAULTS)):
        assert assert_as_decoded(FAULTS / name) == 100
