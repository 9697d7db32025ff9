"""Windows that slide over whole videos."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.types import Entry
from st_ssl.encoders.base import load_encoder
from st_ssl.transfer.features import sliding_windows as module
from st_ssl.transfer.features.extract import with_data
from st_ssl.transfer.features.sliding_windows import SlidingConfig, feature_names, slide
from tests.data.made import write_video
from tests.ddp import run_ranks
from tests.transfer.features.extraction import CPU, command, rows_of
from tests.transfer.features.test_extract import decoded
from tests.transfer.tiny import write_clip, write_encoder


def test_names_of_features() -> None:
    def names(*paths: str) -> list[str]:
        return feature_names([Entry(path) for path in paths])

    assert names("/d/val/a.mp4", "/d/test/b.mp4") == ["a", "b"]
    assert names("/d/val/a.mp4", "/d/test/a.mp4", "/d/test/c.d.mp4") == ["val/a", "test/a", "test/c.d"]
    assert names("/d/a.mp4", "/d/a.avi") == ["a.mp4", "a.avi"]
    assert names("/d/frames.1", "/d/frames.2") == ["frames.1", "frames.2"]  # folders of images
    assert feature_names([Entry("/d/a.mp4", num_frames=9), Entry("/d/a.mp4", start=9)]) == ["a.mp4_0_9", "a.mp4_9_end"]
    assert feature_names([Entry("p#0", source="../../x/a.mp4"), Entry("p#1", source="b.mp4")]) == ["a", "b"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of one name, a short one, and a broken one."""
    pytest.importorskip("av")
    root = tmp_path_factory.mktemp("long") / "set"
    for name, level, frames in (("val/a", 60, 41), ("test/a", 160, 23), ("val/short", 90, 5)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_clip(root / f"{name}.mp4", level, frames)
    (root / "val" / "broken.mp4").write_text("not a video")
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("runs") / "run")


def config_of(root: Path, **changes: Any) -> SlidingConfig:
    data = {"name": "video", "root": str(root), "num_workers": 0} | changes.pop("data", {})
    return with_data(SlidingConfig)(data=data, batch_size=3, device="cpu", **changes)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_rows_are_the_features_of_the_windows(videos: Path, run: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    slide(run, config_of(videos), tmp_path / "out", CPU, lambda *now: told.append(now))
    files = ["bad_samples.jsonl", "extract.json", "index.jsonl", "sliding.json"]
    assert sorted(everything(tmp_path / "out")) == sorted([*files, "test/a.npy", "val/a.npy", "val/short.npy"])
    index = {row["file"]: row for row in rows_of(tmp_path / "out")}
    assert index["val/a.npy"] == {
        **{"file": "val/a.npy", "path": str(videos / "val/a.mp4"), "split": "val", "labels": {}},
        **{"windows": 9, "frames": 41, "fps": 25.0, "duration": 41 / 25},
        **{"variable_rate": False, "times": [round((4 * i + 3.5) / 25, 4) for i in range(9)]},
    }
    bad = rows_of(tmp_path / "out", "bad_samples.jsonl")
    assert bad == [{"path": str(videos / "val/broken.mp4"), "reason": "not a video: it is text"}]
    assert told[0] == (0, 4) and told[-1] == (4, 4)
    encoder = load_encoder(run)
    for name, starts in (("val/a", range(0, 35, 4)), ("test/a", range(0, 17, 4)), ("val/short", [0])):
        features = np.load(tmp_path / "out" / f"{name}.npy", allow_pickle=False)
        assert features.dtype == np.float32
        frames = [[(s + 2 * i) % index[f"{name}.npy"]["frames"] for i in range(4)] for s in starts]
        with torch.inference_mode():
            expected = encoder(torch.stack([decoded(videos / f"{name}.mp4", own) for own in frames])).pooled
        np.testing.assert_allclose(features, expected, atol=0.03)  # pixels may lie half a grey level apart
        nearest = np.abs(features[:, None] - expected.numpy()).max(2).argmin(1)
        assert nearest.tolist() == list(range(len(frames)))


def test_row_i_is_where_actionformer_and_opentad_look_for_it(videos: Path, run: Path, tmp_path: Path) -> None:
    slide(run, config_of(videos, window_stride=3, frame_stride=1), tmp_path / "out", CPU)
    about = json.loads((tmp_path / "out" / "sliding.json").read_text())
    ours, theirs = about["actionformer"], about["opentad"]
    assert about["window"] == {"num_frames": 4, "frame_stride": 1, "extent": 4}
    features = np.load(tmp_path / "out" / "val" / f"a{ours['file_ext']}")
    assert features.shape == (1 + (41 - 4) // 3, ours["input_dim"])
    # the time of what begins at frame 6, for two frames: ActionFormer's (seconds * fps - num_frames / 2) / stride
    segment = (np.array([6, 10]) - 0.5 * ours["num_frames"]) / ours["feat_stride"]
    centre_of_row_2 = 2 * 3 + 4 / 2
    assert segment.mean() == pytest.approx((8 - 2) / 3) and centre_of_row_2 == 8
    assert (8 - theirs["offset_frames"]) / theirs["feature_stride"] == 2  # OpenTAD's, in frames


def test_rows_of_variable_rate_have_their_second(run: Path, tmp_path: Path) -> None:
    slowing = [*range(0, 1600, 40), *range(1600, 3600, 100)]  # milliseconds of 60 frames
    (tmp_path / "set").mkdir()
    write_video(tmp_path / "set" / "a.mkv", 60, times=slowing)
    write_video(tmp_path / "set" / "b.mkv", 60)
    with pytest.warns(UserWarning, match=r"1 of 2 videos have no constant frame rate.*`times` in index\.jsonl"):
        slide(run, config_of(tmp_path / "set", window_stride=3, frame_stride=1), tmp_path / "out", CPU)
    variable, constant = rows_of(tmp_path / "out")
    assert (variable["variable_rate"], constant["variable_rate"]) == (True, False)
    assert constant["times"] == pytest.approx([(3 * i + 2) / 25 for i in range(19)], abs=1e-3)
    assert len(variable["times"]) == variable["windows"] == 19
    bounds = np.array(slowing) / 1000
    assert variable["times"][:18] == pytest.approx([(bounds[3 * i] + bounds[3 * i + 4]) / 2 for i in range(18)])
    assert variable["fps"] == pytest.approx(59 / 3.5) and 3.5 < variable["duration"] <= 3.6


def record_saved(patch: pytest.MonkeyPatch, most: float = float("inf")) -> list[int]:
    """A list that every video is added to when it is saved; the process is killed at one more than ``most``."""
    saved: list[int] = []
    save = module._Sliding.save

    def recording(self: Any, number: int, *rest: Any) -> None:
        if len(saved) == most:
            raise KeyboardInterrupt
        saved.append(number)
        save(self, number, *rest)

    patch.setattr(module._Sliding, "save", recording)
    return saved


def test_killed_and_resumed_it_is_the_same(
    videos: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide(run, config_of(videos), tmp_path / "whole", CPU)
    with monkeypatch.context() as patch:
        saved = record_saved(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            slide(run, config_of(videos), tmp_path / "out", CPU)
    assert not (tmp_path / "out" / "index.jsonl").exists()
    with monkeypatch.context() as patch:
        again = record_saved(patch)
        slide(run, config_of(videos), tmp_path / "out", CPU)
    assert len(saved) == 1 and len(again) == 2 and not set(saved) & set(again)
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")}
    slide(run, config_of(videos), tmp_path / "out", CPU)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")} == before
    with pytest.raises(ConfigError, match=r"holds another set of features \(.*window_stride: 4 before, 8 now"):
        slide(run, config_of(videos, window_stride=8), tmp_path / "out", CPU)


def on_a_rank(rank: int, world_size: int, run: str, root: str, output: str) -> list[int]:
    """The videos that this rank did."""
    with pytest.MonkeyPatch.context() as patch:
        saved = record_saved(patch)
        slide(Path(run), config_of(Path(root)), Path(output), CPU)
    return saved


@pytest.mark.ddp
def test_two_processes_give_what_one_gives(videos: Path, run: Path, tmp_path: Path) -> None:
    slide(run, config_of(videos), tmp_path / "one", CPU)
    saved = run_ranks(on_a_rank, 2, tmp_path, str(run), str(videos), str(tmp_path / "two"))
    assert sorted(len(own) for own in saved) == [1, 2]
    assert everything(tmp_path / "one") == everything(tmp_path / "two")


def test_broken_videos_are_tried_again_and_too_many_are_an_error(videos: Path, run: Path, tmp_path: Path) -> None:
    root = tmp_path / "set"
    shutil.copytree(videos, root)
    whole = {name: (root / name).read_bytes() for name in ("val/a.mp4", "test/a.mp4", "val/short.mp4")}
    for name in whole:
        (root / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)4 of 4 videos are broken.*a\.mp4: file is empty"):
        slide(run, config_of(root), tmp_path / "out", CPU)
    for name, content in whole.items():
        (root / name).write_bytes(content)
    slide(run, config_of(root), tmp_path / "out", CPU)
    assert len(rows_of(tmp_path / "out")) == 3


def test_the_command(videos: Path, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    where = tmp_path / "out"
    given = (run, "--data", videos, "--output", where, "data.num_workers=2", "device=cpu", "batch_size=3")
    assert command(*given, "--sliding", "--clips", 3) == 2
    assert "'--clips 3': clips: unknown key" in capfd.readouterr().err
    assert command(*given, "--window-stride", 8) == 2
    assert "'--window-stride 8': window_stride: unknown key" in capfd.readouterr().err
    assert command(*given, "--sliding", "--window-stride", "0") == 2
    assert "'--window-stride 0': window_stride: must be greater than 0, not '0'" in capfd.readouterr().err
    assert command(*given, "--sliding") == 0
    told = f"{where}: features of 3 samples; 1 broken, listed in {where / 'bad_samples.jsonl'}\n"
    assert capfd.readouterr().out == told
    slide(run, config_of(videos), tmp_path / "alone", CPU)
    ours, alone = everything(where), everything(tmp_path / "alone")
    assert ours.keys() == alone.keys() and all(ours[name] == alone[name] for name in ours)
