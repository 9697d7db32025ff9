"""``finetune`` as it is called: a table for people, JSON for programs, and the configurations that come with it."""

from __future__ import annotations

import csv
import json
import signal
import sys
import warnings
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest

from st_ssl.cli import guarded
from st_ssl.cli.finetune import _result_name, main
from st_ssl.core.types import Entry
from st_ssl.encoders.base import random_encoder, save_encoder
from st_ssl.transfer.fitting.finetune_config import load_finetune
from st_ssl.transfer.tasks.base import TASKS
from tests.runs import ROOT
from tests.transfer.clouds import INPUT, TinyEncoderConfig, TinySource, tiny_registered

__all__ = ["tiny_registered"]
CONFIGS = sorted((ROOT / "configs" / "transfer").rglob("*.yaml"))
YAML = """\
task: {name: classify, hidden: [], dropout: 0.0}
data: {name: tiny_clouds}
modes: [scratch, full]
epochs: 1
seeds: 2
batch_size: 8
device: cpu
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A configuration, and the folder of an encoder."""
    save_encoder(random_encoder(TinyEncoderConfig(), INPUT, 0), tmp_path / "run")
    (tmp_path / "objects.yaml").write_text(YAML)
    return tmp_path / "objects.yaml", tmp_path / "run"


def called(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["finetune", *map(str, arguments)])
    return guarded(main)


def test_a_table_and_json(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = files
    assert called(monkeypatch, config, run, "label_fractions=[0.25,1.0]", "data.test=2") == 0
    out, err = capsys.readouterr()
    assert "classify: accuracy, % (run on planted; tested on 6)" in " ".join(out.split())
    assert "classify: mean_class_accuracy, %" in out
    assert (
        "scratch" in out
        and "full" in out
        and "25 % (9 train, 2 times)" in out
        and "100 % (36 train, 2 times)" in out
        and "±" in out
    )
    assert "epoch 8/8" in err and "left" in err
    assert "full, 25 % of the labels: undecided: 6 test samples are too few" in out
    assert f"written to {run / 'finetune' / 'objects.json'} and objects.csv" in out.replace("\n", " ")
    result = json.loads((run / "finetune" / "objects.json").read_text())
    assert result["sizes"]["test"] == 6 and result["config"]["data"]["test"] == 2
    assert [(row["mode"], row["fraction"]) for row in result["results"]] == [
        ("scratch", 0.25),
        ("full", 0.25),
        ("scratch", 1.0),
        ("full", 1.0),
    ]
    assert all(len(row["metrics"]["accuracy"]["values"]) == 2 for row in result["results"])
    with (run / "finetune" / "objects.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 4 * 2 * 2  # fits, repetitions and figures
    values = result["results"][3]["metrics"]["accuracy"]["values"]
    assert [float(line["value"]) for line in lines if line["fraction"] == "1" and line["mode"] == "full"][:2] == values
    assert len(list((run / "finetune" / "objects_predictions").glob("*.npz"))) == 6
    again = ("epochs=1", "--save-predictions", "all", "--output", str(run / "again.json"))
    assert called(monkeypatch, config, run, *again) == 0
    assert len(list((run / "again_predictions").glob("*.npz"))) == 18
    assert json.loads((run / "again_predictions" / "classes.json").read_text()) == ["ball", "disc", "rod"]


def test_what_is_kept_has_names_of_its_own(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = files
    keys = ("modes=[full]", "seeds=1", "--save-predictions", "none", "--output")
    assert called(monkeypatch, config, run, *keys, run / "kept") == 0
    assert json.loads((run / "kept.json").read_text())["metric"] == "accuracy"
    assert (run / "kept.csv").read_text().startswith("mode,") and (run / "kept" / "full_100_0").is_dir()
    for name in ("kept.csv", "kept.v2", ".", "..", "full.json"):
        (run / "full.json").mkdir(exist_ok=True)
        capsys.readouterr()
        assert called(monkeypatch, config, run, *keys, run / name if name[0] != "." else name) == 2
        assert "expected a file that ends in .json" in capsys.readouterr().err
    assert (run / "kept.csv").read_text().startswith("mode,")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "expected at least one folder of a run"),
        (("run", "epoch=3"), "did you mean 'epochs'"),
        (("run", "task.name=clasify"), "did you mean 'classify'"),
        (("run", "modes=[ful]"), "did you mean 'full'"),
        (("run", "label_fractions=[1.5]"), "label_fractions"),
        (("run", "label_fractions=[10]"), "must be less than or equal to 1, not 10; a share: 10 % is 0.1\n"),
        (("run", "label_fractions=0.5"), "must be a list, not 0.5: write [0.5]\n"),
        (("run", "data.name=nothing"), "data.name"),
        (("nowhere",), "no encoder.json"),
    ],
)
def test_mistakes_are_named(
    arguments: tuple[str, ...],
    told: str,
    files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, run = files
    given = [run if argument == "run" else argument for argument in arguments] or ["seeds=1"]
    assert called(monkeypatch, config, *given) in (1, 2)
    err = capsys.readouterr().err
    assert told in err and len(err.splitlines()) == 1


def test_swapped_arguments_are_told(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = files
    assert called(monkeypatch, run, config) == 2
    assert capsys.readouterr().err == f"error: CONFIG comes first, then RUN: {config} {run}\n"


def test_a_run_that_is_not_there_is_told_before_its_data_are_missed(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = files
    config.write_text(YAML.replace("data: {name: tiny_clouds}\n", ""))
    wrong = run.with_name("rum")
    assert called(monkeypatch, config, wrong) == 2
    told = capsys.readouterr().err
    assert told == f"error: {wrong}: no encoder.json: there is no rum in {run.parent}; did you mean 'run'?\n"


def test_the_same_command_goes_on_and_another_one_is_refused(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from st_ssl.transfer.fitting import finetune

    config, run = files
    file, fit = run / "finetune" / "objects.json", finetune.fit
    fits: list[int] = []

    def interrupted(*arguments: Any) -> Any:
        if len(fits) == 3:
            raise KeyboardInterrupt
        fits.append(1)
        return fit(*arguments)

    monkeypatch.setattr(finetune, "fit", interrupted)
    assert called(monkeypatch, config, run) == 130
    assert [len(row["epochs"]) for row in json.loads(file.read_text())["results"]] == [2, 1]
    fits[:] = [1, 1]  # one more before the next interruption
    assert called(monkeypatch, config, run, "device=auto", "save=none") == 0
    assert "going on after the 3 fits" in capsys.readouterr().err
    done = file.read_bytes()
    (told,) = json.loads(done)["verdicts"]
    assert told["mode"] == "full" and told["verdict"]["seeds"] == 2  # one of before that
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert called(monkeypatch, config, run) == 0  # nothing is left to be done
    with pytest.warns(UserWarning, match=r"\(full, 100 % of the labels\) .* name another file with --output"):
        assert called(monkeypatch, config, run, "--save-predictions", "all") == 0
    assert file.read_bytes() == done
    rows = TinySource.entries

    def changed(self: TinySource, **fields: Any) -> list[Entry]:
        return [replace(rows(self)[0], **fields), *rows(self)[1:]]

    others = ({"labels": {"kind": "rod"}}, {"split": "test"}, {"path": "elsewhere/ball/0"}, {"tags": ("round", "red")})
    for fields in others:
        with monkeypatch.context() as patch:
            patch.setattr(TinySource, "entries", partialmethod(changed, **fields))
            assert called(monkeypatch, config, run) == 2
            assert "the samples are not the same" in capsys.readouterr().err
    capsys.readouterr()
    for changes, told in (
        (("epochs=2",), "  epochs: 1 before, 2 now\n"),
        (("data.test=2",), "  data.test: 6 before, 2 now\n  the samples are not the same\n"),
    ):
        assert called(monkeypatch, config, run, *changes) == 2
        assert told in capsys.readouterr().err
    save_encoder(random_encoder(TinyEncoderConfig(), INPUT, 1), run)
    assert called(monkeypatch, config, run) == 2
    assert "the encoders are not the same" in capsys.readouterr().err
    assert file.read_bytes() == done
    file.write_text("[]")
    assert called(monkeypatch, config, run) == 2
    assert "objects.json is not the result of fine-tuning: name another file with --output" in capsys.readouterr().err


def test_a_signal_in_the_middle_of_a_fit_is_gone_on_from(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from st_ssl.transfer.fitting import fit as fitting

    config, run = files
    keys = ("epochs=2", "seeds=1", "--save-predictions", "none")
    assert called(monkeypatch, config, run, *keys, "--output", run / "whole.json") == 0
    advance, steps = fitting._Course.advance, []

    def signalled(self: Any, shown: Any) -> bool:
        steps.append(self.step)
        if len(steps) in (6, 15):  # of four steps an epoch
            signal.raise_signal(signal.SIGTERM if len(steps) == 6 else signal.SIGINT)
        return advance(self, shown)

    monkeypatch.setattr(fitting._Course, "advance", signalled)
    output = ("--output", run / "parts.json")
    for fit in ("scratch", "full"):
        assert called(monkeypatch, config, run, *keys, *output) == 75
        told = f"stopped after 1 of 2 epochs of {fit}, 100 % of the labels, 1 of 1; the same command goes on from there"
        assert told in capsys.readouterr().err
        assert len(list((run / "parts_unfinished").glob("step_*"))) == 1
        assert called(monkeypatch, config, run, *keys, *output, "epochs=3") == 2
        told = capsys.readouterr().err
        assert "parts" in told and "--output" in told
        assert ("settings of before goes on" in told) == (fit == "scratch")  # nothing is done yet
    assert called(monkeypatch, config, run, *keys, *output, "device=auto") == 0
    assert steps == [*range(8), *range(8)]
    assert (run / "parts.csv").read_text() == (run / "whole.csv").read_text()
    assert not (run / "parts_unfinished").exists()


def test_a_dry_run_tells_that_the_test_part_is_drawn(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = TinySource.entries
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(TinySource, "entries", lambda self: [replace(row, split="train") for row in rows(self)])
    assert called(monkeypatch, *files, "--dry-run") == 0
    assert " samples, drawn: the data have no test part " in capsys.readouterr().out


def test_what_would_be_done_is_told(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = files
    keys = ("label_fractions=[0.25,1.0]", "modes=[frozen,last,full]", "last_blocks=1", "epochs=3")
    assert called(monkeypatch, config, run, *keys, "--dry-run") == 0
    told = {
        line.split("│")[1].strip(): line.split("│")[2].strip() for line in capsys.readouterr().out.split("\n")[1:-2]
    }
    assert told == {
        "task": "classify",
        "classes": "3 (ball, disc, rod)",
        "labels, 25 %": "9 (under 200: the last weights count); 12 steps, 2 draws",
        "labels, 100 %": "36 (under 200: the last weights count); 12 steps, 2 draws",
        "test on": "18 samples",
        "fits": "12 (3 modes × 4 draws of labels)",
        "trained, frozen": "51 of 771 parameters",
        "trained, last": "579 of 771 parameters",
        "trained, full": "771 of 771 parameters",
    }
    assert called(monkeypatch, config, run, *keys, "--print-config") == 0
    printed = config.with_name("printed.yaml")
    printed.write_text(capsys.readouterr().out)
    assert load_finetune(printed, []) == load_finetune(config, keys)
    assert not (run / "finetune").exists()


def test_a_file_for_the_other_command_is_told(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from st_ssl.cli import pretrain

    config, run = files
    quickstart = ROOT / "configs" / "quickstart" / "points.yaml"
    assert called(monkeypatch, quickstart, run) == 2
    assert "and no task: this file is for pretrain" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["pretrain", str(config)])
    assert guarded(pretrain.main) == 2
    assert capsys.readouterr().err == f"error: {config}:1: it has a task, and no method: this file is for finetune\n"


def test_predictions_that_cannot_be_written_are_told_before_the_first_fit(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = files
    (tmp_path / "kept_predictions").write_text("a file")
    monkeypatch.setattr("st_ssl.transfer.fitting.finetune.fit", lambda *_: pytest.fail("a fit was made"))
    assert called(monkeypatch, config, run, "--output", tmp_path / "kept.json") == 2
    assert "kept_predictions: cannot be written to" in capsys.readouterr().err


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: f"{file.parent.name}-{file.stem}")
@pytest.mark.filterwarnings("error")
def test_configurations_are_understood(file: Path) -> None:
    name = load_finetune(file, [], {"name": "tiny_clouds"}).task.name
    data, key = ("tiny_clouds", "votes") if TASKS.registered(name).modality == "points" else ("video", "clips")
    key = "min_points" if name == "detect" else key
    config = load_finetune(file, [f"task.{key}=2"], {"name": data})
    assert getattr(config.task, key) == 2 and config.data.name == data
    TASKS.build(config.task)


def test_the_result_is_named_by_the_data_set_too() -> None:
    file = Path("configs/transfer/video/vit.yaml")
    assert _result_name(file, ["epochs=3"]) == "vit"
    assert _result_name(file, ["data.root=/x", "data=ucf101"]) == "ucf101_vit"
    assert _result_name(file, ["data=sets/mine.yaml"]) == "mine_vit"


def test_data_elsewhere_are_not_read_as_those_of_the_pretraining() -> None:
    pretraining = {"name": "points", "root": "/a", "list": "/b.csv", "format": "shapenet55", "num_workers": 1}
    file = ROOT / "configs" / "transfer" / "points" / "classify.yaml"
    data = load_finetune(file, ["data.root=/c"], pretraining).data
    assert (data.root, data.list, data.format, data.num_workers) == ("/c", None, "auto", 1)
    data = load_finetune(file, ["data.root=/c", "data.format=modelnet"], pretraining).data
    assert (data.root, data.list, data.format) == ("/c", None, "modelnet")
    data = load_finetune(file, ["data.num_workers=0"], pretraining).data
    assert (data.root, data.list, data.format, data.num_workers) == ("/a", "/b.csv", "shapenet55", 0)


def test_every_task_has_a_configuration() -> None:
    named = {load_finetune(file, [], {"name": "tiny_clouds"}).task.name for file in CONFIGS}
    assert named == set(TASKS.names())


@pytest.mark.parametrize(
    ("found", "told"), [(8, "steps: 8\nscratch_steps: 8\n"), (None, "no budget up to 16 steps is")]
)
def test_the_steps_that_scratch_needs_are_told(
    found: int | None,
    told: str,
    files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from st_ssl.transfer.fitting import find_steps

    monkeypatch.setattr(find_steps, "DOUBLINGS", 2)
    monkeypatch.setattr(find_steps, "enough", lambda tried, floor: found if len(tried) == 3 else None)
    keys = ("label_fractions=[0.25]", "scratch_steps=9")
    assert called(monkeypatch, *files, "--find-steps", *keys, "--start", "4") == 0
    out, err = capsys.readouterr()
    assert "scratch, 25 % of the labels (9): accuracy, %, on 27 training samples" in " ".join(out.split())
    assert told in out and "find-steps: 4 steps: " in err and "find-steps: 16 steps: " in err
    assert not (files[1] / "finetune").exists()


def test_a_budget_to_begin_with_is_a_number(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in ("0", "half"):
        with pytest.raises(SystemExit):
            called(monkeypatch, *files, "--find-steps", "--start", wrong)
        assert f"--start: expected a whole number above 0, not {wrong}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        called(monkeypatch, *files, "--start", "4")
    assert "--start is for --find-steps" in capsys.readouterr().err


def test_a_starved_scratch_is_told_behind_the_tables(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from st_ssl.transfer.fitting import curve

    monkeypatch.setattr(curve, "improving", lambda *_: True)
    with pytest.warns(UserWarning, match="scratch was still improving with 100 % of the labels"):
        assert called(monkeypatch, *files, "epochs=2") == 0
    told = capsys.readouterr().out.replace("\n", " ")
    assert "full" in told.split("scratch was still improving")[0] and "try steps=16" in told
    result = json.loads((files[1] / "finetune" / "objects.json").read_text())
    assert [one["fraction"] for one in result["starved"]] == [1.0]
    assert [len(row["curve"]["values"]) for row in result["results"]] == [2, 2]


def test_a_few_samples_are_learned_by_heart(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = files
    keys = ("epochs=300", "optim.lr=0.03", "scratch_steps=9999")
    assert called(monkeypatch, config, run, "--overfit", 3, *keys) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "tested on the 3 samples that it was trained on" in out
    result = json.loads((run / "finetune" / "objects_overfit.json").read_text())
    (row,) = result["results"]
    assert (row["mode"], result["sizes"]) == ("scratch", {"train": 3, "val": 0, "test": 3})
    assert row["metrics"]["accuracy"]["values"] == [100.0]
    assert not (run / "finetune" / "objects_overfit").exists()
    with pytest.raises(SystemExit):
        called(monkeypatch, config, run, "--overfit", 3, "--find-steps")
