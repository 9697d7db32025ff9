"""Whichever library decodes a file: the same number of frames, the same size, the same frames in the same order.

Pixels agree to ``TOLERANCE`` levels of 255 on average, not to the bit: the libraries bring FFmpegs of different age,
and where chroma has to be interpolated (odd sizes, more than 8 bits, interlaced) each lets it do so by another filter.
Two neighbouring frames of a barcode differ by 20 levels and more.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.core.errors import MissingDependencyError, MissingLibraryError, SampleError
from st_ssl.core.types import Entry
from st_ssl.data.clip_plans import EvenClips
from st_ssl.data.streams.video import open_video
from st_ssl.data.streams.video.torchcodec import TorchCodecReader
from st_ssl.data.video.dataset import video_dataset
from tests.data.made import KINDS, REAL, REAL_FILES, number, skip_without, write_video

av = pytest.importorskip("av")

TOLERANCE = 6.0
REFUSED = {"plain.mpg", "b_frames.avi", "no_b_frames.avi", "h264.avi", "late_start.ts"}
"""Kinds in which torchcodec does not find frames by number; it would return others."""
UNTRUSTED = {
    "open_gop.mkv",
    "refresh.mp4",
    "late_start.ts",
    "plain.mpg",
    "b_frames.avi",
    "h264.avi",
    "mpeg4.mp4",
    "av1.mp4",
    "plain.gif",
}
"""Kinds of which decord returns wrong frames without a word, or that it cannot open."""


def assert_agree(path: Path, backend: str, wanted: list[int] | None = None) -> None:
    with open_video(path) as ours, open_video(path, backend) as theirs:
        assert theirs.meta.num_frames == ours.meta.num_frames
        assert (theirs.meta.width, theirs.meta.height) == (ours.meta.width, ours.meta.height)
        wanted = list(range(ours.meta.num_frames)) if wanted is None else wanted
        found = dict(theirs.read(wanted))
        assert list(found) == wanted
        for index, image in ours.read(wanted):
            other = found[index]
            assert other.shape == image.shape
            assert other.dtype == image.dtype
            assert np.abs(image.astype(int) - other).mean() < TOLERANCE, f"frame {index}"


@pytest.mark.parametrize("name", sorted(KINDS.keys() - REFUSED))
def test_torchcodec_agrees_with_pyav(made: Path, name: str) -> None:
    skip_without("torchcodec", made)
    assert_agree(made / name, "torchcodec")
    with open_video(made / name, "torchcodec") as reader:
        for wanted in ([63], [0], [10], [1, 40, 41], [5, 23, 24, 62], list(range(0, 64, 7))):
            found = list(reader.read(wanted))
            assert [number(image) for _, image in found] == [index for index, _ in found] == wanted


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_torchcodec_refuses_what_it_would_get_wrong(made: Path, name: str) -> None:
    skip_without("torchcodec", made)
    with pytest.raises(SampleError, match=r"data\.reader=pyav"), open_video(made / name, "torchcodec") as reader:
        list(reader.read(range(64)))


@pytest.mark.parametrize("name", sorted(KINDS.keys() - UNTRUSTED))
def test_decord_agrees_with_pyav_where_it_can_be_trusted(made: Path, name: str) -> None:
    skip_without("decord", made)
    assert_agree(made / name, "decord")


@pytest.mark.skipif(not hasattr(av.VideoStream, "set_display_rotation"), reason="this PyAV cannot write the rotation")
@pytest.mark.parametrize("backend", ["torchcodec", "decord"])
@pytest.mark.parametrize("turn", [90, 180, -90])
def test_rotation_agrees(made: Path, tmp_path: Path, backend: str, turn: int) -> None:
    skip_without(backend, made)
    path = write_video(tmp_path / "turned.mp4", 4, turn=turn, size=(128, 96))
    with open_video(path, backend) as reader:
        assert (reader.meta.width, reader.meta.height) == ((128, 96) if turn == 180 else (96, 128))
        assert [number(np.rot90(image, -turn // 90)) for _, image in reader.read(range(4))] == list(range(4))
    assert_agree(path, backend)


@pytest.mark.skipif(not hasattr(av.VideoStream, "set_display_rotation"), reason="this PyAV cannot write the rotation")
def test_narrow_turned_videos_are_too_much_for_decord(made: Path, tmp_path: Path) -> None:
    skip_without("decord", made)
    path = write_video(tmp_path / "turned.mp4", 4, turn=90, size=(64, 48))
    with pytest.raises(SampleError, match=r"4 colours in it; data\.reader=pyav"):
        open_video(path, "decord")
    with open_video(path) as reader:
        assert [number(np.rot90(image, -1)) for _, image in reader.read(range(4))] == list(range(4))


@pytest.mark.parametrize("backend", ["pyav", "torchcodec", "decord"])
def test_videos_shorter_than_the_clip_are_played_in_a_loop(made: Path, tmp_path: Path, backend: str) -> None:
    from st_ssl.augment.video import centre_crop
    from st_ssl.data.views import Views, each

    skip_without(backend, made)
    path = write_video(tmp_path / "short.mp4", 3)
    views_of = Views(each(EvenClips(8, 1), centre_crop(64)))
    dataset = video_dataset([Entry(str(path))], views_of, open_video=lambda path: open_video(path, backend))
    views = dataset[0, 0].views
    assert views is not None
    assert [number(image) for image in views[0].content] == views[0].at.tolist()
    assert set(views[0].at.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("name", [n for n in REAL_FILES if not n.startswith("edge/") and not n.endswith(".avi")])
def test_torchcodec_agrees_on_real_files(made: Path, name: str) -> None:
    skip_without("torchcodec", made)
    with open_video(REAL / name) as reader:
        count = reader.meta.num_frames
    assert_agree(REAL / name, "torchcodec", sorted({0, count // 3, count // 3 + 1, count - 1}))


# -------------------------------------------------------------------- torchcodec alone


@pytest.mark.parametrize("older", [False, True])
def test_torchcodec_without_ffmpeg_says_what_to_install(
    made: Path, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    def unloadable(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Could not load libtorchcodec. Likely causes:\n 1. FFmpeg is not properly installed")

    core, decoders = ModuleType("torchcodec._core"), ModuleType("torchcodec.decoders")
    core._test_frame_pts_equality = unloadable  # type: ignore[attr-defined]
    if older:  # fails when it is imported
        decoders.__getattr__ = unloadable  # type: ignore[method-assign]
    else:
        decoders.VideoDecoder = unloadable  # type: ignore[attr-defined]
    for module in (ModuleType("torchcodec"), core, decoders):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(MissingLibraryError, match=r"needs FFmpeg's shared libraries.*apt-get install ffmpeg"):
        open_video(made / "b_frames.mp4", "torchcodec")


def test_torchcodec_that_is_missing_asks_for_ffmpeg_too(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec._core", None)
    with pytest.raises(MissingDependencyError, match=r"st_ssl\[video\].*apt-get install ffmpeg"):
        open_video(made / "b_frames.mp4", "torchcodec")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc")
def test_torchcodec_leaves_no_file_open(made: Path, tmp_path: Path) -> None:
    skip_without("torchcodec", made)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(20000))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        with open_video(made / "b_frames.mp4", "torchcodec") as reader:
            next(iter(reader.read([2, 3])))
        for bad in (tmp_path / "noise.mp4", made / "b_frames.avi"):
            with pytest.raises(SampleError):
                open_video(bad, "torchcodec")
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["b_frames.mp4", "hevc.mp4", "vp9.webm"])
def test_a_gpu_decodes_the_same_frames(made: Path, name: str) -> None:
    skip_without("torchcodec", made)
    with TorchCodecReader(str(made / name)) as ours, TorchCodecReader(str(made / name), device="cuda") as theirs:
        assert theirs.meta == ours.meta
        found = dict(theirs.read(range(0, 64, 5)))
        for index, image in ours.read(range(0, 64, 5)):
            assert number(found[index]) == index
            assert np.abs(image.astype(int) - found[index]).mean() < TOLERANCE
