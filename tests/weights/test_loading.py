"""``st_ssl.load`` and ``st_ssl.clip``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import st_ssl
from st_ssl.core.errors import ConfigError, DataError, SampleError, UserError
from st_ssl.core.types import View
from st_ssl.data.base import DATA
from st_ssl.data.loading.sample_dataset import collate
from st_ssl.data.synthetic.videos import encode
from st_ssl.encoders.base import Encoder, save_encoder
from st_ssl.weights.exporting.base import Network, export_network
from tests.weights.exported import encoder_of


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    encoder = encoder_of("c3d")
    save_encoder(encoder, tmp_path / "runs" / "mine")
    return encoder


def same(one: Encoder, other: Encoder) -> bool:
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_a_folder_a_file_and_a_path_relative_to_here(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "one.safetensors"
    export_network(Network(encoder), "safetensors", file)
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path / "runs" / "mine", "runs/mine", file, str(file), "one.safetensors"):
        loaded = st_ssl.load(place)
        assert same(loaded, encoder)
        assert not loaded.training
        assert (loaded.config, loaded.input) == (encoder.config, encoder.input)


def test_what_is_not_there_is_told_with_the_nearest_name(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"runs/mime: .*did you mean 'mine'\?; if that is a .*download=True"):
        st_ssl.load("runs/mime")
    with pytest.raises(ConfigError, match=r"there is no rums in .*did you mean 'runs'\?$"):
        st_ssl.load("rums/a/b")
    with pytest.raises(ConfigError, match=r"no encoder\.json: .*these in it are: mine"):
        st_ssl.load("runs")


def test_nothing_is_downloaded_unless_asked_and_what_is_here_comes_first(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot(repo: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo, revision, allow_patterns))
        return str(tmp_path / "runs" / "mine")

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"st_ssl\.load\('me/mine', download=True\)"):
        st_ssl.load("me/mine")
    assert same(st_ssl.load("runs/mine", download=True), encoder)
    assert asked == []
    assert same(st_ssl.load("me/mine", download=True, revision="v1"), encoder)
    assert asked == [("me/mine", "v1", ["encoder.json", "encoder.safetensors"])]
    with pytest.raises(ConfigError, match="there is no me in"):
        st_ssl.load(Path("me/mine"), download=True)


def test_what_the_hub_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def snapshot(*arguments: object, **options: object) -> str:
        raise hub.errors.HFValidationError("no such thing")

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"me/mine: could not be downloaded .*: no such thing"):
        st_ssl.load("me/mine", download=True)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, st_ssl; assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules); st_ssl.load; st_ssl.clip"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_video_is_cut_as_in_evaluation(encoder: Encoder, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), dtype=np.uint8)
    (tmp_path / "videos").mkdir()
    encode(tmp_path / "videos" / "a.mp4", frames, 25)
    source = DATA.build(DATA.config("video")(root=str(tmp_path / "videos")))  # type: ignore[call-arg]
    views = source.evaluation(encoder.input)
    sample = source.dataset(source.entries(), views)[0, 0]
    (raw,) = collate([sample]).views
    (expected,) = views.prepare([raw])
    assert isinstance(expected, View)
    clip = st_ssl.clip(encoder, tmp_path / "videos" / "a.mp4")
    assert clip.shape == (1, 3, 4, 32, 32)
    assert torch.equal(clip, expected.clip)
    assert encoder(clip).pooled.shape == (1, encoder.embed_dim)


def test_frames_are_taken_as_they_are(encoder: Encoder) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 40, 3), dtype=np.uint8)
    clip = st_ssl.clip(encoder, frames)
    mean, std = np.array(encoder.input.mean), np.array(encoder.input.std)
    expected = ((frames[:, :, 4:36] / 255 - mean) / std).transpose(3, 0, 1, 2)[None]
    torch.testing.assert_close(clip, torch.from_numpy(expected).float())


def test_what_is_no_clip_is_told(encoder: Encoder, tmp_path: Path) -> None:
    good = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    several: list[Any] = [good.astype(np.float32), good[0], good[..., :2]]
    for wrong in several:
        with pytest.raises(DataError, match=r"frames are uint8 \[T, H, W, 3\], RGB; these are"):
            st_ssl.clip(encoder, wrong)
    with pytest.raises(DataError, match="clips of 4 frames, these are 3"):
        st_ssl.clip(encoder, good[:3])
    with pytest.raises(ConfigError, match="clouds of points"):
        st_ssl.clip(encoder_of("point_vit"), good)
    with pytest.raises(SampleError, match=r"b\.mp4: file is missing"):
        st_ssl.clip(encoder, tmp_path / "b.mp4")
