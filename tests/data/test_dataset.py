from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.augment.masking import MaskConfig, TokenMask
from st_ssl.augment.video import VideoAugment, VideoAugmentConfig, centre_crop
from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.base import Batch
from st_ssl.data.clip_plans import ClipPair, EvenClips
from st_ssl.data.loading.sample_dataset import MAX_REPLACEMENTS, collate
from st_ssl.data.packs import video_index as index
from st_ssl.data.streams.video import open_video
from st_ssl.data.video.dataset import VideoDataConfig, VideoSource, video_dataset
from st_ssl.data.views import Views, each
from tests.data.made import skip_without
from tests.data.order import check_workers_and_order
from tests.runs import write_video

HALF = TokenMask(MaskConfig(kind="random", ratio=0.5), (2, 2, 2))
VIEWS = Views(each(ClipPair(4, 2), VideoAugment(VideoAugmentConfig(), size=16), masks=[HALF]))


def entries_of(folder: Path) -> list[Entry]:
    return [Entry(str(path)) for path in sorted(folder.iterdir())]


@pytest.fixture
def broken(videos: Path, tmp_path: Path) -> list[Entry]:
    """Twelve videos; numbers 3 and 4 are broken."""
    entries = entries_of(videos)
    (tmp_path / "text.mp4").write_text("not a video")
    entries[3] = Entry(str(tmp_path / "missing.mp4"))
    entries[4] = Entry(str(tmp_path / "text.mp4"))
    return entries


def tensors(batch: Batch) -> list[torch.Tensor]:
    found = [batch.indices, batch.wanted]
    for view in batch.views:
        found += [view.clip, view.at, *view.mask, *view.params.values()]
    return found


def test_shapes_and_types(videos: Path) -> None:
    dataset = video_dataset(entries_of(videos), VIEWS)
    batch = collate([dataset[0, i] for i in (5, 2, 7)])
    assert batch.indices.tolist() == batch.wanted.tolist() == [5, 2, 7]
    assert batch.bad == []
    assert len(batch.views) == 2
    for view in batch.views:
        assert view.clip.shape == (3, 4, 16, 16, 3)
        assert view.clip.dtype == torch.uint8
        assert view.at.shape == (3, 4)
        assert view.at.dtype == torch.int64
        assert {tuple(value.shape[:2]) for value in view.params.values()} == {(3, 1)}  # no time axis: consistent
        assert view.mask.keep.shape == view.mask.masked.shape == (3, 4)
    assert not torch.equal(batch.views[0].params["box"], batch.views[1].params["box"])
    assert not torch.equal(batch.views[0].mask.keep, batch.views[1].mask.keep)


def test_frames_are_those_of_the_indices(videos: Path) -> None:
    views = Views(each(ClipPair(3, 2), centre_crop(48)))
    sample = video_dataset(entries_of(videos), views)[0, 1]
    assert sample.views is not None
    with open_video(str(videos / "01.mp4")) as reader:
        for view in sample.views:
            wanted = sorted({int(i) for i in view.at})
            truth = dict(reader.read(wanted))
            expected = np.stack([truth[int(i)][:, 8:56] for i in view.at])
            assert np.abs(view.content.astype(int) - expected).max() <= 1


def test_both_views_are_cut_from_one_decode(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []

    def spying(path: str) -> Any:
        reader = open_video(path)
        read = reader.read

        def noted(indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
            asked.append(list(indices))
            return read(indices)

        monkeypatch.setattr(reader, "read", noted)
        return reader

    sample = video_dataset(entries_of(videos), VIEWS, open_video=spying)[0, 0]
    assert sample.views is not None
    assert asked == [sorted({int(i) for view in sample.views for i in view.at})]


def test_views_do_not_depend_on_workers_or_order(broken: list[Entry]) -> None:
    check_workers_and_order(video_dataset(broken, VIEWS, seed=3), tensors)


def test_draws_differ_by_seed_pass_and_sample(videos: Path) -> None:
    dataset = video_dataset([Entry(str(videos / "00.mp4"))] * 2, VIEWS)
    other = video_dataset([Entry(str(videos / "00.mp4"))], VIEWS, seed=1)
    batches = [collate([s]) for s in (dataset[0, 0], dataset[1, 0], dataset[0, 1], other[0, 0])]
    boxes = {tuple(batch.views[0].params["box"].flatten().tolist()) for batch in batches}
    assert len(boxes) == 4


def test_broken_files_are_replaced_by_a_rule_and_listed(broken: list[Entry]) -> None:
    samples = [video_dataset(broken, VIEWS, seed=3)[0, 3] for _ in range(2)]
    assert samples[0].wanted == 3
    assert samples[0].index == samples[1].index not in (3, 4)
    assert samples[0].bad[0].path == broken[3].path
    assert samples[0].bad[0].reason == "file is missing"
    chosen = [video_dataset(broken, VIEWS, seed=3)[epoch, 3] for epoch in range(20)]
    assert len({sample.index for sample in chosen}) > 5  # not always the same one
    assert any(len(sample.bad) == 2 for sample in chosen)  # a replacement may be broken, too
    batch = collate([video_dataset(broken, VIEWS, seed=3)[0, i] for i in (2, 3, 3, 4)])
    assert batch.indices[0] == 2
    assert batch.wanted.tolist() == [2, 3, 3, 4]
    assert sorted({bad.path for bad in batch.bad}) == sorted([broken[3].path, broken[4].path])
    assert len(batch.bad) == len(set(batch.bad))
    assert batch.views[0].clip.shape[0] == 4


def test_a_video_of_one_frame_is_broken(videos: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "still.mp4", 0, num_frames=1)
    entries = [Entry(str(tmp_path / "still.mp4")), Entry(str(videos / "00.mp4"))]
    sample = video_dataset(entries, VIEWS)[0, 0]
    assert sample.index == 1
    assert [bad.reason for bad in sample.bad] == ["has a single frame: a clip needs at least 2"]


def test_a_video_of_two_frames_is_played_in_a_loop(tmp_path: Path) -> None:
    write_video(tmp_path / "short.mp4", 0, num_frames=2)
    sample = video_dataset([Entry(str(tmp_path / "short.mp4"))], Views(each(EvenClips(5, 1), centre_crop(16))))[0, 0]
    assert sample.views is not None
    assert sample.views[0].at.tolist() == [0, 1, 0, 1, 0]


def test_nothing_usable_is_a_batch_without_views(videos: Path, tmp_path: Path) -> None:
    entries = [Entry(str(tmp_path / f"{i}.mp4")) for i in range(30)]
    sample = video_dataset(entries, VIEWS)[0, 7]
    assert sample.views is None
    assert len({bad.path for bad in sample.bad}) == 1 + MAX_REPLACEMENTS
    good = video_dataset(entries_of(videos), VIEWS)[0, 0]
    batch = collate([good, sample])
    assert batch.views == []
    assert batch.wanted.tolist() == [0, 7]
    assert len(batch.bad) == 1 + MAX_REPLACEMENTS


def test_batches_split_in_order(videos: Path) -> None:
    dataset = video_dataset(entries_of(videos), VIEWS)
    whole = collate([dataset[0, i] for i in range(4)])
    parts = whole.split(2)
    assert [part.wanted.tolist() for part in parts] == [[0, 1], [2, 3]]
    for a, b in zip(tensors(whole), zip(*map(tensors, parts), strict=True), strict=True):
        assert torch.equal(a, torch.cat(b))


def test_the_source_of_a_configuration(videos: Path, tmp_path: Path) -> None:
    source = VideoSource(VideoDataConfig(root=str(videos), num_workers=1, epoch_size=5, max_bad_share=0.5))
    assert (source.num_workers, source.epoch_size, source.max_bad_share) == (1, 5, 0.5)
    assert [entry.path for entry in source.entries()] == [str(videos / f"{i:02d}.mp4") for i in range(12)]
    (tmp_path / "list.txt").write_text("03.mp4 a\n01.mp4 b\n")
    listed = VideoSource(VideoDataConfig(root=str(videos), list=str(tmp_path / "list.txt"))).entries()
    assert [(Path(e.path).name, e.labels) for e in listed] == [("03.mp4", {"label": "a"}), ("01.mp4", {"label": "b"})]
    with pytest.raises(DataError, match="no videos to read"):
        source.dataset([], VIEWS)


@pytest.mark.parametrize("reader", ["pyav", "torchcodec", "decord"])
def test_the_reader_that_is_asked_for_is_used(
    videos: Path, made: Path, reader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without(reader, made)
    used: list[str] = []

    def noted(path: str, backend: Any, *rest: Any) -> Any:
        used.append(backend)
        return open_video(path, backend, *rest)

    monkeypatch.setattr(index, "open_video", noted)
    source = VideoSource(VideoDataConfig(root=str(videos), reader=reader))
    assert source.dataset(source.entries(), VIEWS)[0, 0].views is not None
    assert used == [reader]
