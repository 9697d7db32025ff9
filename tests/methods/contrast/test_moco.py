from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import normalize

from st_ssl.core.types import View
from st_ssl.data.base import Batch
from st_ssl.data.clip_plans import ClipPair
from st_ssl.engine.step import GradientStep, Step
from st_ssl.methods.base import METHODS, Moment
from tests.methods.steps import build, raw_views
from tests.methods.test_conformance import fixed
from tests.runs import CPU

SMALL: dict[str, Any] = {
    "encoder": {"name": "r3d", "depth": 10, "width": 4},
    # The batch's own keys beside the queue, so that the common tests see both. The queue is short: with the same batch
    # again and again it fills with copies of each query's own key.
    "method": {
        "hidden_dim": 32,
        "output_dim": 16,
        "queue_size": 3,
        "batch_negatives": True,
        "momentum": {"start": 0.9},
    },
}


def small(**settings: Any) -> Any:
    return build("moco", **({"queue_size": 12, "batch_negatives": False} | settings))


def prepared(method: Any, batch: int = 4, first: int = 0) -> list[View]:
    views: list[View] = method.views.prepare(raw_views(method, batch, first))
    return views


def kept(losses: Any) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in losses.kept.items()}


def test_defaults_are_those_of_the_paper() -> None:
    config: Any = METHODS.config("moco")()
    assert (config.hidden_dim, config.output_dim, config.projector_layers) == (2048, 128, 2)
    assert (config.temperature, config.queue_size, config.projector_norm) == (0.2, 65536, False)
    assert (config.batch_negatives, config.symmetric) == (False, False)
    assert all(config.momentum.at(step, 10) == pytest.approx(0.999, rel=1e-12) for step in range(10))
    augment = config.augment
    assert (augment.area, augment.flip, augment.jitter) == ((0.2, 1.0), 0.5, 0.8)
    assert (augment.brightness, augment.contrast, augment.saturation, augment.hue) == (0.4, 0.4, 0.4, 0.1)
    assert (augment.grayscale, augment.blur, augment.blur_sigma, augment.per_frame) == (0.2, 0.5, (0.1, 2.0), False)


def test_views_are_two_clips_at_a_uniform_distance() -> None:
    assert {spec.plan for spec in small().views.specs} == {ClipPair(4, 2, "uniform")}
    assert small().views.num_views == 2


def slow_loss(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """The mean over queries of the cross-entropy of their key, one after the other."""
    terms = []
    for query, key in zip(normalize(queries, dim=1), normalize(keys, dim=1), strict=True):
        logits = torch.stack([query @ key, *(query @ negative for negative in negatives)]) / temperature
        terms.append(logits.logsumexp(0) - logits[0])
    return torch.stack(terms).mean()


@pytest.mark.parametrize("symmetric", [False, True])
def test_value_and_gradient_of_the_slow_reference(symmetric: bool) -> None:
    method = fixed(small(symmetric=symmetric, temperature=0.3))
    views = prepared(method)
    with torch.no_grad():  # a momentum encoder of its own
        for p in method.momentum.parameters():
            p.mul_(1.1)

    def project(network: Any, head: Any, view: View) -> Tensor:
        projections: Tensor = head(network(view.clip).pooled)
        return projections

    queries = [project(method.encoder, method.projector, view) for view in views]
    keys = [project(method.momentum.encoder, method.momentum.projector, view).detach() for view in views]
    expected = slow_loss(queries[0], keys[1], method.queue.rows, 0.3)
    if symmetric:
        expected = (expected + slow_loss(queries[1], keys[0], method.queue.rows, 0.3)) / 2
    expected.backward()
    theirs = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    losses = method(views)
    losses.loss.backward()
    torch.testing.assert_close(losses.loss, expected, rtol=1e-10, atol=1e-12)
    ours = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys()
    assert not any(name.startswith("momentum") for name in ours)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-8, atol=1e-11)
    assert len(losses.kept) == 1 + symmetric


def test_the_keys_of_an_update_are_negatives_of_the_next_not_of_their_own() -> None:
    method = small()
    before = method.queue.rows.clone()
    views = prepared(method)
    losses = method(views)
    assert torch.equal(method.queue.rows, before)
    method.after_update(Moment(0, 10), kept(losses))
    keys = normalize(losses.kept["key_1"], dim=1)
    torch.testing.assert_close(method.queue.rows, torch.cat([keys, before[4:]]))
    again = method(views)["loss"]
    assert again > losses.loss + 0.1  # a key is now among the negatives of its own query
    for step in range(1, 4):  # 12 rows: all of the first update have left
        method.after_update(Moment(step, 10), kept(method(prepared(method, first=10 * step))))
    assert (method.queue.rows[:, None] - keys).norm(dim=2).min() > 1e-4


@pytest.mark.parametrize(("symmetric", "rows"), [(False, 4), (True, 8)])
def test_both_keys_enter_the_queue_where_both_are_asked_for(symmetric: bool, rows: int) -> None:
    method = small(symmetric=symmetric)
    method.after_update(Moment(0, 10), kept(method(prepared(method))))
    assert int(method.queue.next) == rows


def test_the_momentum_encoder_follows_by_the_schedule() -> None:
    method = small(momentum={"start": 0.5, "end": 1.0})
    slow, live = method.momentum.encoder.stem[0].weight, method.encoder.stem[0].weight
    start = slow.clone()
    with torch.no_grad():
        live.add_(1.0)
    method.after_update(Moment(0, 10), {})
    torch.testing.assert_close(slow, start + 0.5)
    method.after_update(Moment(10, 10), {})  # at the end it stands still
    torch.testing.assert_close(slow, start + 0.5)
    assert method.exports() == {"encoder": method.encoder}


def test_without_a_queue_the_batch_has_all_negatives() -> None:
    method = small(queue_size=0)
    losses = method(prepared(method))
    method.eval()
    views = prepared(method)
    outputs = method.outputs(views)
    keys = normalize(outputs["key_1"], dim=1)
    logits = normalize(outputs["query_0"], dim=1) @ keys.T / 0.2
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(4))
    torch.testing.assert_close(method(views)["loss"], expected)
    assert losses.kept == {}
    method.after_update(Moment(0, 10), {})
    assert method.queue.rows.shape == (0, 16)


@pytest.mark.parametrize("settings", [{}, {"queue_size": 0}, {"symmetric": True}])
def test_parts_are_the_whole_in_every_setting(settings: dict[str, Any]) -> None:
    """The common tests have the negatives of queue and batch together."""

    def state(parts: int) -> dict[str, Tensor]:
        method = fixed(small(**settings))
        gradients = GradientStep(Step(method), method, "fp32", CPU, 0)
        rows = torch.arange(4)
        update = gradients(Batch(raw_views(method), rows, rows, []), 0, 0, parts)
        method.after_update(Moment(0, 2), update.kept)
        grads = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
        return grads | method.state_dict() | {"loss": update.scalars["loss"]}

    whole, halves = state(1), state(2)
    assert whole.keys() == halves.keys()
    for name, value in whole.items():
        torch.testing.assert_close(halves[name], value, rtol=1e-8, atol=1e-9)


def test_the_projector_has_batch_norm_only_where_asked_for() -> None:
    def norms(method: Any) -> int:
        return sum(isinstance(m, torch.nn.BatchNorm1d) for m in method.projector)

    assert (norms(small()), norms(small(projector_norm=True, projector_layers=3))) == (0, 2)


def test_what_is_wrong_is_refused_and_what_is_ignored_is_told() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        small(queue_size=-1)
    with pytest.raises(ValidationError, match="greater than 0"):
        small(temperature=0)
    with pytest.warns(UserWarning, match="batch_negatives=True is ignored"):
        small(queue_size=0, batch_negatives=True)
