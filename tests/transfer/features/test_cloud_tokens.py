"""Features of points and patches with their places, and ``st_ssl.cloud``, which prepares a cloud as extraction does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import st_ssl
from st_ssl.core.errors import ConfigError, DataError, SampleError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.encoders.base import ENCODERS, Encoder, load_encoder, random_encoder, save_encoder
from st_ssl.transfer.features import extract as module
from st_ssl.transfer.features.extract import ExtractConfig, extract, with_data
from tests.transfer.features.extraction import CPU, contents, rows_of
from tests.weights.exported import encoder_of

ORIGIN = np.array([512345.25, 5403210.5, 120.0])
VIT = {"dim": 24, "depth": 2, "heads": 3, "num_groups": 16, "group_size": 8, "tokeniser": (8, 16, 16)}
NETWORKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "point_vit": (VIT, {"num_points": 256, "attributes": ("color",)}),
    "sparse_unet": (
        {"variant": "tiny", "backend": "torch"},
        {"num_points": None, "unit_sphere": False, "voxel_size": 0.25, "attributes": ("color",)},
    ),
    "dgcnn": ({"widths": (8, 8), "dim": 16, "neighbours": 8}, {"num_points": 128}),
}


def write_run(folder: Path, name: str) -> Path:
    config, input = NETWORKS[name]
    encoder = random_encoder(ENCODERS.config(name).model_validate(config), PointInputConfig(**input), 3)
    save_encoder(encoder, folder)
    return folder


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five rooms of 300 to 340 points, far from the origin, one of them broken."""
    root = tmp_path_factory.mktemp("clouds")
    rng = np.random.default_rng(0)
    for number in range(5):
        xyz = rng.random((300 + 10 * number, 3)) * [6, 5, 3] + ORIGIN
        np.savez(root / f"{number}.npz", xyz=xyz, color=rng.integers(0, 256, xyz.shape).astype(np.uint8))
    (root / "1.npz").write_text("no arrays")
    return root


def config_of(root: Path, **changes: Any) -> Any:
    data = {"name": "points", "root": str(root), "num_workers": 0}
    return with_data(ExtractConfig)(data=data, batch_size=2, device="cpu", tokens=True, **changes)


def tokens_of(folder: Path, row: dict[str, Any]) -> dict[str, np.ndarray]:
    with np.load(folder / row["tokens"], allow_pickle=False) as file:
        return dict(file)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_file_a_cloud_has_features_and_their_places_in_it(name: str, clouds: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", name)
    extract(run, config_of(clouds), tmp_path / "out", CPU)
    rows, encoder = rows_of(tmp_path / "out"), load_encoder(run)
    assert [Path(row["path"]).name for row in rows] == ["0.npz", "2.npz", "3.npz", "4.npz"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("bad_samples.jsonl", "extract.json", "features.npy", "index.jsonl", "tokens")
    ]
    assert sorted(path.name for path in (tmp_path / "out" / "tokens").iterdir()) == [f"{i:06d}.npz" for i in range(4)]
    for row in rows:
        found = tokens_of(tmp_path / "out", row)
        assert list(found) == ["features", "xyz"]
        assert found["features"].dtype == np.float16 and found["xyz"].dtype == np.float64
        assert len(found["xyz"]) == len(found["features"]) > 8 and found["features"].shape[1] == encoder.embed_dim
        own = np.load(row["path"])["xyz"]
        away = np.linalg.norm(own[None] - found["xyz"][:, None], axis=-1).min(1)
        assert away.max() < 1e-5  # each is a point of the file, to float32 in a room
        batch = st_ssl.cloud(encoder, row["path"])
        with torch.no_grad():
            alone = encoder(batch)
        local = alone.points if alone.points is not None else alone.tokens[0]
        np.testing.assert_allclose(found["features"], local, atol=0.02)
        if alone.points is not None:
            assert batch.source is not None
            np.testing.assert_allclose(found["xyz"], own[batch.source.numpy()], atol=1e-5)


def test_workers_parts_and_formats_change_nothing(
    clouds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", "sparse_unet")
    extract(run, config_of(clouds), tmp_path / "whole", CPU)
    extract(run, config_of(clouds, format="safetensors"), tmp_path / "safe", CPU)
    monkeypatch.setattr(module, "CLOUDS", 2)
    extract(run, config_of(clouds), tmp_path / "parts", CPU)
    assert contents(tmp_path / "whole" / "tokens") == contents(tmp_path / "parts" / "tokens")
    for row, other in zip(rows_of(tmp_path / "whole"), rows_of(tmp_path / "safe"), strict=True):
        found, same = tokens_of(tmp_path / "whole", row), load_file(tmp_path / "safe" / other["tokens"])
        assert all(np.array_equal(found[key], same[key]) for key in found)


def test_an_extraction_that_was_killed_goes_on_to_the_same_files(
    clouds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", "point_vit")
    monkeypatch.setattr(module, "CLOUDS", 2)
    extract(run, config_of(clouds), tmp_path / "whole", CPU)

    def killed(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    for where, at in ((module._Clips, "_encode"), (module, "write_tokens"), (module._Clips, "_index")):
        with monkeypatch.context() as patch:
            patch.setattr(where, at, killed)
            with pytest.raises(KeyboardInterrupt):
                extract(run, config_of(clouds), tmp_path / "parts", CPU)
    extract(run, config_of(clouds), tmp_path / "parts", CPU)
    for folder in (".", "tokens"):
        ours, theirs = (
            {p.name: p.read_bytes() for p in (tmp_path / name / folder).iterdir() if p.is_file()}
            for name in ("whole", "parts")
        )
        assert ours == theirs


def test_views_are_told_apart(clouds: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "point_vit")
    extract(run, config_of(clouds, clips=3), tmp_path / "out", CPU)
    found = tokens_of(tmp_path / "out", rows_of(tmp_path / "out")[0])
    assert found["view"].tolist() == [0] * 16 + [1] * 16 + [2] * 16
    assert found["features"].shape == (48, 24)


def test_an_encoder_without_local_features_is_told(clouds: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "point_vit")
    with pytest.MonkeyPatch.context() as patch:
        forward = type(load_encoder(run)).forward

        def pooled_alone(self: Encoder, *args: Any) -> Any:
            features = forward(self, *args)
            return type(features)(features.pooled)

        patch.setattr(type(load_encoder(run)), "forward", pooled_alone)
        with pytest.raises(ConfigError, match="tokens: this encoder gives features of whole clouds alone"):
            extract(run, config_of(clouds), tmp_path / "out", CPU)


# -------------------------------------------------------------------- st_ssl.cloud


@pytest.mark.parametrize("name", NETWORKS)
def test_a_cloud_is_prepared_as_in_extraction(name: str, clouds: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", name)
    extract(run, config_of(clouds), tmp_path / "out", CPU)
    features, encoder = np.load(tmp_path / "out" / "features.npy"), st_ssl.load(run)
    for row, expected in zip(rows_of(tmp_path / "out"), features, strict=True):
        arrays = np.load(row["path"])
        color = arrays["color"] / 255
        several = [st_ssl.cloud(encoder, row["path"]), st_ssl.cloud(encoder, arrays["xyz"], {"color": color})]
        if encoder.input.attributes:
            several.append(st_ssl.cloud(encoder, np.concatenate([arrays["xyz"], color], 1)))
        for batch in several:
            assert len(batch) == 1
            with torch.no_grad():
                pooled = encoder(batch).pooled[0].numpy()
            cosine = pooled @ expected / np.linalg.norm(pooled) / np.linalg.norm(expected)
            assert cosine > 0.9999


def test_what_is_no_cloud_is_told(clouds: Path, tmp_path: Path) -> None:
    encoder = load_encoder(write_run(tmp_path / "run", "point_vit"))
    xyz = np.load(clouds / "0.npz")["xyz"]
    color = np.zeros((len(xyz), 3))
    wrong: list[tuple[tuple[Any, ...], type[Exception], str]] = [
        ((xyz[0],), DataError, r"numbers \[N, 3\], or \[N, 6\] with color behind them; these are float64 \[3\]"),
        ((np.zeros((9, 5)),), DataError, r"these are float64 \[9, 5\]"),
        ((xyz,), SampleError, "has no color, which input.attributes asks for"),
        ((xyz, {"colour": color}), DataError, r"no attribute 'colour'; did you mean 'color'\?"),
        ((xyz, {"color": color[:5]}), DataError, r"color is numbers \[300, 3\]; this is float64 \[5, 3\]"),
        ((xyz, {"color": color + 255}), DataError, r"color is in 0 … 1; this is in 255 … 255"),
        ((clouds / "9.npz",), SampleError, r"9\.npz: file is missing"),
        ((clouds / "0.npz", {"color": color}), DataError, "attributes belong to arrays"),
    ]
    for given, error, told in wrong:
        with pytest.raises(error, match=told):
            st_ssl.cloud(encoder, *given)
    with pytest.raises(ConfigError, match=r"fed clips of videos, not clouds: use st_ssl\.clip"):
        st_ssl.cloud(encoder_of("c3d"), xyz)


def test_index_names_files_that_are_there(clouds: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "sparse_unet")
    extract(run, config_of(clouds), tmp_path / "out", CPU)
    assert all((tmp_path / "out" / row["tokens"]).is_file() for row in rows_of(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "extract.json").read_text())["part"] == module.CLOUDS


def test_a_cloud_of_too_few_points_is_refused_by_name(tmp_path: Path) -> None:
    encoder = load_encoder(write_run(tmp_path / "run", "dgcnn"))
    encoder.input = encoder.input.model_copy(update={"num_points": None})
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((5, 3)))
    with pytest.raises(SampleError, match=r"a\.npy: has 5 points to show, .* need 8"):
        st_ssl.cloud(encoder, tmp_path / "a.npy")
