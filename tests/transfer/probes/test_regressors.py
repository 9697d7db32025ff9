"""Probes of values against scikit-learn and SciPy, and where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from st_ssl.core.verdict import Outcomes, judge
from st_ssl.transfer.fitting.label_fractions import FEW
from st_ssl.transfer.probes.classifiers import knn_mean, r2_scores, rank_scores, ridge_predict

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)


def rows(count: int, dim: int = 6, noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of several scales [count, dim] and values that are a noisy linear function of them [count]."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, dim)) * 10.0 ** np.arange(dim) + 5
    weights = np.random.default_rng(99).normal(size=dim) / 10.0 ** np.arange(dim)
    return x, 100 + x @ weights + noise * rng.normal(size=count)


def test_ridge_is_the_one_of_sklearn_and_the_strength_is_chosen_on_held_out_rows() -> None:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (train, values), (test, truth) = rows(FEW), rows(50, seed=1)
    predicted, strength = ridge_predict(train, values, test, 3, STRENGTHS)
    theirs = make_pipeline(StandardScaler(), Ridge(alpha=6 * strength)).fit(train, values)
    assert np.allclose(predicted, theirs.predict(test))
    assert strength < 10 and r2_scores(predicted, truth).mean() > 0.5
    assert ridge_predict(train[: FEW - 1], values[: FEW - 1], test, 3, STRENGTHS)[1] == 1.0  # the middle one
    noise = np.random.default_rng(5).normal(size=train.shape)
    assert ridge_predict(noise, values, test, 3, STRENGTHS)[1] >= 100  # the best, though every R² is below 0
    assert np.allclose(ridge_predict(train, 0 * values + 7, test, 3, STRENGTHS)[0], 7)


@pytest.mark.parametrize("k", [1, 5, 1000])
def test_knn_is_the_one_of_sklearn(k: int) -> None:
    from sklearn.neighbors import KNeighborsRegressor

    (train, values), (test, _) = rows(150), rows(40, seed=1)
    theirs = KNeighborsRegressor(min(k, 150), metric="cosine", algorithm="brute").fit(train, values)
    assert np.allclose(knn_mean(torch.from_numpy(train), values, torch.from_numpy(test), k), theirs.predict(test))


def test_the_means_of_scores_are_the_measures_of_sklearn_and_scipy() -> None:
    from scipy.stats import spearmanr
    from sklearn.metrics import r2_score

    rng = np.random.default_rng(2)
    for noise in (0.1, 1.0, 10.0):
        truth = np.round(rng.normal(size=60), 1)  # with ties
        predicted = np.round(truth + noise * rng.normal(size=60), 1)
        assert r2_scores(predicted, truth).mean() == pytest.approx(r2_score(truth, predicted))
        assert rank_scores(predicted, truth).mean() == pytest.approx(spearmanr(predicted, truth).statistic)
    assert r2_scores(truth.mean(), truth).mean() == pytest.approx(0)
    assert not rank_scores(np.ones(60), truth).any()
    assert not r2_scores(predicted, np.ones(60)).any() and not rank_scores(predicted, np.ones(60)).any()
    assert len(r2_scores(np.ones(0), np.ones(0))) == len(rank_scores(np.ones(0), np.ones(0))) == 0


def test_features_that_are_the_value_tell_all_of_it() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=300)
    for count in (40, 250):  # without and with a choice of the strength
        predicted, _ = ridge_predict(values[:count, None], values[:count], values[250:, None], 0, STRENGTHS)
        assert r2_scores(predicted, values[250:]).mean() == pytest.approx(1, abs=2e-3)
        assert rank_scores(predicted, values[250:]).mean() == pytest.approx(1)


def test_noise_tells_nothing_and_is_seldom_ahead_of_the_mean() -> None:
    ahead, found = 0, []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x, values = rng.normal(size=(600, 16)), rng.normal(size=600)
        predicted, _ = ridge_predict(x[:400], values[:400], x[400:], seed, STRENGTHS)
        ours, guess = (r2_scores(told, values[400:]) for told in (predicted, values[400:].mean()))
        found.append(ours.mean())
        ahead += judge(Outcomes.of_scores(ours[None]), {"chance": Outcomes.of_scores(guess[None])}).against[0].low > 0
    assert np.abs(found).max() < 0.1 and ahead <= 2
