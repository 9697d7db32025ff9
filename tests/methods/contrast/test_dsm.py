from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from st_ssl.augment.local_warp import LocalWarp, LocalWarpConfig
from st_ssl.augment.temporal_disturbance import TemporalDisturbance, TemporalDisturbanceConfig
from st_ssl.core.config import merge
from st_ssl.core.errors import ConfigError
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import View
from st_ssl.methods.base import METHODS, Moment, Outputs
from st_ssl.methods.contrast.dsm import SceneClips
from tests.ddp import run_ranks
from tests.methods import test_conformance as conformance
from tests.methods.steps import NoiseReader, build, raw_views, tiny_encoder
from tests.runs import metrics, tiny, train, weights

# The common tests have the loss that compares samples with each other; those of the queue are below.
SMALL: dict[str, Any] = {
    "encoder": {"name": "r3d", "depth": 10, "width": 4},
    "method": {"loss": "triplet", "output_dim": 16},
}
QUEUE: dict[str, Any] = {"loss": "contrast", "queue": 10, "momentum": 0.7}
PLAIN = {"jitter": 0.0, "flip": 0.0}


def small(**settings: Any) -> Any:
    return build("dsm", **settings)


def prepared(method: Any, **changes: Any) -> list[View]:
    return method.views.prepare(raw_views(method, **changes))


def test_defaults_are_those_of_the_paper() -> None:
    config: Any = METHODS.config("dsm")()
    assert (config.loss, config.negative) == ("contrast", "temporal")
    assert (config.spatial, config.temporal) == (LocalWarpConfig(), TemporalDisturbanceConfig(rounds=2, share=0.1))
    assert (config.output_dim, config.temperature, config.queue) == (128, 0.07, 16384)
    assert (config.momentum, config.margin) == (0.999, 0.5)
    augment = config.augment
    assert (augment.crop, augment.scales, augment.flip, augment.jitter) == ("multi_scale", (224 / 256,), 0, 1)
    assert (augment.brightness, augment.contrast, augment.saturation, augment.hue) == (0.5, 0.5, 0.25, 0.5)
    assert augment.grayscale == augment.blur == 0


# ------------------------------------------------------------------------------------------------ views


def test_the_negative_is_the_anchor_in_another_order_and_the_positive_is_warped() -> None:
    method = small(augment=PLAIN)
    raw = raw_views(method, batch=6)
    anchor, positive, negative = method.views.prepare(raw)
    assert torch.equal(anchor.at, positive.at)
    assert torch.equal(anchor.at, negative.at)
    assert torch.equal(anchor.params["box"], negative.params["box"])
    assert not torch.equal(anchor.params["box"], positive.params["box"])
    order = raw[2].params["order"]
    assert order.shape == (6, 4, 1)
    for i in range(6):
        assert torch.equal(negative.clip[i], anchor.clip[i][:, order[i, :, 0]])
        assert not torch.equal(negative.clip[i], anchor.clip[i])
    assert "warp" not in anchor.params
    assert "warp" not in negative.params
    unwarped = small(augment=PLAIN, spatial=None)
    straight = prepared(unwarped, batch=6)[1]
    torch.testing.assert_close(LocalWarp(LocalWarpConfig()).apply(straight.clip, positive.params), positive.clip)
    assert not torch.allclose(straight.clip, positive.clip)


def test_all_three_have_colours_of_their_own() -> None:
    views = raw_views(small())
    for name in ("brightness", "hue"):
        drawn = [view.params[name] for view in views]
        assert not any(torch.equal(drawn[i], drawn[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_the_other_segment_of_the_released_code() -> None:
    method = small(negative="segment")
    assert not any(isinstance(t, TemporalDisturbance) for spec in method.views.specs for t in spec.transforms)
    anchor, positive, negative = raw_views(method, batch=8)
    assert torch.equal(anchor.at, positive.at)
    assert (anchor.at != negative.at).any(1).all()
    assert (negative.at.diff() == 2).all()
    assert not torch.equal(anchor.params["box"], negative.params["box"])


@pytest.mark.parametrize("starts", [1, 2, 3, 6, 40])
def test_starts_of_another_clip(starts: int) -> None:
    reader: Any = NoiseReader(0)

    class Short:
        meta = type("Meta", (), {"num_frames": 7 + starts - 1})()

    assert len(SceneClips(4, 2).draw(keyed_rng(0), reader)) == 2
    drawn: Any = [SceneClips(4, 2, other=True).draw(keyed_rng(i), Short()) for i in range(300)]  # type: ignore[arg-type]
    first, again, other = (np.array([draw[i].at[0] for draw in drawn]) for i in range(3))
    assert np.array_equal(first, again)
    assert set(first) == set(range(starts))
    assert max(other) < starts
    gap = np.abs(first - other)
    assert (gap > 0).all() == (starts > 5)  # no third to move on by, or one that leads back
    assert gap.max() == starts - 1 if starts > 1 else not gap.any()


# ------------------------------------------------------------------------------------------------ losses


def embedded(encoder: Any, head: Any, clip: Tensor) -> Tensor:
    rows = head(encoder(clip).map.mean((2, 3, 4)))
    return torch.stack([row / row.square().sum().sqrt() for row in rows])


def slow_loss(method: Any, views: list[View], loss: str) -> Tensor:
    anchor, positive, negative = (view.clip for view in views)
    q, n = (embedded(method.encoder, method.head, clip) for clip in (anchor, negative))
    total = torch.zeros((), dtype=torch.float64)
    if loss == "triplet":
        p = embedded(method.encoder, method.head, positive)
        for i in range(4):
            for j in (i, 3 - i):
                gap = (q[i] - p[i] + 1e-6).square().sum().sqrt() - (q[i] - n[j] + 1e-6).square().sum().sqrt() + 0.3
                total = total + (gap if gap > 0 else 0)
        return total / 4
    k = embedded(method.teacher.encoder, method.teacher.projector, positive).detach()
    for i in range(4):
        scores = torch.stack([(q[i] * row).sum() / 0.2 for row in (k[i], n[i], *method.queue.rows)])
        total = total + scores.exp().sum().log() - scores[0]
    return total / 4


@pytest.mark.parametrize("loss", ["contrast", "triplet"])
def test_loss_and_gradients_are_those_of_the_slow_reference(loss: str) -> None:
    own = QUEUE | {"temperature": 0.2} if loss == "contrast" else {"loss": "triplet", "margin": 0.3}
    method = small(**own).double().eval()
    views = [view.map(lambda t: t.double() if t.is_floating_point() else t) for view in prepared(method)]
    if loss == "contrast":
        with torch.no_grad():
            for parameter in method.teacher.parameters():
                parameter.mul_(1.1).add_(0.01)
    result, expected = method(views), slow_loss(method, views, loss)
    torch.testing.assert_close(result["loss"], expected)
    assert expected > 0.1
    parameters = {name: p for name, p in method.named_parameters() if p.requires_grad}
    found, truth = (torch.autograd.grad(value, list(parameters.values())) for value in (result["loss"], expected))
    for name, one, other in zip(parameters, found, truth, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-10, msg=name)
    assert sum(float(gradient.abs().sum()) for gradient in found) > 0


def test_the_share_of_anchors_nearer_to_their_positive() -> None:
    method = small()
    rows = normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]]), dim=1)
    positive = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    negative = torch.tensor([[0.0, 1.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0]])
    losses = method.losses(Outputs({"query": rows, "key": positive, "negative": negative}))
    assert losses["motion_accuracy"] == 0.5


# ------------------------------------------------------------------------------------------------ the queue


def test_the_queue_is_first_in_first_out() -> None:
    method = small(**QUEUE)
    start = method.queue.rows.clone()
    torch.testing.assert_close(start.norm(dim=1), torch.ones(10))
    keys = torch.arange(100.0)[:, None].expand(-1, 16)
    method.after_update(Moment(0, 9), {"key": keys[:4]})
    assert torch.equal(method.queue.rows, torch.cat([keys[:4], start[4:]]))
    method.after_update(Moment(1, 9), {"key": keys[4:8]})
    method.after_update(Moment(2, 9), {"key": keys[8:12]})
    assert method.queue.rows[:, 0].tolist() == [10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
    assert int(method.queue.next) == 2
    method.after_update(Moment(3, 9), {"key": keys[20:35]})  # of a batch larger than the queue its last keys
    assert sorted(method.queue.rows[:, 0].tolist()) == list(range(25, 35))


def test_the_momentum_encoder_averages_parameters_and_leaves_the_statistics_to_its_batches() -> None:
    method = small(**QUEUE)
    assert not any(p.requires_grad for p in method.teacher.parameters())
    before = {name: value.clone() for name, value in method.teacher.state_dict().items()}
    with torch.no_grad():
        for tensor in [*method.encoder.parameters(), *method.head.parameters()]:
            tensor.add_(1.0)
        for name, buffer in method.encoder.named_buffers():
            if "running" in name:
                buffer.add_(5.0)
    method.after_update(Moment(0, 9), {"key": torch.zeros(1, 16)})
    parameters = dict(method.teacher.named_parameters())
    for name, value in method.teacher.state_dict().items():
        torch.testing.assert_close(value, before[name] + (0.3 if name in parameters else 0))
    method.outputs(prepared(method))  # in training mode
    statistics = {name for name, value in method.teacher.state_dict().items() if "running" in name}
    assert statistics
    assert all(not torch.equal(method.teacher.state_dict()[name], before[name]) for name in statistics)


def queue_updates(rank: int, world_size: int) -> dict[str, dict[str, Tensor]]:
    with patch.object(conformance, "build", partial(build, **QUEUE)):
        return {str(parts): conformance.one_update("dsm", rank, world_size, parts) for parts in (1, 2)}


@pytest.mark.ddp
def test_with_the_queue_two_parts_and_two_processes_are_one(tmp_path: Path) -> None:
    found = queue_updates(0, 1)
    assert "0: kept key" in found["1"]
    conformance.assert_same(found["2"], found["1"])
    for halves in run_ranks(queue_updates, 2, tmp_path):
        conformance.assert_same(halves["1"], found["1"])
        conformance.assert_same(halves["2"], found["1"])


def test_a_run_with_the_queue_resumes_to_the_bit(videos: Path, tmp_path: Path) -> None:
    whole, parts = (
        merge(tiny(videos, tmp_path / name, "dsm", engine={"epochs": 2}), {"method": QUEUE})
        for name in ("whole", "parts")
    )
    train(whole)
    train(parts, stop_at=2)
    train(parts)
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert int(expected["model/queue.next"]) == 4  # 24 keys through a queue of 10
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


# ------------------------------------------------------------------------------------------------ settings


def test_ignored_settings_are_warnings() -> None:
    config = METHODS.config("dsm")
    for settings, said in [
        ({"margin": 0.2}, "margin is ignored with loss=contrast"),
        ({"loss": "triplet", "queue": 5}, "queue is ignored with loss=triplet"),
        ({"negative": "segment", "temporal": {"rounds": 1}}, "temporal is ignored with negative=segment"),
    ]:
        with pytest.warns(UserWarning, match=said):
            config.model_validate(settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config.model_validate({"loss": "triplet", "margin": 0.2})


def test_a_clip_of_two_frames_has_no_order_to_disturb() -> None:
    config: Any = METHODS.config("dsm").model_validate({"queue": 8})
    encoder = tiny_encoder(SMALL["encoder"], {"num_frames": 2})
    with pytest.raises(ConfigError, match=r"method\.negative=temporal needs input\.num_frames of 3 or more, not 2"):
        METHODS.build(config, encoder)
