"""What makes planted videos harder, or easier to cheat, is there in their pixels, and nowhere else."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from st_ssl.data.sources.video import read_source, target_names
from st_ssl.data.synthetic.shapes2d import MOTIONS
from st_ssl.data.synthetic.textures import SCENES
from st_ssl.data.synthetic.videos import (
    FACTORS,
    FLASH,
    FLASH_PERIOD,
    GRID,
    SECOND,
    PlantedVideo,
    SyntheticVideoConfig,
    flashes,
    plan_video,
    render,
    write_dataset,
)
from st_ssl.transfer.features.features import split_entries
from st_ssl.transfer.fitting.label_fractions import divide

PLAIN = SyntheticVideoConfig(num_train=24, num_val=12, num_test=12)


def _calm(video: PlantedVideo, **factors: str) -> PlantedVideo:
    """The same video without noise and drift, and with these factors."""
    return replace(video, factors=video.factors | factors, nuisances=video.nuisances | {"noise": 0, "drift": GRID // 2})


def _box(video: PlantedVideo) -> tuple[slice, slice, slice]:
    x0, y0, x1, y1 = video.box
    return slice(None), slice(y0, y1), slice(x0, x1)


def _outside(video: PlantedVideo, size: int = 128) -> np.ndarray:
    """Which pixels the object never touches, bool [H, W]."""
    away = np.ones((size, size), dtype=bool)
    away[_box(video)[1:]] = False
    return away


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(
    "switches",
    [{"objects": 2}, {"occlusion": 0.5}, {"cuts": 2}, {"watermark": "clock"}, {"scene_motion": 1.0}],
    ids=str,
)
def test_a_switch_changes_nothing_else(switches: dict[str, object], split: str) -> None:
    """Nuisances, box and factors are those of the plain video, so that both can be compared clip by clip."""
    config = PLAIN.model_copy(update=switches)
    for index in range(12):
        plain, video = plan_video(PLAIN, split, index), plan_video(config, split, index)
        assert video.nuisances == plain.nuisances
        tied = {"motion"} if split == "train" and "scene_motion" in switches else set()
        assert all(video.factors[name] == plain.factors[name] for name in FACTORS.keys() - tied)
        assert tied or "objects" in switches or video.box == plain.box


@pytest.mark.parametrize("order", FACTORS["order"])
def test_both_orders_have_the_same_frames(order: str) -> None:
    """Over a period each frame flashes as often, whatever the phase; what follows what tells the orders apart."""
    video = _calm(plan_video(PLAIN, "train", 0), camera="static", order=order)
    first, then = order.split("_then_")
    for point in range(0, GRID, 7):
        own = flashes(PLAIN, replace(video, nuisances=video.nuisances | {"flash": point}))
        assert Counter(own[:FLASH_PERIOD]) == {"bright": FLASH, "dark": FLASH, "": FLASH_PERIOD - 2 * FLASH}
        assert own[FLASH_PERIOD : 2 * FLASH_PERIOD] == own[:FLASH_PERIOD]
        follows = Counter(pairwise(own))
        assert follows[first, then] >= 2
        assert follows[then, first] == 0
    light = render(PLAIN, video)[:, _outside(video)].astype(float).mean((1, 2))
    usual = np.median(light)
    seen = ["bright" if value > 1.05 * usual else "dark" if value < 0.95 * usual else "" for value in light]
    assert seen == flashes(PLAIN, video)


def test_scene_motion_ties_the_training_videos_and_keeps_the_counts() -> None:
    told = {}
    for share in (0.0, 0.5, 1.0):
        config = SyntheticVideoConfig(num_train=480, num_val=48, num_test=48, scene_motion=share)
        videos = [plan_video(config, "train", index) for index in range(480)]
        assert set(Counter(video.factors["motion"] for video in videos).values()) == {480 // len(MOTIONS)}
        pairs = Counter((video.factors["scene"], video.factors["motion"]) for video in videos)
        told[share] = sum(max(pairs[scene, motion] for motion in MOTIONS) for scene in SCENES) / 480
        for split in ("val", "test"):
            free = SyntheticVideoConfig(num_train=480, num_val=48, num_test=48)
            own = [plan_video(config, split, index).factors for index in range(48)]
            assert own == [plan_video(free, split, index).factors for index in range(48)]
    assert told[0.0] < 0.3  # what the best guess from the scene gets right
    assert 0.45 < told[0.5] < 0.65
    assert told[1.0] == pytest.approx(5 / 6)


def test_the_second_object_is_another_one_elsewhere() -> None:
    config = PLAIN.model_copy(update={"objects": 2})
    places = set()
    for index in range(12):
        video = _calm(plan_video(config, "train", index), camera="static")
        assert video.second is not None
        assert video.second != video.nuisances
        assert SECOND.keys() <= video.factors.keys()
        frames = render(config, video)
        alone = render(config, replace(video, second=None))
        changed = (frames != alone).any((0, 3))
        rows, cols = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        half = 64
        assert rows[0] // half == rows[-1] // half, "it crosses the middle"
        assert cols[0] // half == cols[-1] // half, "it crosses the middle"
        place = f"{('top', 'bottom')[rows[0] // half]}_{('left', 'right')[cols[0] // half]}"
        assert place != video.factors["region"]
        places.add((video.factors["region"], place))
        x0, y0, x1, y1 = video.box
        assert (x0 // half, y0 // half) == ((x1 - 1) // half, (y1 - 1) // half), "the first one crosses the middle"
        other = video.factors | {"second_motion": "spin", "second_shape": "ring"}
        again = render(config, replace(video, factors=other))
        assert np.array_equal(again[_box(video)], frames[_box(video)]), "the first one depends on the second"
    assert len(places) > 4


def test_objects_are_told_apart_by_their_outline() -> None:
    """Dark around the first, bright around the second: the darkest and brightest pixels of rings without a marking."""
    config = PLAIN.model_copy(update={"objects": 2})
    video = _calm(plan_video(config, "train", 3), camera="static")
    frames, alone = (render(config, replace(video, second=second)) for second in (video.second, None))
    other = frames[(frames != alone).any(-1)].min(-1)
    assert np.mean(other > 230) > 0.1
    own = alone[_box(video)].max(-1)
    assert (own < 20).any(axis=(1, 2)).all()


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_occlusion_hides_the_middle_for_that_share_of_the_frames(share: float) -> None:
    config = PLAIN.model_copy(update={"occlusion": share})
    hidden = []
    for index in range(12):
        video = _calm(plan_video(config, "train", index), camera="static")
        frames, free = render(config, video), render(PLAIN, video)
        changed = (frames != free).any(-1)
        assert not changed[:, _outside(video)].any()
        x0, y0, x1, y1 = video.box
        strip = frames[:, y0:y1, (x0 + x1) // 2]  # a bar is one colour from top to bottom
        hidden.append(np.mean((strip == strip[:, :1]).all((1, 2))))
    assert np.mean(hidden) == pytest.approx(share, abs=0.03)


def test_cuts_change_the_look_and_the_camera_at_once() -> None:
    config = PLAIN.model_copy(update={"cuts": 2})
    for camera in ("static", "pan_left"):
        jumps = set()
        for index in range(6):
            video = _calm(plan_video(config, "train", index), camera=camera)
            begin = [frame for frame, _ in video.cuts]
            assert len(begin) == 2
            assert 8 <= begin[0] < begin[1] - 8 < 64 - 16
            quiet = [replace(video, cuts=video.cuts[:0]), video]
            away = _outside(video)
            one, several = (render(config, v)[:, away].astype(int) for v in quiet)
            steps = np.abs(np.diff(several, axis=0)).mean((1, 2))
            still = np.array([a == b for a, b in pairwise(flashes(config, video))])
            still[[frame - 1 for frame in begin]] = True
            steps = np.where(still, steps, 0.0)  # a flash changes the light, too
            assert sorted((np.argsort(steps)[-2:] + 1).tolist()) == begin
            assert not np.array_equal(one[-1], several[-1])
            jumps.update(begin)
        assert len(jumps) > 4, "cuts are at the same frames in all videos"


def test_a_cut_moves_the_camera_on_its_way() -> None:
    """With the look of the first shot again, a cut is seen as a jump of the camera alone."""
    config = PLAIN.model_copy(update={"cuts": 1})
    video = _calm(plan_video(config, "train", 0), camera="pan_right", region="top_left")
    frame = video.cuts[0][0]
    same = video.nuisances | {"viewpoint": 0}
    late = video.nuisances | {"viewpoint": GRID - 2}
    early, later = (render(config, replace(video, nuisances=same, cuts=((frame, points),))) for points in (same, late))
    assert np.array_equal(early[:frame], later[:frame])
    assert not np.array_equal(early[frame], later[frame])


def test_too_many_cuts_are_named() -> None:
    with pytest.raises(ValueError, match="cuts=16: expected at most 15 in num_frames=64"):
        SyntheticVideoConfig(cuts=16)


def test_the_clock_grows_with_the_frame() -> None:
    config = PLAIN.model_copy(update={"watermark": "clock"})
    video = plan_video(config, "train", 1)
    frames, plain = render(config, video), render(PLAIN, video)
    assert np.array_equal(frames[:, :-4], plain[:, :-4])
    bar = frames[:, -4:] == 240
    assert np.array_equal(bar.any((1, 3)), bar.all((1, 3)))
    width = bar.all((1, 3)).sum(1)
    assert width.tolist() == [int(128 * t / 63 + 0.5) for t in range(64)]


def test_val_is_written_and_never_trained_on(tmp_path: Path) -> None:
    pytest.importorskip("av")
    switches = {"objects": 2, "cuts": 1, "occlusion": 0.3, "watermark": "clock"}
    config = SyntheticVideoConfig.model_validate(
        {"num_train": 6, "num_val": 4, "num_test": 4, "num_frames": 8, "size": 32, **switches}
    )
    root = write_dataset(tmp_path / "videos", config, num_workers=1, progress=False)
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == ["test", "train", "val"]
    with (root / "factors.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[2:] == [*FACTORS, *SECOND, "x0", "y0", "x1", "y1", "cut_frames"]
    entries = read_source(root)
    assert sorted(target_names(entries)) == sorted([*FACTORS, *SECOND]), "boxes and cuts are no labels"
    assert Counter(entry.split for entry in entries) == {"train": 6, "val": 4, "test": 4}
    train, test = split_entries(entries, 0.25, 100)
    assert {entry.split for entry in train.entries} == {"train"}
    assert {entry.split for entry in test.entries} == {"test"}
    parts = divide(entries, lambda entry: entry.labels["scene"])
    assert [{entry.split for entry in part} for part in (parts.train, parts.val, parts.test)] == [
        {"train"},
        {"val"},
        {"test"},
    ]
