"""Test views of videos that a network is fed in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from st_ssl.core.config import Config
from st_ssl.core.types import Entry, Features
from st_ssl.data.base import CutsViews, DataSource
from st_ssl.data.video.views import multi_views
from st_ssl.encoders.base import ENCODERS, Encoder, random_encoder
from st_ssl.transfer.fitting.evaluate import evaluate
from st_ssl.transfer.fitting.finetune_config import FitConfig
from st_ssl.transfer.fitting.finetune_model import Tuned
from st_ssl.transfer.fitting.label_fractions import Parts
from st_ssl.transfer.fitting.task_loader import Feed
from st_ssl.transfer.tasks.ballot import Shown
from st_ssl.transfer.tasks.base import Meter, Task
from st_ssl.transfer.tasks.label_survey import Look as LookAt
from tests.transfer.tiny import INPUT, VIT, source_of, write_dataset

CPU = torch.device("cpu")


class Kept:
    """The scores that it was given."""

    def __init__(self) -> None:
        self.scores: list[np.ndarray] = []

    def add(self, scores: np.ndarray, truth: np.ndarray, sample: np.ndarray, entries: list[Entry]) -> None:
        self.scores.append(scores)

    def result(self) -> dict[str, float]:
        return {"top1": 0.0}


class Linear(nn.Module):
    """Notes the size of each batch."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(dim, 3)
        self.batches: list[int] = []

    def forward(self, features: Features, shown: Shown) -> Tensor:
        assert len(features.pooled) == len(shown.entries)
        self.batches.append(len(shown))
        return 3 * self.layer(features.pooled)


class Look(Task):
    """Classes of videos that are tested with 3 clips × 3 crops."""

    modality: ClassVar[Any] = "video"
    metric = "top1"
    votes = 9

    def __init__(self, together: bool) -> None:
        super().__init__(Config())
        self.views_together = together  # type: ignore[misc]
        self.meters: list[Kept] = []

    def learn_classes(self, parts: Parts, look: LookAt) -> list[str]:
        return ["a", "b", "c"]

    def head(self, encoder: Encoder) -> nn.Module:
        return Linear(encoder.embed_dim)

    def targets(self, shown: Shown) -> Tensor:
        return torch.zeros(len(shown), dtype=torch.int64)

    def rows(self, shown: Shown) -> tuple[Tensor, Tensor]:
        return torch.arange(len(shown)), torch.zeros(len(shown), dtype=torch.int64)

    def meter(self) -> Meter:
        self.meters.append(Kept())
        return self.meters[-1]

    def testing_views(self, source: DataSource, input: Any, votes: int) -> CutsViews:
        return multi_views(input, votes // 3, 3)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    pytest.importorskip("av")
    return source_of(write_dataset(tmp_path_factory.mktemp("tiny") / "set"))


def judged(source: DataSource, entries: Sequence[Entry], together: bool, batch_size: int) -> tuple[Any, list[Any]]:
    task = Look(together)
    encoder = random_encoder(ENCODERS.config("video_vit").model_validate(VIT), INPUT, 0)
    torch.manual_seed(0)
    head = Linear(encoder.embed_dim)
    model = Tuned(encoder, head, frozen=False)
    evaluate(model, task, Feed(source, task, INPUT, CPU), entries, FitConfig(batch_size=batch_size), 9)
    return head.batches, [np.concatenate(meter.scores) for meter in task.meters]


@pytest.mark.parametrize("batch_size", [18, 4])
def test_views_together_say_what_they_say_apart(source: DataSource, batch_size: int) -> None:
    entries = [*source.entries()[:4], Entry("nowhere.mp4"), source.entries()[4]]
    _, expected = judged(source, entries, False, batch_size)
    _, found = judged(source, entries[:4] + entries[5:], True, batch_size)
    _, with_broken = judged(source, entries, True, batch_size)
    assert expected[0].std(0).max() > 1e-3  # or else nothing is told
    assert np.abs(expected[0] - expected[1]).max() > 1e-3  # of all views, and of the first one
    for ours, broken, theirs in zip(found, with_broken, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
        np.testing.assert_allclose(broken, theirs, atol=1e-5)


def test_full_batches(source: DataSource) -> None:
    entries = list(source.entries())[:5]
    assert judged(source, entries, True, 18)[0] == [18, 18, 9]
    assert judged(source, entries, True, 32)[0] == [27, 18]
    assert judged(source, entries, True, 4)[0] == [4, 4, 1] * 5
    assert judged(source, entries, False, 18)[0] == [5] * 9
