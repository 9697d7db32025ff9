from __future__ import annotations

import os
import re
import shutil
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from st_ssl.data.video.readers import READERS, base, open_video, pyav
from st_ssl.errors import ConfigError, MissingDependencyError, MissingLibraryError, SampleError

av = pytest.importorskip("av")

REAL = Path(__file__).parents[2] / "../shared/data/video"
REAL_FILES = sorted(str(path.relative_to(REAL)) for path in REAL.glob("*/*.*")) if REAL.is_dir() else []
SIZE, BITS = 64, 8


def barcode(index: int, width: int = SIZE, height: int = SIZE) -> np.ndarray:
    """The index in binary, as eight vertical bars, dark or light: it outlives any codec."""
    bars = np.array([200 if index >> bit & 1 else 40 for bit in range(BITS)], dtype=np.uint8)
    return np.broadcast_to(bars[np.arange(width) * BITS // width][None, :, None], (height, width, 3)).copy()


def number(image: np.ndarray) -> int:
    """The index that ``barcode`` wrote."""
    bars = [bar.mean() for bar in np.array_split(image.mean(axis=(0, 2)), BITS)]
    return sum(1 << bit for bit in range(BITS) if bars[bit] > 120)


def write_video(
    path: Path,
    num_frames: int = 64,
    codec: str = "libx264",
    times: list[int] | None = None,
    shift: int = 0,
    container: dict[str, str] | None = None,
    turn: int = 0,
    size: tuple[int, int] = (SIZE, SIZE),
    pix_fmt: str = "yuv420p",
    sound: bool = False,
    **options: str,
) -> Path:
    """Frame i shows i. ``times`` in milliseconds for a variable rate; ``shift`` in frames moves all time stamps;
    ``size`` width and height; ``sound`` adds a track of silence."""
    base = Fraction(1, 1000) if times else Fraction(1, 25)
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "rgb8" if codec == "gif" else pix_fmt
        stream.codec_context.time_base = base
        audio = output.add_stream("aac", rate=16000) if sound else None
        if turn:
            stream.set_display_rotation(turn)
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(barcode(index, *size), format="rgb24")
            frame.pts, frame.time_base = (times[index] if times else index + shift), base
            output.mux(stream.encode(frame))
            if audio:
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 640), dtype=np.float32), format="fltp", layout="mono")
                silence.sample_rate = 16000
                output.mux(audio.encode(silence))
        for encoder in (stream, audio):
            output.mux(encoder.encode() if encoder else [])
    return path


def sequential(path: Path | str) -> list[np.ndarray]:
    """All frames by decoding from the start: the reference of all readers."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        out = []
        for frame in container.decode(stream):
            image = frame.to_ndarray(format="rgb24")
            out.append(np.rot90(image, frame.rotation // 90) if frame.rotation else image)
        return out


def skip_without(backend: str, made: Path) -> None:
    """Skip where ``backend`` or its libraries are missing."""
    try:
        if backend != "frames":
            open_video(made / "intra.mp4", backend).close()
    except (MissingDependencyError, MissingLibraryError) as error:
        pytest.skip(str(error))


RAGGED = [40 * i + (300 if i > 20 else 0) + 7 * (i % 3) for i in range(64)]
KINDS: dict[str, dict[str, Any]] = {
    "long_gop.mp4": {"bf": "3", "g": "250"},
    "b_frames.mp4": {"bf": "3", "g": "12"},
    "tiny_gop.mp4": {"bf": "2", "g": "3", "sc_threshold": "0"},
    "intra.mp4": {"g": "1"},
    "open_gop.mkv": {"bf": "3", "g": "12", "x264-params": "open-gop=1:scenecut=0"},
    "refresh.mp4": {"x264-params": "intra-refresh=1:keyint=12"},
    "variable_rate.mkv": {"times": RAGGED, "bf": "2", "g": "10"},
    "variable_rate.mp4": {"times": RAGGED, "bf": "2", "g": "10"},
    "late_start.mp4": {"shift": 100, "bf": "2", "g": "10"},
    "late_start.ts": {"shift": 100, "bf": "2", "g": "10"},
    "plain.mpg": {"codec": "mpeg2video", "bf": "2", "g": "10"},
    "b_frames.avi": {"codec": "mpeg4", "bf": "2", "g": "10"},
    "no_b_frames.avi": {"codec": "mpeg4", "bf": "0", "g": "10"},
    "h264.avi": {"bf": "2", "g": "10"},
    "mpeg4.mp4": {"codec": "mpeg4", "bf": "2", "g": "10"},
    "hevc.mp4": {"codec": "libx265", "x265-params": "bframes=4:keyint=20:log-level=none:pools=1"},
    "av1.mp4": {"codec": "libsvtav1", "g": "20", "preset": "12", "svtav1-params": "lp=1"},
    "vp8.webm": {"codec": "libvpx", "g": "10"},
    "vp9.webm": {"codec": "libvpx-vp9", "g": "20", "lag-in-frames": "20", "auto-alt-ref": "1", "cpu-used": "8"},
    "plain.gif": {"codec": "gif"},
    "fragmented.mp4": {"g": "10", "container": {"movflags": "frag_keyframe+empty_moov"}},
    "sound.mp4": {"sound": True, "bf": "2", "g": "10"},
    "odd.webm": {"codec": "libvpx-vp9", "size": (67, 49), "g": "20", "cpu-used": "8"},
    "odd_444.mp4": {"pix_fmt": "yuv444p", "size": (67, 49), "bf": "2", "g": "10"},
    "422.mp4": {"pix_fmt": "yuv422p", "bf": "2", "g": "10"},
    "grey.mp4": {"pix_fmt": "gray", "bf": "2", "g": "10"},
    "ten_bits.mp4": {"pix_fmt": "yuv420p10le", "bf": "3", "g": "12"},
    "hevc_ten_bits.mp4": {"codec": "libx265", "pix_fmt": "yuv420p10le", "x265-params": "log-level=none:pools=1"},
    "full_range.mp4": {"x264-params": "fullrange=on:colormatrix=bt709", "bf": "2", "g": "10"},
    "interlaced.mp4": {"x264-params": "tff=1", "bf": "2", "g": "10"},
    "mjpeg.mkv": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "lossless_rgb.mkv": {"codec": "ffv1", "pix_fmt": "bgr0"},
}


@pytest.mark.parametrize("name", KINDS)
def test_random_access_is_exact(made: Path, name: str) -> None:
    reference = sequential(made / name)
    with open_video(made / name) as reader:
        assert reader.meta.num_frames == len(reference) == 64
        assert (reader.meta.width, reader.meta.height) == KINDS[name].get("size", (SIZE, SIZE))
        every = list(reader.frames(range(64)))
        assert [number(image) for _, image in every] == [index for index, _ in every] == list(range(64))
        for wanted in ([63], [0], [10], [9, 11], [1, 40, 41], [5, 23, 24, 62], list(range(0, 64, 7))):
            got = list(reader.frames(wanted))
            assert [index for index, _ in got] == wanted
            for index, image in got:
                assert image.dtype == np.uint8
                assert image.flags.c_contiguous
                np.testing.assert_array_equal(image, reference[index])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wanted=st.sets(st.integers(0, 63), min_size=1).map(sorted), name=st.sampled_from(["b_frames.mp4", "late_start.ts"])
)
def test_any_set_of_frames(made: Path, wanted: list[int], name: str) -> None:
    with open_video(made / name) as reader:
        assert [number(image) for _, image in reader.frames(wanted)] == wanted


def test_a_colon_in_the_name(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(made / "b_frames.mp4", tmp_path / "a:b%03d.mp4")
    monkeypatch.chdir(tmp_path)
    with open_video("a:b%03d.mp4") as reader:
        assert [number(image) for _, image in reader.frames([9])] == [9]


def test_rates_are_as_written(made: Path) -> None:
    for name in ("b_frames.mp4", "late_start.mp4", "b_frames.avi", "plain.mpg", "vp8.webm"):
        with open_video(made / name) as reader:
            assert reader.meta.fps == pytest.approx(25, abs=0.01)


def test_seeking_decodes_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", 200, g="20", bf="2", sc_threshold="0")
    decoded: list[Any] = []
    original = pyav.PyAVReader._decode_packet

    def counted(self: pyav.PyAVReader, packet: Any) -> list[Any]:
        decoded.append(packet)
        return original(self, packet)

    monkeypatch.setattr(pyav.PyAVReader, "_decode_packet", counted)
    with open_video(path) as reader:
        assert len(decoded) < 10  # opening decodes until the first frame is out, no further
        for wanted, most in (([181], 10), ([0, 181], 20), ([18, 22], 30), (list(range(0, 200, 40)), 50)):
            decoded.clear()
            assert [number(image) for _, image in reader.frames(wanted)] == wanted
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
    reader._container = LateSeeks(reader._container)
    assert [number(image) for _, image in reader.frames([10, 30, 50])] == [10, 30, 50]
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
        assert [number(image) for _, image in reader.frames([0, 10, 33])] == [30, 40, 63]


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
        assert [number(image) for _, image in reader.frames(range(reader.meta.num_frames))] == shown


@pytest.mark.skipif(not hasattr(av.VideoFrame, "rotation"), reason="this PyAV does not tell the rotation")
@pytest.mark.parametrize("turn", [90, 180, -90])
def test_rotation_is_applied(tmp_path: Path, turn: int) -> None:
    path = tmp_path / "turned.mp4"
    plain = write_video(tmp_path / "plain.mp4", 4)
    if not hasattr(av.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write the rotation")
    write_video(path, 4, turn=turn)
    with open_video(path) as reader:
        for (index, image), reference in zip(reader.frames(range(4)), sequential(plain), strict=True):
            np.testing.assert_array_equal(image, np.rot90(reference, turn // 90))
            assert number(np.rot90(image, -turn // 90)) == index


def spoil(kind: str, folder: Path, made: Path) -> Path:
    """A file that cannot be used, of the given kind."""
    path = folder / f"{kind}.mp4"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is not a video\n" * 100)
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(20000))
    elif kind == "header":
        path.write_bytes((made / "b_frames.mp4").read_bytes()[:2000])  # the index is at the end
    elif kind == "folder":
        path.mkdir()
    elif kind == "sound":
        with av.open(str(path), "w") as output:
            stream = output.add_stream("aac", rate=16000)
            stream.layout = "mono"
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), dtype=np.float32), format="fltp", layout="mono")
            frame.sample_rate = 16000
            output.mux(stream.encode(frame))
            output.mux(stream.encode())
    elif kind == "no_frames":
        with av.open(str(path), "w", options={"movflags": "empty_moov"}) as output:
            stream = output.add_stream("mpeg4", rate=25)
            stream.width = stream.height = SIZE
            stream.pix_fmt = "yuv420p"
            output.start_encoding()
    return path


REASONS = {
    "missing": "^file is missing$",
    "empty": "^file is empty$",
    "text": "^not a video: it is text$",
    "noise": "^not a video: .+",
    "header": "^not a video: .+",
    "folder": "^not a video: it is a folder$",
    "sound": "^no video stream$",
    "no_frames": "^no (frames|video stream)$",
}


@pytest.mark.parametrize("backend", ["pyav", "torchcodec", "decord"])
@pytest.mark.parametrize("kind", REASONS)
def test_unusable_files_say_why(made: Path, tmp_path: Path, kind: str, backend: Any) -> None:
    skip_without(backend, made)
    path = spoil(kind, tmp_path, made)
    with pytest.raises(SampleError) as caught:
        open_video(path, backend)
    assert caught.value.path == str(path)
    assert "\n" not in caught.value.reason
    if backend == "pyav" or kind in ("missing", "empty", "text", "folder"):
        assert re.search(REASONS[kind], caught.value.reason), caught.value.reason


@pytest.mark.parametrize("backend", ["pyav", "torchcodec", "decord", "frames"])
@pytest.mark.parametrize("wanted", [[64], [0, 64], [-1, 3]])
def test_index_outside(made: Path, tmp_path: Path, backend: Any, wanted: list[int]) -> None:
    path = made / "b_frames.mp4"
    skip_without(backend, made)
    if backend == "frames":
        path = write_images(tmp_path / "frames", 64)
    with open_video(path, backend) as reader, pytest.raises(SampleError, match="is outside: it has 64 frames"):
        list(reader.frames(wanted))


def test_a_file_cut_short_gives_what_is_left(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mp4", g="12", bf="3", container={"movflags": "faststart"})
    with av.open(str(whole)) as container:
        packet = [p for p in container.demux(video=0) if p.size][44]
        end = packet.pos + packet.size // 2
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:end])
    with open_video(tmp_path / "cut.mp4") as reader:
        if not hasattr(av.stream.Stream, "index_entries"):
            pytest.skip("this PyAV does not show the index")
        assert reader.meta.num_frames == 64
        assert [number(image) for _, image in reader.frames([0, 20, 38])] == [0, 20, 38]
        with pytest.raises(SampleError, match="frame 63 of 64 cannot be decoded: the file is cut short"):
            list(reader.frames([3, 63]))


def test_damage_costs_only_the_frames_in_it(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.mp4"
    shutil.copy(made / "intra.mp4", path)
    with av.open(str(path)) as container:
        packet = next(p for at, p in enumerate(container.demux(video=0)) if at == 57)
        at, size = packet.pos, packet.size
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * size)
    with open_video(path) as reader:
        assert [number(image) for _, image in reader.frames([0, 56, 58, 63])] == [0, 56, 58, 63]
        with pytest.raises(SampleError, match=r"frame 57 of 64 cannot be decoded: .+"):
            list(reader.frames([0, 57]))
        assert [number(image) for _, image in reader.frames([58])] == [58]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc")
def test_no_file_stays_open(made: Path, tmp_path: Path) -> None:
    bad = [spoil(kind, tmp_path, made) for kind in ("empty", "text", "noise", "sound", "no_frames", "header")]
    with open_video(made / "b_frames.mp4") as reader:
        list(reader.frames([3]))
    before = open_files()
    for turn in range(200):
        with open_video(made / ("b_frames.avi" if turn % 2 else "b_frames.mp4")) as reader:
            next(iter(reader.frames([2, 3])))  # left in the middle
        with pytest.raises(SampleError):
            open_video(bad[turn % len(bad)])
    assert open_files() <= before


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_files_random_access_equals_sequential(name: str) -> None:
    rng = np.random.default_rng(0)
    with open_video(REAL / name) as reader:
        count = reader.meta.num_frames
        wanted = sorted({0, count - 1, *rng.choice(count, 6).tolist()})
        reference, total = wanted_frames(REAL / name, set(wanted))
        assert total == count
        for asked in (wanted, [wanted[-1]], [wanted[len(wanted) // 2]]):
            for index, image in reader.frames(asked):
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
                reference[total] = np.rot90(frame.to_ndarray(format="rgb24"), getattr(frame, "rotation", 0) // 90)
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
        for (a, image), (b, other) in zip(ours.frames(wanted), theirs.frames(wanted), strict=True):
            assert a == b
            assert np.abs(image.astype(int) - other).mean() < 2


def test_decord_is_exact_on_its_own_ground(made: Path) -> None:
    pytest.importorskip("decord")
    with open_video(made / "b_frames.mp4", "decord") as reader:
        assert reader.meta.num_frames == 64
        assert reader.meta.fps == pytest.approx(25, abs=0.1)
        assert [number(image) for _, image in reader.frames([0, 5, 6, 40, 63])] == [0, 5, 6, 40, 63]


def write_images(folder: Path, num_frames: int) -> Path:
    folder.mkdir()
    for index in range(num_frames):
        Image.fromarray(barcode(index)).save(folder / f"img_{index + 1}.png")
    return folder


def test_folder_of_images(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "frames", 12)
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("not a frame")
    with open_video(folder) as reader:
        assert (reader.meta.num_frames, reader.meta.fps) == (12, base.FALLBACK_FPS)
        assert (reader.meta.width, reader.meta.height) == (SIZE, SIZE)
        for index, image in reader.frames(range(12)):  # img_2 before img_10
            np.testing.assert_array_equal(image, barcode(index))


def test_folder_of_images_that_cannot_be_used(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "frames", 3)
    Image.fromarray(barcode(1, width=72)).save(folder / "img_2.png")
    (folder / "img_3.png").write_bytes((folder / "img_1.png").read_bytes()[:60])
    with open_video(folder) as reader:
        with pytest.raises(SampleError, match=r"frame 1 is 72x64, the first one 64x64"):
            list(reader.frames([0, 1]))
        with pytest.raises(SampleError, match=r"frame 2 of 3 cannot be decoded: img_3\.png"):
            list(reader.frames([2]))
    (tmp_path / "none").mkdir()
    with pytest.raises(SampleError, match="no frames"):
        open_video(tmp_path / "none")
    with pytest.raises(SampleError, match="file is missing"):
        open_video(tmp_path / "nowhere", "frames")
    with pytest.raises(SampleError, match="not a folder"):
        open_video(folder / "img_1.png", "frames")


def test_real_folder_of_images() -> None:
    folder = REAL / "frames/clip0"
    if not folder.is_dir():
        pytest.skip("no real data")
    with open_video(folder) as reader:
        assert reader.meta.num_frames == 10
        first = np.asarray(Image.open(folder / "img_00001.jpg"))
        np.testing.assert_array_equal(next(reader.frames([0]))[1], first)


@pytest.mark.parametrize("package", ["av", "decord"])
def test_missing_package_is_named(made: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"package {package}: .*st_ssl\[video\]"):
        open_video(made / "b_frames.mp4", "pyav" if package == "av" else "decord")


def test_unknown_backend(made: Path) -> None:
    assert set(READERS) == {"pyav", "torchcodec", "decord", "frames"}
    with pytest.raises(ConfigError, match=r"pyva.*did you mean 'pyav'"):
        open_video(made / "b_frames.mp4", "pyva")


@pytest.fixture(autouse=True)
def _fresh_counts() -> None:
    pyav._TABLES.clear()
