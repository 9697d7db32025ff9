"""Curves for TensorBoard and Weights & Biases: the rows of metrics.jsonl, each step once, however often resumed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from st_ssl.core.errors import ConfigError, MissingDependencyError
from st_ssl.engine.loggers import open_log
from st_ssl.engine.runtime import Runtime
from st_ssl.engine.trainer import Trainer
from tests.runs import CPU, load, tiny, train

BOARD: dict[str, Any] = {"logging": {"tensorboard": True}}
PROJECT: dict[str, Any] = {"logging": {"wandb": "gratings"}}


def all_rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# -------------------------------------------------------------------- TensorBoard


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: step and value of each point, by tag."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = loader.EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_the_rows_of_a_run_that_was_killed_and_resumed(videos: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    train(tiny(videos, run, **BOARD), stop_at=5)
    log = open_log(load(tiny(videos, run, **BOARD)), 5, 12)
    for step in (6, 7):  # logged but not saved when it was killed
        log.write({"step": step, "epoch": 0.0, "loss": -1.0, "gone": 1.0})
    with next((run / "tensorboard").iterdir()).open("ab") as file:
        file.write(b"half an ev")
    train(tiny(videos, run, **BOARD))
    rows, shown = all_rows(run), curves(run)
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert shown.pop("gone", []) == []
    assert shown.keys() == rows[0].keys() - {"step"}
    for tag, points in shown.items():
        assert [step for step, _ in points] == [row["step"] for row in rows if tag in row]
        assert [value for _, value in points] == pytest.approx([row[tag] for row in rows if tag in row], rel=1e-6)
    before = sorted((run / "tensorboard").iterdir())
    train(tiny(videos, run, **BOARD))  # there is nothing left to do
    assert sorted((run / "tensorboard").iterdir()) == before


# -------------------------------------------------------------------- Weights & Biases


class FakeRun:
    """What ``wandb.init`` returns."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.code: int | None = None

    def log(self, data: dict[str, Any], step: int) -> None:
        self.rows.append((step, data))

    def finish(self, exit_code: int) -> None:
        self.code = exit_code


class FakeWandb(ModuleType):
    """As much of wandb as is used; ``runs`` are those that were started."""

    Error = type("Error", (Exception,), {})

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list[FakeRun] = []
        self.reporting = os.environ.get("WANDB_ERROR_REPORTING")

    def init(self, **settings: Any) -> FakeRun:
        self.reporting = os.environ.get("WANDB_ERROR_REPORTING")
        self.runs.append(FakeRun(settings))
        return self.runs[-1]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for name in ("WANDB_MODE", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(name, "")  # so that what is set on the way is undone
        monkeypatch.delenv(name)
    return fake


def test_wandb_is_sent_the_rows_of_a_run_that_was_killed_and_resumed(
    videos: Path, tmp_path: Path, wandb: FakeWandb
) -> None:
    run = tmp_path / "run"
    train(tiny(videos, run, **PROJECT), stop_at=5)
    log = open_log(load(tiny(videos, run, **PROJECT)), 5, 12)
    log.write(all_rows(run)[-1] | {"step": 6})  # logged but not saved when it was killed
    train(tiny(videos, run, **PROJECT))
    first, killed, last = wandb.runs
    assert [[step for step, _ in each.rows] for each in wandb.runs] == [[1, 2, 3, 4, 5], [6], [7, 8, 9, 10, 11, 12]]
    assert (first.code, killed.code, last.code) == (0, None, 0)
    rows = all_rows(run)
    assert [data for _, data in first.rows + last.rows] == [
        {name: value for name, value in row.items() if name != "step"} for row in rows if row["step"] != 6
    ]
    settings = first.settings
    assert (settings["project"], settings["name"], settings["dir"]) == ("gratings", "run", str(run))
    assert settings["config"]["method"]["name"] == "cvrl"
    assert {each.settings["id"] for each in wandb.runs} == {json.loads((run / "wandb.json").read_text())["id"]}
    assert all(each.settings["resume"] == "allow" for each in wandb.runs)
    train(tiny(videos, run, **PROJECT))  # there is nothing left to do
    assert len(wandb.runs) == 3


def test_a_run_that_starts_anew_or_elsewhere_has_an_id_of_its_own(
    videos: Path, tmp_path: Path, wandb: FakeWandb
) -> None:
    config = load(tiny(videos, tmp_path / "run", **PROJECT))
    elsewhere = load(tiny(videos, tmp_path / "run", logging={"wandb": "other"}))
    (tmp_path / "run").mkdir()
    row = {"step": 1, "loss": 1.0}
    for settings, step in ((config, 0), (config, 0), (config, 1), (elsewhere, 1)):
        open_log(settings, step, 9).write(row | {"step": step + 1})
    ids = [each.settings["id"] for each in wandb.runs]
    assert ids[1] == ids[2]
    assert len(set(ids)) == 3
    assert [len(each.rows) for each in wandb.runs] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("asked", "mode", "reporting"),
    [(None, "offline", "false"), ("", "offline", "false"), ("online", "online", None), ("disabled", "disabled", None)],
)
def test_the_network_is_used_only_when_asked_for(
    videos: Path,
    tmp_path: Path,
    wandb: FakeWandb,
    monkeypatch: pytest.MonkeyPatch,
    asked: str | None,
    mode: str,
    reporting: str | None,
) -> None:
    if asked is not None:
        monkeypatch.setenv("WANDB_MODE", asked)
    config = load(tiny(videos, tmp_path / "run", **PROJECT))
    (tmp_path / "run").mkdir()
    open_log(config, 0, 9)
    assert wandb.runs[0].settings["mode"] == mode
    assert wandb.reporting == reporting


def test_a_run_that_fails_is_marked_as_failed(videos: Path, tmp_path: Path, wandb: FakeWandb) -> None:
    trainer = Trainer(load(tiny(videos, tmp_path / "run", **PROJECT)), Runtime(CPU))
    update = trainer._update

    def failing(batch: Any) -> Any:
        if trainer.step == 2:
            raise ZeroDivisionError
        return update(batch)

    trainer._update = failing  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        trainer.fit()
    assert [step for step, _ in wandb.runs[0].rows] == [1, 2]
    assert wandb.runs[0].code == 1


def test_what_wandb_refuses_is_told(
    videos: Path, tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**settings: Any) -> FakeRun:
        raise FakeWandb.Error("no API key configured")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(ConfigError, match=r"logging\.wandb=gratings: wandb does not start: no API key configured"):
        train(tiny(videos, tmp_path / "run", **PROJECT))


# -------------------------------------------------------------------- both


def test_only_the_main_process_logs(videos: Path, tmp_path: Path, wandb: FakeWandb) -> None:
    config = load(tiny(videos, tmp_path / "run", logging={"wandb": "gratings", "tensorboard": True}))
    with open_log(config, 0, 9, is_main=False) as log:
        log.write({"step": 1, "loss": 1.0})
    assert not (tmp_path / "run").exists()
    assert wandb.runs == []


@pytest.mark.parametrize(
    ("module", "key", "value"),
    [("tensorboard", "tensorboard", True), ("torch.utils.tensorboard", "tensorboard", True), ("wandb", "wandb", "x")],
)
def test_a_missing_package_is_told_before_anything_is_built(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, key: str, value: Any
) -> None:
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    config = load(tiny(videos, tmp_path / "run", logging={key: value}))
    with pytest.raises(MissingDependencyError, match=rf'logging\.{key} needs the package {key}: .*"st_ssl\[{key}\]"'):
        Trainer(config, Runtime(CPU))
    assert not (tmp_path / "run").exists()


def test_logging_may_change_between_the_parts_of_a_run(videos: Path, tmp_path: Path, wandb: FakeWandb) -> None:
    run = tmp_path / "run"
    train(tiny(videos, run), stop_at=2)
    train(tiny(videos, run, **PROJECT), stop_at=4)
    train(tiny(videos, run))
    assert [row["step"] for row in all_rows(run)] == list(range(1, 13))
    assert [step for step, _ in wandb.runs[0].rows] == [3, 4]
    with pytest.raises(ConfigError, match=r"logging\.wand: unknown key; did you mean 'wandb'"):
        load(tiny(videos, run, logging={"wand": "x"}))
