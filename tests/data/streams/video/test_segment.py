"""Part of a video: clips are cut from it alone, and the configuration says which format tells of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from st_ssl.augment.video import centre_crop
from st_ssl.core.config import Place, validate
from st_ssl.core.errors import ConfigError, SampleError
from st_ssl.core.types import Entry
from st_ssl.data.clip_plans import RandomClips
from st_ssl.data.loading.sample_dataset import collate
from st_ssl.data.streams.video import open_video
from st_ssl.data.streams.video.segment import segment_of
from st_ssl.data.synthetic.videos import SyntheticVideoConfig
from st_ssl.data.video.dataset import VideoDataConfig, VideoSource, video_dataset
from st_ssl.data.views import Views, each

VIEWS = Views(each(RandomClips(3, 1, num_clips=2), centre_crop(48)))


def frames(path: Path) -> np.ndarray:
    with open_video(path) as reader:
        return np.stack([image for _, image in reader.read(range(reader.meta.num_frames))])


@pytest.fixture(scope="module")
def folder(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 24 frames of a video as images, 1.png to 24.png."""
    from PIL import Image

    root = tmp_path_factory.mktemp("frames") / "00"
    root.mkdir()
    for number, image in enumerate(frames(videos / "00.mp4"), 1):
        Image.fromarray(image).save(root / f"{number}.png")
    return root


@pytest.mark.parametrize("kind", ["file", "images"])
def test_a_segment_reads_as_a_video_of_its_own(videos: Path, folder: Path, kind: str) -> None:
    path = videos / "00.mp4" if kind == "file" else folder
    truth = frames(videos / "00.mp4")
    with segment_of(open_video(path), Entry(str(path), start=10, num_frames=8)) as reader:
        assert (reader.meta.num_frames, reader.meta.width, reader.meta.height) == (8, 64, 48)
        got = list(reader.read([0, 3, 7]))
        assert [index for index, _ in got] == [0, 3, 7]
        np.testing.assert_array_equal(np.stack([image for _, image in got]), truth[[10, 13, 17]])
        with pytest.raises(SampleError, match="frame 8 is outside: it has 8 frames"):
            list(reader.read([8]))
    with segment_of(open_video(path), Entry(str(path), start=20)) as reader:
        assert reader.meta.num_frames == 4
        np.testing.assert_array_equal(next(reader.read([3]))[1], truth[23])


def test_clips_are_cut_inside_the_segment_only(videos: Path) -> None:
    path = videos / "00.mp4"
    dataset = video_dataset([Entry(str(path), start=6, num_frames=5)], VIEWS)
    truth = frames(path)[:, :, 8:56].astype(int)
    starts = set()
    for epoch in range(20):
        sample = dataset[epoch, 0]
        assert sample.views is not None
        for view in sample.views:
            starts.add(int(view.at[0]))
            assert np.abs(view.content.astype(int) - truth[6 + view.at]).max() <= 1
    assert starts == {0, 1, 2}  # three frames of five


@pytest.mark.parametrize(
    ("start", "num_frames", "reason"),
    [
        (20, 5, "has 24 frames, but the list says 5 from frame 20 on"),
        (0, 25, "has 24 frames, but the list says 25 from frame 0 on"),
        (24, None, "has 24 frames, but the list says the rest from frame 24 on"),
        (3, 0, "has 24 frames, but the list says 0 from frame 3 on"),
        (3, 1, "has a single frame: a clip needs at least 2"),
    ],
)
def test_too_few_frames_are_a_broken_sample(
    videos: Path, folder: Path, start: int, num_frames: int | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (videos / "00.mp4", folder):
        entry = Entry(str(path), start=start, num_frames=num_frames)
        with open_video(path) as reader:
            close = MagicMock(wraps=reader.close)
            monkeypatch.setattr(reader, "close", close)
            if num_frames != 1:
                with pytest.raises(SampleError, match=reason):
                    segment_of(reader, entry)
                close.assert_called_once_with()
        sample = video_dataset([entry, Entry(str(videos / "01.mp4"))], VIEWS)[0, 0]
        assert sample.index == 1
        assert [(bad.path, bad.reason) for bad in sample.bad] == [(str(path), reason)]


def test_a_whole_video_is_the_reader_itself(videos: Path) -> None:
    with open_video(videos / "00.mp4") as reader:
        assert segment_of(reader, Entry("x")) is reader


def test_a_list_of_segments_end_to_end(videos: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{videos / '00.mp4'} 0 -1\n{folder} 1 12\n{folder} 13 12\n")
    source = VideoSource(VideoDataConfig(list=str(tmp_path / "list.txt"), num_workers=0))
    entries = source.entries()
    dataset = source.dataset(entries, VIEWS)
    batch = collate([dataset[0, index] for index in range(3)])
    assert batch.metadata.tolist() == [[64, 48, 24, 24], [64, 48, 30, 12], [64, 48, 30, 12]]
    truth = frames(videos / "00.mp4")[:, :, 8:56].astype(int)
    for index, first in ((1, 0), (2, 12)):
        sample = dataset[0, index]
        assert sample.views is not None
        for view in sample.views:
            assert np.abs(view.content.astype(int) - truth[first + view.at]).max() <= 1


def test_the_configuration_names_format_and_split(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "list.txt").write_text("a.mp4 0 60\n")
    data: dict[str, Any] = {"root": str(tmp_path), "list": str(tmp_path / "list.txt"), "format": "videomae"}
    assert VideoSource(VideoDataConfig(**data)).entries() == [Entry(str(tmp_path / "a.mp4"), num_frames=60)]
    (tmp_path / "classInd.txt").write_text("1 A\n")
    for number in (1, 2):
        (tmp_path / f"trainlist0{number}.txt").write_text("A/a.avi 1\n" if number == 2 else "A/b.avi 1\n")
        (tmp_path / f"testlist0{number}.txt").write_text("")
    entries = VideoSource(VideoDataConfig(root=str(tmp_path), format="ucf101", split=2)).entries()
    assert entries == [Entry(str(tmp_path / "a.mp4"), labels={"label": "A"})]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "kinetic"}, r"format: must be 'auto', .*, not 'kinetic'; did you mean 'kinetics'\?"),
        ({"split": 0}, "split: must be greater than or equal to 1, not 0"),
        ({"split": 4}, "split: must be less than or equal to 3, not 4"),
        ({"split": "first"}, "split: must be a whole number, not 'first'"),
        ({"formatt": "csv"}, "formatt: unknown key; did you mean 'format'"),
    ],
)
def test_mistakes_of_the_configuration(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(VideoDataConfig, change, Place(Path("x.yaml")))


def test_a_format_of_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = SyntheticVideoConfig(num_train=1, num_test=0, num_frames=2, size=32)
    with pytest.warns(UserWarning, match=r"data\.format, data\.split and data\.series are ignored: there is no data"):
        assert len(VideoSource(VideoDataConfig(format="csv", synthetic=few)).entries()) == 1
