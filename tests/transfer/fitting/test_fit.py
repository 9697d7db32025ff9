"""How a fit is made: averaged weights, when it ends, parts of batches and repeated samples."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.data.points.views import plain_views
from st_ssl.training.optim import OptimConfig
from st_ssl.training.schedule import ScheduleConfig
from st_ssl.transfer.fitting import fit as fitting
from st_ssl.transfer.fitting.finetune import finetune
from st_ssl.transfer.fitting.finetune_config import Mode
from st_ssl.transfer.fitting.fit import fit
from st_ssl.transfer.fitting.label_fractions import Parts
from st_ssl.transfer.fitting.task_loader import Feed
from st_ssl.transfer.tasks.metrics import IGNORE
from tests.transfer.clouds import INPUT, TinyDataConfig, TinySource, settings, tiny_registered
from tests.transfer.fits import CPU, network, prepared, write_run

__all__ = ["tiny_registered"]
CLASSIFY = {"name": "classify"}


def _note(told: list[str], epoch: int, status: str) -> None:
    told.append(status)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def test_the_average_of_the_weights_is_what_is_kept_and_judged(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(CLASSIFY, epochs=3, ema=0.6)
    task, feed, parts = prepared(config)
    model, judged = network(run, task), []
    slow = copy.deepcopy(model.state_dict())
    steps = 0
    follow, evaluate = fitting.follow, fitting.evaluate

    def watched(average: dict[str, Tensor], live: dict[str, Tensor], decay: float) -> None:
        nonlocal steps
        decay = min(0.6, (1 + steps) / (10 + steps))
        for name, tensor in slow.items():  # the definition, one tensor after the other
            new = model.state_dict()[name]
            slow[name] = decay * tensor + (1 - decay) * new if new.is_floating_point() else new.clone()
        steps += 1
        follow(average, live, decay)

    def looked(model: Any, *arguments: Any) -> dict[str, float]:
        judged.append({name: (tensor.clone(), slow[name]) for name, tensor in model.state_dict().items()})
        return {"accuracy": float(len(judged))}

    monkeypatch.setattr(fitting, "follow", watched)
    monkeypatch.setattr(fitting, "evaluate", looked)
    fit(model, task, feed, parts, config, 0)
    assert steps == 9 and len(judged) == 3
    for found in judged:
        for tensor, expected in found.values():
            torch.testing.assert_close(tensor, expected)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, slow[name])
    monkeypatch.setattr(fitting, "evaluate", evaluate)
    fit(model, task, feed, Parts(parts.train), config, 0)  # without a part to choose on it is the last average
    assert steps == 18


def test_the_live_weights_go_on_from_where_they_were(run: Path) -> None:
    """A look at the average leaves training as it is."""
    task, feed, parts = prepared(settings(CLASSIFY))
    lost: list[list[str]] = []
    for ema in (None, 0.9):
        told: list[str] = []
        config = settings(CLASSIFY, epochs=3, ema=ema)
        fit(network(run, task), task, feed, parts, config, 0, partial(_note, told))
        lost.append([status.split(",")[0] for status in told])
    assert lost[0] == lost[1]


@pytest.mark.parametrize(
    ("figures", "patience", "epochs", "best"),
    [
        ([1.0, 2.0, 3.0, 3.0, 2.0, 9.0], 2, 5, 4),  # of equal ones the later is kept, and it is no improvement
        ([1.0, 2.0, 1.0, 3.0, 1.0, 1.0], 2, 6, 4),
        ([float("nan")] * 6, 1, 6, 6),  # nothing labelled: nothing to be impatient about
        ([2.0, 1.0, 1.0, 1.0, 1.0, 1.0], None, 6, 1),
    ],
)
def test_training_ends_where_looks_are_no_better(
    run: Path,
    figures: list[float],
    patience: int | None,
    epochs: int,
    best: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = settings(CLASSIFY, epochs=6, patience=patience)
    task, feed, parts = prepared(config)
    told: list[int] = []
    left = iter(figures)
    monkeypatch.setattr(fitting, "evaluate", lambda *_: {"accuracy": next(left)})
    fitted = fit(network(run, task), task, feed, parts, config, 0, lambda epoch, status: told.append(epoch))
    assert told == list(range(1, epochs + 1)) and fitted.epoch == best


def test_patience_needs_something_to_look_at(run: Path) -> None:
    config = settings(CLASSIFY, modes=("frozen",), epochs=1, patience=3, val_share=0.0)
    with pytest.warns(UserWarning, match=r"patience=3 is ignored: under 200 labels there is no validation part"):
        finetune(TinySource(), [run], config, CPU)
    with pytest.raises(ConfigError, match=r"patience=3: there is no validation part .* val_share"):
        finetune(TinySource(TinyDataConfig(train=67, test=2)), [run], config, CPU)


def test_a_batch_in_parts_has_the_gradient_of_the_whole(run: Path) -> None:
    """Points without labels, more in some parts than in others, and parts of several sizes; no batch norm, whose
    statistics are of a part."""
    task, feed, parts = prepared(settings({"name": "segment"}))
    optim = OptimConfig(name="sgd", lr=0.5, lr_batch=None, weight_decay=0.0)
    found = []
    for accumulate in (1, 3, 7):
        config = settings({"name": "segment"}, epochs=2, batch_size=7, accumulate=accumulate, optim=optim)
        model = network(run, task, "frozen")
        fit(model, task, feed, Parts(parts.train), config, 0)
        found.append(model.head.state_dict())
    sizes = [len(shown) for shown in feed.training(parts.train, 0, 7, 3, 3)]
    assert sizes == [2, 2, 3] * 3
    for name, tensor in found[0].items():
        for other in found[1:]:
            torch.testing.assert_close(other[name], tensor)


def test_a_part_without_labels_counts_for_nothing(run: Path) -> None:
    task, feed, parts = prepared(settings({"name": "segment"}))
    whole, halves = (list(feed.training(parts.train[:4], 0, 4, 1, accumulate)) for accumulate in (1, 2))
    offsets = whole[0].view.points.offsets
    whole[0].view.points.labels["segment"][offsets[2] :] = IGNORE
    halves[1].view.points.labels["segment"].fill_(IGNORE)
    found = []
    for shown in (whole, halves):

        class Given(Feed):
            def training(self, *_: Any, given: Any = shown) -> Any:
                return iter(given)

        changes: dict[str, Any] = {"schedule": ScheduleConfig(), "accumulate": len(shown)}
        config = settings({"name": "segment"}, epochs=1, batch_size=4, **changes)
        model = network(run, task, "frozen")
        before = copy.deepcopy(model.head.state_dict())
        fit(model, task, Given(feed.source, task, INPUT, CPU), Parts(parts.train[:4]), config, 0)
        found.append(model.head.state_dict())
        assert not torch.equal(found[-1]["mlp.0.weight"], before["mlp.0.weight"])
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor)


def test_parts_that_cannot_be_are_told(run: Path) -> None:
    with pytest.raises(ValueError, match=r"accumulate=9: a batch of 8 has no more parts"):
        settings(CLASSIFY, accumulate=9)
    task, feed, parts = prepared(settings(CLASSIFY))
    with pytest.raises(ConfigError, match=r"accumulate=8: batch norm needs two samples in each part of a batch of 8"):
        fit(network(run, task), task, feed, parts, settings(CLASSIFY, accumulate=8), 0)
    with pytest.raises(DataError, match=r"a batch of 3 of 3 samples is less than processes × accumulate = 1 × 4"):
        fit(network(run, task), task, feed, Parts(parts.train[:3]), settings(CLASSIFY, accumulate=4), 0)


def test_a_layer_decay_without_layers_is_told(run: Path) -> None:
    config = settings(CLASSIFY, layer_decay=0.5)
    task, feed, parts = prepared(config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitting._Course(network(run, task), task, feed, parts, config, 0)
    modes: tuple[Mode, ...] = ("frozen", "full")
    for mode in modes:
        model = network(run, task, mode)
        encoder: Any = model.encoder
        encoder.layer1, encoder.blocks = encoder.blocks, nn.ModuleList()  # named as in a ResNet
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            fitting._Course(model, task, feed, parts, config, 0)
        expected = ["layer_decay=0.5 is ignored: the encoder tiny_points has no numbered layers"]
        assert [str(warning.message) for warning in told] == (expected if mode == "full" else [])


def test_repeated_samples_are_so_many_rows_of_a_batch(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, feed, parts = prepared(settings({"name": "segment", "augment": {"rotation": "so3"}, "label_points": 20}))
    assert task.fixed_views  # type: ignore[attr-defined]  # or else they are moved by the workers
    single = list(feed.training(parts.train[:6], 0, 3, 4))
    monkeypatch.setattr(task, "training_views", lambda source, input: plain_views(input, 2))
    double = list(feed.training(parts.train[:6], 0, 3, 4))
    assert len(double) == len(single) == 4
    for shown, before in zip(double, single, strict=True):
        assert shown.entries == before.entries * 2 and len(shown) == len(shown.view) == 6
        clouds = shown.view.points.dense()
        assert len(task.training_targets(shown, 0)) == clouds.shape[0] * clouds.shape[1]
        source = shown.view.points.source.view(6, -1)
        for row in range(3):  # the points that both views have are moved by draws of their own
            both = (source[row][:, None] == source[row + 3]).nonzero()
            moved = clouds[row][both[:, 0]] - clouds[row + 3][both[:, 1]]
            assert len(both) > 20 and moved.norm(dim=1).max() > 0.1


def test_a_task_may_mix_its_batches(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets that are shares of classes are trained on; the draws are of a step and a part."""
    config = settings(CLASSIFY, epochs=2, schedule=ScheduleConfig(), accumulate=2)
    task, feed, parts = prepared(config)
    keys: list[Any] = []

    def mixed(shown: Any, targets: Tensor, key: Any) -> Any:
        keys.append(key)
        soft = nn.functional.one_hot(targets, 3).float()
        return shown, (soft + soft.roll(1, 0)) / 2

    monkeypatch.setattr(task, "mixed", mixed)
    monkeypatch.setattr(task, "loss", lambda scores, targets: nn.functional.cross_entropy(scores, targets))
    told: list[str] = []
    fit(network(run, task), task, feed, parts, config, 5, lambda epoch, status: told.append(status))
    assert keys == [(5, "mix", step, *((1,) if part else ())) for step in range(6) for part in (0, 1)]
    assert len(told) == 2 and task.weight(torch.full((4, 3), 0.5)) == 4
