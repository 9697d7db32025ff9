from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from st_ssl.core.config import merge, parse_override, read_yaml, set_key, to_yaml
from st_ssl.core.errors import ConfigError
from st_ssl.engine.run_config import RunConfig, load_runs

ROOT = Path(__file__).parents[2]
FILES = sorted(
    str(file.relative_to(ROOT))
    for part in ("quickstart", "pretrain")
    for file in (ROOT / "configs" / part).rglob("*.yaml")
)
BASE = """\
output_dir: runs/x
input: {num_frames: 8, size: 32}
encoder:
  name: r3d
  depth: 10
method:
  name: cvrl
  interval:
    distribution: uniform
optim:
  lr: 0.1
"""
SUITE = """\
runs:
  one:
    seed: 1
  two:
    engine: {epochs: 2}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "run.yaml").write_text(BASE)
    return tmp_path / "run.yaml"


def load(file: Path, *overrides: str) -> RunConfig:
    return load_runs(file, overrides)[0].config


def complaints(file: Path, text: str, *overrides: str) -> list[str]:
    """The lines of the error that ``text`` leads to, without the folder of the file."""
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_runs(file, overrides)
    return str(caught.value).replace(str(file), file.name).split("\n")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("output_dir:", "outputdir:", "run.yaml:1: outputdir: unknown key; did you mean 'output_dir'? (keys here: "),
        ("num_frames:", "num_frame:", "run.yaml:2: input.num_frame: unknown key; did you mean 'num_frames'?"),
        ("depth: 10", "wdith: 10", "run.yaml:5: encoder.wdith: unknown key; did you mean 'width'?"),
        ("    distribution:", "    distrbution:", "run.yaml:9: method.interval.distrbution: unknown key; did you "),
        ("name: r3d", "name: rd3", "run.yaml:4: encoder.name: no encoder named 'rd3'; did you mean 'r3d'?"),
        ("name: cvrl", "name: cvlr", "run.yaml:7: method.name: no method named 'cvlr'; did you mean 'cvrl'?"),
        ("  name: r3d\n", "", "run.yaml:3: encoder.name: is needed but not given (there are: "),
        ("depth: 10", "depth: ten", "run.yaml:5: encoder.depth: must be 10, 18, 34, 50, 101, 152 or 200, not 'ten'"),
        ("uniform", "uniforn", "run.yaml:9: method.interval.distribution: must be 'decreasing', 'uniform' or "
         "'constant', not 'uniforn'; did you mean 'uniform'?"),
        ("lr: 0.1", "lr: fast", "run.yaml:11: optim.lr: must be a number, not 'fast'"),
        ("lr: 0.1", "lr: .inf", "run.yaml:11: optim.lr: must be a finite number, not inf"),
        ("lr: 0.1", "lr: -1", "run.yaml:11: optim.lr: must be greater than 0, not -1"),
        ("lr: 0.1", "eps: 0.1", "run.yaml:10: optim.lr: is needed but not given"),
        ("size: 32", "size: yes", "run.yaml:2: input.size: must be a whole number, not 'true'"),
        ("lr: 0.1", "lr: 1\n  weight_decay: off", "run.yaml:12: optim.weight_decay: must be a number, not 'false'"),
        ("size: 32", "size: 3.5", "run.yaml:2: input.size: must be a whole number, not 3.5"),
        ("{num_frames: 8, size: 32}", "8", "run.yaml:2: input: must be a mapping of keys to values, not 8"),
        ("{num_frames: 8, size: 32}", "{std: [1, 0, 1]}", "run.yaml:2: input.std.1: must be greater than 0, not 0"),
        ("optim:\n  lr: 0.1", "seed: 1", "run.yaml: optim: is needed but not given"),
        ("output_dir: runs/x", "output_dir: [1]", "run.yaml:1: output_dir: must be text, not [1]"),
        ("output_dir:", "1:", "run.yaml:1: 1: keys should be strings"),
        ("name: cvrl", "name: cvrl\n  augment: {area: [2, 1]}", "run.yaml:8: method.augment.area: a share of the "),
    ],
)  # fmt: skip
def test_a_mistake_names_key_place_and_remedy(file: Path, old: str, new: str, said: str) -> None:
    assert BASE.count(old) == 1
    assert any(line.startswith(said) for line in complaints(file, BASE.replace(old, new)))


def test_the_base_of_these_tests_is_right(file: Path) -> None:
    config = load(file)
    assert (config.encoder.depth, config.method.interval.distribution, config.input.stride) == (10, "uniform", 4)


def test_all_mistakes_are_listed_at_once(file: Path) -> None:
    text = BASE.replace("depth", "dpeth").replace("lr: 0.1", "lr: x") + "sede: 3\n"
    lines = complaints(file, text, "engine.epochs=x")
    assert sorted(line.split(": ")[1] for line in lines) == ["encoder.dpeth", "engine.epochs", "optim.lr", "sede"]


def test_a_rule_over_several_keys_names_their_mapping(file: Path) -> None:
    text = BASE.replace("name: r3d\n  depth: 10", "name: video_vit\n  dim: 10\n  heads: 3")
    assert complaints(file, text) == ["run.yaml:3: encoder: dim 10 must be even and divisible by heads 3"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", "run.yaml:5: b.c stands twice (first in line 3)"),
        ("a: 1\na: 1\n", "run.yaml:2: a stands twice (first in line 1)"),
        ("- a\n", "run.yaml: expected keys and values, found list"),
        ("", "run.yaml: expected keys and values, found NoneType"),
        ("a: [1\n", "run.yaml: not YAML that can be read: "),
        ("a: &a\n  b: *a\n", "run.yaml: not YAML that can be read: "),
        ("a: !!python/object/apply:os.getcwd []\n", "run.yaml: not YAML that can be read: could not determine"),
        ("a: !!python/name:os.system\n", "run.yaml: not YAML that can be read: could not determine"),
    ],
)
def test_what_is_not_a_mapping_is_refused(file: Path, text: str, said: str) -> None:
    assert complaints(file, text)[0].startswith(said)


def test_bytes_that_are_not_text_are_refused(file: Path) -> None:
    file.write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigError, match="not YAML that can be read"):
        read_yaml(file)


def test_a_key_that_stands_twice_in_an_override_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"'data={a: {b: 1, b: 2}}': a.b stands twice"):
        parse_override("data={a: {b: 1, b: 2}}")


def test_python_tags_are_refused_in_overrides(file: Path) -> None:
    with pytest.raises(ConfigError, match="value is not YAML"):
        load(file, "seed=!!python/object/apply:os.getcwd []")


def test_missing_file_names_its_nearest_sibling(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"rnu\.yaml: no such file; did you mean '.*/run\.yaml'\?"):
        load_runs(file.with_name("rnu.yaml"))
    with pytest.raises(ConfigError, match=r"no such file$"):
        load_runs(file.parent / "nowhere" / "run.yaml")


# ---------------------------------------------------------------------------------------------- overrides


@pytest.mark.parametrize("text", ["engine.epochs", "=3", ".=3", "engine..epochs=3", "engine.=3", " =3", ""])
def test_overrides_that_are_none(file: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(file, text)
    assert str(caught.value).startswith(f"{text!r}: expected dotted.key=value")


def test_override_values_are_yaml() -> None:
    assert parse_override("a.b=[1, x]") == (("a", "b"), [1, "x"])
    assert parse_override("a=b=c") == (("a",), "b=c")
    assert parse_override("a=") == (("a",), None)
    with pytest.raises(ConfigError, match=r"'a=\[': the value is not YAML"):
        parse_override("a=[")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("engine.epohs=3", "engine.epohs: unknown key; did you mean 'epochs'?"),
        ("engine.epochs=1e2", "engine.epochs: must be a whole number, not '1e2'; write 100"),
        ("engine.epochs=many", "engine.epochs: must be a whole number, not 'many'"),
        ("method.name=videomea", "method.name: no method named 'videomea'; did you mean 'videomae'?"),
        ("encoder=r3d", "encoder: must be a mapping of keys to values, not 'r3d'"),
        ("encoder={name: r3d, dpeth: 3}", "encoder.dpeth: unknown key; did you mean 'depth'?"),
        ("seed.x=3", "seed: must be a whole number, not {'x': 3}"),
        ("data.name=vidoe", "data.name: no data named 'vidoe'; did you mean 'video'?"),
    ],
)
def test_mistakes_in_overrides_name_the_override(file: Path, override: str, said: str) -> None:
    (line,) = complaints(file, BASE, override)
    assert line.startswith(f"command line, {override!r}: {said}")


def test_overrides_lie_on_the_file_and_the_last_one_counts(file: Path) -> None:
    config = load(file, "optim.lr=1e-3", "engine.epochs=5", "engine.epochs=6", "encoder.width=8", "probe=null")
    assert (config.optim.lr, config.engine.epochs, config.encoder.width, config.encoder.depth) == (1e-3, 6, 8, 10)
    assert config.probe is None
    assert load(file, "probe.seeds=1").probe is not None


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_another_name_replaces_the_mapping(file: Path, order: tuple[int, int]) -> None:
    both = ["method.name=videomae", "method.repeats=2"]
    config = load(file, *(both[i] for i in order), "encoder.name=video_vit")
    assert config.method.name == "videomae"  # cvrl's interval would be an unknown key here
    assert config.method.repeats == 2
    assert config.encoder.name == "video_vit"
    assert load(file, "method.name=cvrl").method.interval.distribution == "uniform"  # the same name keeps the others


# ---------------------------------------------------------------------------------------------- suites of runs


def test_runs_share_the_rest_of_the_file(file: Path) -> None:
    file.write_text(BASE + SUITE)
    one, two = load_runs(file, ["seed=3", "runs.two.seed=4", "runs.two.engine.batch_size=9"])
    assert (one.name, one.config.output_dir, one.config.seed) == ("one", "runs/x/one", 3)
    assert (two.name, two.config.output_dir, two.config.seed) == ("two", "runs/x/two", 4)
    assert (two.config.engine.epochs, two.config.engine.batch_size) == (2, 9)
    assert (one.config.engine.epochs, one.config.engine.batch_size) == (100, 32)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed: 1", "sede: 1", "run.yaml:14: sede: unknown key; did you mean 'seed'?"),
        ("epochs: 2", "epochs: x", "run.yaml:16: engine.epochs: must be a whole number, not 'x'"),
        ("lr: 0.1", "lr: x", "run.yaml:11: optim.lr: must be a number, not 'x'"),
        ("optim:\n  lr: 0.1\n", "", "run.yaml:11: optim: is needed but not given"),
    ],
)
def test_mistakes_in_suites_name_their_own_line(file: Path, old: str, new: str, said: str) -> None:
    assert complaints(file, (BASE + SUITE).replace(old, new))[0].startswith(said)


@pytest.mark.parametrize("override", ["engine.epohs=3", "runs.two.engine.epohs=3"])
def test_mistakes_in_overrides_of_suites(file: Path, override: str) -> None:
    (line,) = complaints(file, BASE + SUITE, override)
    assert line.startswith(f"command line, {override!r}: engine.epohs: unknown key; did you mean 'epochs'?")


def test_overrides_of_runs_that_are_none(file: Path) -> None:
    expected = "expected runs.<name>.key=value with a name out of ['one', 'two']"
    assert complaints(file, BASE + SUITE, "runs.tow.seed=1") == [f"'runs.tow.seed=1': {expected}; did you mean 'two'?"]
    assert complaints(file, BASE + SUITE, "runs.two=1")[0].startswith(f"'runs.two=1': {expected}")
    assert complaints(file, BASE + SUITE, "runs=1") == [f"'runs=1': {expected}"]
    assert complaints(file, BASE + "runs: [one]\n") == ["run.yaml:12: runs: expected a mapping from names to keys and values"]  # fmt: skip  # noqa: E501


# ---------------------------------------------------------------------------------------------- merging, round trips


def test_merge() -> None:
    base = {"a": {"name": "x", "p": 1, "deep": {"q": 1, "r": 2}}, "b": 1}
    assert merge(base, {"a": {"deep": {"q": 5}}}) == {"a": {"name": "x", "p": 1, "deep": {"q": 5, "r": 2}}, "b": 1}
    assert merge(base, {"a": {"name": "x", "p": 2}})["a"] == {"name": "x", "p": 2, "deep": {"q": 1, "r": 2}}
    assert merge(base, {"a": {"name": "y", "z": 3}})["a"] == {"name": "y", "z": 3}
    assert merge(base, {"a": None, "c": {"d": 1}}) == {"a": None, "b": 1, "c": {"d": 1}}
    assert merge(base, {"b": {"d": 1}})["b"] == {"d": 1}
    assert base == {"a": {"name": "x", "p": 1, "deep": {"q": 1, "r": 2}}, "b": 1}  # untouched


def test_set_key_leaves_what_it_was_given() -> None:
    inner = {"b": {"c": 1}}
    data: dict[str, Any] = {"a": inner, "s": 1}
    set_key(data, ("a", "b", "d"), 2)
    set_key(data, ("s", "t"), 3)
    assert data == {"a": {"b": {"c": 1, "d": 2}}, "s": {"t": 3}}
    assert inner == {"b": {"c": 1}}


@pytest.mark.parametrize("name", FILES)
def test_shipped_configurations_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    runs = load_runs(ROOT / name)
    assert runs
    for run in runs:
        resolved = tmp_path / "resolved.yaml"
        resolved.write_text(to_yaml(run.config.model_dump(mode="json")))
        assert load(resolved) == run.config


@pytest.mark.parametrize("name", [name for name in FILES if "pretrain" in name])
def test_recipes_say_what_they_need(name: str) -> None:
    head = " ".join((ROOT / name).read_text().partition("output_dir:")[0].replace("#", " ").split())
    assert f"tools/pretrain.py {name} " in head
    assert "data.root=" in head
    assert "%" in head or "No published figure" in head


def test_dumped_text_keeps_types_and_order() -> None:
    data = {"z": "1e5", "a": [1.5e-8, 1e20, None, True, "yes", "é", "007"], "m": {"x": "null", "y": "a: b # c\nd"}}
    text = to_yaml(data)
    assert yaml.safe_load(text) == data
    assert list(yaml.safe_load(text)) == ["z", "a", "m"]
    assert "é" in text


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optim.nesterov=true", "nesterov=True is ignored: adamw does not use it"),
        ("method.augment.scales=[0.5]", "scales is ignored with crop: random_resized"),
        ("schedule.warmup_lr=0.1", "warmup_lr=0.1 is ignored: warmup_epochs is 0"),
    ],
)
def test_ignored_settings_are_warnings(file: Path, override: str, said: str) -> None:
    with pytest.warns(UserWarning, match=said):
        load(file, override)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "method.name=point_contrast",
            "command line, .*: method.name: point_contrast is for points, and data.name=video",
        ),
        ("data.name=points", r"quickstart.video.yaml:\d+: encoder.name: r3d is for video, and data.name=points is not"),
        ("data.name=point", r"data.name: no data named 'point'.* 'points'"),
    ],
)
def test_what_is_of_the_other_modality_is_told(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_runs(ROOT / "configs" / "quickstart" / "video.yaml", [override])
