"""Mistakes in a study are told before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from st_ssl.core.errors import ConfigError
from st_ssl.study.config import load_study, told_changes
from tests.study.study_files import METHOD, write_study


def arms(**keys: Any) -> dict[str, Any]:
    return {"arms": {"cvrl": {"network": "cnn", "method": METHOD, **keys}}}


def told(**claim: Any) -> dict[str, Any]:
    return {"claims": [{"name": "x", "more": "cvrl", "less": "any", "target": "light", **claim}]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (arms(network="cn"), r"arms.cvrl.network: 'cn' is not one of cnn; did you mean 'cnn'"),
        (arms(method={"name": "cvrl", "hiden_dim": 3}), r"method.hiden_dim: unknown key; did you mean 'hidden_dim'"),
        (arms(trials=[{"optim": {"lrr": 1}}]), r"optim.lrr: unknown key"),
        (arms(trials=[{}] * 5), r"5 are more than 4"),
        (arms(trials={"lr": 1}), r"arms.cvrl.trials: expected a list"),
        (arms(input={"stride": 2}), r"arms.cvrl: input belongs to its network"),
        (arms(trials=[{"encoder": {"width": 8}}]), r"a trial of arms.cvrl: encoder belongs to its network"),
        (told(more="cvr"), r"no arm is called 'cvr'; did you mean 'cvrl'"),
        (told(target=None), r"expected either a target or a metric"),
        (told(less="untrained", target=None, metric="loss"), r"an untrained network has no metric"),
        ({"tuning": {"seed": 1}}, r"tuning.seed=1 is one of seeds"),
        ({"seeds": [1, 1]}, r"each only once"),
        ({"budgets": {"seconds": 3}}, r"budgets: unknown key; did you mean 'budget'"),
        ({"run": {"probe": None}}, r"a study needs probes"),
        ({"supervised": {"task": {"name": "recognise"}, "stepps": 3}}, r"stepps: unknown key; did you mean 'steps'"),
    ],
)
def test_mistakes_name_their_key(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_study(write_study(tmp_path, tmp_path, **changes))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("arms.cvrl.method.hiden_dim=3", r"'arms\.cvrl\.method\.hiden_dim=3': method\.hiden_dim: unknown key"),
        ("run.engine.epoch=3", r"'run\.engine\.epoch=3': engine\.epoch: unknown key; did you mean 'epochs'"),
        ("networks.cnn.encoder.widht=3", r"'networks\.cnn\.encoder\.widht=3': encoder\.widht: unknown key"),
    ],
)
def test_mistakes_of_the_command_line_are_told_as_they_stand_there(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"command line, {words}"):
        load_study(write_study(tmp_path, tmp_path), [override])


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"run": {"engine": {"epoch": 3}}}, "engine.epoch"),
        (arms(optim={"lrr": 1}), "optim.lrr"),
        (arms(trials=[{}, {"optim": {"lrr": 1}}]), "optim.lrr"),
        ({"networks": {"cnn": {"encoder": {"widht": 4}}}}, "encoder.widht"),
    ],
)
def test_mistakes_have_the_line_that_they_stand_in(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    file = write_study(tmp_path, tmp_path, **changes)
    word = f"{key.partition('.')[2]}:"
    number = next(n for n, line in enumerate(file.read_text().splitlines(), 1) if line.strip().startswith(word))
    with pytest.raises(ConfigError, match=rf"study\.yaml:{number}: {key}: unknown key"):
        load_study(file)


def test_a_run_is_laid_from_study_network_arm_and_trial(tmp_path: Path) -> None:
    file = write_study(tmp_path, tmp_path, **arms(optim={"lr": 0.5}, trials=[{}, {"optim": {"lr": 0.25}}]))
    study = load_study(file, ["run.engine.batch_size=8"])
    config = study.run_config("cvrl", 3)
    assert (config.optim.lr, config.seed, config.engine.batch_size, config.engine.epochs) == (0.5, 3, 8, 2)
    assert config.encoder.width == 4 and config.input.num_frames == 4
    assert study.run_config("cvrl", 3, trial=1, epochs=7).optim.lr == 0.25
    assert study.run_config("cvrl", 3, trial=1, epochs=7).engine.epochs == 7


def test_changes_of_a_trial_in_words() -> None:
    assert told_changes({"optim": {"lr": 0.1}, "engine": {"batch_size": 4}}) == "optim.lr=0.1, engine.batch_size=4"
