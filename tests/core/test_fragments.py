"""``data=NAME``: what a data set decides, laid on a recipe and under the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from st_ssl.core.config import read_yaml
from st_ssl.core.errors import ConfigError
from st_ssl.core.fragments import asked_fragment, configs_folder, fragment_names
from st_ssl.engine.run_config import RunConfig, encoder_probe, load_runs
from st_ssl.engine.run_files import load_run_config
from st_ssl.transfer.fitting.finetune_config import load_finetune
from tests.runs import ROOT, tiny, write_config

RECIPES: dict[str, Path] = {}  # by the name that each gives itself
for _file in sorted((ROOT / "configs").rglob("*.yaml")):
    if _name := read_yaml(_file)[0].get("recipe"):
        RECIPES[_name] = _file
SETS = {name: read_yaml(configs_folder() / "data" / f"{name}.yaml")[0] for name in fragment_names()}
ROOM = "data.root=/nowhere"
MINE = """\
data: {name: video, format: folder}
pretrain:
  input: {stride: 3, num_frames: 6}
  seed: 5
recipes:
  small:
    seed: 6
    engine: {epochs: 7}
finetune: {epochs: 3}
"""


def modality(recipe: Path) -> str:
    data = read_yaml(recipe)[0].get("data", {})
    if data.get("name") == "drives":
        return "drives"
    return "points" if "points" in (data.get("name"), recipe.parent.name) else "video"


def resolved(recipe: Path, *keys: str) -> Any:
    return load_finetune(recipe, keys) if "transfer" in recipe.parts else load_runs(recipe, keys)[0].config


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe and a data set of the user's."""
    monkeypatch.chdir(tmp_path)
    Path("set.yaml").write_text(MINE)
    write_config(Path("run.yaml"), tiny(Path("videos"), Path("out")) | {"recipe": "small"})
    return tmp_path


def load(*keys: str) -> RunConfig:
    return load_runs(Path("run.yaml"), keys)[0].config


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        (recipe, name)
        for recipe, file in RECIPES.items()
        for name in SETS
        if modality(file) == SETS[name]["data"]["name"]
    ],
)
@pytest.mark.filterwarnings("error")
def test_every_recipe_takes_every_data_set_of_its_modality(recipe: str, name: str) -> None:
    config = resolved(RECIPES[recipe], f"data={name}", ROOM)
    own = SETS[name]["data"]
    assert {key: getattr(config.data, key) for key in own} == own or "point" in recipe  # which keep their format
    if name == "ssv2":  # where "from left to right" is a label
        assert (config.task if "transfer" in RECIPES[recipe].parts else config.method).augment.flip == 0


@pytest.mark.parametrize("name", SETS)
def test_what_a_data_set_has_for_recipes_is_taken(name: str) -> None:
    for recipe, section in SETS[name].get("recipes", {}).items():
        alone, laid = resolved(RECIPES[recipe], ROOM), resolved(RECIPES[recipe], f"data={name}", ROOM)
        for part in section.keys() - {"data"}:
            assert getattr(laid, part) != getattr(alone, part), f"{name}: {recipe}.{part} changes nothing"


@pytest.mark.parametrize("keys", [("data=set.yaml", "data.root=x"), ("data.root=x", "data=set.yaml")])
def test_it_lies_on_the_recipe_and_under_the_command_line(here: Path, keys: tuple[str, str]) -> None:
    config = load(*keys, "input.num_frames=8")
    assert (config.data.root, config.data.format, config.data.num_workers) == ("x", "folder", 0)
    assert (config.input.stride, config.input.num_frames, config.input.size) == (3, 8, 32)
    assert (config.seed, config.engine.epochs, config.engine.batch_size) == (6, 7, 4)  # recipes lies on pretrain
    assert load().seed == 0 and load("data={num_workers: 1}").data.num_workers == 1  # a mapping is what it was


def test_a_recipe_of_another_name_takes_the_rest(here: Path) -> None:
    write_config(Path("run.yaml"), tiny(Path("videos"), Path("out")))
    assert (load("data=set.yaml").seed, load("data=set.yaml").engine.epochs) == (5, 4)


def test_a_file_names_it_too_and_the_command_line_another(here: Path) -> None:
    write_config(Path("run.yaml"), tiny(Path("videos"), Path("out")) | {"data": "set.yaml"})
    assert (load("data.root=x").data.format, load("data.root=x").input.stride) == ("folder", 3)
    assert (load("data.root=x", "data=ssv2").data.format, load("data.root=x", "data=ssv2").input.stride) == ("ssv2", 2)
    Path("tune.yaml").write_text("data: ssv2\ntask: {name: recognise}\noptim: {lr: 1}\n")
    assert load_finetune(Path("tune.yaml"), ["data.root=x"]).task.sampling == "uniform"


def test_runs_of_a_file_take_it_each(here: Path) -> None:
    shared = tiny(Path("videos"), Path("out")) | {"data": "set.yaml"}
    own = {"one": {"data": {"root": "a", "num_workers": 1}}, "two": {"data": "ssv2"}, "three": {"recipe": "small"}}
    write_config(Path("run.yaml"), shared | {"runs": own})
    keys = ["runs.two.data.root=b", "runs.three.data.root=c"]
    one, two, three = (run.config for run in load_runs(Path("run.yaml"), keys))
    assert (one.data.root, one.data.format, one.data.num_workers) == ("a", "folder", 1)  # kept beside a mapping
    assert (two.data.root, two.data.format, two.input.stride) == ("b", "ssv2", 2)
    assert [run.engine.epochs for run in (one, two, three)] == [4, 4, 7]
    runs = load_runs(Path("run.yaml"), [*keys, "runs.two.data=hmdb51"])
    assert [run.config.data.format for run in runs] == ["folder", "hmdb51", "folder"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("stride: 3", "strid: 3", r"^set.yaml:3: input.strid: unknown key; did you mean 'stride'\?"),
        ("stride: 3", "stride: x", "^set.yaml:3: input.stride: must be a whole number, not 'x'"),
        ("format: folder", "fromat: folder", r"^set.yaml:1: data.fromat: unknown key; did you mean 'format'\?"),
        ("  seed: 5", "  data: null", "^set.yaml:4: data: must be a mapping of keys to values, not None"),
        ("  seed: 5", "  mask: {ratio: 1}", r"^set.yaml:4: mask: unknown key"),
        ("  seed: 5", "  method: {mask: {ratio: 1}}", r"^set.yaml:4: method.mask: unknown key"),
        ("epochs: 7", "epochs: x", "^set.yaml:8: engine.epochs: must be a whole number"),
        ("pretrain:", "pretrian:", r"^set.yaml:2: pretrian: unknown section; did you mean 'pretrain'\? \(a data set "),
        ("data: {name: video, format: folder}", "data: ucf101", "^set.yaml:1: data: must be a mapping of keys to"),
        ("small:\n    seed: 6\n    engine: {epochs: 7}", "small: 1", "^set.yaml:6: recipes.small: must be a mapping"),
        ("  seed: 5", "  optim: {lr: 1, betas: [2, 0]}", r"^set.yaml:4: optim: betas must lie"),  # of several keys
    ],
)
def test_mistakes_name_the_file_and_line_of_the_data_set(here: Path, old: str, new: str, said: str) -> None:
    assert MINE.count(old) == 1
    Path("set.yaml").write_text(MINE.replace(old, new))
    with pytest.raises(ConfigError, match=said):
        load("data=set.yaml")


def test_mistakes_beside_it_keep_their_own_places(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"^command line, 'input.stride=x': input.stride: must be"):
        load("data=set.yaml", "input.stride=x")
    text = Path("run.yaml").read_text()
    Path("run.yaml").write_text(text.replace("size: 32", "size: x"))
    with pytest.raises(ConfigError, match=r"^run.yaml:\d+: input.size: must be"):
        load("data=set.yaml")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (
            "data=ucf11",
            r"^command line, 'data=ucf11': data: no data set named 'ucf11'; did you mean 'ucf101'\? \(there",
        ),
        ("data=mine.yaml", r"data: no data set named 'mine.yaml' \(there are: diving48, "),
        ("data=../data/ucf101", "no data set named"),
        ("data=videos", "no data set named 'videos'; a folder or a list is data.root=videos"),
        (f"data={'x' * 300}.yaml", "no data set named"),
        ("data=5", "^command line, 'data=5': data: must be a mapping"),
    ],
)
def test_names_that_are_none(here: Path, key: str, said: str) -> None:
    Path("videos").mkdir()
    with pytest.raises(ConfigError, match=said):
        load(key)
    write_config(Path("run.yaml"), tiny(Path("videos"), Path("out")) | {"data": "ucf11"})
    with pytest.raises(ConfigError, match=r"^run.yaml:\d+: data: no data set named 'ucf11'; did you"):
        load()


def test_a_named_data_set_that_is_nowhere_is_not_planted(here: Path) -> None:
    said = r"'data=ssv2': this says how the data are read, not where they are: add data.root=FOLDER$"
    with pytest.raises(ConfigError, match=said):
        resolved(RECIPES["videomae"], "data=ssv2")
    with pytest.raises(ConfigError, match=said):
        resolved(RECIPES["vit"], "data=ssv2")
    with pytest.raises(ConfigError, match=said):
        load_finetune(RECIPES["vit"], ["data=ssv2"], {"name": "video", "root": None})
    assert load_finetune(RECIPES["vit"], ["data=ssv2"], {"name": "video", "root": "/gone"}).data.root == "/gone"
    assert load_runs(RECIPES["videomae"], ["data=ssv2", "data.list=x.txt"])[0].config.data.format == "ssv2"


def test_a_data_set_is_no_recipe_and_a_recipe_no_data_set(here: Path) -> None:
    for taken in (load_runs, load_finetune):
        with pytest.raises(ConfigError, match=r"ucf101.yaml: this is a data set, and no recipe: it goes behind"):
            taken(configs_folder() / "data" / "ucf101.yaml", [ROOM])
    with pytest.raises(ConfigError, match=r"^run.yaml:1: output_dir: unknown section \(a data set has: data, pretrain"):
        load("data=run.yaml")
    write_config(Path("run.yaml"), tiny(Path("videos"), Path("out")) | {"recipe": ["x"]})
    with pytest.raises(ConfigError, match=r"^run.yaml:\d+: recipe: must be text, not \['x'\]"):
        load()


def test_probes_of_a_run_and_of_an_encoder_take_it(here: Path) -> None:
    write_config(Path("config.yaml"), tiny(Path("videos"), Path("out")))
    probed = load_run_config(here, ["data=hmdb51", "data.root=/data/hmdb51"])
    assert (probed.data.root, probed.data.format) == ("/data/hmdb51", "hmdb51")
    alone = encoder_probe(here, "video", ["data=hmdb51", "data.root=/data/hmdb51"])
    assert (alone.data.root, alone.data.format) == ("/data/hmdb51", "hmdb51")


def test_the_last_name_is_the_one_that_is_asked_for() -> None:
    given: list[tuple[tuple[str, ...], Any, str]] = [
        *((("data",), "a", "data=a"), (("data",), "b", "data=b")),
        *((("data",), {"root": "x"}, "data={root: x}"), (("seed",), 1, "seed=1")),
    ]
    assert asked_fragment(given) == "b" and asked_fragment(given[2:]) is None
