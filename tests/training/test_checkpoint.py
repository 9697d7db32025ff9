"""Checkpoints: whole or not there at all, whatever happens to the process or to the disk."""

from __future__ import annotations

import ctypes
import json
import math
import multiprocessing
import os
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from st_ssl.core.random import keyed_rng
from st_ssl.training import checkpoint
from st_ssl.training.checkpoint import (
    Checkpointer,
    CheckpointError,
    DamagedCheckpointError,
    Loaded,
    flatten_optimizer,
    load_checkpoint,
    restore_optimizer,
)
from st_ssl.training.ema import EMA
from st_ssl.training.optim import OptimConfig, build_optimizer
from tests.waiting import until


def content(value: float, size: int = 1000) -> dict[str, dict[str, Tensor]]:
    return {"model": {"w": torch.full((size,), value)}, "optimizer": {"w/m": torch.full((size,), -value)}}


def save(saver: Checkpointer, step: int, value: float) -> Path:
    return saver.save(step, content(value), {"value": value, "third": value / 3})


def check_whole(loaded: Loaded | None) -> Loaded:
    assert loaded is not None
    value = loaded.state["value"]
    assert loaded.state["third"] == value / 3
    assert loaded.step == int(value)
    assert bool((loaded.tensors["model"]["w"] == value).all())
    assert bool((loaded.tensors["optimizer"]["w/m"] == -value).all())
    return loaded


def test_round_trip_is_exact(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    model = {
        "tied": base,
        "tied_too": base,
        "view": base[1:3],
        "transposed": base.t(),
        "half": base.bfloat16(),
        "count": torch.tensor(2**40),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "parameter": nn.Parameter(base.double() / 7),
        "channels_last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    state = {"third": 1 / 3, "inf": math.inf, "tiny": 5e-324, "big": 2**70, "text": "naïve", "none": None, "l": [1, {}]}
    path = Checkpointer(tmp_path).save(120, {"model": model, "ema": {}}, state)
    assert path.name == "step_00000120"
    loaded = load_checkpoint(path)
    assert (loaded.step, loaded.state, loaded.path) == (120, state, path)
    assert list(loaded.tensors) == ["model", "ema"]
    assert loaded.tensors["model"].keys() == model.keys()
    for name, tensor in model.items():
        assert loaded.tensors["model"][name].dtype == tensor.dtype, name
        assert torch.equal(loaded.tensors["model"][name], tensor.detach()), name


@pytest.mark.parametrize("state", [{"a": (1, 2)}, {"a": {1: 2}}, {"a": [torch.zeros(1)]}, {"a": {"b": object()}}])
def test_state_that_json_would_change_is_refused(tmp_path: Path, state: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=r"state\.a"):
        Checkpointer(tmp_path).save(1, {}, state)
    assert list(tmp_path.iterdir()) == []


def test_keeps_the_last_ones_and_replaces_the_same_step(tmp_path: Path) -> None:
    saver = Checkpointer(tmp_path, keep_last=2)
    assert saver.latest() is None
    for step in (5, 10, 100_000_000, 20):
        save(saver, step, step)
    # what was just saved stays, even after a rewind to an earlier step
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000020", "step_100000000"]
    save(saver, 100_000_000, 100_000_000.5)
    assert check_whole(saver.latest()).state["value"] == 100_000_000.5
    with pytest.raises(CheckpointError, match="keep_last"):
        Checkpointer(tmp_path, keep_last=0)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
def test_damage_falls_back_with_a_warning(tmp_path: Path, name: str, damage: Any) -> None:
    saver = Checkpointer(tmp_path)
    for step in (1, 2):
        saver.save(step, content(step), {"value": step, "third": step / 3, "padding": "x" * 200})
    damage(tmp_path / "step_00000002" / name)
    with pytest.raises(DamagedCheckpointError, match=name):
        load_checkpoint(tmp_path / "step_00000002")
    with pytest.warns(UserWarning, match=rf"{name}.*moved to step_00000002\.damaged"):
        loaded = saver.latest()
    assert check_whole(loaded).step == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000001", "step_00000002.damaged"]
    save(saver, 2, 2)
    (tmp_path / "step_00000002" / "state.json").unlink()
    with pytest.warns(UserWarning, match=r"moved to step_00000002\.1\.damaged"):
        saver.latest()


def test_any_flipped_byte_is_found_or_harmless(tmp_path: Path) -> None:
    path = Checkpointer(tmp_path).save(3, content(3, size=4), {"value": 3, "third": 1.0})
    rng = keyed_rng("flip")
    for file in sorted(path.iterdir()):
        data = file.read_bytes()
        for position in rng.choice(len(data), size=min(len(data), 60), replace=False):
            flipped = bytearray(data)
            flipped[position] ^= 1 << int(rng.integers(8))
            file.write_bytes(flipped)
            try:
                loaded = load_checkpoint(path)
            except DamagedCheckpointError:
                continue
            assert file.name == "manifest.json"  # white space between its values is nobody's loss
            check_whole(loaded)
        file.write_bytes(data)
    check_whole(load_checkpoint(path))


def test_newer_format_and_unknown_folder_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = Checkpointer(tmp_path)
    save(saver, 1, 1)
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    save(saver, 2, 2)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="format 2 is newer"):
        saver.latest()
    assert (tmp_path / "step_00000002").is_dir()
    with pytest.raises(CheckpointError, match="did you mean 'step_00000001'"):
        load_checkpoint(tmp_path / "step_0000001")


def test_a_disk_that_refuses_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = Checkpointer(tmp_path)
    save(saver, 1, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        save(saver, 2, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]


class Crash(BaseException):
    """Stands for the kill: nothing in the code under test may catch it."""


def test_a_crash_before_any_system_call_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace step 2 and prune step 1, dying before the n-th call to the file system, for every n."""
    n = 0
    while True:
        folder = tmp_path / str(n)
        saver = Checkpointer(folder, keep_last=2)
        save(saver, 1, 1)
        save(saver, 2, 2.25)
        saver.keep_last = 1
        calls = 0

        def dying(real: Any, n: int = n) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > n:
                    raise Crash
                return real(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for owner, name in (
                *((os, name) for name in ("fsync", "rename", "mkdir", "unlink", "rmdir")),
                (Path, "write_text"),
                (checkpoint, "save_file"),
            ):
                patch.setattr(owner, name, dying(getattr(owner, name)))
            try:
                save(saver, 2, 2.5)
                crashed = False
            except Crash:
                crashed = True
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = check_whole(Checkpointer(folder).latest()).state["value"]
        assert found in (2.25, 2.5)
        left = sorted(p.name for p in folder.iterdir())
        assert left in (["step_00000002"], ["step_00000001", "step_00000002"])
        if not crashed:
            assert (found, left) == (2.5, ["step_00000002"])
            break
        n += 1
    assert n == 1 + 4 + 5 + 3 + 1 + 2 * 5  # mkdir, writes, syncs, renames, parent's sync, two folders of 5 removed


def save_forever(folder: Path, first: int, saved: ctypes.c_double) -> None:
    torch.set_num_threads(1)
    saver = Checkpointer(folder)
    for step in range(first, first + 10_000):
        for value in (step, step + 0.5):  # every step twice: a new one, then a replacement
            saver.save(step, content(value, size=100_000), {"value": value, "third": value / 3})
            saved.value = value


def differs(saved: ctypes.c_double, last: float) -> bool:
    return saved.value != last


def test_kill_at_random_moments(tmp_path: Path) -> None:
    rng = keyed_rng("kill")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    last = 0.0
    for _ in range(8):
        saved = context.RawValue(ctypes.c_double, last)  # without a lock, which a killed process may keep
        process = context.Process(target=save_forever, args=(tmp_path, int(last) + 1, saved))
        process.start()
        until(partial(differs, saved, last))
        time.sleep(float(rng.uniform(0, 0.15)))
        process.kill()
        process.join()
        assert process.exitcode == -9
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a killed save must not even look like a damaged one
            loaded = check_whole(Checkpointer(tmp_path).latest())
        assert loaded.state["value"] >= saved.value > last  # what save returned from is there
        assert all(p.name.startswith("step_") for p in tmp_path.iterdir())
        last = loaded.state["value"]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 5)).to(
        memory_format=torch.channels_last
    )


def train(model: nn.Module, opt: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        opt.zero_grad()
        x = torch.from_numpy(keyed_rng("x", step).normal(size=(4, 3, 4, 4))).float()
        model(x).square().mean().backward()
        for group in opt.param_groups:
            group["lr"] = 0.01 / (step + 3)
        opt.step()


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_resumed_optimiser_is_identical_to_the_bit(tmp_path: Path, name: str) -> None:
    config = OptimConfig.model_validate({"name": name, "lr": 0.1, "weight_decay": 0.3})
    model = network()
    opt = build_optimizer(model.named_parameters(), config, 0.1)
    train(model, opt, range(3))
    tensors, settings = flatten_optimizer(opt)
    path = Checkpointer(tmp_path).save(3, {"model": model.state_dict(), "optimizer": tensors}, {"optimizer": settings})
    train(model, opt, range(3, 6))

    again = network(seed=1)
    loaded = load_checkpoint(path)
    again.load_state_dict(loaded.tensors["model"])
    resumed = build_optimizer(again.named_parameters(), config, 0.7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restore_optimizer(resumed, loaded.tensors["optimizer"], loaded.state["optimizer"])
    assert resumed.param_groups[0]["lr"] == 0.01 / 5
    train(again, resumed, range(3, 6))
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert opt.state[p].keys() == resumed.state[q].keys()
        for key, value in opt.state[p].items():
            assert torch.equal(value, resumed.state[q][key])
            assert value.stride() == resumed.state[q][key].stride()


def test_optimiser_mismatch_is_named_and_changes_nothing() -> None:
    model = network()
    opt = build_optimizer(model.named_parameters(), OptimConfig(lr=0.1), 0.1)
    train(model, opt, range(1))
    tensors, settings = flatten_optimizer(opt)

    def refuse(named: list[tuple[str, nn.Parameter]], match: str, **options: Any) -> None:
        other = build_optimizer(named, OptimConfig(lr=0.1, **options), 0.1)
        with pytest.raises(CheckpointError, match=match):
            restore_optimizer(other, tensors, settings)
        assert not other.state

    named = list(network().named_parameters())
    refuse([*named, ("extra.weight", nn.Parameter(torch.zeros(2, 2)))], r"'extra.weight' is missing \(1 in all\)")
    refuse(named[:-1], "'3.bias' is unexpected")
    refuse([("0.weights", named[0][1]), *named[1:]], "'0.weights' is missing.*did you mean '0.weight'")
    refuse([("0.weight", nn.Parameter(torch.zeros(8, 3, 2, 2))), *named[1:]], r"\[8, 3, 2, 2\].*\[8, 3, 3, 3\]")
    refuse(named, "1 parameter groups, the checkpoint 2", exclude_norm_and_bias=False)
    fresh = build_optimizer(named, OptimConfig(lr=0.1), 0.1)
    with pytest.raises(CheckpointError, match=r"'0\.weight/exp_avg' is missing"):
        restore_optimizer(fresh, {k: v for k, v in tensors.items() if k != "0.weight/exp_avg"}, settings)


def test_changed_setting_is_a_warning_and_unnamed_parameters_go_by_position() -> None:
    p = nn.Parameter(torch.ones(3))
    opt = torch.optim.SGD([p], lr=0.1, momentum=0.9)
    p.grad = torch.ones(3)
    opt.step()
    tensors, settings = flatten_optimizer(opt)
    assert list(tensors) == ["0.0/momentum_buffer"]
    other = torch.optim.SGD([nn.Parameter(torch.ones(3))], lr=0.2, momentum=0.5)
    with pytest.warns(UserWarning, match=r"momentum of parameter group 0: the checkpoint's 0.9 is used, not 0.5"):
        restore_optimizer(other, tensors, json.loads(json.dumps(settings)))
    assert other.param_groups[0]["momentum"] == 0.9
    with pytest.raises(TypeError, match="Tensor cannot be kept"):
        flatten_optimizer(torch.optim.SGD([p], lr=torch.tensor(0.1)))


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.coarse = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)


def test_ema_follows_the_formula() -> None:
    module = Mixed()
    ema = EMA(module)
    slow = {name: value.clone().double() for name, value in module.state_dict().items()}
    for step, decay in enumerate((0.999, 0.5, 0.9)):
        for name, value in module.state_dict().items():
            value.copy_(torch.full_like(value, step + 2))
            averaged = decay * slow[name] + (1 - decay) * value.double()
            slow[name] = averaged if value.is_floating_point() else value.clone()
        ema.update(decay)
    state = ema.state_dict()
    assert state["norm.num_batches_tracked"].item() == 4
    assert state["coarse"].dtype == torch.float32
    for name, value in state.items():
        torch.testing.assert_close(value.double(), slow[name].double(), rtol=1e-6, atol=1e-6)

    before = {name: value.clone() for name, value in state.items()}
    module.frozen.data.fill_(77)
    ema.update(1.0)
    assert torch.equal(ema.state_dict()["frozen"], before["frozen"])
    ema.update(0.0)
    assert ema.state_dict()["frozen"].tolist() == [77, 77]

    ema.load(before)
    for name, value in ema.state_dict().items():
        assert torch.equal(value, before[name]), name
    with pytest.raises(CheckpointError, match="'coarse' is missing"):
        ema.load({name: value for name, value in before.items() if name != "coarse"})
    with pytest.raises(CheckpointError, match="shape"):
        ema.load(before | {"coarse": torch.zeros(9)})
