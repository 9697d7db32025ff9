"""What every command ends with: 0 done, 2 a mistake in the call or configuration, 1 anything else that stopped it."""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path

import pytest

from st_ssl.cli import COMMANDS, guarded
from tests.runs import ROOT, tiny, write_config
from tests.transfer.tiny import write_encoder

FEW = "num_train=1 num_val=0 num_test=0 num_points=64"
CLASSIFY = ROOT / "configs" / "transfer" / "points" / "classify.yaml"
SMOKE = ROOT / "configs" / "studies" / "smoke.yaml"
ENDS = [
    ("pretrain run/config.yaml --print-config", 0),
    ("pretrain nowhere.yaml", 2),
    ("pretrain run", 2),
    ("pretrain run/config.yaml engine.epoch=3", 2),
    ("pretrain run/config.yaml --only other", 2),
    ("pretrain run/config.yaml output_dir=file --dry-run", 2),
    ("pretrain run/config.yaml data.root=nowhere", 1),
    (f"prepare synthetic shapes --output shapes --workers 0 {FEW}", 0),
    (f"prepare synthetic shapes --output file --workers 0 {FEW}", 2),
    ("prepare synthetic shapes --output shapes num_train=-1", 2),
    ("prepare synthetic shapes", 2),
    ("prepare verify clouds --kind points --output out.jsonl --workers 0", 1),
    ("prepare verify clouds --kind points --output file/out.jsonl --workers 0", 2),
    ("prepare verify clouds --kind points --output videos --workers 0", 2),
    ("prepare verify clouds --kind points --format fodler", 2),
    ("prepare index nowhere", 1),
    ("prepare pack videos --output file", 2),
    ("probe run", 1),
    ("probe nowhere", 2),
    ("probe run probe.kind=[knn]", 2),
    ("probe run data.root=videos --output file/probe.json", 2),
    ("probe run data.root=videos --output clouds", 2),
    (f"study {SMOKE} run.data.root=nowhere", 1),
    (f"study {SMOKE} output_dir=file", 2),
    (f"study {SMOKE} seed=[0]", 2),
    (f"study {SMOKE} --shard 3", 2),
    ("study nowhere.yaml", 2),
    (f"finetune {CLASSIFY} run", 1),
    (f"finetune {CLASSIFY} nowhere", 2),
    (f"finetune {CLASSIFY} run data.name=points data.root=nowhere", 1),
    ("extract run --output features", 1),
    ("extract run --output file --data videos", 2),
    ("extract nowhere --output features", 2),
    ("extract run --data nowhere --output features", 1),
    ("extract run --data videos --output features --clips 0", 2),
    ("report run --output out.html", 0),
    ("report run --output file/out.html", 2),
    ("report nowhere", 2),
    ("predict nowhere.mp4 --model nowhere", 2),
    ("predict nowhere.mp4 --model nowhere --output videos", 2),
    ("convert import nowhere.pt --from torchvision", 1),
    ("convert import nowhere.pt --from torchvison", 2),
    ("benchmark data --root nowhere", 1),
    ("benchmark data --reps 3", 2),
    ("methods --idea contrats", 2),
    ("doctor --jsno", 2),
    ("configs", 0),
    ("configs nowhere", 2),
    ("configs quickstart/video --output file", 2),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose data are gone, a folder with a broken cloud and one with a broken video, and a file."""
    place = tmp_path_factory.mktemp("place")
    run = write_encoder(place / "run")
    write_config(run / "config.yaml", tiny(place / "gone", Path("run"), "videomae"))
    for name in ("clouds/a.npy", "videos/a.mp4"):
        (place / name).parent.mkdir()
        (place / name).touch()
    (place / "file").touch()
    return place


def ended(call: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a call in ``place``."""
    command, *arguments = shlex.split(call)
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", [command, *arguments])
    try:
        return guarded(importlib.import_module(f"st_ssl.cli.{command}").main)
    except SystemExit as end:  # of the parser
        return end.code  # type: ignore[return-value]


@pytest.mark.parametrize(("call", "code"), ENDS)
def test_how_it_ends(call: str, code: int, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(call, place, monkeypatch) == code


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            "pretrain run/config.yaml --only other",
            "--only other: CONFIG has a single run, without a name: leave --only",
        ),
        ("pretrain run/config.yaml engine.device=cuda", "engine.device=cuda: torch sees no CUDA device here"),
        ("extract run --data videos --output features device=cuda", "device=cuda: torch sees no CUDA device here"),
        ("probe run data.root=videos --output clouds", "clouds is a folder, and a file is to be written"),
    ],
)
def test_what_it_says(
    call: str, said: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert ended(call, place, monkeypatch) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


def test_every_command_is_asked() -> None:
    assert {call.split()[0] for call, code in ENDS if code == 2} == set(COMMANDS)
