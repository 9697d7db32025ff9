"""How well a network does at a task, on one process or on many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from st_ssl.core.types import Entry, PointBatch
from st_ssl.training import distributed
from st_ssl.transfer.fitting.finetune_config import FitConfig, autocast
from st_ssl.transfer.fitting.finetune_model import Tuned
from st_ssl.transfer.fitting.outcomes import Judged
from st_ssl.transfer.fitting.predictions import Keep
from st_ssl.transfer.fitting.task_loader import Feed, Interrupted
from st_ssl.transfer.tasks.ballot import Shown
from st_ssl.transfer.tasks.base import Task


@dataclass
class Answer:
    """What a batch was ``asked``, and what a ``Meter`` is given of it: by all votes, and (None: the same) by the
    first."""

    asked: Shown
    means: np.ndarray
    alone: np.ndarray | None
    truth: np.ndarray
    sample: np.ndarray


@torch.no_grad()
def evaluate(
    model: Tuned,
    task: Task,
    feed: Feed,
    entries: Sequence[Entry],
    config: FitConfig,
    votes: int = 1,
    keep: Keep | None = None,
    judged: Judged | None = None,
) -> dict[str, float]:
    """The figures of ``task`` on ``entries``, by the mean of the probabilities that ``votes`` views give a sample, or a
    point of it; with more than one also what its ``metric`` is by the first view alone, as ``<metric>_one_view``.
    ``keep`` is given what the figures are of, and ``judged`` what each sample adds to ``metric``.

    Of several processes each looks at its share, the main one adds up (and alone has a ``keep``, and fills ``judged``),
    and all return the same. Raises ``Interrupted`` where one of them is asked to end.
    """
    together, alone = task.meter(), task.meter()
    found = answers(model, task, feed, entries, config, votes)
    for answer in _of_all(found, feed, entries, keep):
        asked, truth, sample = answer.asked, answer.truth, answer.sample
        together.add(answer.means, truth, sample, asked.entries)
        if answer.alone is not None:
            alone.add(answer.alone, truth, sample, asked.entries)
        if judged is not None:
            judged.add(task, answer.means, truth, sample, asked.entries)
        if keep is not None:
            keep(asked, answer.means, truth, sample)
    figures: dict[str, float] = {}
    if distributed.rank() == 0:
        figures = together.result()
        if votes > 1:
            figures[f"{task.metric}_one_view"] = alone.result()[task.metric]
    return distributed.gather_objects(figures)[0]


@torch.no_grad()
def answers(
    model: Tuned,
    task: Task,
    feed: Feed,
    entries: Sequence[Entry],
    config: FitConfig,
    votes: int,
    batch_size: int | None = None,
    compare: bool = True,
) -> Iterator[Answer]:
    """What ``model`` says of ``entries``, by the mean over ``votes`` views: of this process's share of the batches of
    ``batch_size`` (None: that of ``config``), one after the other. Those that are broken are left out, and in
    ``feed.bad``. ``compare``: what the first view says alone is wanted, too."""
    model.eval()
    batch_size = batch_size or config.batch_size

    def score(shown: Shown) -> Tensor:
        with autocast(config, feed.device):
            return model(shown)

    rank, world_size = distributed.rank(), distributed.world_size()
    for views, asked in feed.testing(entries, batch_size, votes, rank, world_size):
        ballot = task.ballot(asked)
        truth, sample = ballot.truth.cpu().numpy(), ballot.sample.cpu().numpy()
        alone = None
        for vote, scored in enumerate(_scored(score, task, views, batch_size), 1):
            for first, piece, scores in scored:
                ballot.add(piece, scores, first)
            if compare and vote == 1 < votes:
                alone = ballot.means().cpu().numpy()
        yield Answer(asked, ballot.means().cpu().numpy(), alone, truth, sample)


def _scored(
    score: Callable[[Shown], Tensor], task: Task, views: Sequence[Shown], batch_size: int
) -> Iterator[Iterable[tuple[int, Shown, Tensor]]]:
    """The scores of each of ``views`` of a batch: its pieces, with the number of the first sample of each. Views that
    may be fed together are, as many as make ``batch_size`` samples."""
    if not task.views_together:
        for shown in views:
            yield ((first, piece, score(piece)) for first, piece in task.pieces(shown))
        return
    size = len(views[0])
    count = max(1, batch_size // size)
    for group in (views[start : start + count] for start in range(0, len(views), count)):
        entries = [entry for shown in group for entry in shown.entries]
        both = Shown(group[0].view.joined([shown.view for shown in group[1:]]), entries)
        for shown, scores in zip(group, score(both).split(size), strict=True):
            yield [(0, shown, scores)]


def _of_all(answers: Iterator[Answer], feed: Feed, entries: Sequence[Entry], keep: Keep | None) -> Iterator[Answer]:
    """On the main process the answers of all; on the others none."""
    shared = distributed.world_size() > 1
    shows = shared and distributed.gather_objects(keep is not None)[0]
    numbers = {id(entry): number for number, entry in enumerate(entries)} if shared else {}
    while True:
        answer = next(answers, None)
        there, stop = distributed.max_over_ranks([float(answer is not None), float(feed.stopped())], feed.device)
        if stop:
            raise Interrupted("stopped in an evaluation")
        if not there:
            return
        if not shared:
            assert answer is not None
            yield answer
            continue
        # Entries are told by number: their identity is lost on the way.
        own = None if answer is None else (answer, [numbers[id(entry)] for entry in answer.asked.entries])
        if answer is not None:
            view = answer.asked.view
            clouds = shows and isinstance(view.content, PointBatch)  # what is kept beside an answer; of clips no pixels
            answer.asked = Shown(view.map(lambda t: t.cpu()) if clouds else None, [])
        for sent in distributed.gather_to_main(own):
            if sent is not None:
                sent[0].asked.entries = [entries[number] for number in sent[1]]
                yield sent[0]
