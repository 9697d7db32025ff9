"""What of an encoder is trained: all of it, its last blocks, or low-rank additions; the rest stays to the bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from st_ssl.core.errors import ConfigError
from st_ssl.core.inputs import InputConfig, PointInputConfig
from st_ssl.data.loading.sample_dataset import collate
from st_ssl.encoders.base import ENCODERS, Encoder, load_encoder, random_encoder
from st_ssl.transfer.fitting.finetune import finetune
from st_ssl.transfer.fitting.finetune_config import LoraConfig
from st_ssl.transfer.fitting.finetune_model import Tuned, tuned
from st_ssl.transfer.fitting.fit import fit
from tests.transfer.clouds import TinySource, settings, tiny_registered
from tests.transfer.fits import CPU, network, prepared, write_run

__all__ = ["tiny_registered"]
CLASSIFY = {"name": "classify"}
POINT_VIT = {
    **{"name": "point_vit", "dim": 12, "depth": 3, "heads": 3, "num_groups": 4, "group_size": 6},
    **{"tokeniser": (4, 6, 8), "drop_path": 0.2, "attention_dropout": 0.1},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def vit() -> Encoder:
    config = ENCODERS.config("point_vit").model_validate(POINT_VIT)
    return random_encoder(config, PointInputConfig(num_points=48), 0)


def test_only_the_last_blocks_change(run: Path) -> None:
    config = settings(CLASSIFY, epochs=2, last_blocks=1)
    task, feed, parts = prepared(config)
    model = network(run, task, "last", config)
    before = copy.deepcopy(model.state_dict())
    fit(model, task, feed, parts, config, 0)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"encoder.blocks.1.0.weight", "encoder.blocks.1.0.bias", "head.mlp.0.weight", "head.mlp.0.bias"}


def test_what_is_not_trained_is_in_evaluation_mode() -> None:
    model = tuned(vit(), nn.Linear(12, 2), "last", 2, LoraConfig()).train()
    trained = {name for name, p in model.encoder.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"blocks", "norm"}
    assert {name.split(".")[1] for name in trained if name.startswith("blocks")} == {"1", "2"}
    modes = {name: module.training for name, module in model.encoder.named_modules()}
    norms = [name for name, module in model.encoder.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and not any(modes[name] for name in norms)
    assert not modes["blocks.0.attn"] and not modes["blocks.0.drop_path"]
    assert modes["blocks.1.attn"] and modes["blocks.2.drop_path"] and modes["norm"]
    assert not any(module.training for module in model.eval().modules())
    assert all(module.training for module in Tuned(vit(), nn.Linear(12, 2), False).train().modules())
    frozen = Tuned(vit(), nn.Linear(12, 2), True).train()
    assert not any(module.training for module in frozen.encoder.modules()) and frozen.head.training


def test_encoders_without_so_many_blocks_are_told(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"^last_blocks=3: the encoder tiny_points has 2 blocks$"):
        finetune(TinySource(), [run], settings(CLASSIFY, modes=("last",), last_blocks=3), CPU)
    encoder = vit()
    encoder.blocks = nn.ModuleList()
    with pytest.raises(ConfigError, match=r"the encoder point_vit has no numbered blocks"):
        tuned(encoder, nn.Linear(12, 2), "last", 1, LoraConfig())


def test_low_rank_additions_are_all_that_is_learned_and_end_in_the_weights() -> None:
    pytest.importorskip("peft")
    from st_ssl.transfer.fitting.finetune_model import merge_lora

    source, points = TinySource(), PointInputConfig(num_points=48)
    batch = next(iter(source.evaluation(points).prepare([_raw(source, points)]))).points
    encoder, plain = vit(), vit()
    model = tuned(encoder, nn.Linear(12, 2), "lora", 2, LoraConfig(rank=2, alpha=6.0))
    torch.testing.assert_close(encoder(batch).pooled, plain(batch).pooled)  # they are nothing at first
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert len(trained) == 3 * 2 * 2 and all("lora_" in name for name in trained)
    assert model.train().learned().keys() == {f"encoder.{name}" for name in trained} | {"head.weight", "head.bias"}
    assert encoder.get_submodule("blocks.1.drop_path").training
    deltas = {}
    with torch.no_grad():
        for name in ("attn.qkv", "attn.proj"):
            layer: Any = encoder.get_submodule(f"blocks.1.{name}")
            layer.lora_B["default"].weight.normal_()
            deltas[name] = 6.0 / 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    expected = encoder.eval()(batch).pooled
    merge_lora(encoder)
    torch.testing.assert_close(encoder(batch).pooled, expected)
    assert not torch.allclose(expected, plain(batch).pooled)
    ours, theirs = encoder.state_dict(), plain.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        delta = deltas.get(name.removeprefix("blocks.1.").removesuffix(".weight"), 0)
        torch.testing.assert_close(ours[name], tensor + delta)


def _raw(source: TinySource, points: PointInputConfig) -> Any:
    entries = source.entries()[:2]
    dataset = source.dataset(entries, source.evaluation(points))
    return collate([dataset[0, 0], dataset[0, 1]]).views[0]


def test_an_encoder_tuned_by_additions_is_saved_as_a_plain_one(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    lora = LoraConfig(rank=2, targets=("blocks.1.0",))
    config = settings(CLASSIFY, modes=("frozen", "lora"), epochs=2, lora=lora, save=True)
    result = finetune(TinySource(), [run], config, CPU, weights=tmp_path / "weights")
    assert [row["mode"] for row in result["results"]] == ["frozen", "lora"]
    before, after = load_encoder(run).state_dict(), load_encoder(tmp_path / "weights" / "lora_100_0").state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {"blocks.1.0.weight"}
    difference = torch.linalg.matrix_rank(after["blocks.1.0.weight"] - before["blocks.1.0.weight"], rtol=1e-3)
    assert difference == 2


def test_layers_for_additions_that_are_not_there_are_told(run: Path) -> None:
    pytest.importorskip("peft")
    config = settings(CLASSIFY, modes=("lora",))
    told = r"no layer whose name ends in 'attn.qkv' \(its layers: blocks.\*.\*\)"
    with pytest.raises(ConfigError, match=told):
        finetune(TinySource(), [run], config, CPU)
    small = ENCODERS.config("video_vit").model_validate({"name": "video_vit", "dim": 6, "depth": 1, "heads": 1})
    encoder = random_encoder(small, InputConfig(num_frames=2, size=16), 0)
    with pytest.raises(ConfigError, match=r"'atn.qkv'; did you mean 'attn.qkv'"):
        tuned(encoder, nn.Linear(6, 2), "lora", 1, LoraConfig(targets=("atn.qkv",)))
