from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from st_ssl.core.errors import ConfigError
from st_ssl.engine.probe_files import probe_file, probe_title
from st_ssl.transfer.probes.probe_config import ProbeConfig
from tests.runs import load, tiny, write_config
from tests.transfer.tiny import write_encoder

OWN: dict[str, Any] = {"kinds": ["knn", "linear"]}


def run_of(folder: Path, probe: dict[str, Any] | None = OWN) -> Path:
    folder.mkdir()
    write_config(folder / "config.yaml", tiny(Path("/data/own"), folder) | {"probe": probe})
    return folder


def inputs(run: Path, root: str = "/data/own", **probe: Any) -> dict[str, Any]:
    """What a probe of ``run`` is made by; settings that are not named are its own."""
    data = load(tiny(Path(root), run / "run")).data.model_dump(mode="json")
    return {"data": data, "probe": ProbeConfig.model_validate(OWN | probe).model_dump(mode="json")}


def write(file: Path, made_by: dict[str, Any]) -> None:
    file.write_text(json.dumps({"targets": {}, "config": made_by}))


@pytest.mark.parametrize(
    ("probe", "name"),
    [
        ({}, "probe.json"),
        ({"batch_size": 7}, "probe.json"),
        ({"kinds": ["svm"]}, "probe_svm.json"),
        ({"clips": 10, "kinds": ["retrieval", "knn"]}, "probe_retrieval+knn_clips-10.json"),
        ({"few_shot": {"shots": 5}, "splits": [1, 2]}, "probe_shots-5_splits-1+2.json"),
    ],
)
def test_other_settings_have_a_file_that_is_named_after_them(tmp_path: Path, probe: dict[str, Any], name: str) -> None:
    run = run_of(tmp_path / "run")
    assert probe_file([run], inputs(run, **probe)) == run / name
    write(run / "probe.json", inputs(run))
    assert probe_file([run], inputs(run, **probe)) == run / name


def test_too_many_words_become_a_short_hash(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    names = {
        probe_file([run], inputs(run, linear_strengths=[n / 1000 for n in range(1, last)])).name for last in (20, 21)
    }
    assert len(names) == 2 and all(len(name) == len("probe_01234567.json") for name in names)


def test_other_data_have_a_file_that_is_named_after_them(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    first, second = inputs(run, "/data/other", kinds=["svm"]), inputs(run, "/data/other")
    write(file := probe_file([run], first), first)
    assert file == run / "probe_other.json"
    assert probe_file([run], first) == file
    assert probe_file([run], second) == run / "probe_other_knn+linear.json"
    with pytest.raises(ConfigError, match=r"probe_other\.json is the probe of other data \(root: .*by --output"):
        probe_file([run], inputs(run, "/elsewhere/other", kinds=["svm"]))


def test_a_run_without_a_probe_keeps_its_first_one(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", None)
    first = inputs(run, kinds=["svm"])
    write(file := probe_file([run], first), first)
    assert file == run / "probe.json"
    assert probe_file([run], first) == file
    assert probe_file([run], inputs(run)) == run / "probe_knn+linear.json"


def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    write(run / "probe_svm.json", inputs(run, kinds=["svm"], clips=3))
    with pytest.raises(
        ConfigError, match=r"probe_svm\.json is the probe with other settings \(clips: 3 before, 1 now\)"
    ):
        probe_file([run], inputs(run, kinds=["svm"]))
    (run / "probe_svm.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"probe_svm\.json is not the result of a probe .*by --output"):
        probe_file([run], inputs(run, kinds=["svm"]))


def test_results_of_before_a_setting_was_there_are_of_its_default(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", None)
    before = inputs(run)
    del before["probe"]["svm_standardise"]
    write(run / "probe.json", before)
    assert probe_file([run], inputs(run)) == run / "probe.json"


def test_several_runs_have_a_file_of_their_own(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / name) for name in ("a", "b")]
    files = [probe_file([runs[0], other], inputs(runs[0])) for other in (runs[1], run_of(tmp_path / "c"))]
    assert all(re.fullmatch(r"probe_2_runs_[0-9a-f]{8}\.json", file.name) and file.parent == runs[0] for file in files)
    assert files[0] != files[1] and probe_file(runs, inputs(runs[0])) == files[0]


def test_a_named_file_is_taken_unless_it_is_the_own_one_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [run_of(tmp_path / name) for name in ("a", "b")]
    named = tmp_path / "mine.json"
    assert probe_file(runs[:1], inputs(runs[0], kinds=["svm"]), named) == named
    monkeypatch.chdir(tmp_path)
    for given, made_by in (
        (runs[:1], inputs(runs[0], kinds=["svm"])),
        (runs[:1], inputs(runs[0], "/data/other")),
        (runs[::-1], inputs(runs[0])),
    ):
        with pytest.raises(ConfigError, match=r"--output a/probe\.json is for the probe of the run's own data"):
            probe_file(given, made_by, Path("a/probe.json"))
    assert probe_file(runs[:1], inputs(runs[0]), Path("a/probe.json")) == Path("a/probe.json")
    with pytest.raises(ConfigError, match=r"--output b/probe\.json is for the probe of the run in b"):
        probe_file(runs[:1], inputs(runs[0]), Path("b/probe.json"))
    alone = write_encoder(tmp_path / "alone")
    assert probe_file([alone], inputs(runs[0]), alone / "probe.json") == alone / "probe.json"


def test_titles_tell_data_from_settings(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    own = inputs(run)["data"]
    for name, made_by, title in (
        ("probe_other.json", inputs(run, "/data/other"), "Probes on other"),
        ("probe_other_svm_clips-10.json", inputs(run, "/data/other"), "Probes on other, svm clips-10"),
        ("probe_svm.json", inputs(run), "Probes, svm"),
        ("probe_2_runs.json", inputs(run), "Probes, 2 runs"),
    ):
        write(run / name, made_by)
        assert probe_title(run / name, own) == title
    (run / "probe_x.json").write_text("[")
    assert probe_title(run / "probe_x.json", own) == "Probes on x"
