"""Several views of a test cloud make one answer: for the object, or for every point of its file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score
from torch import Tensor

from st_ssl.core.errors import ConfigError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.types import Entry, PointCloud
from st_ssl.data.loading.sample_dataset import SampleDataset
from st_ssl.data.points.dataset import cloud_dataset
from st_ssl.encoders.base import random_encoder
from st_ssl.transfer.fitting.evaluate import evaluate
from st_ssl.transfer.fitting.finetune_model import Tuned
from st_ssl.transfer.fitting.label_fractions import Parts
from st_ssl.transfer.fitting.task_loader import Feed
from st_ssl.transfer.tasks.ballot import Shown
from st_ssl.transfer.tasks.base import TASKS, Task
from tests.transfer.clouds import INPUT, TinyEncoderConfig, TinySource, cloud, tiny_registered
from tests.transfer.fitting.test_finetune import CPU, prepared, settings, shown_to

__all__ = ["tiny_registered"]


class Meter:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.added: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, scores: np.ndarray, truth: np.ndarray, sample: np.ndarray, entries: list[Entry]) -> None:
        self.added.append((scores, truth, sample))

    def result(self) -> dict[str, float]:
        return {"mIoU": float(len(self.added))}


class ByView(torch.nn.Module):
    """Tells its view by the logit of class 1: 0, 1, 2 …"""

    calls = 0

    def forward(self, shown: Shown) -> Tensor:
        logits = torch.zeros(len(shown.view.points.xyz), 2)
        logits[:, 1] = self.calls
        self.calls += 1
        return logits


def judged(task: Task, feed: Feed, model: Any, entries: Sequence[Entry], votes: int) -> list[Meter]:
    """The meters of all views together and of the first one alone."""
    meters: list[Meter] = []
    task.meter = lambda: meters.append(Meter()) or meters[-1]  # type: ignore[func-returns-value, method-assign]
    evaluate(model, task, feed, entries, settings({"name": "segment"}, batch_size=len(entries)), votes)
    return meters


def test_votes_are_averaged_point_by_point_and_spread_to_points_that_no_view_has() -> None:
    """Views choose their points anew: a point is judged by the mean over the views that it is in, or else by that of
    the nearest point that is in one."""
    task, parts = prepared("segment")
    entries = parts.test[:2]
    feed = Feed(TinySource(), task, INPUT.model_copy(update={"num_points": 24}), CPU)
    views, asked = next(iter(feed.testing(entries, 2, 3)))
    places = [task.rows(shown)[1].tolist() for shown in views]
    assert places[0] != places[1]
    clouds = [cloud(entry.path) for entry in entries]
    assert asked.view.points.offsets.tolist() == [0, 60, 120]  # all points of the files, where they are in them
    np.testing.assert_array_equal(asked.view.points.xyz, np.concatenate([one.xyz for one in clouds]))

    together, alone = judged(task, feed, ByView(), entries, 3)
    for meter, number in ((together, 3), (alone, 1)):
        (scores, truth, sample) = meter.added[0]
        given: dict[tuple[int, int], list[float]] = {}
        for view, shown in enumerate(views[:number]):
            for pair in zip(*(column.tolist() for column in task.rows(shown)), strict=True):
                given.setdefault(pair, []).append(1 / (1 + np.exp(-view)))
        assert 30 < len(given) < 120
        expected = np.zeros((2, 60))
        for b, one in enumerate(clouds):
            seen = sorted(place for which, place in given if which == b)
            for place in range(60):
                near = seen[int(((one.xyz[seen] - one.xyz[place]) ** 2).sum(1).argmin())]
                expected[b, place] = np.mean(given[b, near])
        np.testing.assert_allclose(scores[:, 1], expected.ravel(), rtol=1e-6)
        assert sample.tolist() == [0] * 60 + [1] * 60
        assert truth.tolist() == np.concatenate([one.labels["segment"] for one in clouds]).tolist()


class Line(TinySource):
    """One scene of seven points on a line."""

    XYZ = np.array([[x, 0.0, 0.0] for x in (0.0, 0.1, 0.2, 0.3, 2.0, 2.1, 2.2)], dtype=np.float32)
    SEGMENT = np.array([0, 0, 1, 255, 1, 1, -1])

    def dataset(self, entries: Sequence[Entry], views: Any, seed: Any = 0) -> SampleDataset:
        return cloud_dataset(entries, views, seed, lambda path: PointCloud(self.XYZ, {}, {"segment": self.SEGMENT}))


class Far(torch.nn.Module):
    """Class 1 for what lies in the right half."""

    def forward(self, shown: Shown) -> Tensor:
        right = shown.view.points.xyz[:, 0] > 0
        return torch.stack([~right, right], 1).float() * 5


def test_what_voxels_leave_out_is_counted_by_hand() -> None:
    """Voxels of 1 m leave two of seven points. By the file two of five labelled points on the left are of class 0 and
    one of class 1, both on the right are of class 1: were the two points of the voxels counted, all could be right."""
    task, _ = prepared("segment", num_classes=2)
    source = Line()
    entries = [Entry("line", "test")]
    feed = Feed(source, task, PointInputConfig(num_points=None, unit_sphere=False, voxel_size=1.0), CPU)
    views, _ = next(iter(feed.testing(entries, 1)))
    assert len(views[0].view.points.xyz) == 2
    found = evaluate(Far(), task, feed, entries, settings({"name": "segment"}), 1)  # type: ignore[arg-type]
    assert found["allAcc"] == pytest.approx(100 * 4 / 5)
    assert found["IoU_0"] == pytest.approx(100 * 2 / 3) and found["IoU_1"] == pytest.approx(100 * 2 / 3)
    assert found["mIoU"] == pytest.approx(100 * 2 / 3)
    assert found["mAcc"] == pytest.approx((100 + 100 * 2 / 3) / 2)


def test_classes_that_no_view_has_are_known_all_the_same() -> None:
    """The largest label of a training scene may be on points that a view leaves out."""
    task, _ = prepared("segment")
    feed = Feed(Line(), task, PointInputConfig(num_points=1, unit_sphere=False), CPU)
    entries = [Entry("line")]
    parts = Parts(entries, [], entries)
    (((views, asked)),) = feed.testing(entries, 1)
    assert len(views[0].view.points.xyz) == 1 and len(asked.view.points.xyz) == 7
    parts = Parts(entries, [], entries)
    for extra, classes in (({}, ["0", "1"]), ({"ignored": ()}, [str(number) for number in range(256)])):
        task = TASKS.build(settings({"name": "segment", **extra}).task)
        assert task.learn_classes(parts, feed.look) == classes
    task = TASKS.build(settings({"name": "segment", "class_names": ["floor", "wall", "lamp"]}).task)
    assert task.learn_classes(parts, feed.look) == ["floor", "wall", "lamp"]
    assert task.targets(asked).tolist() == [0, 0, 1, -1, 1, 1, -1]
    task = TASKS.build(settings({"name": "segment", "class_names": ["floor", "wall"], "num_classes": 3}).task)
    with pytest.raises(ConfigError, match=r"task\.class_names: 2 names for 3 classes"):
        task.learn_classes(parts, feed.look)


def test_objects_are_judged_by_the_mean_of_their_votes() -> None:
    task, parts = prepared("classify", votes=4)
    feed = Feed(TinySource(), task, INPUT, CPU)
    entries = parts.test[:6]
    logits = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1))

    class Given(torch.nn.Module):
        calls = 0

        def forward(self, shown: Shown) -> Tensor:
            self.calls += 1
            return logits[self.calls - 1]

    truth = [task.labels.classes.index(entry.labels["kind"]) for entry in entries]  # type: ignore[attr-defined]
    config = settings({"name": "classify"}, batch_size=6)
    found = evaluate(Given(), task, feed, entries, config, 4)  # type: ignore[arg-type]
    mean = logits.softmax(2).mean(0).argmax(1)
    assert found["accuracy"] == pytest.approx(100 * accuracy_score(truth, mean))
    assert found["accuracy_one_view"] == pytest.approx(100 * accuracy_score(truth, logits[0].argmax(1)))
    assert mean.tolist() != logits[0].argmax(1).tolist()
    assert "accuracy_one_view" not in evaluate(Given(), task, feed, entries, config, 1)  # type: ignore[arg-type]


def test_a_view_can_be_moved_for_voting_and_keeps_its_points() -> None:
    task, _ = prepared("classify")
    shown = shown_to(task)
    moved = task.varied(shown, 1)
    assert moved.entries == shown.entries
    assert torch.equal(moved.view.points.source, shown.view.points.source)
    ratio = moved.view.points.dense() / shown.view.points.dense()
    torch.testing.assert_close(ratio, ratio[:, :1, :1].expand_as(ratio), rtol=1e-3, atol=1e-3)  # a scale for each
    assert not torch.allclose(ratio[0], ratio[1])


def test_boxes_of_a_view_are_all_of_it_and_give_the_same() -> None:
    whole, parts = prepared("segment")
    cut, _ = prepared("segment", chunk_points=10)
    source, entries = TinySource(), parts.test[:3]
    (shown,), _ = next(iter(Feed(source, whole, INPUT, CPU).testing(entries, 3)))
    pieces = list(cut.pieces(shown))
    assert {number for number, _ in pieces} == {0, 1, 2} and len(pieces) == 3 * 8  # 48 points, halved three times
    seen: list[tuple[int, int]] = []
    for number, piece in pieces:
        assert piece.entries == [shown.entries[number]] and len(piece.view.points.xyz) == 6
        own = piece.view.points
        np.testing.assert_array_equal(own.xyz, moved_back(shown, number, own.source))
        seen += [(number, place) for place in own.source.tolist()]
    sample, place = whole.rows(shown)
    assert sorted(seen) == sorted(zip(sample.tolist(), place.tolist(), strict=True))
    encoder = random_encoder(TinyEncoderConfig(), INPUT, 0)
    model = Tuned(encoder, whole.head(encoder), True)
    figures = [
        evaluate(model, task, Feed(source, task, INPUT, CPU), entries, settings({"name": "segment"}), 2)
        for task in (whole, cut)
    ]
    assert figures[0] == pytest.approx(figures[1])


def moved_back(shown: Shown, number: int, places: Tensor) -> np.ndarray:
    """The points of a cloud of ``shown`` at these places of its file."""
    points = shown.view.points.part(number, number + 1)
    return np.asarray(points.xyz)[[points.source.tolist().index(place) for place in places.tolist()]]
