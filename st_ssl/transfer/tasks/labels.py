"""What samples are labelled with, one class each or any number of tags, and the tasks that are about that."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from st_ssl.core.class_order import in_order
from st_ssl.core.errors import ConfigError, nearest
from st_ssl.core.types import Entry
from st_ssl.core.verdict import Figure, mean_figure
from st_ssl.transfer.features.values import are_values
from st_ssl.transfer.fitting.label_fractions import Parts, divide, labelled
from st_ssl.transfer.tasks.ballot import Shown
from st_ssl.transfer.tasks.base import Task
from st_ssl.transfer.tasks.label_survey import Look
from st_ssl.transfer.tasks.metrics import IGNORE


class Labels:
    """The labels of a task: first whose there are (``select``), then which (``learn``), then what each sample has: its
    label ``target`` (the only one that there is where it is None), or where ``several`` its tags, of any number."""

    def __init__(self, target: str | None = None, several: bool = False) -> None:
        self.several, self.target, self._asked = several, target or "", target
        self.classes: list[str] = []
        self._frequency: Counter[str] = Counter()

    @property
    def key(self) -> str:
        """How messages call them."""
        return "task.multi_label" if self.several else f"task.target={self.target}"

    def select(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those that are labelled; raises ``ConfigError`` where there are none."""
        if not self.several:
            self.target, known = labelled(entries, self._asked)
            return known
        known = [entry for entry in entries if entry.tags]
        if not known:
            raise ConfigError(
                "task.multi_label: no sample of the data has tags: expected a table with a column tags (data.list=FILE "
                "names it), or a list with data.format=multilabel (`st-ssl configs README.md` has the formats)"
            )
        self._frequency = Counter(tag for entry in known for tag in entry.tags)
        return known

    def of(self, entry: Entry) -> Sequence[str]:
        """The labels of one sample, of whatever part."""
        if self.several:
            return entry.tags
        return [entry.labels[self.target]] if self.target in entry.labels else []

    def group(self, entry: Entry) -> str:
        """What a labelled sample counts under where subsets are balanced: its label, or its rarest tag, so that a
        fraction has samples of every tag that is the rarest of one (Sechidis et al. 2011 deal out the rarest labels
        first)."""
        return min(self.of(entry), key=lambda name: (self._frequency[name], name))

    def targets(self, entries: Sequence[Entry]) -> Tensor:
        """What ``Task.targets`` gives, on the CPU: classes int64 [B], or of tags float [B, K], 1 for each that a sample
        has. -1 for a sample without a label, and for a class that no training sample has, since it cannot be learned;
        -1 throughout for one without any tag."""
        numbers = {name: number for number, name in enumerate(self.classes)}
        if not self.several:
            return torch.tensor([numbers.get(entry.labels.get(self.target, ""), IGNORE) for entry in entries])
        found = torch.zeros(len(entries), len(self.classes))
        for row, entry in enumerate(entries):
            if not entry.tags:
                found[row] = IGNORE
            found[row, [numbers[tag] for tag in entry.tags if tag in numbers]] = 1
        return found

    def learn(self, train: Sequence[Entry]) -> list[str]:
        """Take the labels of the training part, in order (numbers by their value), as the classes; ``ConfigError``
        where there are less than two."""
        self.classes = in_order(name for entry in train for name in self.of(entry))
        if len(self.classes) < 2:
            raise ConfigError(f"{self.key}: a single class in the training part: {self.classes}")
        if not self.several and are_values(self.classes):
            warnings.warn(
                f"{self.key}: the labels are numbers with fractions, and each of the {len(self.classes)} is a class "
                "here: fine-tuning knows classes alone, while probes predict such labels as values",
                stacklevel=3,
            )
        return self.classes

    def tell_unknown(self, entries: Sequence[Entry], most: int = 5) -> None:
        """Warn of the labels of ``entries`` that are no class, as no training sample has them: they count for nothing
        in any figure."""
        known = set(self.classes)
        unknown = in_order({name for entry in entries for name in self.of(entry)} - known)
        if not unknown:
            return
        samples = sum(not known.issuperset(self.of(entry)) for entry in entries)
        names = ", ".join(f"{name!r}{nearest(name, self.classes)}" for name in unknown[:most])
        more = f" and {len(unknown) - most} more" if len(unknown) > most else ""
        warnings.warn(
            f"{self.key}: {len(unknown)} classes of {samples} validation and test samples are of no training sample, "
            f"and not counted: {names}{more}",
            stacklevel=3,
        )

    def counts(self, entries: Sequence[Entry]) -> np.ndarray:
        """How many of ``entries`` have each class, int64 [K]."""
        found = Counter(name for entry in entries for name in self.of(entry))
        return np.array([found[name] for name in self.classes], dtype=np.int64)


class LabelTask(Task):
    """A task whose rows are whole samples, of which it has ``labels``. Samples without are left out."""

    labels: Labels

    def group(self, entry: Entry) -> str:
        return self.labels.group(entry)

    def parts(self, entries: Sequence[Entry], repeat: int) -> Parts:
        return divide(self.labels.select(entries), self.group)

    def learn_classes(self, parts: Parts, look: Look) -> list[str]:
        classes = self.labels.learn(parts.train)
        self.labels.tell_unknown([*parts.val, *parts.test])
        return classes

    def restore(self, classes: Sequence[str]) -> None:
        self.labels.classes = list(classes)

    def targets(self, shown: Shown) -> Tensor:
        return self.labels.targets(shown.entries).to(shown.device)

    @property
    def figure(self) -> Figure | None:
        """Of one label the share that is right; mAP of several ranks the samples, and is made of no sums."""
        return None if self.labels.several else mean_figure
