"""Windows cut from whole videos, and what becomes of them where decoders hang or crash."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.core.errors import DataError, SampleError
from st_ssl.core.types import Entry, VideoMeta, View
from st_ssl.data import base
from st_ssl.data.packs import video_index as index
from st_ssl.data.streams.video.base import Reader
from st_ssl.transfer.features import window_loader as module
from st_ssl.transfer.features.extract import with_data
from st_ssl.transfer.features.sliding_windows import SlidingConfig, slide
from st_ssl.transfer.features.window_loader import Content, Whole, Windows, cut_windows, stream, whole
from tests.data.loading.disasters import crash, hang
from tests.transfer.features.extraction import CPU, rows_of
from tests.transfer.tiny import INPUT, write_clip, write_encoder

EXTENT = (INPUT.num_frames - 1) * INPUT.stride + 1  # 7 frames
LIMIT = 2.0  # seconds for a frame: a busy machine takes its time


class Counted(Reader):
    """A video whose frame i is [[[i]]], which knows what it was asked for."""

    def __init__(self, num_frames: int) -> None:
        super().__init__("counted")
        self.meta = VideoMeta(num_frames, 25.0, 1, 1)
        self.asked: list[int] = []

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for number in self._asked(indices):
            self.asked.append(number)
            yield number, np.full((1, 1, 1), number, dtype=np.int64)


@pytest.mark.parametrize(
    ("total", "num_frames", "frame_stride", "window_stride"),
    [
        (50, 4, 2, 4),
        (50, 4, 2, 3),
        (50, 4, 5, 1),
        (50, 3, 1, 9),
        (7, 4, 2, 4),
        (6, 4, 2, 4),
        (5, 4, 3, 2),
        (1, 3, 2, 1),
    ],
)
def test_windows_are_those_of_slicing_and_no_frame_is_read_twice(
    total: int, num_frames: int, frame_stride: int, window_stride: int
) -> None:
    reader = Counted(total)
    found = list(cut_windows(reader, num_frames, frame_stride, window_stride))
    extent = (num_frames - 1) * frame_stride + 1
    starts = [start for start in range(0, total, window_stride) if start + extent <= total] or [0]
    expected = [[(start + i * frame_stride) % total for i in range(num_frames)] for start in starts]
    assert [index.tolist() for index, _ in found] == expected
    assert all((frames.reshape(-1) == index).all() for index, frames in found)
    assert reader.asked == sorted({i for index in expected for i in index})


def test_what_is_kept_of_a_long_video_is_one_window() -> None:
    reader, alive, most = Counted(5000), 0, 0

    class Frame(np.ndarray):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def shrink(frame: np.ndarray) -> np.ndarray:
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return frame.copy().view(Frame)

    assert sum(1 for _ in cut_windows(reader, 4, 2, 4, shrink)) == 1 + (5000 - EXTENT) // 4
    assert most <= EXTENT + 4


LENGTHS = [9, 40, 7, 3, 21, 0, 8, 25, 12]  # frames; of 0 frames: broken


class Plain(Reader):
    """A video of 8 × 8 pixels whose frame i shows i."""

    def __init__(self, num_frames: int) -> None:
        super().__init__("plain")
        if num_frames == 0:
            raise SampleError("plain", "broken")
        self.meta = VideoMeta(num_frames, 25.0, 8, 8)

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        for number in self._asked(indices):
            yield number, np.full((8, 8, 3), number, dtype=np.uint8)


def plain_windows(num_workers: int) -> Windows:
    library = SimpleNamespace(open=lambda path: Plain(int(path)))
    source: Any = SimpleNamespace(library=library, num_workers=num_workers, sample_timeout=60.0, max_bad=float)
    return Windows(source, [Entry(str(length)) for length in LENGTHS], INPUT, 2, 3)


def told(pieces: Iterable[tuple[int, Content]]) -> dict[int, list[Any]]:
    """What came of each video: the first frame of each window, and what was said at its end."""
    found: dict[int, list[Any]] = {}
    for video, content in pieces:
        own = found.setdefault(video, [])
        own += content.at[:, 0].tolist() if isinstance(content, View) else [content]
    return found


EXPECTED = {
    video: [*range(0, max(1, length - EXTENT + 1), 3), whole(Plain(length), EXTENT, 3)] if length else ["broken"]
    for video, length in enumerate(LENGTHS)
}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_all_windows_of_all_videos_come_once_and_in_order(num_workers: int) -> None:
    assert told(stream(plain_windows(num_workers), range(len(LENGTHS)))) == EXPECTED
    assert told(stream(plain_windows(num_workers), [4, 1])) == {video: EXPECTED[video] for video in (4, 1)}


@pytest.mark.parametrize("num_workers", [1, 3, 20])
@pytest.mark.parametrize("seed", range(2))
def test_workers_that_are_replaced_at_any_moment_change_nothing(
    num_workers: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(seed)
    replaced = 0

    def build_loader(
        windows: Windows, batches: Iterable[list[Any]], collate: Any, num_workers: int, *, in_turn: bool, **_: Any
    ) -> Iterator[Any]:
        """Keys are given two ahead for each worker, and a new one in place of another gets those that it had."""
        nonlocal replaced
        workers = [copy.copy(windows) for _ in range(num_workers)]
        todo, given, number = iter(batches), deque[list[Any]](), 0
        assert in_turn
        while True:
            given.extend(islice(todo, 2 * num_workers - len(given)))
            if not given:
                return
            if rng.random() < 0.3:
                workers[number % num_workers] = copy.copy(windows)
                replaced += 1
            yield collate([workers[number % num_workers][key] for key in given.popleft()])
            number += 1

    monkeypatch.setattr(module, "build_loader", build_loader)
    assert told(stream(plain_windows(num_workers), range(len(LENGTHS)))) == EXPECTED
    assert replaced > 10


def test_a_worker_that_is_done_with_its_videos_takes_those_that_wait() -> None:
    turns = module._Turns([5, 6, 7, 8, 9], 2)
    keys = iter(turns)
    assert [*islice(keys, 4)] == [[(5, 7)], [(6, 8)], [(5, 7)], [(6, 8)]]
    assert turns.take(module.Piece(6, 0, "broken"))
    assert [*islice(keys, 2)] == [[(5, 7)], [(8, 9)]]
    for video in (5, 7, 8, 9):
        assert turns.take(module.Piece(video, 0, Whole(VideoMeta(1, 25.0, 8, 8), [0.02], 0.04, False)))
    assert [*keys] == []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("runs") / "run")


class Troubled(Reader):
    """A video with something in store for who reads far enough."""

    def __init__(self, reader: Any, mark: Path) -> None:
        super().__init__(reader.path)
        self.reader, self.mark, self.meta = reader, mark, reader.meta

    def read(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        trouble = Path(self.path).stem
        for number, frame in self.reader.read(indices):
            if number > 24 and trouble == "hang":
                hang()
            if number > 24 and (trouble == "segfault" or (trouble == "once" and not self.mark.exists())):
                self.mark.touch()
                crash()
            if trouble == "linger":
                time.sleep(LIMIT / 5)
            yield number, frame

    def close(self) -> None:
        self.reader.close()


@pytest.fixture
def troubled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of videos, some of which do what they are called when they are read from now on."""
    root, open_video = tmp_path / "set", index.open_video
    root.mkdir()
    for number, name in enumerate(["hang", "linger", "once", "segfault", "whole", "z"]):
        write_clip(root / f"{name}.mp4", 40 + 20 * number, 13 if name == "linger" else 41 - number)

    def opened(path: str, *rest: Any) -> Troubled:
        return Troubled(open_video(path, *rest), tmp_path / f"{Path(path).stem}.mark")

    monkeypatch.setattr(index, "open_video", opened)
    return root


def config_of(root: Path, **data: Any) -> Any:
    given = {"name": "video", "root": str(root), "num_workers": 2, "sample_timeout": LIMIT} | data
    return with_data(SlidingConfig)(data=given, batch_size=3, device="cpu")


def test_a_video_that_hangs_or_crashes_its_decoder_costs_itself_only(
    run: Path, troubled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide(run, config_of(troubled), tmp_path / "out", CPU)
    assert rows_of(tmp_path / "out", "bad_samples.jsonl") == [
        {"path": str(troubled / "hang.mp4"), "reason": "decoder hung for 2 s"},
        {"path": str(troubled / "segfault.mp4"), "reason": "decoder crashed (signal 11, SIGSEGV)"},
    ]
    monkeypatch.undo()
    slide(run, config_of(troubled, num_workers=0), tmp_path / "whole", CPU)
    used = sorted(f"{name}.npy" for name in ("linger", "once", "whole", "z"))
    assert sorted(file.name for file in (tmp_path / "out").glob("*.npy")) == used
    for name in used:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    rows = {row["file"]: row for row in rows_of(tmp_path / "whole")}
    assert rows_of(tmp_path / "out") == [rows[name] for name in used]
    assert (tmp_path / "once.mark").exists()


def test_too_many_that_crash_stop_the_extraction(
    run: Path, troubled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("hang", "linger", "once", "z"):
        (troubled / f"{name}.mp4").unlink()
    (troubled / "whole.mp4").rename(troubled / "b.mp4")
    monkeypatch.setattr(base, "FREE", 0)
    said = r"(?s)1 of 2 samples hung or crashed.*segfault\.mp4: decoder crashed \(signal 11"
    with pytest.raises(DataError, match=said):
        slide(run, config_of(troubled), tmp_path / "out", CPU)
    (troubled / "segfault.mp4").write_bytes((troubled / "b.mp4").read_bytes())
    monkeypatch.undo()
    slide(run, config_of(troubled), tmp_path / "out", CPU)
    assert torch.equal(*[torch.from_numpy(np.load(tmp_path / "out" / f"{name}.npy")) for name in ("b", "segfault")])
