"""Files that cannot be read, or not whole: what readers say, and what they still give."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from st_ssl.core.errors import SampleError
from st_ssl.data.packs.video_index import decode
from st_ssl.data.streams.video import open_video
from st_ssl.data.streams.video.base import check_whole
from tests.data.made import REAL, REAL_FILES, SIZE, number, skip_without, write_images, write_video

av = pytest.importorskip("av")
pytestmark = pytest.mark.usefixtures("fresh_tables")


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
        list(reader.read(wanted))


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
        assert [number(image) for _, image in reader.read([0, 20, 38])] == [0, 20, 38]
        with pytest.raises(SampleError, match="frame 63 of 64 cannot be decoded: the file is cut short"):
            list(reader.read([3, 63]))


MATROSKA: dict[str, dict[str, Any]] = {
    "plain.mkv": {},
    "sound.mkv": {"sound": True},
    "plain.webm": {"codec": "libvpx"},
    "filmed.mkv": {"container": {"live": "1"}},  # the header tells no length
}


@pytest.mark.parametrize("name", MATROSKA)
def test_verifying_tells_a_matroska_file_that_was_cut_short(tmp_path: Path, name: str) -> None:
    whole = write_video(tmp_path / name, g="12", **MATROSKA[name])
    assert decode("auto", str(whole)).error is None
    size = whole.stat().st_size
    os.truncate(whole, size + 100)
    check_whole(str(whole))  # what stands behind the end harms nobody
    for left in (size - 1, size * 2 // 3):
        os.truncate(whole, left)
        told = f"the file is cut short: its header tells of {size} bytes, {left} are there"
        assert decode("auto", str(whole)).error == (None if name == "filmed.mkv" else told)


@pytest.mark.skipif(not REAL_FILES, reason="no real data")
def test_real_files_are_whole() -> None:
    for name in REAL_FILES:
        check_whole(str(REAL / name))


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
        assert [number(image) for _, image in reader.read([0, 56, 58, 63])] == [0, 56, 58, 63]
        with pytest.raises(SampleError, match=r"frame 57 of 64 cannot be decoded: .+"):
            list(reader.read([0, 57]))
        assert [number(image) for _, image in reader.read([58])] == [58]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc")
def test_no_file_stays_open(made: Path, tmp_path: Path) -> None:
    bad = [spoil(kind, tmp_path, made) for kind in ("empty", "text", "noise", "sound", "no_frames", "header")]
    with open_video(made / "b_frames.mp4") as reader:
        list(reader.read([3]))
    before = open_files()
    for turn in range(200):
        with open_video(made / ("b_frames.avi" if turn % 2 else "b_frames.mp4")) as reader:
            next(iter(reader.read([2, 3])))  # left in the middle
        with pytest.raises(SampleError):
            open_video(bad[turn % len(bad)])
    assert open_files() <= before


def test_tags_that_are_no_utf8_do_no_harm(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "tagged.mkv"
    with av.open(str(made / "intra.mp4")) as source, av.open(str(path), "w") as output:
        output.metadata["title"] = "Zzyzx"
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    path.write_bytes(path.read_bytes().replace(b"Zzyzx", b"Zzy\xe9x"))
    with open_video(path) as reader:
        assert reader.meta.num_frames == 64
