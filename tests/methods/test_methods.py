"""What every method must do. A new one is found here by itself; a row of SMALL makes it fit tests if need be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from st_ssl.core.types import PointBatch
from st_ssl.methods.base import METHODS, Method
from tests.methods.steps import build, raw_views

SMALL: dict[str, dict[str, Any]] = {
    "cvrl": {"hidden_dim": 32, "output_dim": 16},
    "point2vec": {"decoder": {"depth": 1, "heads": 3}, "target_layers": 2},
    "point_contrast": {"num_pairs": 64},
    "point_mae": {"decoder": {"depth": 1, "heads": 3}},
    "videomae": {"mask": {"ratio": 0.75}, "decoder": {"dim": 16, "depth": 1, "heads": 2}},
}


def small(name: str) -> Method:
    return build(name, **SMALL.get(name, {}))


def prepared(method: Method, batch: int = 4) -> list[Any]:
    views = method.views.prepare(raw_views(method, batch))
    assert len(views) == method.views.num_views
    return views


@pytest.mark.parametrize("name", METHODS.names())
def test_one_step(name: str) -> None:
    method = small(name)
    result = method(prepared(method))
    assert {scalar: tensor.shape for scalar, tensor in result.items()} == dict.fromkeys(result, ())
    assert all(tensor.isfinite() for tensor in result.values())
    assert result["loss"].requires_grad
    result["loss"].backward()
    for parameter_name, parameter in method.encoder.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
    moved = sum(float(p.grad.abs().sum()) > 0 for p in method.encoder.parameters() if p.grad is not None)
    assert moved == len(list(method.encoder.parameters()))


@pytest.mark.parametrize("name", METHODS.names())
def test_the_loss_of_one_batch_falls(name: str) -> None:
    method = small(name)
    views = prepared(method)
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = method(views)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3]), losses


@pytest.mark.parametrize("name", METHODS.names())
def test_forward_is_losses_of_outputs(name: str) -> None:
    method = small(name).eval()
    views = prepared(method)
    outputs = method.outputs(views)
    assert {len(tensor) for tensor in outputs.values()} == {4}
    whole, parts = method(views), method.losses(outputs)
    assert whole.keys() == parts.keys()
    for scalar in whole:
        torch.testing.assert_close(whole[scalar], parts[scalar])
    # outputs of a part of the batch are that part of the outputs
    head = method.outputs([view.part(0, 2) for view in views])
    for key in outputs:
        torch.testing.assert_close(head[key], outputs[key][:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS.names())
def test_comparing_samples_is_declared(name: str) -> None:
    method = small(name).eval()
    outputs = {key: tensor.detach().requires_grad_() for key, tensor in method.outputs(prepared(method)).items()}

    def gradient(rows: slice) -> list[Tensor]:
        loss = method.losses({key: tensor[rows] for key, tensor in outputs.items()})["loss"]
        return [g[:2] for g in torch.autograd.grad(loss, list(outputs.values()))]

    alone, together = gradient(slice(0, 2)), gradient(slice(0, 4))
    same = all(torch.allclose(a / 2, b, rtol=1e-4, atol=1e-7) for a, b in zip(alone, together, strict=True))
    assert same != method.compares_samples


@pytest.mark.parametrize("name", METHODS.names())
def test_cached_gradients_are_those_of_the_whole(name: str) -> None:
    method = small(name).eval()  # batch norm over parts would differ
    views = prepared(method)
    method(views)["loss"].backward()
    expected = {key: p.grad.clone() for key, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    outputs = {key: tensor.detach().requires_grad_() for key, tensor in method.outputs(views).items()}
    method.losses(outputs)["loss"].backward()
    gradients = {key: tensor.grad for key, tensor in outputs.items() if tensor.grad is not None}
    for start in (0, 2):
        own = {key: g[start : start + 2] for key, g in gradients.items()}
        method([view.part(start, start + 2) for view in views], own)["loss"].backward()
    found = {key: p.grad for key, p in method.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-3, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", METHODS.names())
def test_pictures_are_clips_of_colours_or_clouds(name: str) -> None:
    method = small(name).eval()
    views = prepared(method)
    with torch.inference_mode():
        pictures = method.pictures(views)
    for caption, clip in pictures.items():
        if isinstance(clip, PointBatch):
            assert len(clip) == 4, caption
            assert len(clip.xyz) > 0, caption
            continue
        assert clip.shape == views[0].clip.shape, caption
        assert clip.dtype == torch.float32, caption
        assert 0 <= clip.min() <= clip.max() <= 1, caption
        assert clip.std() > 0, caption
