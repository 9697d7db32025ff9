"""An encoder without its run, imported or kept by fine-tuning: every tool takes it, on data that it is given."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from st_ssl.cli import guarded
from st_ssl.core.inputs import InputConfig
from st_ssl.encoders.base import ENCODERS
from st_ssl.encoders.r3d import R3DConfig
from tests.runs import ROOT
from tests.transfer.tiny import write_dataset, write_encoder

pytest.importorskip("av")
Call = Callable[..., tuple[int, str, str]]
QUICK = ("data.num_workers=0", "probe={kinds: [knn], seeds: 1, knn_k: 3}")
RECIPE = ROOT / "configs" / "transfer" / "video" / "quickstart.yaml"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """A command in this process: exit code, stdout, stderr."""

    def run(command: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [command, *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        return guarded(importlib.import_module(f"st_ssl.cli.{command}").main), *capsys.readouterr()

    return run


def test_imported_then_probed_then_fine_tuned_then_probed(tmp_path: Path, call: Call) -> None:
    torch.manual_seed(0)
    network = ENCODERS.build(R3DConfig(depth=10, width=4), InputConfig(num_frames=4, size=32))
    torch.save(network.state_dict(), tmp_path / "r3d.pth")
    root, folder = write_dataset(tmp_path / "set"), tmp_path / "theirs"
    clip = ("input.num_frames=4", "input.size=32")
    code, out, _ = call("convert", "import", tmp_path / "r3d.pth", "--from", "torchvision", "--output", folder, *clip)
    assert code == 0 and f"st-ssl probe {folder} data.root=DATA" in out

    code, out, _ = call("probe", folder, f"data.root={root}", *QUICK)
    assert code == 0 and "knn probe, % right (theirs on set; 16 train, 8 test, 1 seed)" in " ".join(out.split())
    probed = json.loads((folder / "probe_set.json").read_text())
    assert probed["runs"] == [str(folder)] and probed["config"]["data"]["root"] == str(root)
    assert set(probed["targets"]["light"]["probes"]["knn"]) >= {"pretrained", "random", "metadata"}

    keys = ("task.target=light", "task.clips=1", "modes=[frozen]", "label_fractions=[1.0]", "steps=4")
    code, out, _ = call("finetune", RECIPE, folder, f"data.root={root}", "data.num_workers=0", *keys)
    assert code == 0 and "recognise: 100 % of the labels" in out
    kept = folder / "finetune" / "quickstart" / "frozen_100_0"
    code, out, _ = call("probe", kept, f"data.root={root}", *QUICK)
    assert code == 0 and "(frozen_100_0 on set; " in " ".join(out.split())
    again = json.loads((kept / "probe_set.json").read_text())  # the encoder stayed as it was
    assert again["targets"]["light"]["probes"] == probed["targets"]["light"]["probes"]


def test_what_an_encoder_alone_lacks_is_said(tmp_path: Path, call: Call) -> None:
    folder = write_encoder(tmp_path / "theirs")
    for command in (("probe", folder), ("probe", folder, *QUICK), ("finetune", RECIPE, folder)):
        code, _, err = call(*command)
        assert code == 2 and "add data.root=FOLDER" in err
    code, _, err = call("probe", folder, "data.root=x", "prob.seeds=1")
    assert code == 2 and "prob: unknown key; did you mean 'probe'?" in err
    code, _, err = call("report", folder)
    assert code == 2 and "an encoder without the run that made it (no config.yaml); probe.py and finetune.py" in err
    assert sorted(path.name for path in folder.iterdir()) == ["encoder.json", "encoder.safetensors"]
