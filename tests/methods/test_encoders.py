"""Every encoder learns by every method that suits it. A new one of either kind is found here by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from st_ssl.core.errors import ConfigError
from st_ssl.methods.base import METHODS
from tests.encoders.small import NAMES, SMALL, modality
from tests.methods.small import small
from tests.methods.steps import build, raw_views


def pairs() -> Iterator[Any]:
    """Methods and encoders of one modality."""
    for method in METHODS.names():
        for param in NAMES:
            name = str(param.values[0])
            if METHODS.registered(method).modality == modality(name):
                yield pytest.param(method, name, marks=param.marks)


@pytest.mark.parametrize(("method_name", "name"), list(pairs()))
def test_training_steps(method_name: str, name: str) -> None:
    own = small(method_name)["encoder"]
    row = own if own["name"] == name else {"name": name, **SMALL.get(name, {})}
    try:
        method = build(method_name, encoder=row)
    except ConfigError as error:
        if own["name"] == name:
            raise
        pytest.skip(f"{method_name} refuses {name}: {error}")
    before = {key: p.detach().clone() for key, p in method.encoder.named_parameters()}
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3, weight_decay=0.0)
    views = method.views.prepare(raw_views(method))
    for _ in range(2):  # the first one opens residual branches that start as zero
        optimizer.zero_grad()
        method(views)["loss"].backward()
        for key, parameter in method.encoder.named_parameters():
            assert parameter.grad is not None, key  # or it could not be trained in several processes
            assert parameter.grad.isfinite().all(), key
        optimizer.step()
    moved = [key for key, p in method.encoder.named_parameters() if not torch.equal(p, before[key])]
    assert len(moved) == len(before), before.keys() - set(moved)
    with torch.no_grad():
        assert method(views)["loss"].isfinite()
