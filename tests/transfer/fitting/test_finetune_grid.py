"""The grid of fits as a whole: refused before it begins, or gone on with where it was interrupted."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.types import Entry
from st_ssl.encoders.base import random_encoder, save_encoder
from st_ssl.transfer.fitting import finetune as grid
from st_ssl.transfer.fitting import finetune_setup
from st_ssl.transfer.fitting import fit as fitting
from st_ssl.transfer.fitting.finetune import finetune
from st_ssl.transfer.fitting.label_fractions import Parts
from st_ssl.transfer.fitting.outcomes import OutcomeStore
from tests.transfer.clouds import INPUT, TinyEncoder, TinyEncoderConfig, TinySource, settings, tiny_registered
from tests.transfer.fits import few

__all__ = ["tiny_registered"]

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save_encoder(random_encoder(TinyEncoderConfig(), INPUT, 7), tmp_path / "run")
    return tmp_path / "run"


def test_bf16_is_refused_for_3d_convolutions_on_a_cpu(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = TinyEncoder.__init__

    def with_convolution(self: TinyEncoder, *arguments: Any) -> None:
        build(self, *arguments)
        self.extra = torch.nn.Conv3d(1, 1, 1)

    monkeypatch.setattr(TinyEncoder, "__init__", with_convolution)
    save_encoder(random_encoder(TinyEncoderConfig(), INPUT, 7), run)
    config = settings({"name": "classify"}, precision="bf16", epochs=1)
    with pytest.raises(ConfigError, match=r"^precision=bf16: on a CPU torch gives wrong gradients for 3D convolutions"):
        finetune(TinySource(), [run], config, CPU)
    frozen = config.model_copy(update={"modes": ("frozen",)})  # asks for none of those gradients
    assert len(finetune(TinySource(), [run], frozen, CPU)["results"]) == 1


@pytest.mark.parametrize("task", ["segment", "part"])
def test_classes_that_no_sound_training_sample_shows_are_told(task: str, run: Path) -> None:
    source = TinySource()
    config = settings({"name": task}, val_share=0.0, epochs=1)
    source.rows[:12] = [Entry(f"train/broken/{i}", "train", {"kind": "ball"}) for i in range(12)]
    if task == "part":
        with pytest.raises(DataError, match=r"^none of the training shapes of ball can be read"):
            finetune(source, [run], config, CPU)
    source.rows = [Entry(f"{row.path}/broken", row.split, row.labels) for row in source.rows]
    with pytest.raises(
        DataError, match=r"none of the 36 training clouds has labels; the first: train/broken/0/broken: broken$"
    ):
        finetune(source, [run], config, CPU)


def test_a_grid_that_was_interrupted_goes_on_to_the_same_figures(run: Path) -> None:
    source = TinySource()
    source.rows[0] = Entry("train/broken/0", "train", {"kind": "ball"})
    config = settings({"name": "segment"}, label_fractions=(0.5, 1.0), modes=("scratch", "full"), seeds=2, epochs=1)
    left: list[dict[str, Any]] = []
    told: list[int] = []

    def finished(result: dict[str, Any]) -> None:
        left.append(json.loads(json.dumps(result)))
        shutil.copy(run / "outcomes.npz", run / f"{len(left)}.npz")

    whole = finetune(source, [run], config, CPU, finished=finished, outcomes=OutcomeStore(run / "outcomes.npz"))
    assert len(left) == 8 and whole["bad"] == [{"path": "train/broken/0", "reason": "broken"}]
    for fits in (1, 5, 8):
        told.clear()
        outcomes = OutcomeStore(run / f"{fits}.npz")
        outcomes.read()
        more: dict[str, Any] = {"before": left[fits - 1], "outcomes": outcomes}
        again = finetune(source, [run], config, CPU, lambda *at: told.append(at[0]), **more)
        assert json.dumps(again) == json.dumps(whole)
        assert sorted(set(told)) == ([] if fits == 8 else list(range(fits, 9)))


@pytest.mark.parametrize(("steps", "total"), [(None, 3 * 4), (7, 7)])
def test_all_fractions_and_modes_take_the_same_steps(
    steps: int | None, total: int, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fractions, modes = (0.1, 1.0), ("scratch", "frozen")
    config = settings({"name": "classify"}, label_fractions=fractions, modes=modes, epochs=3, steps=steps)
    asked: list[tuple[int, int, float]] = []
    told: list[int] = []

    def rate(step: int, total: int, epoch: float, *_: Any) -> float:
        asked.append((step, total, epoch))
        return 0.01

    monkeypatch.setattr(fitting, "lr_at", rate)
    result = finetune(TinySource(), [run], config, CPU, lambda done, *_: told.append(done))
    assert [row["steps"] for row in result["results"]] == [total] * 4
    assert asked == [(step, total, total / 3) for step in range(total)] * 4  # epochs of the schedule are thirds of it
    assert [row["labels"]["train"] for row in result["results"]] == [3, 3, 36, 36]
    assert sorted(set(told)) == list(range(13)) and {tuple(row["epochs"]) for row in result["results"]} == {(3,)}


def test_of_few_labels_there_are_more_draws_and_nothing_is_chosen(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch, 30)
    config = settings({"name": "classify"}, label_fractions=(0.5, 1.0), modes=("frozen",), epochs=2, seeds=None)
    seen: list[Parts] = []
    fit = grid.fit

    def watched(model: Any, task: Any, feed: Any, parts: Parts, *others: Any) -> Any:
        seen.append(parts)
        return fit(model, task, feed, parts, *others)

    monkeypatch.setattr(grid, "fit", watched)
    left: list[dict[str, Any]] = []
    whole = finetune(
        TinySource(), [run], config, CPU, finished=lambda result: left.append(json.loads(json.dumps(result)))
    )
    small, large = whole["results"]
    assert (small["repeats"], small["labels"], len(small["epochs"])) == (5, {"train": 18, "val": 0}, 5)
    assert (large["repeats"], large["labels"], len(large["epochs"])) == (3, {"train": 33, "val": 3}, 3)
    assert small["epochs"] == [2] * 5 and whole["sizes"] == {"train": 36, "val": 0, "test": 18}
    drawn = [{entry.path for entry in parts.train} for parts in seen if not parts.val]
    assert len(drawn) == 5 and len(set(map(frozenset, drawn))) == 5
    assert all({e.split for e in parts.val} == {"train"} for parts in seen if parts.val)
    for fits in (1, 2, 5, 7):
        again = finetune(TinySource(), [run], config, CPU, before=left[fits - 1])
        assert json.dumps(again["results"]) == json.dumps(whole["results"])


def test_every_run_counts_alike(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_encoder(random_encoder(TinyEncoderConfig(), INPUT, 8), tmp_path / "second")
    few(monkeypatch, 30)
    config = settings({"name": "classify"}, label_fractions=(0.5, 1.0), modes=("frozen",), epochs=1, seeds=None)
    loaded: list[Path] = []
    load = finetune_setup.load_encoder

    def noted(run: Path, *described: Any) -> Any:
        loaded.append(run)
        return load(run, *described)

    monkeypatch.setattr(finetune_setup, "load_encoder", noted)
    result = finetune(TinySource(), [run, tmp_path / "second"], config, CPU)
    assert [row["repeats"] for row in result["results"]] == [6, 4]
    assert loaded[1:].count(run) == loaded[1:].count(tmp_path / "second") == 5  # the first is looked at beforehand


def test_a_validation_split_is_part_of_the_labels(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch, 10)
    source = TinySource()
    source.rows += [replace(row, split="val", path=f"{row.path}/{i}") for row in source.rows[36:] for i in range(4)]
    config = settings({"name": "classify"}, label_fractions=(0.5, 1.0), modes=("frozen",), epochs=1)
    result = finetune(source, [run], config, CPU)
    assert [row["labels"] for row in result["results"]] == [{"train": 18, "val": 18}, {"train": 36, "val": 36}]
    assert result["sizes"] == {"train": 36, "val": 72, "test": 18}
