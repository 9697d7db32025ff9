from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from st_ssl.encoders.base import Encoder
from st_ssl.methods.base import Moment
from st_ssl.methods.contrast.cvrl import CVRL, CVRLConfig
from st_ssl.parts.momentum import MomentumConfig
from st_ssl.training.ema import follow
from tests.runs import metrics, tiny, train, weights


def test_cosine_by_hand() -> None:
    momentum = MomentumConfig(start=0.99, end=1.0)
    assert momentum.at(0, 100) == 0.99
    assert momentum.at(50, 100) == pytest.approx(0.995, rel=1e-12)
    assert momentum.at(100, 100) == momentum.at(130, 100) == 1.0
    assert MomentumConfig(start=0, end=1).at(25, 100) == pytest.approx((1 - math.sqrt(0.5)) / 2, rel=1e-12)


def test_line_over_a_share_of_the_run_by_hand() -> None:
    momentum = MomentumConfig(shape="linear", start=0.5, end=0.9, share=0.25)
    assert momentum.at(0, 400) == 0.5
    assert momentum.at(25, 400) == pytest.approx(0.6, rel=1e-12)
    assert momentum.at(100, 400) == momentum.at(399, 400) == 0.9


@given(step=st.integers(0, 1000), total=st.integers(1, 1000), ends=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_momentum_stays_between_its_ends(step: int, total: int, ends: tuple[float, float]) -> None:
    for shape in ("cosine", "linear"):
        value = MomentumConfig.model_validate({"shape": shape, "start": min(ends), "end": max(ends)}).at(step, total)
        assert min(ends) - 1e-12 <= value <= max(ends) + 1e-12
        assert 0 <= value <= 1 or value == pytest.approx(1)


def test_a_momentum_that_falls_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"start 0\.999 must not be above end 0\.99"):
        MomentumConfig(start=0.999, end=0.99)


def test_following_is_an_average_of_floats_and_a_copy_of_counts() -> None:
    norm = torch.nn.BatchNorm1d(2)
    slow = deepcopy(norm).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([3.0, -1.0]))
        norm.state_dict()["num_batches_tracked"].fill_(7)
    for _ in range(2):
        follow(slow.state_dict(), norm.state_dict(), 0.75)
    torch.testing.assert_close(slow.weight.double(), 0.5625 * torch.ones(2).double() + 0.4375 * norm.weight.double())
    assert slow.weight.dtype == torch.float64
    assert int(slow.state_dict()["num_batches_tracked"]) == 7


def test_a_teacher_is_moved_after_every_update_and_resumes_to_the_bit(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, calls = CVRL.__init__, []

    def with_teacher(self: Any, config: CVRLConfig, encoder: Encoder) -> None:
        begin(self, config, encoder)
        self.teacher = deepcopy(encoder).requires_grad_(False)

    def after_update(self: Any, moment: Moment, kept: Mapping[str, torch.Tensor]) -> None:
        calls.append((moment.step, moment.num_steps))
        rate = MomentumConfig(start=0.5).at(moment.step, moment.num_steps)
        follow(self.teacher.state_dict(), self.encoder.state_dict(), rate)

    monkeypatch.setattr(CVRL, "__init__", with_teacher)
    monkeypatch.setattr(CVRL, "after_update", after_update)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer = train(tiny(videos, whole, engine={"epochs": 2}))
    assert calls == [(step, 6) for step in range(6)]
    teacher, student = trainer.method.teacher.state_dict(), trainer.method.encoder.state_dict()  # type: ignore[union-attr]
    assert not torch.equal(teacher["stem.0.weight"], student["stem.0.weight"])
    train(tiny(videos, parts, engine={"epochs": 2}), stop_at=2)
    train(tiny(videos, parts, engine={"epochs": 2}))
    assert calls[6:] == calls[:6]
    assert metrics(whole) == metrics(parts)
    expected, found = weights(whole), weights(parts)
    assert any(name.startswith("model/teacher.") for name in expected)
    assert expected.keys() == found.keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
