"""What fine-tuning knows of a task, whatever its modality: a head, a loss, how labels are read, and what is measured.

A task is one file in this folder: a configuration with a ``name`` and a class that is registered with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError
from st_ssl.core.inputs import Modality
from st_ssl.core.random import Key
from st_ssl.core.registry import Registry
from st_ssl.core.types import Entry
from st_ssl.core.verdict import Figure
from st_ssl.data.base import CutsViews, DataSource
from st_ssl.encoders.base import Encoder
from st_ssl.transfer.fitting.label_fractions import Parts, balanced, divide
from st_ssl.transfer.tasks.ballot import Ballot, MeanBallot, Shown
from st_ssl.transfer.tasks.label_survey import Look
from st_ssl.transfer.tasks.metrics import IGNORE, right_parts


class Meter(Protocol):
    """Adds up what was right: probabilities ``scores`` float [R, K] of R rows with ``truth`` as ``Task.targets`` has
    it, of which ``sample`` int64 [R] tells the one in ``entries`` each is of."""

    def add(self, scores: np.ndarray, truth: np.ndarray, sample: np.ndarray, entries: list[Entry]) -> None:
        """Take a batch."""

    def result(self) -> dict[str, float]:
        """The figures of all that was taken, by name."""


class Task(ABC):
    """A downstream task. Its head gives R rows of scores for a batch: one for each sample, or for each point.

    ``metric`` is the one of its meter by which the best epoch is chosen; ``votes``: how many views of a test sample
    are looked at, their scores averaged; ``has_fractions``: whether it can be trained on a fraction of the labels;
    ``whole``: whether it answers for every point of a cloud's file, whatever views have of it; ``views_together``:
    whether the test views of a sample, each with one row of scores for it, may be fed to a network in one batch.
    """

    modality: ClassVar[Modality]
    metric: str
    has_fractions: ClassVar[bool] = True
    whole: ClassVar[bool] = False
    views_together: ClassVar[bool] = False
    votes: int = 1

    def __init__(self, config: Config) -> None:
        self.config = config

    def of_data(self, source: DataSource) -> None:  # noqa: B027
        """Told first of all which data it is for."""

    def repeats(self, seeds: int) -> int:
        """How often it is done, if ``seeds`` are asked for."""
        return seeds

    def group(self, entry: Entry) -> str:
        """What ``entry`` counts under where subsets are balanced: its class, if it has one."""
        return ""

    def parts(self, entries: Sequence[Entry], repeat: int) -> Parts:
        """The training, validation and test samples of the repetition ``repeat``."""
        return divide(entries, self.group)

    def fraction(self, train: Sequence[Entry], share: float, repeat: int) -> list[Entry]:
        """The share of the training part whose labels are used, of every class alike."""
        return list(train) if share == 1 else balanced(train, share, self.group, "fraction", repeat)

    def begin(self, train: Sequence[Entry]) -> None:  # noqa: B027
        """Told before each fit which samples it trains on: a fraction of the training part."""

    def drawn(self, train: Sequence[Entry]) -> list[Entry]:
        """What a pass of training goes over: the samples ``train``, perhaps some of them more often than others."""
        return list(train)

    @abstractmethod
    def learn_classes(self, parts: Parts, look: Look) -> list[str]:
        """Find out the classes, from what is known of the samples or from a ``look`` at the labels of their points,
        before ``head`` and the rest are asked for. Their names. Raises ``UserError`` where a label of any part is none
        of them."""

    def usable(self, parts: Parts) -> Parts:
        """The ``parts`` of ``learn_classes`` without the samples that were seen to have no labels, or to be broken."""
        return parts

    def counted(self) -> dict[str, str]:
        """What ``learn_classes`` has counted, for people to read."""
        return {}

    def saved(self) -> Config:
        """The configuration that a head is kept with: what ``restore`` needs is in it."""
        return self.config

    def refused(self, entry: Entry) -> str | None:
        """Why nothing can be said of ``entry`` by what is known of it beside its content, if so."""
        return None

    def restore(self, classes: Sequence[str]) -> None:
        """Take the ``classes`` that ``learn_classes`` found at another time, for a head with its weights to be used on
        samples without labels."""
        raise ConfigError(
            f"{self.config.model_dump().get('name')}: the head of this task cannot be used on its own: it has to be "
            "told more of a sample than its content"
        )

    @abstractmethod
    def head(self, encoder: Encoder) -> nn.Module:
        """What is put on ``encoder``: a module that is called with its features and the ``Shown`` that they are of, and
        returns scores [R, K]."""

    @abstractmethod
    def targets(self, shown: Shown) -> Tensor:
        """Classes int64 [R], -1 for none; or, where a row may be of several, float [R, K] of 0 and 1, -1 throughout for
        one that is not labelled."""

    def training_targets(self, shown: Shown, seed: int) -> Tensor:
        """What of ``targets`` may be used in training."""
        return self.targets(shown)

    def mixed(self, shown: Shown, targets: Tensor, key: tuple[Key, ...]) -> tuple[Shown, Tensor]:
        """A training batch whose samples are blended with each other by the draws of ``key``, with targets that say how
        much each is of each class, float [R, K]; as it is where nothing is."""
        return shown, targets

    @property
    def mixes(self) -> bool:
        """Whether ``mixed`` is asked to blend samples: where the configuration has a ``mix``."""
        return getattr(self.config, "mix", None) is not None

    def rows(self, shown: Shown) -> tuple[Tensor, Tensor]:
        """What each row is of, int64 [R] each: the sample in the batch, and the place in it that is the same in all
        views: 0, or with ``whole`` the index of the point in its file. By default a sample has one row."""
        rows = torch.arange(len(shown), device=shown.device)
        return rows, torch.zeros_like(rows)

    def predicted(self, scores: np.ndarray, sample: np.ndarray, entries: list[Entry]) -> np.ndarray:
        """The class int64 [R] that is chosen by ``scores`` [R, K], rows of ``entries`` as a ``Meter`` has them."""
        return scores.argmax(1)

    def pieces(self, shown: Shown) -> Iterable[tuple[int, Shown]]:
        """A test view in parts that the network is fed one after the other, each with the number that its first sample
        has in the batch."""
        return [(0, shown)]

    def ballot(self, asked: Shown) -> Ballot:
        """What takes the scores of all views of ``asked``: see ``Ballot``."""
        return MeanBallot(self, asked)

    @abstractmethod
    def meter(self) -> Meter:
        """A new meter."""

    @property
    def figure(self) -> Figure | None:
        """What makes ``metric`` of sums over test samples, for a verdict on who is ahead. None where it is none of
        sums, and there is no verdict."""
        return None

    def outcomes(self, scores: np.ndarray, truth: np.ndarray, sample: np.ndarray, entries: list[Entry]) -> np.ndarray:
        """What each of ``entries`` adds to the sums that ``figure`` is of, [B, k], from what a ``Meter`` is given: how
        many of its rows are right, and how many there are. Zeros for one without labels."""
        counts = np.zeros((len(entries), 2), dtype=np.int64)
        np.add.at(counts, sample, right_parts(truth, self.predicted(scores, sample, entries)))
        return counts

    def judged(self, truth: np.ndarray, sample: np.ndarray, entries: list[Entry]) -> int:
        """How many of ``entries`` there is a truth for."""
        known = truth != IGNORE if truth.ndim == 1 else (truth != IGNORE).all(1)
        return len(np.unique(sample[known]))

    def probabilities(self, scores: Tensor) -> Tensor:
        """What is averaged over the views of a sample, and what a meter is given: [R, K] in 0 … 1."""
        return scores.softmax(1)

    def loss(self, scores: Tensor, targets: Tensor) -> Tensor:
        """What is minimised; only called where some target is not -1."""
        return cross_entropy(scores, targets, ignore_index=IGNORE)

    def weight(self, targets: Tensor) -> float:
        """What the mean that ``loss`` takes over ``targets`` divides by: how many rows are labelled. By that the means
        over the parts of a batch, and over those of several processes, make up the mean over all of it."""
        labelled = targets != IGNORE
        return float((labelled if targets.ndim == 1 else labelled.any(1)).sum())

    def training_views(self, source: DataSource, input: Any) -> CutsViews:
        """What ``source`` cuts of a training sample: one view, another one in every epoch, or several (repeated
        augmentation, Hoffer et al. 2020), which are so many samples of the batch."""
        return source.evaluation(input, jitter=1.0)

    def testing_views(self, source: DataSource, input: Any, votes: int) -> CutsViews:
        """What ``source`` cuts of a test sample: ``votes`` views, and with ``whole`` the whole sample behind them."""
        assert not self.whole, "whole samples are for the tasks of a modality that has them"
        return source.evaluation(input, votes)

    def augmented(self, shown: Shown, keys: Sequence[tuple[Key, ...]]) -> Shown:
        """Varied for training, each of the samples by the draws of its key, unless ``training_views`` have done so."""
        return shown

    def varied(self, shown: Shown, vote: int) -> Shown:
        """Varied for the vote number ``vote`` (from 1: the first one is left as it is)."""
        return shown


TASKS: Registry[Task] = Registry("transfer task", "st_ssl.transfer")
