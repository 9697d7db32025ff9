"""The search for how many steps a network from scratch needs with few labels.

It trains from scratch alone, on draws of labels that no result uses, and judges by training samples outside of them,
never by a test sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.random import keyed_seed
from st_ssl.transfer.fitting.evaluate import evaluate
from st_ssl.transfer.fitting.finetune_config import FinetuneConfig
from st_ssl.transfer.fitting.finetune_setup import Setup
from st_ssl.transfer.fitting.fit import fit
from st_ssl.transfer.fitting.label_fractions import Parts, at_most, balanced, with_validation, without

START, DOUBLINGS, DRAWS = 50, 8, 3
"""Steps of the first budget, how often it is doubled at most, and draws of labels for each."""
SAMPLES = 500
"""Training samples outside the draw that a network is judged by, at most."""
GAIN = 1.0
"""Points that one of the next two budgets must be better for a budget to be too small."""
LEARNED = 3.0
"""Points above an untrained network, and above chance, from which on it counts as having begun to learn: before that,
budgets do not differ because all of them are too small."""
_HELD = 0.1  # of the samples, at least, is outside the draw


@dataclass(frozen=True)
class Budget:
    """What networks from scratch came to with so many ``steps``: the metric of the task for each draw of labels."""

    steps: int
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the draws that have one; NaN where none has."""
        there = [value for value in self.values if not np.isnan(value)]
        return float(np.mean(there)) if there else float("nan")


@dataclass(frozen=True)
class Search:
    """All budgets that were ``tried``, from the smallest on, and the ``steps`` that were enough: None where none was.
    ``labels`` and ``samples``: how many were trained on and to choose the epoch by, and judged by."""

    metric: str
    share: float
    labels: int
    samples: int
    tried: list[Budget]
    steps: int | None


def find_steps(setup: Setup, start: int = START, told: Callable[[Budget], None] = lambda _: None) -> Search:
    """The smallest budget of ``start`` steps, twice as many, and so on, that neither of the next two is ``GAIN`` points
    better than, by the mean over ``DRAWS`` draws of the smallest fraction of the labels. ``told`` is given each budget
    as it is done.

    Networks are as the encoders of ``setup``, with the settings of the mode scratch. Raises ``ConfigError`` for a task
    that has no fractions, and ``DataError`` where no training sample is left outside a draw.
    """
    config = setup.config
    if not setup.task.has_fractions:
        raise ConfigError(f"--find-steps: {config.task.name} takes as many labels as it says itself")
    parts = setup.parts(0)
    draws = [_draw(setup, parts, number) for number in range(DRAWS)]
    floor = _tried(setup, draws, 0).mean
    floor = max(floor, 100 / len(setup.classes)) + LEARNED
    tried: list[Budget] = []
    found = None
    for doubling in range(DOUBLINGS + 1):
        tried.append(_tried(setup, draws, start * 2**doubling))
        told(tried[-1])
        if (found := enough(tried, floor)) is not None:
            break
    train, held = draws[0]
    labels = len(train.train) + len(train.val)
    return Search(setup.task.metric, _share(config), labels, len(held.test), tried, found)


def enough(tried: Sequence[Budget], floor: float) -> int | None:
    """The steps of the first of ``tried`` that is above ``floor``, and that neither of the next two is ``GAIN`` points
    better than; None where there is none yet."""
    for at, budget in enumerate(tried[:-2]):
        best = max(tried[at + 1].mean, tried[at + 2].mean)
        if budget.mean >= floor and best < budget.mean + GAIN:
            return budget.steps
    return None


def _share(config: FinetuneConfig) -> float:
    """The smallest fraction of the labels, which leaves some samples to judge by."""
    return min(*config.label_fractions, 1 - _HELD)


def _draw(setup: Setup, parts: Parts, number: int) -> tuple[Parts, Parts]:
    """Labels to train with, divided as for any fit, and the samples that are judged by, as a test part."""
    config, group, key = setup.config, setup.task.group, ("find steps", number)
    share = _share(config)
    labels, own = (balanced(part, share, group, *key) for part in (parts.train, parts.val))
    held = at_most(without(parts.train, labels), SAMPLES, group, *key)
    if not held:
        raise DataError(f"--find-steps: of {len(parts.train)} training samples none is left to judge by")
    return with_validation(labels, own, group, config.val_share), Parts([], [], held)


def _tried(setup: Setup, draws: Sequence[tuple[Parts, Parts]], steps: int) -> Budget:
    """The budget of so many steps; of none the network is as it began."""
    task, feed, device = setup.task, setup.feed, setup.feed.device
    config = setup.config.of("scratch").model_copy(update={"steps": steps, "curve": False})
    values = []
    for number, (parts, held) in enumerate(draws):
        seed = keyed_seed(config.seed, "find steps", number)
        task.begin(parts.train)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            model = setup.model("scratch", seed, setup.runs[0]).to(device)
            if steps:
                fit(model, task, feed, parts, config, seed)
            values.append(evaluate(model, task, feed, held.test, config)[task.metric])
    return Budget(steps, tuple(values))
