"""Readers give exactly the frames asked for, whatever the container does."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from st_ssl.core.errors import ConfigError
from st_ssl.data.streams.video import READERS, open_video, pyav
from st_ssl.data.streams.video.av_stream import AVStream
from tests.data.made import (
    KINDS,
    REAL,
    REAL_FILES,
    SIZE,
    as_displayed,
    number,
    sequential,
    write_video,
)

av = pytest.importorskip("av")
pytestmark = pytest.mark.usefixtures("fresh_tables")


@pytest.mark.parametrize("name", KINDS)
def test_random_access_is_exact(made: Path, name: str) -> None:
    reference = sequential(made / name)
    with open_video(made / name) as reader:
        assert reader.meta.num_frames == len(reference) == 64
        assert (reader.meta.width, reader.meta.height) == KINDS[name].get("size", (SIZE, SIZE))
        every = list(reader.read(range(64)))
        assert [number(image) for _, image in every] == [index for index, _ in every] == list(range(64))
        for wanted in ([63], [0], [10], [9, 11], [1, 40, 41], [5, 23, 24, 62], list(range(0, 64, 7))):
            got = list(reader.read(wanted))
            assert [index for index, _ in got] == wanted
            for index, image in got:
                assert image.dtype == np.uint8
                assert image.flags.c_contiguous
                np.testing.assert_array_equal(image, reference[index])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wanted=st.sets(st.integers(0, 63), min_size=1).map(sorted), name=st.sampled_from(["b_frames.mp4", "late_start.ts"])
)
def test_any_set_of_frames(made: Path, wanted: list[int], name: str) -> None:
    with open_video(made / name) as reader:
        assert [number(image) for _, image in reader.read(wanted)] == wanted


def test_a_colon_in_the_name(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(made / "b_frames.mp4", tmp_path / "a:b%03d.mp4")
    monkeypatch.chdir(tmp_path)
    with open_video("a:b%03d.mp4") as reader:
        assert [number(image) for _, image in reader.read([9])] == [9]


def test_rates_are_as_written(made: Path) -> None:
    for name in ("b_frames.mp4", "late_start.mp4", "b_frames.avi", "plain.mpg", "vp8.webm"):
        with open_video(made / name) as reader:
            assert reader.meta.fps == pytest.approx(25, abs=0.01)


def test_seeking_decodes_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", 200, g="20", bf="2", sc_threshold="0")
    decoded: list[Any] = []
    original = AVStream.decode

    def counted(self: AVStream, packet: Any) -> list[Any]:
        decoded.append(packet)
        return original(self, packet)

    monkeypatch.setattr(AVStream, "decode", counted)
    with open_video(path) as reader:
        assert len(decoded) < 10  # opening decodes until the first frame is out, no further
        for wanted, most in (([181], 10), ([0, 181], 20), ([18, 22], 30), (list(range(0, 200, 40)), 50)):
            decoded.clear()
            assert [number(image) for _, image in reader.read(wanted)] == wanted
            assert len(decoded) <= most


class LateSeeks:
    """A container whose seeks land behind the time asked for."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def seek(self, time: int, stream: Any) -> None:
        self._container.seek(time + 10**6, stream=stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)


def test_inexact_seeks_fall_back_to_the_start(made: Path) -> None:
    reader = pyav.PyAVReader(str(made / "b_frames.mp4"))
    reader._video.container = LateSeeks(reader._video.container)
    assert [number(image) for _, image in reader.read([10, 30, 50])] == [10, 30, 50]
    reader.close()


def test_frames_outside_an_edit_list_do_not_count(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", g="12", bf="3")
    cut = tmp_path / "cut.mp4"
    with av.open(str(source)) as old, av.open(str(cut), "w", options={"avoid_negative_ts": "disabled"}) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        frame = int(Fraction(1, 25) / stream.time_base)
        for packet in old.demux(stream):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - 30 * frame, packet.dts - 30 * frame, copy
                new.mux(packet)
    with av.open(str(cut)) as container:
        assert any(packet.is_discard for packet in container.demux(video=0))
    reference = sequential(cut)
    with open_video(cut) as reader:
        assert reader.meta.num_frames == len(reference) == 34
        assert [number(image) for _, image in reader.read([0, 10, 33])] == [30, 40, 63]


def test_hidden_vp8_frames_do_not_count(made: Path, tmp_path: Path) -> None:
    hidden, path = {7, 33}, tmp_path / "hidden.webm"
    with av.open(str(made / "vp8.webm")) as old, av.open(str(path), "w") as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for index, packet in enumerate(p for p in old.demux(stream) if p.size):
            data = bytearray(bytes(packet))
            if index in hidden:
                data[0] &= ~0x10  # the bit that says whether a frame is shown
            changed = av.Packet(bytes(data))
            changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
            changed.stream, changed.is_keyframe = copy, packet.is_keyframe
            new.mux(changed)
    shown = [index for index in range(64) if index not in hidden]
    with open_video(path) as reader:
        assert [number(image) for _, image in reader.read(range(reader.meta.num_frames))] == shown


@pytest.mark.skipif(not hasattr(av.VideoFrame, "rotation"), reason="this PyAV does not tell the rotation")
@pytest.mark.parametrize("turn", [90, 180, -90])
def test_rotation_is_applied(tmp_path: Path, turn: int) -> None:
    path = tmp_path / "turned.mp4"
    plain = write_video(tmp_path / "plain.mp4", 4)
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write the rotation")
    write_video(path, 4, turn=turn)
    with open_video(path) as reader:
        for (index, image), reference in zip(reader.read(range(4)), sequential(plain), strict=True):
            np.testing.assert_array_equal(image, np.rot90(reference, turn // 90))
            assert number(np.rot90(image, -turn // 90)) == index


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_files_random_access_equals_sequential(name: str) -> None:
    rng = np.random.default_rng(0)
    with open_video(REAL / name) as reader:
        count = reader.meta.num_frames
        wanted = sorted({0, count - 1, *rng.choice(count, 6).tolist()})
        reference, total = wanted_frames(REAL / name, set(wanted))
        assert total == count
        for asked in (wanted, [wanted[-1]], [wanted[len(wanted) // 2]]):
            for index, image in reader.read(asked):
                assert image.shape == (reader.meta.height, reader.meta.width, 3)
                np.testing.assert_array_equal(image, reference[index])


def wanted_frames(path: Path, wanted: set[int]) -> tuple[dict[int, np.ndarray], int]:
    """As ``sequential``, keeping ``wanted`` alone; and the number of all frames."""
    reference: dict[int, np.ndarray] = {}
    with av.open(str(path)) as container:
        stream, total = container.streams.best("video"), 0
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            if total in wanted:
                reference[total] = np.rot90(as_displayed(frame, stream), getattr(frame, "rotation", 0) // 90)
            total += 1
    return reference, total


@pytest.mark.parametrize("name", [n for n in REAL_FILES if n.startswith("clips/mma") and n.endswith(".mp4")])
def test_decord_agrees_on_plain_h264(name: str) -> None:
    pytest.importorskip("decord")
    with open_video(REAL / name) as ours, open_video(REAL / name, "decord") as theirs:
        assert ours.meta.num_frames == theirs.meta.num_frames
        assert (ours.meta.width, ours.meta.height) == (theirs.meta.width, theirs.meta.height)
        assert ours.meta.fps == pytest.approx(theirs.meta.fps, rel=0.01)
        wanted = [0, 7, ours.meta.num_frames // 2, ours.meta.num_frames - 1]
        for (a, image), (b, other) in zip(ours.read(wanted), theirs.read(wanted), strict=True):
            assert a == b
            assert np.abs(image.astype(int) - other).mean() < 2


def test_decord_is_exact_on_its_own_ground(made: Path) -> None:
    pytest.importorskip("decord")
    with open_video(made / "b_frames.mp4", "decord") as reader:
        assert reader.meta.num_frames == 64
        assert reader.meta.fps == pytest.approx(25, abs=0.1)
        assert [number(image) for _, image in reader.read([0, 5, 6, 40, 63])] == [0, 5, 6, 40, 63]


def test_unknown_backend(made: Path) -> None:
    assert set(READERS) == {"pyav", "torchcodec", "decord", "frames"}
    with pytest.raises(ConfigError, match=r"pyva.*did you mean 'pyav'"):
        open_video(made / "b_frames.mp4", "pyva")
