"""What every encoder must do. A new one is found here by itself; it needs a row of SMALL only if its defaults are too
large."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from st_ssl.core.errors import UserError
from st_ssl.core.inputs import InputConfig, PointInputConfig
from st_ssl.core.types import PointBatch
from st_ssl.encoders import base
from st_ssl.encoders.base import (
    ENCODERS,
    Encoder,
    count_parameters,
    describe_encoder,
    load_encoder,
    random_encoder,
    save_encoder,
)
from tests.encoders.small import INPUTS, NAMES, SMALL, content, modality

LARGEST = 12_000_000  # some come in no smaller size


def small(name: str, seed: int = 0, **changes: Any) -> Encoder:
    config = ENCODERS.config(name).model_validate({"name": name, **SMALL.get(name, {}), **changes})
    encoder = random_encoder(config, INPUTS[modality(name)], seed)
    count = count_parameters(encoder)
    assert count <= LARGEST, f"add a row for {name!r} to SMALL that makes it fit tests ({count:,} parameters)"
    return encoder


@pytest.fixture(params=NAMES)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Encoder, Path]:
    encoder = small(request.param)
    save_encoder(encoder, tmp_path / "run")
    return encoder, tmp_path / "run"


@pytest.mark.parametrize("name", NAMES)
def test_features(name: str) -> None:
    encoder = small(name)
    features = encoder(content(name))
    assert sum(local is not None for local in (features.tokens, features.map, features.points)) == 1
    assert features.pooled.shape == (2, encoder.embed_dim)
    assert encoder.per_point == (features.points is not None)
    if features.points is None:
        local = features.as_tokens()
        assert local.shape[0] == 2
    else:
        local = features.points
        assert len(local) == len(content(name).xyz)
    assert local.shape[-1] == encoder.embed_dim
    assert (features.centres is not None) == (modality(name) == "points" and features.tokens is not None)
    assert features.pooled.dtype == local.dtype == torch.float32
    assert not torch.allclose(features.pooled[0], features.pooled[1])
    second = content(name)[1:] if modality(name) == "video" else content(name).part(1, 2)
    torch.testing.assert_close(encoder(second).pooled, features.pooled[1:], rtol=1e-4, atol=1e-5)
    features.pooled.square().sum().backward()
    for parameter_name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("name", NAMES)
def test_width_is_known_without_weights(name: str) -> None:
    config = ENCODERS.config(name)()
    if modality(name) == "video":
        with torch.device("meta"):
            encoder = ENCODERS.build(config, InputConfig())
            assert encoder.embed_dim == encoder(torch.empty(1, 3, 16, 112, 112)).pooled.shape[1]
    else:  # neighbours are found among points that are somewhere
        encoder = ENCODERS.build(config, PointInputConfig()).eval()
        with torch.no_grad():
            pooled = encoder(PointBatch(torch.rand(1024, 3), torch.tensor([0, 1024]))).pooled
        assert encoder.embed_dim == pooled.shape[1]
    assert encoder.config is config


@pytest.mark.parametrize("name", NAMES)
def test_encoders_with_a_grid_see_a_part(name: str) -> None:
    encoder = small(name)
    if encoder.grid is None:
        return
    length = encoder.grid[0] * encoder.grid[1] * encoder.grid[2]
    whole = encoder(content(name))
    assert whole.as_tokens().shape[1] == length
    assert encoder(content(name), torch.arange(0, length, 3).expand(2, -1)).as_tokens().shape[1] == len(
        range(0, length, 3)
    )


@pytest.mark.parametrize("name", NAMES)
def test_random_initialisation_is_a_function_of_the_seed(name: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = small(name, 1), small(name, 1), small(name, 2)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_saved_and_loaded_is_equal_to_the_bit(saved: tuple[Encoder, Path]) -> None:
    encoder, folder = saved
    loaded = load_encoder(folder)
    assert type(loaded) is type(encoder)
    assert not loaded.training
    assert (loaded.config, loaded.input) == (encoder.config, encoder.input)
    assert describe_encoder(folder) == (encoder.config, encoder.input)
    assert loaded.state_dict().keys() == encoder.state_dict().keys()
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    fed = content(encoder.config.model_dump()["name"])
    assert torch.equal(loaded(fed).pooled, encoder(fed).pooled)
    assert sorted(path.name for path in folder.iterdir()) == ["encoder.json", "encoder.safetensors"]


def test_other_weights_may_be_saved_in_place_of_its_own(saved: tuple[Encoder, Path]) -> None:
    encoder, folder = saved
    save_encoder(encoder, folder, {name: t + 1 for name, t in encoder.state_dict().items()})
    loaded = load_encoder(folder).state_dict()
    assert all(torch.equal(loaded[name], t + 1) for name, t in encoder.state_dict().items())


def broken(folder: Path) -> str:
    """What a user is told of the damaged encoder in ``folder``."""
    with pytest.raises(UserError) as caught:
        load_encoder(folder)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_readme_lists_it(name: str) -> None:
    readme = Path(base.__file__).with_name("README.md").read_text(encoding="utf-8")
    assert f"\n| `{name}` |" in readme
    model = ENCODERS.config(name).model_fields.get("model")
    assert model is None or all(f"`{value}`" in readme for value in get_args(model.annotation))


def test_missing_and_damaged_weights(saved: tuple[Encoder, Path]) -> None:
    folder = saved[1]
    file = folder / "encoder.safetensors"
    content = file.read_bytes()
    for damaged in (content[: len(content) // 2], content[:4], b"", b"\xff" * 100, content + b"more"):
        file.write_bytes(damaged)
        assert broken(folder).startswith(f"{file}: cannot be loaded: ")
    file.unlink()
    assert broken(folder).startswith(f"{file}: cannot be loaded: ")


def test_wrong_keys_and_shapes(saved: tuple[Encoder, Path]) -> None:
    encoder, folder = saved
    state = encoder.state_dict()
    first = next(iter(state))
    save_encoder(encoder, folder, {f"encoder.{name}": t for name, t in state.items()})
    assert f"encoder.{first}" in broken(folder)
    save_encoder(encoder, folder, {name: t for name, t in state.items() if name != first})
    assert first in broken(folder)
    save_encoder(encoder, folder, {**state, first: state[first][..., :-1]})
    assert "size mismatch" in broken(folder)


def test_descriptions_that_cannot_be_used(saved: tuple[Encoder, Path]) -> None:
    folder = saved[1]
    file = folder / "encoder.json"
    good: dict[str, Any] = json.loads(file.read_text())
    mistakes: list[Any] = [
        {**good, "format": 99},
        {**good, "format": "1"},
        {"format": 1},
        {**good, "encoder": {**good["encoder"], "name": "rd3"}},
        {**good, "encoder": {**good["encoder"], "colour": "red"}},
        {**good, "encoder": "r3d"},
        {**good, "input": {**good["input"], "colour": "red"}},
        [good],
        None,
    ]
    for mistake in mistakes:
        file.write_text(json.dumps(mistake))
        assert broken(folder).startswith(f"{file}: not an encoder description: ")
    for nonsense in (b"", b"{", b"\xff\xfe{}", b"[" * 100_000):
        file.write_bytes(nonsense)
        assert broken(folder).startswith(f"{file}: not an encoder description: ")
    file.unlink()
    assert broken(folder) == f"{folder}: no encoder.json: this is not the folder of a pretrained encoder"
