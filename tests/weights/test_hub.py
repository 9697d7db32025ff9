"""What goes to the Hub: three files, a card without anything private, and nothing unless asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import st_ssl
from st_ssl.core.errors import ConfigError, DataError, OutputError, UserError
from st_ssl.encoders.base import save_encoder
from st_ssl.weights.hub import has_licence, upload, write_folder
from tests.weights.exported import encoder_of
from tests.weights.test_loading import same

FILES = ["README.md", "encoder.json", "encoder.safetensors"]


def figures(**means: float) -> dict[str, Any]:
    return {who: {"mean": mean, "std": 0.5, "values": [0.0, 1.0]} for who, mean in means.items()}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose files tell more than anybody should see."""
    folder = tmp_path / "secret" / "patients"
    save_encoder(encoder_of("c3d"), folder)
    config = {
        "output_dir": str(folder),
        "data": {"name": "video", "root": "/data/patients", "list": "C:\\clinic\\list.csv"},
        "engine": {"epochs": 22, "batch_size": 8},
        "method": {"name": "cvrl"},
        "logging": {"wandb": "clinic"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    target = {
        "classes": 8,
        "chance": 12.5,
        "probes": {"knn": figures(pretrained=39.58, random=24.2, pixels=23.0), "linear": figures(pretrained=51.0)},
        "retrieval": {"chance": {"R@1": 12.5}, "probes": {"R@1": figures(pretrained=37.5, random=30.0)}},
    }
    speed = {"range": [0.25, 3], "chance": 0.0, "probes": {"ridge_r2": figures(pretrained=0.8125, random=0.25)}}
    probe = {
        "runs": [str(folder)],
        "seeds": 3,
        "sizes": {"train": 480, "test": 240},
        "targets": {"scene|a": target, "../patients/ward": {**target, "probes": {}}, "speed": speed},
        "config": {"data": config["data"]},
    }
    (folder / "probe.json").write_text(json.dumps(probe))
    (folder / "metrics.jsonl").write_text("{}")
    return folder


def test_the_card_tells_what_it_is_and_nothing_private(run: Path, tmp_path: Path) -> None:
    files = write_folder(run, tmp_path / "card", "me/mine")
    assert files == [tmp_path / "card" / name for name in FILES]
    assert sorted(path.name for path in (tmp_path / "card").iterdir()) == FILES
    card = files[0].read_text()
    for told in (
        'st_ssl.load("me/mine", download=True)',
        "| encoder | `c3d` |",
        "| settings | width: 4 |",
        "| fed | clips of 4 frames, 2 apart, of 32 × 32 pixels |",
        "- method: cvrl",
        "- 22 epochs, batches of 8",
        "- data: not told",
        "per cent right (of values R² and rank correlation), mean",
        "over 3 seeds; 480 samples to train on, 240 to test on.",
        "|  | pretrained | same network, untrained | pixels | chance |",
        "| scene\\|a (8), kNN | 39.6 ± 0.5 | 24.2 ± 0.5 | 23.0 ± 0.5 | 12.5 |",
        "| scene\\|a (8), linear | 51.0 ± 0.5 |  |  | 12.5 |",
        "| speed (0.25 to 3), ridge R² | 0.812 ± 0.500 | 0.250 ± 0.500 |  | 0.000 |",
        "| ward (8), R@1 | 37.5 ± 0.5 | 30.0 ± 0.5 |  | 12.5 |",
    ):
        assert told in card, told
    for private in (str(tmp_path), "patients", "clinic", "/data", "secret"):
        assert private not in card, private
    front = yaml.safe_load(card.split("---\n")[1])
    assert front == {"library_name": "st_ssl", "tags": ["video", "self-supervised-learning"]}
    assert same(st_ssl.load(tmp_path / "card"), encoder_of("c3d"))


def test_the_author_says_what_the_data_are_and_the_licence(run: Path, tmp_path: Path) -> None:
    card, *_ = write_folder(run, tmp_path / "card", "me/mine", "Kinetics-400, train")
    assert "- data: Kinetics-400, train\n" in card.read_text()
    assert not has_licence(card)
    lines = card.read_text().splitlines()
    edited = "\n".join("license: cc-by-4.0" if line.startswith("# license:") else line for line in lines)
    card.write_text(edited)
    assert has_licence(card)
    write_folder(run, tmp_path / "card", "me/mine")
    assert card.read_text() == edited


def test_runs_of_clouds_and_runs_without_anything_else(tmp_path: Path) -> None:
    save_encoder(encoder_of("point_vit"), tmp_path / "run")
    card = write_folder(tmp_path / "run", tmp_path / "card", "me/mine")[0].read_text()
    assert "An encoder of point clouds" in card
    assert "- point-cloud\n" in card
    assert "num_points: 48" in card
    assert "What it learned" not in card
    assert "without labels" not in card
    assert yaml.safe_load(card.split("---\n")[1])["tags"] == ["point-cloud"]


def test_planted_data_are_named(run: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"] |= {"root": None, "list": None}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert "planted-factor samples" in write_folder(run, tmp_path / "card", "me/mine")[0].read_text()


def test_other_folders_are_left_alone(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--repo mine: a repository on the Hub is called user/name"):
        write_folder(run, tmp_path / "card", "mine")
    with pytest.raises(OutputError, match=r"holds something else \(config\.yaml"):
        write_folder(run, run, "me/mine")
    write_folder(run, tmp_path / "card", "me/mine")
    save_encoder(encoder_of("s3d"), tmp_path / "card")
    with pytest.raises(OutputError, match="holds something else"):
        write_folder(run, tmp_path / "card", "me/mine")
    (run / "probe.json").write_text("{}")
    with pytest.raises(DataError, match=r"probe\.json is not the result of a probe"):
        write_folder(run, tmp_path / "other", "me/mine")
    assert not (tmp_path / "other").exists()


class Api:
    """In place of the Hub's: what it was asked for."""

    calls: list[tuple[str, dict[str, Any]]]

    def create_repo(self, repo: str, **options: Any) -> None:
        self.calls.append((repo, options))

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload", options))


def test_exactly_these_files_are_uploaded(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    Api.calls = []
    monkeypatch.setattr(hub, "HfApi", Api)
    folder = tmp_path / "card"
    write_folder(run, folder, "me/mine")
    assert Api.calls == []
    assert upload(folder, "me/mine") == "https://huggingface.co/me/mine"
    created, (_, sent) = Api.calls
    assert created == ("me/mine", {"private": True, "exist_ok": True})
    assert (sent["repo_id"], sent["folder_path"]) == ("me/mine", folder)
    (folder / "notes.txt").write_text("private")
    chosen = hub.utils.filter_repo_objects(
        [path.name for path in folder.iterdir()], allow_patterns=sent["allow_patterns"]
    )
    assert sorted(chosen) == FILES
    upload(folder, "me/mine", public=True)
    assert Api.calls[2][1]["private"] is False


def test_what_the_hub_refuses_is_told(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    class Refusing(Api):
        def create_repo(self, repo: str, **options: Any) -> None:
            raise hub.errors.LocalTokenNotFoundError("log in first")

    monkeypatch.setattr(hub, "HfApi", Refusing)
    write_folder(run, tmp_path / "card", "me/mine")
    with pytest.raises(UserError, match=r"me/mine: could not be uploaded .*: log in first"):
        upload(tmp_path / "card", "me/mine")
