from __future__ import annotations

import os
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from st_ssl.core.errors import DataError
from st_ssl.core.types import Entry
from st_ssl.data.base import BadSample
from st_ssl.data.packs.video_index import Library
from st_ssl.data.streams.video import VideoReader
from st_ssl.data.video.dataset import VideoDataConfig, VideoSource
from st_ssl.data.video.views import centred_views, shrunken_pixels
from st_ssl.encoders.base import load_encoder
from st_ssl.transfer.features.features import (
    INSTANCE,
    ClipSet,
    Split,
    classes_of,
    collect_clips,
    describe_test_part,
    encode,
    metadata_features,
    split_entries,
)
from tests.transfer.tiny import INPUT, source_of, write_dataset, write_encoder


def entry(name: str, split: str = "train", **labels: str) -> Entry:
    return Entry(f"/data/{name}", split, labels)


def names(split: Split) -> list[str]:
    return [e.path.rsplit("/", 1)[-1] for e in split.entries]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av")
    return write_dataset(tmp_path_factory.mktemp("tiny") / "set")


def clips_of(dataset: Path, seed: int = 0) -> tuple[ClipSet, ClipSet]:
    source = source_of(dataset)
    train, test = split_entries(source.entries(), 0.25, 100)
    classes = classes_of(train, test)
    return collect_clips(source, train, classes, INPUT, seed), collect_clips(source, test, classes, INPUT, seed)


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_own_split_is_used(held_out: str) -> None:
    entries = [entry("a", label="x"), entry("b", held_out, label="x"), entry("c", label="y")]
    if held_out == "test":
        entries.append(entry("d", "val", label="y"))  # for choosing, not for reporting
    train, test = split_entries(entries, 0.25, 100)
    assert (names(train), names(test)) == (["a", "c"], ["b"])
    assert train.span == test.span == (0.0, 1.0)


def test_drawn_split_goes_by_names_alone() -> None:
    entries = [entry(f"{i}.mp4", label=str(i % 2)) for i in range(200)]
    train, test = split_entries(entries, 0.25, 1000)
    assert sorted(names(train) + names(test)) == sorted(f"{i}.mp4" for i in range(200))
    assert 30 < len(test.entries) < 70
    moved = [Entry(f"/elsewhere{e.path}", e.split, e.labels) for e in reversed(entries)]
    more = [*moved, *(entry(f"new{i}.mp4", label="0") for i in range(50))]
    _, other = split_entries(more, 0.25, 1000)
    assert {name for name in names(other) if not name.startswith("new")} == set(names(test))
    _, larger = split_entries(entries, 0.5, 1000)
    assert set(names(test)) < set(names(larger))


def test_a_validation_part_has_nothing_of_the_test_part() -> None:
    own = [entry("a", label="x"), entry("b", "val", label="x"), entry("c", label="y"), entry("d", "test", label="y")]
    shown, asked = split_entries(own, 0.25, 100, "val")
    assert (names(shown), names(asked)) == (["a", "c"], ["b"])
    entries = [entry(f"{i}.mp4", label=str(i % 2)) for i in range(200)]
    for given in (entries, [replace(e, split="test" if i % 5 == 0 else "train") for i, e in enumerate(entries)]):
        train, test = split_entries(given, 0.25, 1000)
        shown, asked = split_entries(given, 0.25, 1000, "val")
        assert sorted(names(shown) + names(asked)) == sorted(names(train))
        assert 20 < len(asked.entries) < 60 and not set(names(asked)) & set(names(test))
    with pytest.raises(DataError, match="a validation part needs labels"):
        split_entries([entry("a"), entry("b")], 0.25, 100, "val")


def test_where_the_draw_leaves_no_test_part_what_mends_it_is_told() -> None:
    entries = [entry("00.mp4", label="x"), entry("01.mp4", label="y")]
    with pytest.raises(
        DataError, match=r"^2 labelled samples are too few .* 0\.25 \(probe\.test_share\) drawn by .* `test`"
    ):
        split_entries(entries, 0.25, 100)


def test_a_set_that_is_all_test_is_drawn_from() -> None:
    train, test = split_entries([entry(f"{i}.mp4", "test", label=str(i % 2)) for i in range(40)], 0.25, 100)
    assert train.entries
    assert test.entries
    assert not set(names(train)) & set(names(test))


def test_without_labels_the_halves_of_each_video_are_told_apart() -> None:
    entries = [entry("a"), entry("b", "test"), entry("c")]
    train, test = split_entries(entries, 0.25, 100)
    assert names(train) == names(test) == ["a", "b", "c"]
    assert (train.span, test.span) == ((0.0, 0.5), (0.5, 1.0))
    assert classes_of(train, test) == {INSTANCE: ["/data/a", "/data/b", "/data/c"]}


def test_what_is_tested_on_is_said() -> None:
    train = [entry("a", label="x"), entry("b", label="y")]
    for splits, said in (
        (("test", "val"), "the split test of the data"),
        (("val",), "the split val of the data: it has no test split"),
        ((), "no test split: 20 % of the samples drawn by name"),
    ):
        assert describe_test_part([*train, *(entry(split, split, label="x") for split in splits)], 0.2) == said
    assert describe_test_part([entry("a", "test", label="x"), entry("b", "test", label="y")], 0.2).startswith(
        "no train split: 20"
    )
    assert describe_test_part([entry("a"), entry("b", "test")], 0.2).startswith(
        "no labels: the second half of each sample"
    )


def test_classes_that_are_numbers_stand_in_their_order() -> None:
    entries = [entry(f"{i}", split, label=str(i)) for i in range(12) for split in ("train", "test")]
    assert classes_of(*split_entries(entries, 0.2, 100)) == {"label": [str(i) for i in range(12)]}


def test_limit_is_a_fixed_draw_in_order() -> None:
    entries = [entry(f"{i:03d}", "test" if i % 2 else "train", label=str(i % 3)) for i in range(100)]
    train, test = split_entries(entries, 0.25, 20)
    assert len(train.entries) == len(test.entries) == 20
    assert names(train) == sorted(names(train)) != [f"{i:03d}" for i in range(0, 40, 2)]
    assert names(split_entries(entries, 0.25, 20)[0]) == names(train)


def test_unlabelled_videos_among_labelled_ones_are_left_out() -> None:
    entries = [entry("a", label="x"), entry("b"), entry("c", "test"), entry("d", "val", label="y")]
    train, test = split_entries(entries, 0.25, 100)
    assert (names(train), names(test)) == (["a"], ["d"])


def test_too_few_videos() -> None:
    with pytest.raises(DataError, match="2 labelled samples are too few"):
        split_entries([entry("a", label="x"), entry("b", label="y")], 0.01, 100)


def test_one_label_for_all_tells_nothing_and_counts_as_none() -> None:
    train, test = split_entries([entry(f"2023/{i}", label="2023") for i in range(3)], 0.25, 100)
    assert list(classes_of(train, test)) == [INSTANCE]


def test_classes_that_say_nothing_are_left_out() -> None:
    train = Split([entry("a", k="1", same="x", lone="1"), entry("b", k="2", same="x"), entry("c", only="1")])
    train.entries = [*train.entries, entry("d", only="2")]
    test = Split([entry("e", k="0", same="y"), entry("f", new="1")])
    assert classes_of(train, test) == {"k": ["0", "1", "2"]}


def test_clips_of_all_videos(dataset: Path) -> None:
    train, test = clips_of(dataset)
    assert (len(train), len(test)) == (16, 8)
    assert train.raw.clip.shape == (16, 4, 16, 16, 3)
    assert train.raw.clip.dtype == torch.uint8
    assert list(train.targets) == ["light", "length", "chance", "some"]
    light = [e.labels["light"] for e in train.entries]
    assert [("bright", "dark")[i] for i in train.targets["light"]] == light
    brightness = train.raw.clip.float().mean((1, 2, 3, 4)).numpy()
    np.testing.assert_array_equal(brightness < 130, train.targets["light"] == 1)  # clips stay beside their labels
    np.testing.assert_array_equal(train.targets["some"] >= 0, [bool(e.labels.get("some")) for e in train.entries])
    assert (train.targets["some"] == -1).any()
    long = np.array([e.labels["length"] == "long" for e in train.entries])
    np.testing.assert_array_equal(train.metadata, np.c_[np.tile([32, 24, 25], (16, 1)), np.where(long, 18, 12)])
    assert train.bad == []


def test_each_file_is_opened_once_and_never_outside_the_workers(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid, opened = os.getpid(), tmp_path / "opened"
    real = Library.open

    def noted(library: Library, path: str) -> VideoReader:
        assert os.getpid() != pid, "nothing protects this process from a file that hangs"
        with opened.open("a") as file:
            file.write(f"{path}\n")
        return real(library, path)

    monkeypatch.setattr(Library, "open", noted)
    source = VideoSource(VideoDataConfig(root=str(dataset), num_workers=2))
    clips = collect_clips(source, Split(source.entries()), {}, INPUT, 0)
    assert len(clips.metadata) == 24
    assert sorted(opened.read_text().split()) == sorted(entry.path for entry in clips.entries)


def test_the_moment_of_a_clip_is_a_draw_of_the_seed(dataset: Path) -> None:
    first, again, other = (clips_of(dataset, seed)[0].raw for seed in (0, 0, 1))
    assert torch.equal(first.clip, again.clip)
    assert not torch.equal(first.at, other.at)
    assert (first.at.diff(dim=1) == 2).all()


@pytest.mark.parametrize(("span", "low", "high"), [((0.0, 0.5), 0, 8), ((0.5, 1.0), 6, 17), ((0.0, 1.0), 0, 17)])
def test_clips_lie_in_their_span(dataset: Path, span: tuple[float, float], low: int, high: int) -> None:
    source = source_of(dataset)
    clips = collect_clips(source, Split(source.entries(), span), {}, INPUT, 0)  # of 12 or 18 frames each
    middle = clips.metadata[:, 3] / 2
    index = clips.raw.at.numpy()
    assert low <= index.min() <= index.max() <= high
    assert (index.max(1) < middle).all() == (span[1] == 0.5)
    assert (index.min(1) >= middle).all() == (span[0] == 0.5)


def test_broken_videos_are_left_out_and_listed(tmp_path: Path) -> None:
    pytest.importorskip("av")
    root = write_dataset(tmp_path / "set")
    (root / "04.mp4").write_text("not a video")
    (root / "06.mp4").unlink()
    seen: list[int] = []
    source = source_of(root)
    train, test = split_entries(source.entries(), 0.25, 100)
    clips = collect_clips(source, train, {"light": ["bright", "dark"]}, INPUT, 0, seen.append)
    assert clips.bad == [BadSample(str(root / "04.mp4"), "not a video: it is text")]
    assert names(Split(clips.entries)) == [name for name in names(train) if name != "04.mp4"]
    assert clips.raw.clip.shape[0] == len(clips.targets["light"]) == len(clips.metadata) == 15
    brightness = clips.raw.clip.float().mean((1, 2, 3, 4)).numpy()
    np.testing.assert_array_equal(brightness < 130, clips.targets["light"] == 1)
    assert sum(seen) == 16
    assert [bad.reason for bad in collect_clips(source, test, {}, INPUT, 0).bad] == ["file is missing"]
    lost = Split([Entry(str(root / "06.mp4"))])
    with pytest.raises(DataError, match=r"none of 1 videos can be read; the first: .*06\.mp4: file is missing"):
        collect_clips(source, lost, {}, INPUT, 0)


def test_clips_of_many_videos_need_few_open_files(dataset: Path) -> None:
    entries = [*source_of(dataset).entries()] * 4
    source = VideoSource(VideoDataConfig(root=str(dataset), num_workers=1))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 100, hard))
    try:
        assert len(collect_clips(source, Split(entries), {}, INPUT, 0)) == 96
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_features_are_those_of_the_encoder_for_any_batch_size(dataset: Path, tmp_path: Path) -> None:
    encoder = load_encoder(write_encoder(tmp_path / "run"))
    clips, _ = clips_of(dataset)
    pooled, tokens = encode(encoder, clips, 16, torch.device("cpu"))
    assert (pooled.shape, pooled.dtype) == ((16, 24), torch.float32)
    assert (tokens.shape, tokens.dtype) == ((16, 8, 24), torch.float16)
    small, _ = encode(encoder, clips, 3, torch.device("cpu"))
    torch.testing.assert_close(small, pooled, rtol=1e-5, atol=1e-6)
    mean, std = (torch.tensor(v)[:, None, None, None] for v in (INPUT.mean, INPUT.std))
    clip = (clips.raw.clip.permute(0, 4, 1, 2, 3) / 255 - mean) / std
    with torch.inference_mode():
        torch.testing.assert_close(pooled, encoder(clip).pooled, rtol=1e-4, atol=1e-5)


def test_shrunken_pixels(dataset: Path) -> None:
    clips, _ = clips_of(dataset)
    pixels = shrunken_pixels(clips.raw, frames=2, size=1)
    assert pixels.shape == (16, 2 * 3)
    frames = clips.raw.clip.double().numpy() / 255
    expected = frames.reshape(16, 2, 2, 16 * 16, 3).mean((2, 3)).transpose(0, 2, 1).reshape(16, 6)
    np.testing.assert_allclose(pixels, expected, atol=1e-5)


def with_metadata(rows: list[list[float]]) -> ClipSet:
    return ClipSet([entry(str(i)) for i in range(len(rows))], centred_views(INPUT), None, {}, np.array(rows))


def test_metadata_become_a_unit_vector_for_each_column() -> None:
    train, test = with_metadata([[0.0, 10.0], [2.0, 30.0]]), with_metadata([[1.0, 40.0]])
    first, second = metadata_features(train, test)
    assert first.dtype == second.dtype == np.float64
    half = 0.5**0.5
    np.testing.assert_allclose(first, [[-half, half, -half, half], [half, half, half, half]])
    np.testing.assert_allclose(second, [[0, 1, 2 / 5**0.5, 1 / 5**0.5]])  # average, and two deviations above


def test_a_constant_column_of_metadata_says_nothing() -> None:
    rates = [[30000 / 1001, float(i)] for i in range(7)]  # of which the mean is not the value to the last bit
    first, second = metadata_features(with_metadata(rates), with_metadata([[25.0, 3.0], [60.0, 3.0]]))
    assert (first[:, 0] == 0).all() and (second[:, 0] == 0).all() and (second[:, 1] == 1).all()
    np.testing.assert_array_equal(second[0], second[1])


def test_files_of_average_metadata_keep_a_direction_after_centring() -> None:
    train = with_metadata([[float(i), float(i % 2)] for i in range(9)])
    first, second = metadata_features(train, with_metadata([[4.0, 4 / 9]]))
    assert np.linalg.norm(second - first.mean(0)) > 0.1
