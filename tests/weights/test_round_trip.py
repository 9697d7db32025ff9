"""Out and in again: the same bytes of weights; and the command that does it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from st_ssl.cli import guarded
from st_ssl.cli.convert import main
from st_ssl.encoders.base import load_encoder, save_encoder
from st_ssl.transfer.fitting.finetune_model import save_tuned
from st_ssl.transfer.fitting.fit import Tuned
from st_ssl.transfer.tasks.action_recognition import RecogniseConfig
from st_ssl.transfer.tasks.base import TASKS
from st_ssl.weights.importing import import_weights, save_imported
from tests.weights.exported import encoder_of, export


@pytest.mark.parametrize("name", ["r3d", "video_vit", "sparse_unet"])
def test_safetensors_out_in_out_and_in(name: str, tmp_path: Path) -> None:
    encoder = encoder_of(name)
    save_encoder(encoder, tmp_path / "run")
    weights = []
    for turn in ("a", "b"):
        (tmp_path / turn).mkdir()
        place, _ = export("safetensors", encoder, tmp_path / turn)
        imported = import_weights(place, "st_ssl")
        assert imported.left == {}
        save_imported(imported, tmp_path / turn / "in")
        weights += [place.read_bytes(), (tmp_path / turn / "in" / "encoder.safetensors").read_bytes()]
        encoder = load_encoder(tmp_path / turn / "in")
    assert weights[0] == weights[2]
    assert weights[1] == weights[3] == (tmp_path / "run" / "encoder.safetensors").read_bytes()
    assert (tmp_path / "b" / "in" / "encoder.json").read_bytes() == (tmp_path / "run" / "encoder.json").read_bytes()


@pytest.mark.parametrize("norm", ["tokens", "none"])
def test_transformers_out_in_and_out(norm: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    encoder = encoder_of("video_vit", norm=norm)
    place, _ = export("hf-videomae", encoder, tmp_path)
    back = import_weights(place, "hf-videomae").encoder
    clip = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # the biases of keys, which decide nothing, are gone
        torch.testing.assert_close(back(clip).tokens, encoder(clip).tokens, rtol=1e-5, atol=1e-5)
    (tmp_path / "again").mkdir()
    again, _ = export("hf-videomae", back, tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (place / "model.safetensors").read_bytes()


def convert(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["convert.py", *map(str, arguments)])
    return guarded(main)


def test_the_command_exports_a_fit_with_its_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = TASKS.build(RecogniseConfig(head="attentive"))
    task.restore(["jump", "run", "walk"])
    encoder = encoder_of("c3d")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tuned = Tuned(encoder, task.head(encoder), True).eval()
    save_tuned(tuned, task, ["jump", "run", "walk"], {}, tmp_path / "fit")
    output = tmp_path / "fit.pt2"
    assert convert(monkeypatch, "export", "--to", "torch-export", "--output", output, tmp_path / "fit") == 0
    told = capsys.readouterr()
    difference = "scores: largest difference 0.0e+00, 0.0e+00 of the largest output"
    assert told.out.splitlines()[-2:] == [difference, f"{output}"]
    about = json.loads((tmp_path / "fit.pt2.json").read_text())
    assert about["classes"] == ["jump", "run", "walk"]
    clip = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = tuned.head(encoder(clip), None)
        torch.testing.assert_close(torch.export.load(output).module()(clip)["scores"], expected)


def test_mistakes_of_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_encoder(encoder_of("c3d"), tmp_path / "run")
    out = tmp_path / "out.pt"
    for arguments, told in (
        (["--to", "torch-exprt"], "no such format; did you mean 'torch-export'?"),
        (["--to", "onnx", "--upload"], "--upload goes with --to hub, not with --to onnx"),
        (["--to", "hub"], "--to hub needs --repo USER/NAME"),
        (["--to", "hub", "--repo", "a/b", "--public"], "--public goes with --upload"),
        (["--to", "onnx", "opset=18"], "'opset=18': an export takes one RUN as it is"),
    ):
        assert convert(monkeypatch, "export", tmp_path / "run", "--output", out, *arguments) == 2
        assert told in capsys.readouterr().err
        assert not out.exists()


def test_without_upload_the_hub_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "HfApi", None)
    save_encoder(encoder_of("c3d"), tmp_path / "run")
    arguments = ("export", tmp_path / "run", "--to", "hub", "--repo", "me/mine", "--output", tmp_path / "card")
    assert convert(monkeypatch, *arguments) == 0
    told = capsys.readouterr().out
    assert "names no licence yet" in told
    assert told.endswith("nothing was uploaded: look at the card, then give the same command with --upload\n")
    sent: list[tuple[object, ...]] = []

    def upload(*given: object) -> str:
        sent.append(given)
        return "address"

    monkeypatch.setattr("st_ssl.weights.hub.upload", upload)
    assert convert(monkeypatch, *arguments, "--upload") == 0
    assert sent == [(tmp_path / "card", "me/mine", False)]
    assert capsys.readouterr().out.endswith("address\n")
