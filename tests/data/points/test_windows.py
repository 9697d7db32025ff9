"""Windows of recordings as samples: random ones for pretraining, fixed ones for what comes after, and no leaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.augment.point_masking import PatchMask, PointMaskConfig
from st_ssl.augment.points import PointAugment, PointAugmentConfig
from st_ssl.core.errors import ConfigError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.data.base import Batch, training_part
from st_ssl.data.clip_plans import Still
from st_ssl.data.loading.sample_dataset import collate
from st_ssl.data.points.dataset import PointDataConfig, PointSource
from st_ssl.data.points.views import augmented_views, point_views
from st_ssl.data.views import each
from st_ssl.transfer.features.features import split_entries
from st_ssl.transfer.fitting.label_fractions import apart, balanced, divide, without
from tests.data.order import check_workers_and_order
from tests.data.streams.points.test_sweeps import write_recording
from tests.engine.test_resume import assert_same_run
from tests.runs import tiny, train

WINDOW: dict[str, Any] = {"seconds": 1.0, "stride": 0.5, "speed": 2.0, "within": 8.0}
INPUT = PointInputConfig(num_points=24, attributes=("time", "velocity"))
AUGMENT = PointAugment(PointAugmentConfig(), num_points=24)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve recordings of four seconds for training, six to test on, of two classes."""
    folder = tmp_path_factory.mktemp("recordings")
    for number in range(18):
        split, label = "train" if number < 12 else "test", "walk" if number % 2 else "jump"
        write_recording(folder / split / label / f"{number:02}.npz", seed=number)
    return folder


def source_of(root: Path, **changes: Any) -> PointSource:
    return PointSource(PointDataConfig.model_validate({"root": str(root), "window": WINDOW, **changes}))


def tensors(batch: Batch) -> list[torch.Tensor]:
    found = [batch.indices, batch.wanted, batch.metadata]
    for view in batch.views:
        values = torch.cat([view.points.xyz, *view.points.attributes.values()], 1)
        found += [view.at, *view.mask, *view.params.values(), values.view(len(view), 24, -1)]
    return found


def test_pretraining_sees_a_recording_at_another_moment_every_time(root: Path) -> None:
    source = source_of(root)
    recordings = training_part(source.recordings())
    assert len(recordings) == 12
    views = point_views(INPUT, each(Still(2), AUGMENT, masks=[PatchMask(PointMaskConfig(ratio=0.5), 8)]))
    dataset = source.dataset(recordings, views, seed=3)
    moments = {int(collate([dataset[epoch, 5]]).views[0].at) for epoch in range(30)}
    assert min(moments) >= 0 and max(moments) <= 31 and len(moments) > 12
    first, second = collate([dataset[0, 5]]).views
    assert torch.equal(first.at, second.at)  # two augmentations of one window
    assert not torch.equal(first.points.xyz, second.points.xyz)
    check_workers_and_order(dataset, tensors)


def test_later_samples_are_fixed_windows_and_no_recording_is_in_two_splits(root: Path) -> None:
    source = source_of(root)
    entries = source.entries()
    assert {entry.window for entry in entries} == {True} and len(entries) >= 18 * 7
    train, test = split_entries(entries, 0.25, 10_000)
    assert {entry.path for entry in train.entries} == {entry.path for entry in training_part(source.recordings())}
    assert not {entry.path for entry in train.entries} & {entry.path for entry in test.entries}
    dataset = source.dataset(entries, source.evaluation(INPUT))
    a, b = (collate([dataset[epoch, index] for index in (0, 1, 9)]) for epoch in (0, 4))
    assert torch.equal(a.views[0].points.xyz, b.views[0].points.xyz)
    time, velocity = (a.views[0].points.attributes[name] for name in ("time", "velocity"))
    assert time.shape == velocity.shape == (72, 1) and float(time.abs().max()) <= 1.2
    assert float(velocity.abs().max()) == 1
    rows = source.raw_features(a.views[0])
    assert rows["space and time"].shape == (3, 4 * (64 + 8))
    tuned = source.dataset(entries, augmented_views(INPUT, AUGMENT))
    assert {int(collate([tuned[epoch, 3]]).views[0].at) for epoch in range(8)} == {0}


def test_labels_are_drawn_by_recording(root: Path) -> None:
    entries = [entry for entry in source_of(root).entries() if entry.split == "train"]
    for share in (0.05, 0.2, 0.5):
        few = balanced(entries, share, lambda entry: entry.labels["label"], "fraction", 0)
        assert len(few) == pytest.approx(share * len(entries), abs=1)
        whole = {entry.path for entry in few}
        assert len(whole) == 2 * int(np.ceil(share * 6))  # as few recordings as will do
        assert not {entry.path for entry in without(entries, few)} & whole
        more = balanced(entries, 0.6, lambda entry: entry.labels["label"], "fraction", 0)
        assert {id(entry) for entry in few} <= {id(entry) for entry in more}
    held = apart(entries, 0.3, lambda entry: entry.labels["label"], "val")
    assert len({entry.path for entry in held}) == 4
    assert len(held) + len(without(entries, held)) == len(entries)
    parts = divide(entries, lambda entry: entry.labels["label"])
    assert not {entry.path for entry in parts.train} & {entry.path for entry in parts.test}


def test_windows_of_planted_clouds_are_asked_for_in_vain() -> None:
    with pytest.raises(ConfigError, match=r"data\.window: planted clouds are not recordings; data\.root must name"):
        PointSource(PointDataConfig.model_validate({"window": WINDOW})).entries()


def test_an_encoder_is_told_what_its_attributes_were(root: Path) -> None:
    source = source_of(root)
    prepared = source.prepared
    assert (prepared["time_range"], prepared["velocity_range"]) == ([-0.5, 0.5], [-2.0, 2.0])
    source.follow(prepared)
    with pytest.warns(UserWarning, match=r"trained on velocity_range -2 … 2, and data.window says -3 … 3"):
        source_of(root, window=WINDOW | {"speed": 3.0}).follow(prepared)


def test_a_run_on_windows_resumes_to_the_last_bit(root: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "data": {"window": WINDOW},
        "input": {"num_points": 24, "attributes": ["time"]},
        "encoder": {"time_scale": 0.5},
    }
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(tiny(root, whole, "point_mae", **changes))
    train(tiny(root, parts, "point_mae", **changes), stop_at=5)
    train(tiny(root, parts, "point_mae", **changes | {"data": {"window": WINDOW, "num_workers": 2}}))
    assert_same_run(whole, parts)
