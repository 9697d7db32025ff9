"""Few-shot classification: n classes, k labelled samples of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from st_ssl.transfer.classify import Classify, ClassifyConfig
from st_ssl.transfer.subsets import Parts, divide, fold, labelled
from st_ssl.transfer.tasks import TASKS
from st_ssl.types import Entry


class FewShotConfig(ClassifyConfig):
    """``ways`` classes with ``shots`` samples each to train on and ``queries`` to test on; so often as ``folds`` says,
    each time with other classes and samples."""

    name: Literal["few_shot"] = "few_shot"  # type: ignore[assignment]
    ways: int = Field(default=5, gt=1)
    shots: int = Field(default=10, gt=0)
    queries: int = Field(default=20, gt=0)
    folds: int = Field(default=10, gt=0)


@TASKS.register(FewShotConfig)
class FewShot(Classify):
    """n-way k-shot (Sharma and Kaul 2020), mean ± std over folds that are drawn from any labelled data set. There is
    no validation part: the last epoch counts, where papers report the best one on the queries."""

    has_fractions: ClassVar[bool] = False

    def __init__(self, config: FewShotConfig) -> None:
        super().__init__(config)
        self.shot = config

    def repeats(self, seeds: int) -> int:
        return self.shot.folds

    def parts(self, entries: Sequence[Entry], val_share: float, repeat: int) -> Parts:
        self.target, known = labelled(entries, self.settings.target)
        whole = divide(known, self.group, 0.0)
        return fold(whole, self.group, self.shot.ways, self.shot.shots, self.shot.queries, repeat)
