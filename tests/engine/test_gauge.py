"""The collapse gauge: known values, and a warning when there is something to warn of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from st_ssl.core.types import Features
from st_ssl.encoders.base import ENCODERS, Encoder, InputConfig
from st_ssl.engine.gauge import CollapseGauge, effective_rank, feature_spread
from tests.runs import metrics, tiny, train


def isotropic(count: int, dim: int) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_spread_is_one_on_the_whole_sphere_and_zero_at_a_point() -> None:
    assert feature_spread(isotropic(5000, 16)) == pytest.approx(1, abs=0.01)
    assert feature_spread(torch.cat([torch.eye(8), -torch.eye(8)])) == pytest.approx(1, abs=1e-12)
    assert feature_spread(torch.ones(10, 8)) == pytest.approx(0, abs=1e-12)
    assert feature_spread(torch.ones(10, 8) * torch.arange(1.0, 11)[:, None]) == pytest.approx(0, abs=1e-7)  # direction


def test_effective_rank_of_known_spectra() -> None:
    rows, _ = torch.linalg.qr(isotropic(33, 33) - 0)
    basis = torch.linalg.svd(torch.eye(33, dtype=torch.float64) - 1 / 33)[0][:, :32]  # orthonormal, each of mean 0
    for values in ([1.0] * 5, [4.0, 2.0, 1.0, 1.0], [3.0]):
        spectrum = torch.tensor(values, dtype=torch.float64)
        share = spectrum / spectrum.sum()
        features = basis[:, : len(values)] * spectrum @ rows[: len(values)]
        assert effective_rank(features + 7.0) == pytest.approx(float((-share * share.log()).sum().exp()), rel=1e-9)
    assert effective_rank(torch.full((6, 4), 2.5)) == 1.0


class Dial(Encoder):
    """Features that lie ``width`` around one direction."""

    def __init__(self) -> None:
        super().__init__(ENCODERS.config("r3d")(), InputConfig())
        self.width = 1.0

    def forward(self, clip: Tensor, keep: Tensor | None = None) -> Features:
        return Features(pooled=torch.ones_like(clip) + self.width * (clip - 1))


def test_it_warns_once_when_features_collapse() -> None:
    dial = Dial()
    gauge = CollapseGauge(dial)
    assert gauge.read() == ({}, None)
    warnings = []
    for width in (1.0, 0.5, 1e-3, 1e-4):
        dial.width = width
        dial(isotropic(32, 16))
        figures, warning = gauge.read()
        assert figures.keys() == {"feature_spread", "effective_rank"}
        warnings.append(warning)
    assert [warning is not None for warning in warnings] == [False, False, True, False]
    assert "collapsed" in str(warnings[2])


def test_it_warns_where_features_stay_on_a_line() -> None:
    """Two clusters, or one sample beside all others: the spread stays, and so does a rank a little above 1."""
    watched, warnings = nn.Identity(), []
    gauge = CollapseGauge(watched)
    line = isotropic(32, 1) @ isotropic(1, 16)
    for noise in (1.0, 0.02, 1.0, 0.02, 0.02, 0.02):
        watched(line + noise * isotropic(32, 16))
        figures, warning = gauge.read()
        assert (1.2 < figures["effective_rank"] < 1.5) == (noise < 1)
        warnings.append(warning is not None)
    assert warnings == [False] * 4 + [True, False]


def test_it_passes_over_what_tells_nothing() -> None:
    dial = Dial()
    gauge = CollapseGauge(dial)
    dial(isotropic(1, 16))
    assert gauge.read() == ({}, None)
    dial(torch.full((4, 16), float("nan")))
    assert gauge.read() == ({}, None)
    assert gauge.first is None


def test_a_network_trained_to_be_constant_sets_it_off() -> None:
    torch.manual_seed(0)
    dial, layer = Dial(), nn.Linear(16, 8)
    gauge, optimizer = CollapseGauge(dial), torch.optim.SGD(layer.parameters(), lr=0.5)
    x, warnings = isotropic(64, 16).float(), 0
    for _ in range(300):
        optimizer.zero_grad()
        (dial(layer(x)).pooled - 1).square().mean().backward()
        optimizer.step()
        warnings += gauge.read()[1] is not None
    assert warnings == 1


def test_a_healthy_run_logs_both_figures_and_no_warning(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = train(tiny(videos, tmp_path / "run"))
    assert all(row["feature_spread"] > 0 and row["effective_rank"] >= 1 for row in metrics(tmp_path / "run"))
    assert not trainer.gauges["encoder"].warned
    assert "collapsed" not in capsys.readouterr().err
