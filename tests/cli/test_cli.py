"""What a user sees of the command line: help at once, mistakes named, and runs that can be looked at beforehand."""

from __future__ import annotations

import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from st_ssl import cli
from tests.runs import ROOT, call, metrics, tiny, train, write_config

COMMANDS = tuple(cli.COMMANDS)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that finds this checkout first."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_comes_without_torch(command: str) -> None:
    code = f"""
import sys
sys.argv = ["{command}", "--help"]
from st_ssl.cli import guarded
from st_ssl.cli.{command} import main
try:
    guarded(main)
finally:
    print("heavy:", sorted({{"torch", "numpy", "pydantic", "rich", "av", "sklearn"}} & set(sys.modules)))
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {command}")
    assert "example" in done.stdout
    assert command not in ("pretrain", "prepare", "probe", "extract") or "cloud" in done.stdout
    assert done.stdout.endswith("heavy: []\n")


def test_importing_the_package_imports_nothing_heavy() -> None:
    done = python("-c", "import sys, st_ssl; print(st_ssl.__version__, sorted({'torch', 'numpy'} & set(sys.modules)))")
    assert done.stdout.endswith("[]\n")


def test_every_command_has_its_tool() -> None:
    assert (
        {"pretrain", "prepare", "probe", "report"}
        <= set(COMMANDS)
        == {path.stem for path in (ROOT / "tools").glob("*.py")} - {"_start"}
    )
    inside = {module.name for module in pkgutil.iter_modules([str(ROOT / "st_ssl" / "cli")])}
    assert inside - {"recipes"} == set(COMMANDS)


def test_st_ssl_lists_its_commands_and_knows_the_nearest() -> None:
    for arguments in ((), ("--help",), ("-h",)):
        done = python("-m", "st_ssl", *arguments)
        assert done.returncode == 0
        assert done.stdout.startswith("usage: st-ssl <command> [arguments]\n")
        assert all(f"  {command} " in done.stdout for command in COMMANDS)
    assert "index, verify and pack videos and clouds, write planted ones" in done.stdout
    done = python("-m", "st_ssl", "pretrian")
    assert done.returncode == 2
    assert "no command 'pretrian'; did you mean 'pretrain'?" in done.stderr
    done = python("-m", "st_ssl", "pretrain", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: st-ssl pretrain ")


# -------------------------------------------------------------------- mistakes


@pytest.fixture
def config(videos: Path, tmp_path: Path) -> Path:
    return write_config(tmp_path / "config.yaml", tiny(videos, tmp_path / "run"))


def line_of(file: Path, start: str) -> int:
    return next(n for n, line in enumerate(file.read_text().splitlines(), 1) if line.strip().startswith(start))


def test_mistakes_in_overrides_are_named_all_at_once(config: Path) -> None:
    code, out, err = call(
        "pretrain", config, "engine.epoch=3", "engine.precision=fp31", "optim.lr=-1", "optim.weight_decay=much"
    )
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert len(lines) == 4
    assert err.startswith("error: ")
    epoch, precision, lr, decay = (
        next(line for line in lines if key in line) for key in ("epoch:", "prec", "lr", "dec")
    )
    assert "command line, 'engine.epoch=3': engine.epoch: unknown key; did you mean 'epochs'? (keys here: " in epoch
    assert "command line, 'engine.precision=fp31': engine.precision: " in precision
    assert all(word in precision for word in ("'fp32', 'bf16' or 'fp16'", "not 'fp31'", "did you mean 'fp"))
    assert "optim.lr: " in lr
    assert all(word in lr for word in ("greater than", "0", "not -1"))
    assert "optim.weight_decay: " in decay
    assert all(word in decay for word in ("number", "not 'much'"))


def test_mistakes_in_the_file_are_named_with_their_line(config: Path) -> None:
    config.write_text(
        config.read_text().replace("  name: cvrl", "  name: cvlr").replace("  batch_size: 4", "  batchsize: 4")
    )
    code, out, err = call("pretrain", config)
    assert (code, out) == (2, "")
    name, key = (f"{config}:{line_of(config, text)}" for text in ("name: cvlr", "batchsize"))
    assert f"{key}: engine.batchsize: unknown key; did you mean 'batch_size'? (keys here: epochs, " in err
    assert f"{name}: method.name: no method named 'cvlr'; did you mean 'cvrl'? (there are: " in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("engine.epochs",), "error: 'engine.epochs': expected dotted.key=value, for example engine.epochs=10\n"),
        (("method.name=videomea",), "method.name: no method named 'videomea'; did you mean 'videomae'?"),
        (("data.root=null", "data.synthetic.num_trian=3"), "unknown key; did you mean 'num_train'?"),
    ],
)
def test_one_mistake(config: Path, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = call("pretrain", config, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "usage", "message"),
    [
        ("prepare", "prepare.py [-h] STEP", "the following arguments are required: STEP"),
        ("prepare pak videos", "prepare.py [-h] STEP", "'pak'.*; did you mean 'pack'"),
        ("prepare pack", "prepare.py pack [-h]", "the following arguments are required: root"),
        ("prepare pack videos", "prepare.py pack [-h]", "pack needs --output FOLDER"),
        ("prepare pack videos --outptu=x", "prepare.py pack [-h]", "unknown option --outptu; did you mean '--output'"),
        ("prepare index videos more", "prepare.py index [-h]", "unknown argument more"),
        ("prepare synthetic vidoes --output x", "prepare.py synthetic [-h]", "'vidoes'.*; did you mean 'videos'"),
        ("prepare verify videos --workers many", "prepare.py verify [-h]", "--workers: many: expected 0 or more"),
        ("benchmark datta", "benchmark.py [-h] WHAT", "'datta'.*; did you mean 'data'"),
        ("benchmark step --peers x", "benchmark.py step [-h]", "unknown option --peers; did you mean '--peer'"),
        ("benchmark step --peer transfromers", "benchmark.py step [-h]", "; did you mean 'transformers'"),
        ("pretrain x.yaml --dry-rum", "pretrain.py [-h]", "unknown option --dry-rum; did you mean '--dry-run'"),
        ("report --outptu x run", "report.py [-h]", "unknown option --outptu; did you mean '--output'"),
    ],
)
def test_mistakes_in_the_call_show_the_usage_and_the_nearest_name(arguments: str, usage: str, message: str) -> None:
    code, out, err = call(*arguments.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"usage: {usage}")
    assert re.search(message, err.splitlines()[-1])


def test_mistakes_that_show_later_have_no_traceback_either(config: Path, tmp_path: Path) -> None:
    from st_ssl.cli import guarded
    from st_ssl.engine.run_config import load_runs

    def of(*arguments: str) -> int:
        def command() -> None:
            train(load_runs(config, arguments)[0].config.model_dump(mode="json"))

        return guarded(command)

    assert of("engine.batch_size=7", "engine.accumulate=2") == 2
    assert of(f"data.root={tmp_path / 'nowhere'}") == 1
    assert of("method.name=videomae") == 2  # needs another encoder


def test_a_config_that_is_not_there_is_answered_with_one_that_is(config: Path) -> None:
    code, _, err = call("pretrain", config.with_name("confg.yaml"))
    assert code == 2
    assert err == f"error: {config.with_name('confg.yaml')}: no such file; did you mean {str(config)!r}?\n"


def test_an_error_of_ours_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    from st_ssl.cli import guarded
    from st_ssl.core.errors import ConfigError, DataError

    def failing(error: BaseException) -> int:
        def command() -> int:
            raise error

        return guarded(command)

    with pytest.raises(ZeroDivisionError):
        failing(ZeroDivisionError())
    assert failing(ConfigError("a key")) == 2
    assert failing(DataError("a folder")) == 1
    assert failing(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "error: a key\nerror: a folder\ninterrupted\n"


@pytest.mark.parametrize("enabled", [True, False])
def test_what_is_missing_for_the_report_is_told_before_training_and_is_no_reason_not_to_train(
    enabled: bool, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from st_ssl.cli import pretrain

    told = []
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(pretrain, "_pretrain", lambda run, runtime: told.append(capsys.readouterr().err))
    monkeypatch.setattr(sys, "argv", ["st-ssl", "pretrain", str(config), f"report.enabled={enabled}"])
    assert cli.main() == 0
    missing = 'the report needs the package matplotlib: pip install "st_ssl[viz]"'
    later = "once it is there, st-ssl report writes what is left out now"
    assert told == [f"{missing}; {later}\n" if enabled else ""]


# -------------------------------------------------------------------- looking before running


def test_the_printed_config_is_complete_and_can_be_run(config: Path, tmp_path: Path) -> None:
    code, out, err = call("pretrain", config, "--print-config", "engine.epochs=1")
    assert (code, err) == (0, "")
    assert not (tmp_path / "run").exists()
    data = yaml.safe_load(out)
    assert data["engine"]["epochs"] == 1
    assert data["engine"]["keep_last"] == 2
    printed = tmp_path / "printed.yaml"
    printed.write_text(out)
    train(yaml.safe_load(out))
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert saved == data
    assert len(metrics(tmp_path / "run")) == 3


@pytest.mark.parametrize("more", [(), ("--only", "videomae"), ("runs.cvrl.engine.epochs=2", "seed=3")])
def test_the_printed_config_of_several_runs_describes_the_same_runs(
    more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from st_ssl.cli import pretrain
    from st_ssl.engine.run_config import load_runs

    quickstart = ROOT / "configs" / "quickstart" / "video.yaml"
    monkeypatch.setattr(sys, "argv", ["pretrain", str(quickstart), "--print-config", *more])
    pretrain.main()
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    expected = load_runs(quickstart, [text for text in more if "=" in text])
    assert load_runs(printed) == [run for run in expected if run.name in more or "--only" not in more]


def test_a_dry_run_tells_the_costs_and_writes_nothing(config: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    code, out, err = call("pretrain", config, "--dry-run")
    assert code == 0, err
    assert sorted(tmp_path.rglob("*")) == before
    for line in (
        "views", "(4, 4, 32, 32, 3) (B, T, H, W, C) and", "encoder parameters", "method parameters",
        "memory", "GiB", "clips/s", "12 (4 epochs of 3)", "time for the run", "min",
    ):  # fmt: skip
        assert line in out, line


def test_a_dry_run_looks_at_the_folders_of_all_runs_before_anything_is_built(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from st_ssl.cli import pretrain
    from st_ssl.core.errors import ConfigError

    train(tiny(videos, tmp_path / "suite" / "b"), stop_at=3)
    base = tiny(videos, tmp_path / "suite")
    file = write_config(tmp_path / "suite.yaml", base | {"runs": {"a": {}, "b": {"engine": {"epochs": 5}}}})
    monkeypatch.setattr(sys, "argv", ["pretrain", str(file), "--dry-run"])
    with pytest.raises(ConfigError, match=r"b holds a run of another length:\n  engine.epochs: 4 before, 5 now"):
        pretrain.main()
    assert not (tmp_path / "suite" / "a").exists()
    monkeypatch.setattr(sys, "argv", ["pretrain", str(file), "--dry-run", "output_dir=/proc/runs"])
    with pytest.raises(ConfigError, match=r"^output_dir=/proc/runs/a: cannot be written to: "):
        pretrain.main()


def test_a_closed_pipe_is_quiet() -> None:
    quickstart = ROOT / "configs" / "quickstart" / "video.yaml"
    for arguments in (["--help"], [str(quickstart), "--print-config"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [sys.executable, str(ROOT / "tools" / "pretrain.py"), *arguments],
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
        os.close(writer)
        assert done.stderr == ""
        assert done.returncode == 141


def test_keys_of_a_probe_may_stand_behind_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    from st_ssl.cli import probe

    monkeypatch.setattr(sys, "argv", ["probe", "run", "--output", "out.json", "probe.kinds=[knn]"])
    arguments = probe._arguments()
    assert (arguments.runs, arguments.output) == (["run", "probe.kinds=[knn]"], Path("out.json"))
