"""Videos are recognised: all modes learn on tiny files, by one label or by tags."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from st_ssl.core.errors import ConfigError
from st_ssl.core.random import keyed_rng
from st_ssl.core.types import Entry, Features
from st_ssl.transfer.fitting.finetune import finetune
from st_ssl.transfer.fitting.fit import Feed
from st_ssl.transfer.fitting.label_fractions import Parts
from st_ssl.transfer.tasks.action_recognition import ClipHead, Recognise, RecogniseConfig
from st_ssl.transfer.tasks.ballot import Shown
from tests.transfer.tiny import INPUT, recognise_settings, source_of, write_dataset, write_encoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av")
    return write_dataset(tmp_path_factory.mktemp("tiny") / "set")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("runs") / "run")


def test_videos_are_told_apart_in_all_modes(dataset: Path, run: Path) -> None:
    result = finetune(source_of(dataset), [run], recognise_settings({"clips": 3}), CPU)
    found = {row["mode"]: row["metrics"] for row in result["results"]}
    assert list(found) == ["scratch", "frozen", "full"]
    assert all(metrics["top1"]["mean"] > 80 for metrics in found.values()), found  # chance is 50
    assert set(found["full"]) == {"top1", "mean_class_accuracy", "ece", "top1_one_view"}
    assert result["classes"] == ["bright", "dark"] and result["metric"] == "top1"
    assert result["sizes"] == {"train": 16, "val": 0, "test": 8}


def test_tags(dataset: Path, run: Path) -> None:
    source = source_of(dataset)
    rows = [replace(e, labels={}, tags=(e.labels["light"], e.labels["length"])) for e in source.entries()]
    source.entries = lambda: [*rows, Entry("nowhere.mp4")]  # type: ignore[method-assign]
    task = {"multi_label": True, "target": None, "head": "attentive", "norm": "batch"}
    result = finetune(source, [run], recognise_settings(task, modes=("full",), epochs=8), CPU)
    assert result["classes"] == ["bright", "dark", "long", "short"] and result["metric"] == "mAP"
    assert result["sizes"] == {"train": 16, "val": 0, "test": 8}  # the one without tags is left out
    assert result["results"][0]["metrics"]["mAP"]["mean"] > 75  # chance is 50; length shows in the metadata alone
    with pytest.raises(ConfigError, match=r"task\.multi_label: no sample of the data has tags: .* \(data\.list=FILE "):
        finetune(source_of(dataset), [run], recognise_settings(task), CPU)


def task_of(entries: list[Entry], **keys: Any) -> Recognise:
    task = Recognise(RecogniseConfig(**keys))
    task.learn_classes(task.parts([*entries, replace(entries[0], split="test")], 0), lambda *_: [])
    return task


def test_classes_that_are_numbers_stand_in_their_order() -> None:
    task = task_of([Entry(f"{i}", labels={"x": str(i)}) for i in range(12)])
    assert task.labels.classes == [str(i) for i in range(12)]
    assert task.labels.counts([Entry("a", labels={"x": "10"})]).tolist() == [0] * 10 + [1, 0]
    task.restore(["0", "1", "10", "2"])  # as a network was saved with them, so they stay
    assert task.labels.classes == ["0", "1", "10", "2"]


def test_the_loss_of_one_label_is_the_one_of_the_books() -> None:
    names = ["a"] * 5 + ["b"] * 2 + ["c"]
    entries = [Entry(f"{i}", labels={"x": name}) for i, name in enumerate(names)]
    scores = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 2, -1, 1, 0, 1])
    plain = task_of(entries, label_smoothing=0.2)
    expected = cross_entropy(scores, targets, ignore_index=-1, label_smoothing=0.2)
    torch.testing.assert_close(plain.loss(scores, targets), expected)
    soft = torch.rand(6, 3, generator=torch.Generator().manual_seed(1)).softmax(1)  # as mixing makes them
    by_hand = -((0.8 * soft + 0.2 / 3) * scores.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(plain.loss(scores, soft), by_hand)
    torch.testing.assert_close(plain.probabilities(scores), scores.softmax(1))

    weights = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=names)
    balanced = task_of(entries, class_weights="balanced")
    each = cross_entropy(scores, targets, ignore_index=-1, reduction="none")
    known = targets >= 0
    by_hand = (each * torch.from_numpy(weights).float()[targets])[known].mean()
    torch.testing.assert_close(balanced.loss(scores, targets), by_hand)


def test_the_loss_of_tags_is_the_one_of_the_books() -> None:
    entries = [Entry(f"{i}", tags=tags) for i, tags in enumerate([("a", "b"), ("a",), ("a", "c"), ("b", "a")])]
    scores = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    task = task_of(entries, multi_label=True, label_smoothing=0.1)
    targets = task.labels.targets([entries[0], Entry("none"), Entry("other", tags=("c", "unseen"))])
    assert targets.tolist() == [[1, 1, 0], [-1, -1, -1], [0, 0, 1]]
    rows = torch.tensor([0, 2])
    smooth = torch.tensor([[0.95, 0.95, 0.05], [0.05, 0.05, 0.95]])
    torch.testing.assert_close(task.loss(scores, targets), binary_cross_entropy_with_logits(scores[rows], smooth))
    torch.testing.assert_close(task.probabilities(scores), scores.sigmoid())

    task = task_of(entries, multi_label=True, class_weights="balanced")
    p, t = scores[rows].sigmoid(), targets[rows]
    presence = torch.tensor([1 / 4, 2 / 2, 3 / 1])  # all four have a, none of them is without it
    by_hand = -(presence * t * p.log() + (1 - t) * (1 - p).log()).mean()
    torch.testing.assert_close(task.loss(scores, targets), by_hand)


def test_weights_are_those_of_the_samples_of_a_fit() -> None:
    entries = [Entry(f"{i}", tags=("a", "b") if i % 2 else ("a", "c")) for i in range(8)]
    task = task_of(entries, multi_label=True, class_weights="balanced")
    task.begin(entries[:4:2])
    assert task.weights is not None and task.weights.tolist() == [1 / 2, 1, 1 / 2]  # none of them has b


def test_fits_on_a_fraction_are_weighted_by_it(dataset: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(Recognise, "begin", lambda self, train: told.append(len(train)))
    settings = recognise_settings({}, modes=("frozen",), epochs=1, label_fractions=(0.25, 0.5))
    finetune(source_of(dataset), [run], settings, CPU)
    assert told[-2:] == [4, 8]


def test_settings_that_count_for_nothing_are_told() -> None:
    with pytest.warns(UserWarning, match="target=motion is ignored: multi_label learns all tags"):
        RecogniseConfig(multi_label=True, target="motion")
    with pytest.warns(UserWarning, match="attention_heads=8 is ignored: the head is linear"):
        RecogniseConfig(attention_heads=8)


def test_subsets_of_tags_have_every_class() -> None:
    rng = keyed_rng("tags")
    entries = [Entry(f"{i}", tags=("often", *(["rare"] if rng.random() < 0.05 else []))) for i in range(200)]
    task = task_of(entries, multi_label=True)
    chosen = task.fraction(entries, 0.1, 0)
    assert len(chosen) == pytest.approx(20, abs=1)
    assert 1 <= sum("rare" in entry.tags for entry in chosen) <= 3


def test_a_class_of_tests_alone_is_unlabelled() -> None:
    task = Recognise(RecogniseConfig())
    rows = [Entry(f"{i}", "train" if i < 4 else "test", {"label": "ab"[i % 2]}) for i in range(6)]
    parts = task.parts([*rows, Entry("new", "test", {"label": "c"}), Entry("no label")], 0)
    told = r"target=label: 1 classes of 1 validation and test samples are of no training .* not counted: 'c'"
    with pytest.warns(UserWarning, match=told):
        assert task.learn_classes(parts, lambda *_: []) == ["a", "b"]
    assert task.labels.targets(parts.test).tolist() == [0, 1, -1]
    with pytest.raises(ConfigError, match=r"task\.target=label: a single class in the training part: \['a'\]"):
        task.learn_classes(Parts(rows[::2]), lambda *_: [])


def test_values_are_classes_with_a_warning() -> None:
    task = Recognise(RecogniseConfig())
    parts = task.parts([Entry(f"{i}", ("train", "test")[i // 6], {"label": f"{i % 3 / 2}"}) for i in range(9)], 0)
    with pytest.warns(
        UserWarning, match=r"task\.target=label: the labels are numbers with fractions, and each of the 3 "
    ):
        assert task.learn_classes(parts, lambda *_: []) == ["0.0", "0.5", "1.0"]


def test_tags_of_tests_alone_are_told_with_the_nearest_ones() -> None:
    task = Recognise(RecogniseConfig(multi_label=True))
    known = [Entry("0", tags=("jump", "run")), Entry("1", tags=("run",))]
    tested = [Entry(f"{i}", "test", tags=("run", f"new_{i}")) for i in range(6)]
    parts = Parts(known, [Entry("v", "val", tags=("jumps",))], tested)
    told = r"multi_label: 7 classes of 7 .*: 'jumps'; did you mean 'jump'\?, 'new_0', .*, 'new_3' and 2 more"
    with pytest.warns(UserWarning, match=told):
        task.learn_classes(parts, lambda *_: [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task.learn_classes(Parts(known, [], known), lambda *_: [])


@pytest.mark.parametrize("form", ["tokens", "map"])
@pytest.mark.parametrize("head", ["linear", "attentive"])
@pytest.mark.parametrize("norm", ["layer", "batch", "none"])
def test_heads(form: str, head: str, norm: str) -> None:
    """A linear head is a linear map of the standardised pooled features; an attentive one, whose query looks at nothing
    yet, is the mean of its values."""
    torch.manual_seed(0)
    tokens = 3 + 2 * torch.randn(6, 8, 12)
    features = Features(tokens.mean(1), tokens=tokens)
    if form == "map":
        features = Features(tokens.mean(1), map=tokens.transpose(1, 2).view(6, 12, 2, 2, 2))
    heads = 3 if head == "attentive" else 4
    model = ClipHead(12, RecogniseConfig(head=head, norm=norm, attention_heads=heads), 4)  # type: ignore[arg-type]
    shown = Shown(None, [])
    x = features.pooled if head == "linear" else tokens
    if norm == "layer":
        x = nn.functional.layer_norm(x, (12,), eps=1e-6)
    elif norm == "batch":
        rows = x.reshape(-1, 12)
        x = (x - rows.mean(0)) / (rows.var(0, correction=0) + 1e-6).sqrt()
    if head == "attentive":
        assert model.pool is not None
        nn.init.zeros_(model.pool.query)
        attend = model.pool.attend
        values = x.mean(1) @ attend.in_proj_weight[24:].T + attend.in_proj_bias[24:]
        x = nn.functional.layer_norm(attend.out_proj(values), (12,), eps=1e-6)
    torch.testing.assert_close(model(features, shown), model.mlp(x), rtol=1e-4, atol=1e-4)
    names = set(model.state_dict())
    assert ("norm.weight" in names) == (norm == "layer") and model.mlp[-1].out_features == 4


def test_heads_that_do_not_divide_the_channels_are_told() -> None:
    with pytest.raises(ConfigError, match=r"task\.attention_heads=5 must divide the 12 channels"):
        ClipHead(12, RecogniseConfig(head="attentive", attention_heads=5), 4)


def test_hidden_layers_and_dropout() -> None:
    model = ClipHead(8, RecogniseConfig(hidden=(16, 6), dropout=0.5, norm="none"), 3).train()
    assert [layer.out_features for layer in model.mlp if isinstance(layer, nn.Linear)] == [16, 6, 3]
    drops = [layer for layer in model.modules() if isinstance(layer, nn.Dropout)]
    assert [layer.p for layer in drops] == [0.5] * 3
    with pytest.raises(ValueError, match="greater than 0"):
        RecogniseConfig(hidden=(16, 0))


def test_training_clips_are_drawn_anew(dataset: Path) -> None:
    task = Recognise(RecogniseConfig(repeats=2))
    source = source_of(dataset)
    entry = source.entries()[3]
    views = task.training_views(source, INPUT)
    assert views.num_views == 2
    data = source.dataset([entry], views, 0)
    cuts = [cut for epoch in range(3) for cut in data[(epoch, 0)].views or []]
    assert len({cut.at.tobytes() for cut in cuts}) > 1
    assert len({cut.params["box"].tobytes() for cut in cuts}) == 6
    assert cuts[0].content.shape == (4, 16, 16, 3)


def test_test_videos_are_seen_in_clips_and_crops(dataset: Path) -> None:
    task = Recognise(RecogniseConfig(clips=2, crops=3))
    source = source_of(dataset)
    assert task.votes == 6
    feed = Feed(source, task, INPUT, CPU)
    entries = source.entries()[:2]
    ((views, asked),) = feed.testing(entries, 12, task.votes)
    assert len(views) == 6 and asked is views[0] and asked.view.clip.shape == (2, 3, 4, 16, 16)
    assert len({view.view.at[0].numpy().tobytes() for view in views}) == 2
    assert len({view.view.clip[0].numpy().tobytes() for view in views}) == 6  # the videos are wider than high
    (((alone,), _),) = feed.testing(entries, 12)
    assert alone.view.at.tolist() == [[2, 4, 6, 8]] * 2  # the middle of 12 frames
