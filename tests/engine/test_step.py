"""One update's gradients: accumulation, gradient caching and precision leave them what they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from st_ssl.core.config import Config
from st_ssl.core.errors import ConfigError, MissingLibraryError
from st_ssl.core.types import View
from st_ssl.data.base import Batch
from st_ssl.engine.runtime import Runtime, require_compiler
from st_ssl.engine.step import GradientStep, Step
from st_ssl.engine.trainer import Trainer, TrainingError
from st_ssl.methods.base import Losses, Method, Outputs
from st_ssl.training.distributed import average_gradients, gather_with_gradient
from tests.ddp import run_ranks
from tests.runs import CPU, load, metrics, tiny, train, weights

VIT: dict[str, Any] = {"name": "video_vit", "dim": 32, "depth": 2, "heads": 2, "patch": 8}


class Owned(Method[Config]):
    """Compares samples by a temperature and prototypes of the loss, and weighs them by labels; the prototypes are also
    used before."""

    def __init__(self) -> None:
        super().__init__(Config(), nn.Linear(3, 4))  # type: ignore[arg-type]
        self.heat = nn.Parameter(torch.tensor(0.7))
        self.prototypes = nn.Parameter(torch.randn(5, 4))
        self.bias = nn.Parameter(torch.zeros(5))
        self.views = AsTheyAre()  # type: ignore[assignment]

    def outputs(self, views: list[View]) -> Outputs:
        features: Any = self.encoder(views[0].content)
        near = features @ self.prototypes.T
        given = {"kind": views[0].labels["kind"], "target": near.detach()}
        return Outputs({"features": features, "near": near}, given)

    def losses(self, outputs: Outputs) -> Losses:
        others = gather_with_gradient(outputs["features"])
        logits = outputs["features"] @ others.T / self.heat + (outputs["near"] + self.bias).logsumexp(1, keepdim=True)
        weight = 1 + outputs["kind"].double()
        loss = (weight * logits.logsumexp(1)).mean() + (outputs["target"] @ self.prototypes).square().mean()
        return Losses(loss, kept={"kind": outputs["kind"]})


class AsTheyAre:
    """Views that need no preparation."""

    num_views = 1

    def prepare(self, views: list[View]) -> list[View]:
        return views


def owned_update(rank: int, world_size: int, parts: int) -> dict[str, Tensor]:
    """Gradients of ``Owned`` of 8 samples, of which this process has its share, and what is kept."""
    torch.manual_seed(0)
    method = Owned().double()
    kind = {"kind": torch.arange(8) + 1}
    view = View(torch.randn(8, 3, dtype=torch.float64), torch.zeros(8, 1, dtype=torch.int64), kind)
    share = 8 // world_size
    first, last = rank * share, (rank + 1) * share
    step = Step(method)
    gradients = GradientStep(average_gradients(step) if world_size > 1 else step, method, "fp32", CPU, 0)
    index = torch.arange(first, last)
    update = gradients(Batch([view.part(first, last)], index, index, []), 0, rank, parts)
    return {key: p.grad for key, p in method.named_parameters() if p.grad is not None} | update.kept


@pytest.mark.ddp
def test_what_the_loss_owns_has_its_gradient_in_parts_and_over_processes(tmp_path: Path) -> None:
    """Whether the loss alone uses it, or what comes before as well; and what is kept is in the order of the samples."""
    whole = owned_update(0, 1, 1)
    assert whole.keys() == {"encoder.weight", "encoder.bias", "heat", "prototypes", "bias", "kind"}
    assert whole["kind"].tolist() == list(range(1, 9))
    found = [owned_update(0, 1, 2), owned_update(0, 1, 4), *run_ranks(owned_update, 2, tmp_path, 1)]
    for other in [*found, *run_ranks(owned_update, 2, tmp_path, 2)]:
        assert other.keys() == whole.keys()
        for key, value in whole.items():
            torch.testing.assert_close(other[key], value, rtol=1e-10, atol=1e-12, msg=key)
    assert all(float(value.abs().max()) > 1e-3 for value in whole.values())


def test_caching_draws_the_same_dropout_in_both_passes(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the gradient of the outputs would be carried back through another network than gave them."""
    data = tiny(videos, tmp_path / "run", engine={"batch_size": 8}) | {"encoder": VIT | {"drop_path": 0.5}}
    trainer = Trainer(load(data), Runtime(CPU))
    seen: list[Tensor] = []
    outputs = trainer.method.outputs

    def watched(views: list[View]) -> Outputs:
        result = outputs(views)
        seen.append(result["first"])
        return result

    monkeypatch.setattr(trainer.method, "outputs", watched)
    batch, _ = next(trainer._batches(0, 1))
    trainer.gradients(batch, 3, 0, 2)
    assert len(seen) == 4
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])


def test_running_statistics_are_counted_once_per_part_with_caching(videos: Path, tmp_path: Path) -> None:
    trainer = Trainer(load(tiny(videos, tmp_path / "run", engine={"batch_size": 8})), Runtime(CPU))
    trainer.method.train()
    batch, _ = next(trainer._batches(0, 1))
    trainer.gradients(batch, 0, 0, 2)
    counts = {n: int(b) for n, b in trainer.method.named_buffers() if n.endswith("num_batches_tracked")}
    encoder = {count for name, count in counts.items() if name.startswith("encoder.")}
    assert encoder == {4}  # two views × two parts, the pass without gradients not counted
    assert all(m.track_running_stats for m in trainer.method.modules() if hasattr(m, "track_running_stats"))


def test_accumulated_runs_resume_exactly(videos: Path, tmp_path: Path) -> None:
    halves: dict[str, Any] = {"engine": {"accumulate": 2, "epochs": 2}}
    train(tiny(videos, tmp_path / "whole", **halves))
    train(tiny(videos, tmp_path / "parts", **halves), stop_at=2)
    train(tiny(videos, tmp_path / "parts", **halves))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


@pytest.mark.parametrize("method", ["cvrl", "videomae"])
def test_bf16_follows_fp32_and_keeps_the_weights_in_fp32(videos: Path, tmp_path: Path, method: str) -> None:
    for precision in ("fp32", "bf16"):
        data = tiny(videos, tmp_path / precision, method, engine={"precision": precision, "epochs": 1})
        train(data | {"encoder": VIT})
    full, half = metrics(tmp_path / "fp32"), metrics(tmp_path / "bf16")
    assert full[0]["loss"] != half[0]["loss"]
    assert half[0]["loss"] == pytest.approx(full[0]["loss"], rel=0.05)
    assert {t.dtype for t in weights(tmp_path / "bf16").values() if t.is_floating_point()} == {torch.float32}


def test_bf16_of_3d_convolutions_is_refused_on_a_cpu(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"engine\.precision=bf16: .*3D convolutions"):
        Trainer(load(tiny(videos, tmp_path / "run", engine={"precision": "bf16"})), Runtime(CPU))


# -------------------------------------------------------------------- fp16


def scaled(videos: Path, output: Path, scale: float, **engine: Any) -> Trainer:
    """A trainer in fp16 whose loss scale is ``scale``."""
    trainer = Trainer(load(tiny(videos, output, "videomae", engine={"precision": "fp16", **engine})), Runtime(CPU))
    trainer.gradients.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return trainer


def test_fp16_unscales_before_clipping_and_resumes_exactly(videos: Path, tmp_path: Path) -> None:
    fp16: dict[str, Any] = {"engine": {"precision": "fp16", "epochs": 2, "clip_grad": 1.0}}
    train(tiny(videos, tmp_path / "fp32", "videomae", engine={"epochs": 1}))
    train(tiny(videos, tmp_path / "whole", "videomae", **fp16))
    first, plain = metrics(tmp_path / "whole")[0], metrics(tmp_path / "fp32")[0]
    assert first["grad_norm"] == pytest.approx(plain["grad_norm"], rel=0.05)  # not 65,536 times as large
    train(tiny(videos, tmp_path / "parts", "videomae", **fp16), stop_at=3)
    train(tiny(videos, tmp_path / "parts", "videomae", **fp16))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_an_overflow_skips_the_update_and_lowers_the_scale(videos: Path, tmp_path: Path) -> None:
    trainer = scaled(videos, tmp_path / "run", 2.0**40, epochs=1)
    trainer._quarantine = trainer._open_quarantine(None)
    before = {name: p.clone() for name, p in trainer.method.named_parameters()}
    for batch, _ in trainer._batches(0, 1):
        row, _ = trainer._update(batch)
    assert torch.isfinite(torch.tensor(row["loss"]))
    assert all(torch.equal(p, before[name]) for name, p in trainer.method.named_parameters())
    assert trainer.gradients.scaler.get_scale() == 2.0**39
    assert (trainer.step, trainer.overflows) == (1, 1)


def test_overflows_end_by_themselves_and_are_counted_in_a_row(videos: Path, tmp_path: Path) -> None:
    trainer = scaled(videos, tmp_path / "run", 2.0**30, epochs=10, patience=25)
    trainer.fit()
    assert trainer.overflows == 0
    assert 1.0 < trainer.gradients.scaler.get_scale() < 2.0**30
    assert all(p.isfinite().all() for p in trainer.method.parameters())


def test_patience_overflows_in_a_row_stop_the_run(videos: Path, tmp_path: Path) -> None:
    trainer = scaled(videos, tmp_path / "run", 2.0**100, patience=3)
    with pytest.raises(TrainingError, match="the gradient is not finite at step 3; the weights are still"):
        trainer.fit()


# -------------------------------------------------------------------- compile


def no_compiler() -> str:
    """Why torch.compile would not work here; "" where it does."""
    try:
        require_compiler(torch.device("cpu"), "torch.compile")
    except MissingLibraryError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.skipif(bool(no_compiler()), reason=no_compiler())
def test_compiled_runs_have_the_same_losses(videos: Path, tmp_path: Path) -> None:
    for name, compiled in (("eager", False), ("compiled", True)):
        data = tiny(videos, tmp_path / name, "videomae", engine={"epochs": 1, "compile": compiled})
        train(data | {"encoder": VIT})
    eager, fast = metrics(tmp_path / "eager"), metrics(tmp_path / "compiled")
    assert len(eager) == len(fast) == 3
    for expected, found in zip(eager, fast, strict=True):
        assert found == pytest.approx(expected, abs=1e-4)  # losses, and what the collapse gauge reads
    assert weights(tmp_path / "eager").keys() == weights(tmp_path / "compiled").keys()
