"""Exports compute what the encoder computes, or are not kept."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import st_ssl
from st_ssl.core.errors import ConfigError, OutputError, UserError
from st_ssl.core.types import Features
from st_ssl.encoders.base import Encoder, save_encoder
from st_ssl.weights.bundle import read_bundle
from st_ssl.weights.exporting.base import Network, export_network, exports
from st_ssl.weights.exporting.torch_export import TorchExport
from tests.weights.exported import encoder_of, export


class Scores(nn.Module):
    """A head as fine-tuning has it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 3)

    def forward(self, features: Features, shown: object) -> Tensor:
        return self.linear(features.as_tokens().amax(1))


def fresh(encoder: Encoder) -> Tensor:
    """Other clips than those that an export is checked with."""
    input = encoder.input
    generator = torch.Generator().manual_seed(7)
    return torch.randn(4, 3, input.num_frames, input.size, input.size, generator=generator)


@pytest.mark.parametrize("name", ["c3d", "video_vit"])
def test_a_program_and_its_head_are_the_network(name: str, tmp_path: Path) -> None:
    encoder = encoder_of(name)
    head = Scores(encoder.embed_dim)
    place, about = export("torch-export", encoder, tmp_path, head)
    clip = fresh(encoder)
    told: dict[str, Any] = {"st_ssl.json": ""}
    found = torch.export.load(place, extra_files=told).module()(clip)
    with torch.no_grad():
        features = encoder(clip)
        torch.testing.assert_close(found["pooled"], features.pooled)
        torch.testing.assert_close(found["scores"], head(features, None))
    inner = "tokens" if name == "video_vit" else "map"
    assert about["outputs"].keys() == {"pooled", "scores", inner}
    assert about["outputs"]["scores"] == ["batch", 3]
    assert about["classes"] == ["a", "b", "c"]
    assert json.loads(told["st_ssl.json"])["input"] == about["input"]
    assert json.loads((tmp_path / "out.pt2.json").read_text()) == about
    assert about["input"]["shape"] == ["batch", 3, 4, 32, 32]
    assert about["input"]["mean"] == [0.1, 0.2, 0.3]
    assert about["check"]["share_of_largest_output"].keys() == about["outputs"].keys()


def test_onnx_runs_without_torch(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    encoder = encoder_of("c3d")
    place, about = export("onnx", encoder, tmp_path)
    session = onnxruntime.InferenceSession(str(place), providers=["CPUExecutionProvider"])
    clip = fresh(encoder)
    pooled, inner = session.run(["pooled", "map"], {"clip": clip.numpy()})
    with torch.no_grad():
        features = encoder(clip)
    assert features.map is not None
    for ours, theirs in ((features.pooled, pooled), (features.map, inner)):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5 * float(ours.max()))
    told = json.loads(session.get_modelmeta().custom_metadata_map["st_ssl"])
    assert told["input"] == about["input"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "out.onnx.json"]


@pytest.mark.parametrize("name", ["r3d", "video_vit", "point_vit"])
def test_safetensors_come_back_to_the_bit(name: str, tmp_path: Path) -> None:
    encoder = encoder_of(name)
    place, about = export("safetensors", encoder, tmp_path)
    bundle = read_bundle(place)
    assert (bundle.encoder.config, bundle.encoder.input) == (encoder.config, encoder.input)
    assert bundle.encoder.state_dict().keys() == encoder.state_dict().keys()
    assert all(torch.equal(bundle.encoder.state_dict()[key], t) for key, t in encoder.state_dict().items())
    assert set(about["check"]["largest_difference"].values()) == {0.0}
    (tmp_path / "again").mkdir()
    again, _ = export("safetensors", bundle.encoder, tmp_path / "again")
    assert again.read_bytes() == place.read_bytes()


def test_safetensors_keep_the_head_and_its_classes(tmp_path: Path) -> None:
    encoder = encoder_of("c3d")
    head = Scores(encoder.embed_dim)
    place, _ = export("safetensors", encoder, tmp_path, head)
    bundle = read_bundle(place)
    assert bundle.about == {"classes": ["a", "b", "c"]}
    assert bundle.head.keys() == head.state_dict().keys()
    assert all(torch.equal(bundle.head[key], tensor) for key, tensor in head.state_dict().items())


transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")


@transformers
def test_transformers_loads_what_is_exported_for_it(tmp_path: Path) -> None:
    from transformers import VideoMAEImageProcessor, VideoMAEModel

    encoder = encoder_of("video_vit")
    place, _ = export("hf-videomae", encoder, tmp_path, Scores(24))
    names = ["config.json", "export.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(path.name for path in place.iterdir()) == names
    loaded: Any = VideoMAEModel.from_pretrained(place, output_loading_info=True)
    model, told = loaded
    assert not any(told.values())
    clip = fresh(encoder)
    with torch.no_grad():
        theirs = model.eval()(clip.transpose(1, 2)).last_hidden_state
        torch.testing.assert_close(theirs, encoder(clip).tokens, rtol=1e-5, atol=1e-5)
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    pixels = VideoMAEImageProcessor.from_pretrained(place)(list(frames), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, st_ssl.clip(encoder, frames).transpose(1, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("video_vit", {"positions": "sincos_3d"}, r"encoder\.positions=sincos_3d .* positions=sincos_1d"),
        ("video_vit", {"class_token": True}, r"encoder\.class_token=True"),
        ("video_vit", {"norm": "pooled"}, r"encoder\.norm=pooled .* norm=tokens or none"),
        ("video_vit", {"last_norm_eps": 1e-5}, r"encoder\.last_norm_eps=1e-05 .*norm_eps=1e-06"),
        ("c3d", {}, r"encoder\.name=video_vit\), not c3d"),
    ],
)
def test_what_transformers_cannot_be_is_named(name: str, changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        export("hf-videomae", encoder_of(name, **changes), tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", [name for name, kind in exports().items() if not kind.clouds])
def test_encoders_of_clouds_have_no_program(name: str, tmp_path: Path) -> None:
    takes = ", ".join(other for other, kind in exports().items() if kind.clouds)
    with pytest.raises(ConfigError, match=rf"point_vit\) is fed clouds .* --to {takes}$"):
        export(name, encoder_of("point_vit"), tmp_path)


@pytest.mark.parametrize("by", [1e-3, float("nan")])
def test_what_differs_is_not_kept(by: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = TorchExport.run

    def wrong(self: TorchExport, network: Network, place: Path, clips: list[Tensor]) -> list[dict[str, Tensor]]:
        assert place.is_file()
        found = right(self, network, place, clips)
        found[-1]["map"][0, 0, 0, 0, 0] += by * found[-1]["map"].abs().max()
        return found

    monkeypatch.setattr(TorchExport, "run", wrong)
    with pytest.raises(UserError, match=r"out\.pt2: not kept: .* differs from the network by (1\.0e-03|nan)"):
        export("torch-export", encoder_of("c3d"), tmp_path)
    assert not any(tmp_path.iterdir())


def test_places_that_are_taken_or_wrongly_named(tmp_path: Path) -> None:
    network = Network(encoder_of("c3d"))
    with pytest.raises(ConfigError, match=r"ends in \.safetensors: .*a\.safetensors"):
        export_network(network, "safetensors", tmp_path / "a.pt")
    for name in ("a.safetensors", "a.safetensors.json"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(OutputError, match=rf"{name} is there already: nothing was changed"):
            export_network(network, "safetensors", tmp_path / "a.safetensors")
        assert [path.name for path in tmp_path.iterdir()] == [name]
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).unlink()


def test_a_file_that_is_no_export(tmp_path: Path) -> None:
    encoder = encoder_of("c3d")
    save_encoder(encoder, tmp_path)
    with pytest.raises(UserError, match=r"encoder\.safetensors: has no description .*st-ssl convert import"):
        read_bundle(tmp_path / "encoder.safetensors")
    place, _ = export("safetensors", encoder, tmp_path)
    whole = place.read_bytes()
    for damaged in (whole[:-10], whole[:100], b"", whole.replace(b"c3d", b"c9d")):
        place.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"^{place}: "):
            read_bundle(place)
