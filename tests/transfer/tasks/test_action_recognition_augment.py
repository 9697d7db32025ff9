"""What recognition does to training clips: RandAugment, erasing, mixing."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from st_ssl.augment.mixing import MixConfig, mix
from st_ssl.core.errors import ConfigError
from st_ssl.core.random import Key, keyed_rng
from st_ssl.core.types import Entry, View
from st_ssl.transfer.fitting.finetune import finetune
from st_ssl.transfer.fitting.fit import Feed
from st_ssl.transfer.fitting.label_fractions import Parts
from st_ssl.transfer.tasks.action_recognition import Recognise, RecogniseConfig
from st_ssl.transfer.tasks.ballot import Shown
from tests.transfer.tiny import INPUT, recognise_settings, source_of, write_dataset, write_encoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("av")
    return write_dataset(tmp_path_factory.mktemp("tiny") / "set")


def shown_batch(task: Recognise) -> Shown:
    entries = [Entry(f"{number}.mp4", labels={"label": name}) for number, name in enumerate("abcab")]
    task.parts([*entries, Entry("test.mp4", "test", {"label": "a"})], 0)
    task.learn_classes(Parts(entries, [], []), lambda *_: [])
    clip = torch.randn(5, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    return Shown(View(clip, torch.zeros(5, 2, dtype=torch.int64)), entries)


def test_batches_are_mixed_with_their_targets_by_the_key() -> None:
    task = Recognise(RecogniseConfig(mix=MixConfig()))
    shown = shown_batch(task)
    targets = task.targets(shown)
    assert targets.tolist() == [0, 1, 2, 0, 1]
    for key in range(4):  # mixup and cutmix
        mixed, soft = task.mixed(shown, targets, (0, "mix", key))
        clip, partner, weight = mix(shown.view.clip, MixConfig(), keyed_rng(0, "mix", key))
        assert torch.equal(mixed.view.clip, clip) and mixed.entries == shown.entries
        for row, (own, other) in enumerate(zip(targets.tolist(), targets[partner].tolist(), strict=True)):
            expected = torch.zeros(3)
            expected[own] += weight[row]
            expected[other] += 1 - weight[row]
            torch.testing.assert_close(soft[row], expected)
        scores = torch.randn(5, 3, generator=torch.Generator().manual_seed(key))
        torch.testing.assert_close(task.loss(scores, soft), -(soft * scores.log_softmax(1)).sum(1).mean())


def test_without_mixing_a_batch_is_left_alone() -> None:
    task = Recognise(RecogniseConfig())
    shown = shown_batch(task)
    targets = task.targets(shown)
    mixed, same = task.mixed(shown, targets, (0,))
    assert mixed is shown and same is targets


def test_training_clips_are_augmented_and_test_clips_not(dataset: Path) -> None:
    still = {"crop": "centre", "flip": 0, "jitter": 0, "grayscale": 0, "blur": 0}
    more = {"rand_augment": {"probability": 1.0}, "erase": {"probability": 1.0, "mode": "const"}}
    entries, source = list(source_of(dataset).entries()[:4]), source_of(dataset)
    clips: list[list[torch.Tensor]] = []
    for parts in ({}, more):
        task = Recognise(RecogniseConfig.model_validate({"augment": still | parts, "clips": 1}))
        feed = Feed(source, task, INPUT, CPU)
        trained = next(iter(feed.training(entries, 0, 4, 1)))
        ((tested, _),) = feed.testing(entries, 4)
        clips.append([trained.view.clip, tested[0].view.clip])
    (plain, plain_test), (varied, varied_test) = clips
    assert torch.equal(plain_test, varied_test)
    assert (varied == 0).flatten(1).any(1).all()  # what was erased
    assert not (plain == 0).any()
    assert all(not torch.allclose(a[:, 0], b[:, 0]) for a, b in zip(plain, varied, strict=True))


@pytest.mark.parametrize("multi_label", [False, True])
def test_all_of_it_trains(dataset: Path, tmp_path: Path, multi_label: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[tuple[Key, ...]] = []
    plain = Recognise.mixed

    def noted(self: Recognise, shown: Shown, targets: torch.Tensor, key: tuple[Key, ...]) -> Any:
        keys.append(key)
        return plain(self, shown, targets, key)

    monkeypatch.setattr(Recognise, "mixed", noted)
    task: dict[str, Any] = {
        "augment": {"rand_augment": {}, "erase": {}},
        "mix": {"mode": "elem"},
        "label_smoothing": 0.1,
        "multi_label": multi_label,
    }
    source = source_of(dataset)
    if multi_label:
        task["target"] = None
        rows = [Entry(e.path, e.split, tags=tuple(e.labels[k] for k in ("light", "length"))) for e in source.entries()]
        source.entries = lambda: rows  # type: ignore[method-assign]
    run = write_encoder(tmp_path / "run")
    result = [
        finetune(source, [run], recognise_settings(task, modes=("full",), epochs=2), CPU)["results"] for _ in range(2)
    ]
    assert result[0] == result[1]
    assert len(keys) == 16 and len(set(keys)) == 8  # 4 steps in each of 2 epochs, twice the same


def test_uniform_clips_have_a_frame_of_each_segment_whatever_the_stride(dataset: Path) -> None:
    source = source_of(dataset)
    entries = [entry for entry in source.entries() if entry.labels["length"] == "short"][:4]  # 12 frames
    for stride in (1, 5):
        input = INPUT.model_copy(update={"stride": stride})
        task = Recognise(RecogniseConfig(sampling="uniform", clips=2, crops=1, repeats=2))
        feed = Feed(source, task, input, CPU)
        ((views, _),) = feed.testing(entries, 8, votes=2)
        assert [view.view.at[0].tolist() for view in views] == [[1, 4, 7, 10], [0, 3, 6, 9]]
        ((views, _),) = feed.testing(entries, 8)
        assert [view.view.at[0].tolist() for view in views] == [[1, 4, 7, 10]]
        index = next(iter(feed.training(entries, 0, 4, 1))).view.at
        assert index.shape == (8, 4) and torch.equal(index // 3, torch.arange(4).expand(8, 4))
        assert len({tuple(row) for row in index.tolist()}) > 4


def test_parts_with_nothing_to_mix_are_told(dataset: Path, tmp_path: Path) -> None:
    source, run = source_of(dataset), write_encoder(tmp_path / "run")
    parts: dict[str, Any] = {"modes": ("frozen",), "epochs": 1, "accumulate": 4}
    with pytest.raises(
        ConfigError, match=r"^task\.mix: there is nothing to mix in a batch of 7 in parts of one .* 1 × 4$"
    ):
        finetune(source, [run], recognise_settings({"mix": {}}, batch_size=7, **parts), CPU)
    few: dict[str, Any] = parts | {"batch_size": 8, "label_fractions": (0.25,)}
    with pytest.warns(UserWarning, match=r"^task\.mix is ignored in a batch of all 4 samples in parts of one"):
        finetune(source, [run], recognise_settings({"mix": {}}, **few), CPU)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finetune(source, [run], recognise_settings({"mix": {}, "repeats": 2}, **few), CPU)
        finetune(source, [run], recognise_settings({}, **few), CPU)
