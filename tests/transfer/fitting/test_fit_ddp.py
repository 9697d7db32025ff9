"""Two processes that share every batch make the fit that one makes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from st_ssl.core.types import Entry, View
from st_ssl.data.video.views import MultiViews
from st_ssl.data.views import Views
from st_ssl.encoders.base import load_encoder
from st_ssl.training import distributed
from st_ssl.training.optim import OptimConfig
from st_ssl.transfer.fitting.evaluate import evaluate
from st_ssl.transfer.fitting.finetune import finetune
from st_ssl.transfer.fitting.finetune_config import FinetuneConfig, Mode
from st_ssl.transfer.fitting.finetune_model import Tuned
from st_ssl.transfer.fitting.fit import fit
from st_ssl.transfer.fitting.fit_checkpoint import Unfinished
from st_ssl.transfer.fitting.label_fractions import Parts
from st_ssl.transfer.fitting.outcomes import Judged
from st_ssl.transfer.fitting.predictions import Predictions
from st_ssl.transfer.fitting.task_loader import Feed, Interrupted
from st_ssl.transfer.tasks.base import TASKS, Task
from tests.ddp import run_ranks
from tests.transfer.clouds import INPUT, TinySource, register, settings
from tests.transfer.fits import CPU, network, part_drawn, prepared, write_run
from tests.transfer.tiny import INPUT as VIDEO_INPUT
from tests.transfer.tiny import recognise_settings, source_of, write_dataset, write_encoder

pytestmark = pytest.mark.ddp

CASES: dict[str, tuple[dict[str, Any], Mode, dict[str, Any]]] = {
    # Batch norm over both; a batch of 7 is one of 3 and one of 4.
    "objects": ({"name": "classify", "hidden": [6]}, "full", {"ema": 0.5}),
    # Processes have different numbers of labelled points.
    "points": ({"name": "segment", "label_points": 0.5}, "full", {"layer_decay": 0.5}),
    # In parts; without batch norm, which sees one part at a time.
    "parts": ({"name": "segment"}, "frozen", {"accumulate": 2}),
    "last": ({"name": "classify"}, "last", {"last_blocks": 1, "patience": 1}),
}


VIDEOS: dict[str, Any] = {"repeats": 2, "class_weights": "balanced", "clips": 2}


def in_double(prepare: Callable[..., list[View]]) -> Callable[..., list[View]]:
    """As ``prepare``, in float64."""

    def prepared(self: Any, views: list[View]) -> list[View]:
        found = prepare(self, views)
        return [view.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor) for view in found]

    return prepared


def fits(rank: int, world_size: int, run: Path) -> dict[str, dict[str, Any]]:
    """Of each case the weights after a fit in float64, what it was told, and figures on the test part; all without
    dropout, of which every process draws its own."""
    results: dict[str, dict[str, Any]] = {}
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        with patch.context() as still:
            still.setattr(nn.Dropout, "forward", lambda self, x: x)
            results["grid"] = {"told": grid(run, run.parent / f"of_{world_size}")}
        for kind in (Views, MultiViews):
            patch.setattr(kind, "prepare", in_double(kind.prepare))
        results["videos"] = one_fit_of_videos(run.parent)
        return results | {name: one_fit(run, *case) for name, case in CASES.items()}


def one_fit(run: Path, keys: dict[str, Any], mode: Mode, changes: dict[str, Any]) -> dict[str, Any]:
    # Not AdamW: of a bias before batch norm, whose gradient is zero, it makes steps of what rounding leaves.
    optim = OptimConfig(name="sgd", lr=0.1, lr_batch=None, weight_decay=0.01)
    config = settings(keys, epochs=3, batch_size=7, optim=optim, **changes)
    task, feed, parts = prepared(config)
    parts.train[0] = Entry("train/broken/0", "train", {"kind": "ball"})
    return trained(network(run, task, mode, config), task, feed, parts, config)


def one_fit_of_videos(folder: Path) -> dict[str, Any]:
    """Two clips of each video in a batch, of classes one of which is rarer and weighs more."""
    optim = OptimConfig(name="sgd", lr=0.1, lr_batch=None, weight_decay=0.01)
    config = recognise_settings(VIDEOS, epochs=2, batch_size=5, optim=optim)
    source, task = source_of(folder / "videos"), TASKS.build(config.task)
    feed = Feed(source, task, VIDEO_INPUT, CPU)
    parts = part_drawn(task, source.entries(), 0.25)
    rare = [entry for entry in parts.train if entry.labels["light"] == "dark"]
    parts.train = [entry for entry in parts.train if entry not in rare[3:]]
    task.learn_classes(parts, lambda *_: [])
    return trained(network(folder / "video_run", task, "full", config), task, feed, parts, config)


def trained(model: Tuned, task: Task, feed: Feed, parts: Parts, config: FinetuneConfig) -> dict[str, Any]:
    model.double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    told: list[str] = []
    fitted = fit(model, task, feed, parts, config, 3, lambda epoch, status: told.append(status))
    figures = evaluate(model, task, feed, parts.test, config, 2, judged=(judged := Judged()))
    assert (len(judged.names) > 0) == (distributed.rank() == 0)
    rows = dict(zip(judged.names, map(str, judged.rows), strict=True))  # the main process alone has them
    told += map(str, sorted(distributed.gather_objects(rows)[0].items()))
    told += [str(fitted.epoch), *(bad.path for bad in feed.bad)]
    return {"told": told, "figures": figures | fitted.validation, **model.state_dict()}


def grid(run: Path, folder: Path) -> str:
    """All fits of a configuration, with files, one of which is stopped and gone on with."""
    optim = OptimConfig(name="sgd", lr=0.1, lr_batch=None)
    config = settings({"name": "segment"}, modes=("frozen", "full"), epochs=2, save=True, optim=optim, curve=True)
    predictions, state = Predictions(folder / "predictions"), Unfinished(folder / "unfinished", {})
    steps: list[int] = []

    def stopped() -> bool:
        steps.append(1)
        return len(steps) == 5  # in the first fit

    files: dict[str, Any] = {"weights": folder / "weights", "predictions": predictions, "unfinished": state}
    with pytest.raises(Interrupted):
        finetune(TinySource(), [run], config, CPU, **files, stopped=stopped, looked=lambda *_: steps.clear())
    assert len(list(folder.glob("unfinished/step_*"))) == 1
    return json.dumps(finetune(TinySource(), [run], config, CPU, **files))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[dict[str, Any]]]:
    """A folder, the fits of one process, and those of each of two."""
    folder = tmp_path_factory.mktemp("fits")
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        run = write_run(folder / "run")
        write_encoder(folder / "video_run")
        write_dataset(folder / "videos")
    return folder, fits(0, 1, run), run_ranks(fits, 2, folder, run)


@pytest.mark.parametrize("case", [*CASES, "videos"])
def test_two_processes_make_the_fit_of_one(both: tuple[Path, dict[str, Any], list[dict[str, Any]]], case: str) -> None:
    _, one, two = both
    expected = one[case]
    if case == "videos":
        assert expected["told"][-1] == "2" and "top1" in expected["told"][0]
    else:
        assert expected["told"][-1] == "train/broken/0" and len(expected["told"]) > 3
    for found in two:
        assert found[case].keys() == expected.keys()
        for name, value in expected.items():
            if isinstance(value, Tensor):
                difference = float((found[case][name] - value).abs().max())
                assert difference < 1e-9 * (1 + float(value.abs().max())), f"{name}: {difference}"
            elif name == "figures":
                assert found[case][name] == pytest.approx(value)
            else:
                assert found[case][name] == value, name
    assert two[0][case]["figures"] == two[1][case]["figures"]


def test_one_of_two_processes_writes_what_one_writes(
    both: tuple[Path, dict[str, Any], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, one, two = both
    register(monkeypatch)
    results = [json.loads(found["grid"]["told"])["results"] for found in (one, *two)]
    assert results[1] == results[2]
    for row, expected in zip(results[1], results[0], strict=True):
        for name, figure in expected["metrics"].items():
            assert row["metrics"][name]["mean"] == pytest.approx(figure["mean"], abs=0.2), name  # in float32
        (curve,), (alone,) = row["curve"]["values"], expected["curve"]["values"]
        assert len(curve) == 5 and curve == pytest.approx(alone, abs=0.2)
    names = [sorted(str(f.relative_to(at)) for f in at.rglob("*")) for at in (folder / "of_1", folder / "of_2")]
    assert names[0] == names[1] and "predictions/0007.npz" in names[0] and "unfinished" not in names[0]
    load_encoder(folder / "of_2" / "weights" / "full_100_0")


def test_the_shares_of_a_batch_are_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    task, _, parts = prepared(settings({"name": "classify"}))
    feed = Feed(TinySource(), task, INPUT, CPU)
    whole = [shown.entries for shown in feed.training(parts.train, 1, 7, 2 * (len(parts.train) // 7))]
    monkeypatch.setattr("st_ssl.training.distributed.world_size", lambda: 3)
    found: list[list[Any]] = [[] for _ in whole]
    for rank in range(3):
        monkeypatch.setattr("st_ssl.training.distributed.rank", lambda rank=rank: rank)
        for number, shown in enumerate(feed.training(parts.train, 1, 7, len(whole), 2)):
            found[number // 2] += shown.entries
    assert found == whole and torch.tensor([len(batch) for batch in found]).eq(7).all()
