from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from st_ssl.core.random import keyed_rng
from st_ssl.transfer.fitting.label_fractions import FEW
from st_ssl.transfer.probes.classifiers import (
    AttentiveProbes,
    attentive_predict,
    knn_predict,
    linear_predict,
    max_mean,
    svm_predict,
)


def blobs(count: int, classes: int = 4, dim: int = 6, spread: float = 1.2, seed: int = 0) -> tuple[Any, Any]:
    """Overlapping clouds, one for each class: float64 [count, dim] and int64 [count]."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    labels = rng.integers(0, classes, count)
    return centres[labels] + spread * rng.normal(size=(count, dim)), labels


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_knn_is_the_one_of_sklearn(k: int, temperature: float) -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    (train, labels), (test, truth) = blobs(150), blobs(80, seed=1)
    theirs = neighbors.KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    ).fit(train, labels)
    predicted = knn_predict(torch.from_numpy(train), labels, torch.from_numpy(test), 4, k, temperature)
    assert predicted.dtype == np.int64
    np.testing.assert_array_equal(predicted, theirs.predict(test))
    assert 0.4 < np.mean(predicted == truth) < 0.95  # neither guessed nor trivial


def test_knn_votes_by_similarity() -> None:
    train = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [0.6, 0.8]])
    labels, test = np.array([1, 0, 0, 0]), torch.tensor([[10.0, 0.0]])  # similarities 1, 0.6, 0.6, 0.6
    assert knn_predict(train, labels, test, 2, k=4, temperature=0.07) == [1]
    assert knn_predict(train, labels, test, 2, k=4, temperature=10.0) == [0]  # one vote each
    assert knn_predict(train, labels, test, 2, k=100, temperature=10.0) == [0]  # no more than there are
    assert knn_predict(train, labels, test, 2, k=4, temperature=1e-4) == [1]  # no overflow


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_linear_is_the_one_of_sklearn(strength: float) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    (train, labels), (test, _) = blobs(150), blobs(80, seed=1)
    scale = np.array([1e3, 1, 1, 1, 1, 1e-3])  # features are standardised first
    predicted, chosen = linear_predict(train * scale, labels, test * scale, 0, (strength,))
    mean, std = train.mean(0), train.std(0)
    theirs = linear.LogisticRegression(C=strength, max_iter=1000, tol=1e-3).fit((train - mean) / std, labels)
    assert chosen == strength
    np.testing.assert_array_equal(predicted, theirs.predict((test - mean) / std))


def test_svm_is_the_widest_margin() -> None:
    """Against the dual problem, solved by scipy."""
    optimize = pytest.importorskip("scipy.optimize")
    (train, labels), (test, _) = blobs(40, classes=2), blobs(80, classes=2, seed=1)
    scale = np.array([3.0, 1, 1, 1, 1, 0.3])  # features are taken as they are
    train, test, strength = train * scale, test * scale, 0.05
    sign = 2.0 * labels - 1
    gram = (train * sign[:, None]) @ (train * sign[:, None]).T
    solved = optimize.minimize(
        lambda a: a @ gram @ a / 2 - a.sum(),
        np.zeros(40),
        jac=lambda a: gram @ a - 1,
        bounds=[(0, strength)] * 40,
        constraints={"type": "eq", "fun": lambda a: a @ sign, "jac": lambda a: sign},
        options={"maxiter": 500, "ftol": 1e-12},
    )
    weight = (solved.x * sign) @ train
    free = (solved.x > 1e-6) & (solved.x < strength - 1e-6)
    assert free.any()
    offset = np.mean(sign[free] - train[free] @ weight)
    predicted, chosen = svm_predict(train, labels, test, 0, (strength,))
    assert chosen == strength
    clear = np.abs(test @ weight + offset) > 0.01
    assert clear.sum() > 70
    np.testing.assert_array_equal(predicted[clear], (test @ weight + offset > 0)[clear])


def test_svm_takes_the_published_strength_or_chooses_on_rows_held_out() -> None:
    (train, labels), (test, truth) = blobs(200), blobs(100, seed=1)
    predicted, chosen = svm_predict(train, labels, test, 0)
    assert chosen == 0.012
    assert np.mean(predicted == truth) > 0.5
    assert svm_predict(train, labels, test, 0, (1e-7, 0.1))[1] == 0.1
    assert svm_predict(train, np.full(200, 3), test, 0)[0].tolist() == [3] * 100


def test_svm_on_standard_scores_is_the_one_of_sklearn() -> None:
    svm = pytest.importorskip("sklearn.svm")
    (train, labels), (test, _) = blobs(150), blobs(80, seed=1)
    mean, deviation, scale = train.mean(0), train.std(0), np.array([1e3, 1, 1, 1, 1, 1e-3])
    theirs = svm.SVC(C=0.1, kernel="linear").fit((train - mean) / deviation, labels).predict((test - mean) / deviation)
    predicted, _ = svm_predict(train * scale, labels, test * scale, 0, (0.1,), standardise=True)
    np.testing.assert_array_equal(predicted, theirs)
    assert not np.array_equal(svm_predict(train * scale, labels, test * scale, 0, (0.1,))[0], theirs)


@pytest.mark.parametrize("predict", [svm_predict, linear_predict])
def test_a_class_for_each_row_is_no_regression(predict: Any) -> None:
    rows = 10 * np.eye(30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert predict(rows, np.arange(30), rows, 0, (1.0,))[0].tolist() == list(range(30))


def test_max_and_mean_of_tokens() -> None:
    tokens = torch.tensor([[[1.0, 5.0], [3.0, 1.0]]])
    assert max_mean(tokens).tolist() == [[3.0, 5.0, 2.0, 3.0]]


def test_linear_chooses_the_strength_on_rows_held_out() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    labels = (rng.random(FEW) < 0.35).astype(np.int64)
    clear = np.c_[labels + 0.2 * rng.normal(size=FEW), rng.normal(size=(FEW, 3))]
    assert linear_predict(clear, labels, clear, 0, (1e-9, 1.0))[1] == 1.0  # 1e-9 can only say the commonest class
    (train, labels), strengths = blobs(FEW, dim=40, spread=3.0), (1e-4, 1e-2, 1.0)
    for seed in range(4):
        order = keyed_rng(seed, "held out").permutation(FEW)
        held, kept = order[: FEW // 5], order[FEW // 5 :]
        scaled = (train - train.mean(0)) / train.std(0)
        scores = [
            linear.LogisticRegression(C=c, max_iter=1000, tol=1e-3)
            .fit(scaled[kept], labels[kept])
            .score(scaled[held], labels[held])
            for c in strengths
        ]
        assert linear_predict(train, labels, train, seed, strengths)[1] == strengths[int(np.argmax(scores))]


def test_of_few_rows_no_strength_is_chosen() -> None:
    (train, labels), strengths = blobs(FEW - 1, dim=40, spread=3.0), (1e-9, 1e-2, 1.0)
    assert {linear_predict(train, labels, train, seed, strengths)[1] for seed in range(4)} == {1e-2}


def test_linear_with_little_to_go_by() -> None:
    x = np.arange(8.0).reshape(4, 2)
    assert linear_predict(x, np.array([0, 0, 1, 1]), x, 0, (0.1, 1.0, 10.0))[0].tolist() == [0, 0, 1, 1]
    assert linear_predict(x, np.array([2, 2, 2, 2]), x[:3], 0, (0.1, 1.0))[0].tolist() == [2, 2, 2]


def test_attentive_probe_is_multi_head_attention_with_folded_weights() -> None:
    torch.manual_seed(0)
    dim, heads, classes = 12, 3, 5
    theirs = nn.MultiheadAttention(dim, heads, batch_first=True).double()
    nn.init.normal_(theirs.in_proj_bias)
    nn.init.normal_(theirs.out_proj.bias)
    query, classify = torch.randn(1, 1, dim).double(), nn.Linear(dim, classes).double()
    tokens = torch.randn(4, 7, dim).double()
    expected = classify(theirs(query.expand(4, -1, -1), tokens, tokens)[0][:, 0])

    ours = AttentiveProbes(dim, {"x": 2, "y": classes}, heads).double()
    wq, wk, wv = theirs.in_proj_weight.chunk(3)
    bq, _, bv = theirs.in_proj_bias.chunk(3)
    q = (query[0, 0] @ wq.T + bq).view(heads, -1) * (dim // heads) ** -0.5
    with torch.no_grad():
        ours.pool.query[1] = torch.einsum("he,hed->hd", q, wk.view(heads, -1, dim))
        ours.pool.value[1] = wv.view(heads, -1, dim).transpose(1, 2)
        head: Any = ours.classifiers[1]
        head.weight.copy_(classify.weight @ theirs.out_proj.weight)
        head.bias.copy_(classify.weight @ (theirs.out_proj.weight @ bv + theirs.out_proj.bias) + classify.bias)
    torch.testing.assert_close(ours(tokens)[1], expected)
    assert ours(tokens)[0].shape == (4, 2)


def one_token_tells(count: int, seed: int) -> tuple[Tensor, np.ndarray]:
    """Noise tokens [count, 48, 8]; one, at a random place and marked in channel 0, has the label in channel 1."""
    rng = np.random.default_rng(seed)
    tokens, labels = rng.normal(size=(count, 48, 8)), rng.integers(0, 2, count)
    place = rng.integers(0, 48, count)
    tokens[np.arange(count), place, 0] += 5
    tokens[np.arange(count), place, 1] += 4 * (2 * labels - 1)
    return torch.from_numpy(tokens).half(), labels


def test_attentive_probe_finds_the_token_that_tells() -> None:
    (train, labels), (test, truth) = one_token_tells(256, 0), one_token_tells(200, 1)
    state = torch.get_rng_state()
    predicted = attentive_predict(train, {"a": labels}, test, {"a": 2}, seed=0, epochs=30, lr=0.02)["a"]
    assert torch.equal(state, torch.get_rng_state())
    assert np.mean(predicted == truth) > 0.9
    means = train.float().mean(1).numpy(), test.float().mean(1).numpy()
    assert np.mean(linear_predict(means[0], labels, means[1], 0, (0.1,))[0] == truth) < 0.8
    again = attentive_predict(train, {"a": labels}, test, {"a": 2}, seed=0, epochs=30, lr=0.02)["a"]
    np.testing.assert_array_equal(predicted, again)


def simple_tokens(count: int, seed: int) -> tuple[Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    return torch.from_numpy(rng.normal(size=(count, 3, 6)) + 2 * np.eye(6)[labels][:, None]), labels


def test_attentive_probe_does_not_learn_from_rows_without_a_label() -> None:
    (train, labels), (test, truth) = simple_tokens(120, 0), simple_tokens(60, 1)
    wrong = np.arange(120) % 4 > 0
    targets = {"all": labels, "part": np.where(wrong, -1, labels), "wrong": np.where(wrong, (labels + 1) % 3, labels)}
    classes = dict.fromkeys(targets, 3)
    predicted = attentive_predict(train, targets, test, classes, seed=0, epochs=15, lr=0.02)
    accuracy = {name: np.mean(predicted[name] == truth) for name in targets}
    assert accuracy["all"] > 0.9
    assert accuracy["part"] > 0.9
    assert accuracy["wrong"] < 0.5


@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler")
def test_attentive_probe_gets_over_batches_without_any_label() -> None:
    (train, labels), (test, _) = simple_tokens(12, 0), simple_tokens(5, 1)
    rare = np.where(np.arange(12) == 3, labels, -1)
    for targets in ({"rare": rare}, {"rare": rare, "all": labels}):
        predicted = attentive_predict(train, targets, test, dict.fromkeys(targets, 3), seed=0, epochs=2, lr=0.01)
        assert all(p.shape == (5,) and p.min() >= 0 for p in predicted.values())


def test_attentive_probe_standardises_tokens() -> None:
    (train, labels), (test, truth) = simple_tokens(120, 0), simple_tokens(60, 1)
    scale, shift = torch.tensor([1e3, 1, 1, 1e-3, 1, 1]), 50.0
    predicted = attentive_predict(
        train * scale + shift, {"a": labels}, test * scale + shift, {"a": 3}, seed=0, epochs=15, lr=0.02
    )
    assert np.mean(predicted["a"] == truth) > 0.9
