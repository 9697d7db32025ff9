"""Runs the commands of the documentation in this process, on tiny data and with tiny settings."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
import tomllib
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from st_ssl import cli
from st_ssl.core.config import flatten, merge, to_yaml
from st_ssl.core.inputs import InputConfig
from st_ssl.encoders.base import ENCODERS, random_encoder, save_encoder
from st_ssl.engine.run_config import load_runs
from tests.documentation.commands import Command
from tests.documentation.places import data_at, file_at
from tests.methods.small import small
from tests.runs import ROOT

VIDEO, CLOUDS, ROOMS = "runs/quickstart/video/videomae", "runs/quickstart/points/point_mae", "runs/quickstart/rooms/fac"
DRIVES, SWIN = "runs/quickstart/driving", "runs/swin"
# Of tools that nothing is to be learned from here: their arguments are understood, and no more.
PARSED = {
    "benchmark": "minutes on a quiet machine: tests/cli/test_benchmark.py",
    "doctor": "looks at the machine for seconds: tests/cli/test_doctor.py",
}
# Commands of other programs, by a pattern, and why they are not run.
OTHERS = {
    r"pip install (.*)": "installs; .ci/run does it",
    r"pytest(.*)": "is what runs this",
    r"bash (\.ci/run)": "installs, and runs all tests",
    r"(python3 -m venv|\.) .*": "makes an environment: .ci/run does it",
    r"(python -m build|pip wheel .*)": "tests/test_wheel.py builds the wheel",
    r"apt-get install .*": "installs, as root",
    r"torchrun --nproc-per-node N": "how any tool is started in several processes",
}
# How much of a network is enough to see that a command works.
_ENCODERS: dict[str, list[str]] = {
    "r3d": ["encoder.depth=10", "encoder.width=4"],
    "slow": ["encoder.width=4"],
    "video_vit": ["encoder.dim=24", "encoder.depth=1", "encoder.heads=3", "encoder.patch=8"],
    "point_vit": [
        *("encoder.dim=24", "encoder.depth=2", "encoder.heads=3", "encoder.tokeniser=[8,16,32]"),
        *("encoder.num_groups=8", "encoder.group_size=8"),
    ],
    "dgcnn": ["encoder.widths=[8,12]", "encoder.neighbours=6", "encoder.dim=24"],
    "second": [
        *("encoder.range=[-25.6,-25.6,-3,25.6,25.6,3.4]", "encoder.voxel=[0.8,0.8,0.8]"),
        *("encoder.widths=[4,6]", "encoder.out=8"),
    ],
    "sparse_resnet": ["encoder.variant=tiny", "encoder.channels=[8,8,8,8]", "encoder.stem=8"],
    "sparse_unet": ["encoder.variant=tiny", "encoder.channels=[8,8,8,8,8,8,8,8]", "encoder.stem=8"],
}
_TASKS = {
    "recognise": ["task.clips=1", "task.crops=1"],
    "few_shot": ["task.folds=2"],
    "detect": [
        "task.detector.bev={layers: [1], strides: [1], widths: [8], up_strides: [], up_widths: []}",
        "task.detector.head={name: centre, width: 8}",
    ],
}
_DRIVES = ("num_train=6", "num_val=0", "num_test=2", "sweeps=5", "key_every=1", "beams=12", "columns=120")
_NEED_NOTHING = ("configs", "doctor", "benchmark")


def _method(section: dict[str, Any]) -> list[str]:
    """Keys that make a method as small as its tests have it; a recipe keeps its mask."""
    own = {key: value for key, value in small(section["name"])["method"].items() if key not in {"name", "mask"}}
    keys = [f"method.{key}={json.dumps(value)}" for key, value in flatten(own).items()]
    return keys + (["method.target_frames=2"] if section.get("target_frames") else [])


def tiny_pretrain(recipe: str, *words: str) -> list[str]:
    """Keys that make the pretraining of a recipe one of seconds, for each of its runs. ``words``: behind it."""
    file = ROOT / "configs" / f"{recipe.removeprefix('configs/').removesuffix('.yaml')}.yaml"
    shared = yaml.safe_load(file.read_text())
    for name in (word.removeprefix("data=") for word in words if re.fullmatch(r"data=\w+", word)):
        theirs = yaml.safe_load((ROOT / f"configs/data/{name}.yaml").read_text())
        own = theirs.get("recipes", {}).get(shared.get("recipe"), {})
        shared = merge(merge(shared, {"data": theirs["data"]}), own)
    runs = shared.pop("runs", {})
    points, drives = shared["data"].get("name") == "points", shared["data"].get("name") == "drives"
    keys = ["engine.epochs=1", "engine.batch_size=4", "engine.precision=fp32", "engine.device=cpu"]
    keys += ["data.num_workers=0", "schedule.warmup_epochs=0", "report.enabled=false", "report.samples=1"]
    keys += ["probe.kinds=[knn]"] if shared.get("probe", True) is not None else []
    if points:
        keys += ["data.shapes.num_train=24", "data.shapes.num_test=24", "data.shapes.num_points=128"]
        keys += [
            "data.rooms.num_train=4",
            "data.rooms.num_test=2",
            "data.rooms.num_points=1000",
            "data.rooms.num_views=1",
        ]
    elif drives:
        keys += [f"data.planted.{key}" for key in _DRIVES]
    else:
        keys += ["data.synthetic.num_train=16", "data.synthetic.num_test=8"]
    for name, own in (runs or {"": {}}).items():
        run: dict[str, Any] = merge(shared, own)
        tiny = [*_ENCODERS[run["encoder"]["name"]], *_method(run["method"])]
        if points:
            tiny += ["input.num_points=96"] if run["input"]["num_points"] else []
        elif not drives:
            tiny += ["input.num_frames=4", "input.stride=2", "input.size=32"]
        keys += [f"runs.{name}.{key}" if name else key for key in tiny]
    return keys


def tiny_finetune(recipe: str) -> list[str]:
    """Keys that make the fine-tuning of a recipe one of seconds."""
    task = yaml.safe_load((ROOT / recipe).read_text())["task"]["name"]
    keys = [
        "epochs=1",
        "steps=2",
        "scratch_steps=null",
        "seeds=1",
        "batch_size=4",
        "precision=fp32",
        "device=cpu",
        "schedule.warmup_epochs=0",
    ]
    keys += ["data.num_workers=0", "label_fractions=[1.0]", *_TASKS.get(task, ["task.votes=1"])]
    return keys


class House:
    """A folder with the tools and recipes in it, where commands run one after the other. What the documentation has on
    its ``machine``, and planted data, are shared by all of them."""

    def __init__(self, folder: Path, machine: Path, patch: pytest.MonkeyPatch) -> None:
        self.machine, self.home = machine, folder / "home"
        self.home.mkdir()
        (machine / "planted").mkdir(exist_ok=True)
        for name, place in (("tools", ROOT / "tools"), ("configs", ROOT / "configs"), ("data", machine / "planted")):
            (self.home / name).symlink_to(place)
        patch.chdir(self.home)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        self.patch = patch
        self.done: set[tuple[str, ...]] = set()
        self.seen: set[str] = set()

    def run(self, command: Command) -> None:
        """Run a command, or as much of it as can be; an error says what went wrong."""
        found = _tool_of(command.words)
        if found is None:
            text = " ".join(command.words)
            pattern = next((pattern for pattern in OTHERS if re.fullmatch(pattern, text)), None)
            assert pattern, "neither run nor among the OTHERS of tests/documentation/running.py, with a reason"
            self.seen.add(pattern)
            _check_other(command.words)
            return
        tool, given = found
        if _is_mention(tool, given):
            self._help(tool, given)
            return
        words = [self._filled(tool, given, at) for at in range(len(given))]
        arguments = self._tiny(tool, words, command.whole)
        if (tool, *arguments) in self.done:
            return
        self.done.add((tool, *arguments))
        if tool in PARSED:
            self.seen.add(tool)
            self.patch.setattr(sys, "argv", [f"st-ssl {tool}", *arguments])
            importlib.import_module(f"st_ssl.cli.{tool}")._arguments()
            return
        code = self._call(tool, arguments)
        assert code == 0, f"exit code {code}"
        for first, other in command.copies:
            shutil.copytree(first, other)

    def _call(self, tool: str, arguments: list[str]) -> int:
        self.patch.setattr(sys, "argv", [f"tools/{tool}.py", *arguments])
        try:
            return cli.run(tool)
        except SystemExit as error:
            return int(error.code or 0)

    def _help(self, tool: str, given: list[str]) -> None:
        """What is only mentioned has to be in the help."""
        step = [word for word in given[:1] if not word.startswith("-")]
        with redirect_stdout(text := StringIO()):
            assert self._call(tool, [*step, "--help"]) == 0, "no such step"
        for option in given:
            assert not option.startswith("--") or option in text.getvalue(), f"no option {option}"

    def _filled(self, tool: str, given: list[str], at: int) -> str:
        """A word, with the data, files and runs that it speaks of made where they are not there."""
        word, before = given[at], given[at - 1] if at else ""
        key, equals, value = word.rpartition("=")
        value = _stands_for(tool, given, before, value)
        if value.startswith("/"):
            value = str(data_at(value, self.machine))
        elif before != "--output" and re.fullmatch(r"\w+\.(mp4|las|pth)", value):
            file_at(value)
        elif not equals and before != "--output" and value.startswith("runs/"):
            self.run_at(value, given[0])
        return f"{key}{equals}{value}"

    def run_at(self, place: str, recipe: str = "") -> None:
        """Where there is no run at ``place``, write what one leaves, as far as others read it: an encoder, untrained,
        and where it is of a quickstart its configuration."""
        folder = Path(place)
        if folder.exists():
            return
        if place == SWIN:
            config = ENCODERS.config("torchvision").model_validate({"model": "swin3d_t"})
            save_encoder(random_encoder(config, InputConfig(num_frames=4, size=32), 0), folder)
            return
        if not place.startswith("runs/quickstart/"):
            stands = _run_for(recipe)
            self.run_at(stands)
            shutil.copytree(stands, place)
            return
        source = Path(f"configs/quickstart/{folder.parts[2]}.yaml")
        for run in load_runs(source, [*tiny_pretrain(str(source)), f"output_dir=runs/quickstart/{folder.parts[2]}"]):
            if run.name in folder.parts[3:] or len(folder.parts) == 3:
                own = Path(run.config.output_dir)
                save_encoder(random_encoder(run.config.encoder, run.config.input, 0), own)
                (own / "config.yaml").write_text(to_yaml(run.config.model_dump(mode="json")))
        assert folder.is_dir(), f"no quickstart writes {place}"

    def _tiny(self, tool: str, words: list[str], whole: bool) -> list[str]:
        if tool == "pretrain" and "--print-config" not in words:
            return [*words, *tiny_pretrain(*words), *([] if whole else ["--dry-run"])]
        if tool == "finetune":
            planted = [f"{word.partition('=')[0]}=24" for word in words if re.match(r"data\.\w+\.num_train=", word)]
            modes = [] if any(word.startswith("modes=") for word in words) else ["modes=[full]"]
            dry = [] if whole and "--find-steps" not in words else ["--dry-run"]  # a search takes what it takes
            return [*words, *tiny_finetune(words[0]), *planted, *modes, *dry]
        if tool == "study":  # tests/study has a whole one
            few = ["run.data.synthetic.num_train=16", "run.data.synthetic.num_test=8"]
            return [*words, *few, *([] if "--dry-run" in words else ["--dry-run"])]
        more: dict[str, list[str]] = {
            "probe": ["probe.kinds=[knn]", "data.num_workers=0", "engine.device=cpu"],
            "extract": ["data.num_workers=0", "device=cpu"],
            "predict": ["--device", "cpu"],
            "prepare": ["--workers", "0"],
        }
        made = ["num_train=2", "num_test=1"] if words[:1] == ["synthetic"] else []
        return [*words, *made, *more.get(tool, [])]


def _tool_of(words: tuple[str, ...]) -> tuple[str, list[str]] | None:
    """The tool that a command runs, however it starts it, and the arguments of the tool; None for other programs."""
    words = tuple(word for word in words if word != "...")
    if words[0] == "st-ssl" and len(words) > 1:
        return words[1], list(words[2:])
    if words[0] not in ("python", "python3", "torchrun"):
        return None
    for at, word in enumerate(words[1:], 1):
        if match := re.fullmatch(r"tools/(\w+)\.py", word):
            assert (ROOT / word).is_file(), f"no {word}"
            return match[1], list(words[at + 1 :])
        if word == "st_ssl" and words[at - 1] == "-m":
            return words[at + 1], list(words[at + 2 :])
    return None


def _is_mention(tool: str, given: list[str]) -> bool:
    """Whether a tool is only spoken of: it is given nothing to work on."""
    steps = tool in ("prepare", "convert")
    return tool not in _NEED_NOTHING and not [word for word in given[steps:] if _is_place(word, given)]


def _is_place(word: str, given: list[str]) -> bool:
    before = given[given.index(word) - 1] if given.index(word) else ""
    return not word.startswith("-") and not before.startswith("--")


def _stands_for(tool: str, given: list[str], before: str, value: str) -> str:
    """What a name in capitals stands for."""
    step = given[0] if tool in ("prepare", "convert") else ""
    network = "runs/quickstart/video/videomae" if tool == "predict" else f"out/{tool}{step}"
    files = {"convert": "checkpoint.pth", "pretrain": "configs/quickstart/video.yaml"}
    recipes = {"pretrain": "configs/quickstart/video.yaml", "finetune": "configs/transfer/video/quickstart.yaml"}
    recipes["study"] = "configs/studies/smoke.yaml"
    run = VIDEO
    if tool == "finetune":
        run = _run_for(given[0])
    known = {
        **{"RUN": run, "CONFIG": recipes.get(tool, ""), "FILE": files.get(tool, "video.mp4"), "VIDEO": "video.mp4"},
        **{"ROOT": "/my/videos", "LAYOUT": "torchvision", "FORMAT": "safetensors", "PATH": "out/all.safetensors"},
        **{"FOLDER": network, "PACK": "out/pack", "USER/NAME": "user/name"},
    }
    if tool in PARSED or not re.fullmatch(r"[A-Z][A-Z/]{2,}", value):
        return value
    assert value in known, f"nothing stands for {value} in tests/documentation/running.py"
    return known[value]


def _run_for(recipe: str) -> str:
    """The run that RUN stands for before a recipe of fine-tuning."""
    if "detect" in recipe:
        return DRIVES
    if "/points/" in recipe:
        return ROOMS if "segment" in recipe else CLOUDS
    if "/hierarchical" in recipe:
        return SWIN
    return "runs/quickstart/video/cvrl" if "/conv" in recipe else VIDEO


def _check_other(words: tuple[str, ...]) -> None:
    """Files that the command of another program names are there, and so are extras and markers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for word in words:
        if re.fullmatch(r"[\w./]+\.py|\.ci/\w+", word):
            assert (ROOT / word).is_file(), f"no {word}"
        if extra := re.search(r"\[([\w,]+)\]", word):
            assert set(extra[1].split(",")) <= project["project"]["optional-dependencies"].keys(), (
                f"no extra {extra[0]}"
            )
    if words[0] == "pytest" and "-m" in words:
        markers = {text.split(":")[0] for text in project["tool"]["pytest"]["ini_options"]["markers"]}
        asked = words[words.index("-m") + 1].removeprefix("not ")
        assert asked in markers, f"no marker {asked}"
