"""What every method must do. A new one is found here by itself, at the size that its own tests say (``SMALL``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from st_ssl.core.exhibits import ClipExhibit, CloudExhibit, LinksExhibit
from st_ssl.core.types import View
from st_ssl.data.base import Batch
from st_ssl.encoders.base import load_encoder
from st_ssl.encoders.transformer import Attention, DropPath
from st_ssl.engine.step import GradientStep, Step
from st_ssl.methods.base import METHODS, Losses, Method, Moment, Paper
from st_ssl.training.batchnorm import convert_batchnorm
from st_ssl.training.distributed import average_gradients
from tests.ddp import run_ranks
from tests.methods.small import recorded
from tests.methods.steps import build, raw_views
from tests.runs import CPU, metrics, tiny, train, weights

NAMES = METHODS.names()
COMPARING = [name for name in NAMES if METHODS.registered(name).outputs is not Method.outputs]


def prepared(method: Method[Any], batch: int = 4) -> list[View]:
    views = method.views.prepare(raw_views(method, batch))
    assert len(views) == method.views.num_views
    return views


@pytest.mark.parametrize("name", NAMES)
def test_it_says_where_it_is_from(name: str) -> None:
    paper = METHODS.registered(name).paper
    assert isinstance(paper, Paper) and all((paper.title, paper.authors, paper.venue, paper.idea))


@pytest.mark.parametrize("name", NAMES)
def test_one_step(name: str) -> None:
    method = build(name)
    losses = method(prepared(method))
    assert isinstance(losses, Losses)
    scalars = losses.scalars()
    assert {scalar: tensor.shape for scalar, tensor in scalars.items()} == dict.fromkeys(scalars, ())
    assert all(tensor.isfinite() for tensor in scalars.values())
    losses["loss"].backward()
    for key, parameter in method.encoder.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    assert all(float(p.grad.abs().sum()) > 0 for p in method.encoder.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_one_batch_falls(name: str) -> None:
    method = build(name)
    views = prepared(method)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    values = []
    for step in range(15):
        losses = method(views)
        optimizer.zero_grad()
        losses.loss.backward()
        optimizer.step()
        method.after_update(Moment(step, 15), {key: value.detach() for key, value in losses.kept.items()})
        values.append(losses.loss.item())
    slack = 0.1 * abs(sum(values[:3]) / 3)
    assert sum(values[-3:]) / 3 < sum(values[:3]) / 3 - slack, values


@pytest.mark.parametrize("name", NAMES)
def test_nothing_changes_but_after_an_update(name: str) -> None:
    method = build(name).eval()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    with torch.no_grad():
        first, second = method(prepared(method)), method(prepared(method))
    assert torch.equal(first.loss, second.loss)
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


@pytest.mark.parametrize("name", COMPARING)
def test_outputs_of_a_part_are_that_part_of_the_outputs(name: str) -> None:
    method = build(name).eval()
    views = prepared(method)
    whole, head = method.outputs(views), method.outputs([view.part(0, 2) for view in views])
    for kind in ("features", "given"):
        tensors, parts = getattr(whole, kind), getattr(head, kind)
        assert {len(tensor) for tensor in tensors.values()} <= {4}
        for key, tensor in tensors.items():
            torch.testing.assert_close(parts[key], tensor[:2], rtol=1e-4, atol=1e-5)
    assert all(tensor.requires_grad for tensor in whole.features.values())
    assert not any(tensor.requires_grad for tensor in whole.given.values())


@pytest.mark.parametrize("name", NAMES)
def test_what_depends_on_the_batch_is_said_to(name: str) -> None:
    """The gradient of a sample is that of the sample alone, unless the method compares samples."""
    method = fixed(build(name))
    views = prepared(method)

    def gradient(start: int, stop: int) -> Tensor:
        method.zero_grad()
        (method([view.part(start, stop) for view in views]).loss * (stop - start)).backward()
        return torch.cat([p.grad.flatten() for p in method.encoder.parameters() if p.grad is not None])

    halves, whole = gradient(0, 2) + gradient(2, 4), gradient(0, 4)
    same = torch.allclose(halves, whole, rtol=1e-6, atol=1e-9 * float(whole.abs().max()))
    assert same != method.compares_samples()


# -------------------------------------------------------------------- one batch, in parts and over processes


class InDouble:
    """The views of a method, prepared in float64."""

    def __init__(self, views: Any) -> None:
        self.views = views
        self.num_views = views.num_views

    def cut(self, *args: Any) -> Any:
        return self.views.cut(*args)

    def prepare(self, views: list[View]) -> list[View]:
        return [view.map(lambda t: t.double() if t.is_floating_point() else t) for view in self.views.prepare(views)]


def fixed(method: Any) -> Any:
    """``method`` in float64, without batch norm, whose statistics are of a part, and with nothing that is drawn as it
    runs: every process draws its own."""
    for module in list(method.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(module, name, nn.Identity())
        if isinstance(module, DropPath):
            module.p = 0.0
        if isinstance(module, Attention):
            module.dropout = 0.0
    method.views = InDouble(method.views)
    return method.double()


def one_update(name: str, rank: int, world_size: int, parts: int) -> dict[str, Tensor]:
    """Losses, gradients and state of two updates of 8 samples, of which this process has its share."""
    method = fixed(build(name))
    step = Step(method)
    if world_size > 1:
        convert_batchnorm(method, "cpu")
    gradients = GradientStep(average_gradients(step) if world_size > 1 else step, method, "fp32", CPU, 0)
    found: dict[str, Tensor] = {}
    for number in range(2):
        raw = raw_views(method, 8, first=8 * number)
        share = 8 // world_size
        rows = torch.arange(8)[rank * share : (rank + 1) * share]
        batch = Batch([view.part(rank * share, (rank + 1) * share) for view in raw], rows, rows, [])
        method.zero_grad(set_to_none=True)
        update = gradients(batch, number, rank, parts)
        grads = {key: p.grad for key, p in method.named_parameters() if p.grad is not None}
        with torch.no_grad():
            for p in method.parameters():
                if p.grad is not None:
                    p.sub_(0.1 * p.grad)
        method.after_update(Moment(number, 2), update.kept)
        loss = update.scalars["loss"].clone()
        if world_size > 1:
            torch.distributed.all_reduce(loss)
        found[f"{number}: loss"] = loss / world_size
        found |= {f"{number}: gradient of {key}": grad.clone() for key, grad in grads.items()}
        found |= {f"{number}: kept {key}": value for key, value in update.kept.items()}
    return found | {f"state {key}": value.clone() for key, value in method.state_dict().items()}


def all_updates(rank: int, world_size: int) -> dict[str, dict[str, Tensor]]:
    return {f"{name} in {parts}": one_update(name, rank, world_size, parts) for name in NAMES for parts in (1, 2)}


@pytest.fixture(scope="module")
def whole() -> dict[str, dict[str, Tensor]]:
    return {name: one_update(name, 0, 1, 1) for name in NAMES}


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    return run_ranks(all_updates, 2, tmp_path_factory.mktemp("halves"))


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-8, atol=1e-9, msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_two_parts_are_the_whole(whole: dict[str, dict[str, Tensor]], name: str) -> None:
    """Also for parameters that the loss alone uses: a temperature, prototypes."""
    assert any(key.startswith("0: gradient") for key in whole[name])
    assert_same(one_update(name, 0, 1, 2), whole[name])


@pytest.mark.ddp
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_one(whole: Any, halves: Any, name: str, parts: int) -> None:
    for found in halves:
        assert_same(found[f"{name} in {parts}"], whole[name])


# -------------------------------------------------------------------- a run


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_is_the_same_to_the_last_bit_and_its_encoders_load(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    fixture = {"points": "clouds", "video": "videos", "drives": "drives"}[recorded(name)]
    root = Path(request.getfixturevalue(fixture))
    short: dict[str, Any] = {"engine": {"epochs": 2, "ema": 0.9}}
    trainer = train(tiny(root, tmp_path / "whole", name, **short))
    train(tiny(root, tmp_path / "parts", name, **short), stop_at=2)
    train(tiny(root, tmp_path / "parts", name, **short))
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    several = len(trainer.method.exports()) > 1
    for key, exported in trainer.method.exports().items():
        loaded = load_encoder(tmp_path / "whole" / key if several else tmp_path / "whole")
        assert loaded.state_dict().keys() == exported.state_dict().keys()


@pytest.mark.parametrize("name", NAMES)
def test_exhibits_are_clips_of_colours_clouds_or_links(name: str) -> None:
    method = build(name).eval()
    views = prepared(method)
    with torch.inference_mode():
        exhibits = method.exhibits(views)
    for one in exhibits:
        if isinstance(one, LinksExhibit):
            assert one.pairs.shape[1] == 2 and len(one.first) == len(views[0].points.xyz)
        elif isinstance(one, CloudExhibit):
            assert len(one.points) == 4, one.caption
            assert len(one.points.xyz) > 0, one.caption
        else:
            assert isinstance(one, ClipExhibit)
            assert one.clip.shape[:2] == (4, 3), one.caption
            assert one.clip.dtype == torch.float32, one.caption
            assert 0 <= one.clip.min() <= one.clip.max() <= 1, one.caption
            assert one.clip.std() > 0, one.caption
