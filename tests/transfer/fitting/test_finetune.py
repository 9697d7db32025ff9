"""Fine-tuning on planted clouds: all modes learn, the same every time."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.core.errors import ConfigError, DataError, UserError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.types import Entry, Features, PointBatch
from st_ssl.encoders.base import load_encoder, random_encoder, save_encoder
from st_ssl.training.optim import OptimConfig
from st_ssl.training.schedule import ScheduleConfig
from st_ssl.transfer.fitting.evaluate import evaluate
from st_ssl.transfer.fitting.finetune import finetune
from st_ssl.transfer.fitting.finetune_model import Tuned
from st_ssl.transfer.fitting.fit import fit
from st_ssl.transfer.fitting.label_fractions import Parts
from st_ssl.transfer.fitting.task_loader import Feed
from st_ssl.transfer.tasks.ballot import Shown
from st_ssl.transfer.tasks.base import TASKS, Task
from st_ssl.transfer.tasks.metrics import IGNORE
from tests.transfer.clouds import INPUT, KINDS, TinyEncoder, TinyEncoderConfig, TinySource, settings, tiny_registered
from tests.transfer.fits import part_drawn

__all__ = ["tiny_registered"]

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    save_encoder(random_encoder(TinyEncoderConfig(), INPUT, 7), tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def token_run(tmp_path: Path) -> Path:
    save_encoder(random_encoder(TinyEncoderConfig(tokens=24), INPUT, 7), tmp_path / "tokens")
    return tmp_path / "tokens"


def figures(result: dict[str, Any], metric: str) -> dict[tuple[str, float], float]:
    return {(row["mode"], row["fraction"]): row["metrics"][metric]["mean"] for row in result["results"]}


def test_objects_are_told_apart_in_all_modes(run: Path) -> None:
    told: list[tuple[int, int, str]] = []
    seen: list[int] = []
    result = finetune(
        TinySource(),
        [run],
        settings({"name": "classify", "votes": 2}),
        CPU,
        lambda *status: told.append(status),
        lambda part: seen.append(len(part["results"])),
    )
    found = figures(result, "accuracy")
    assert set(found) == {("scratch", 1.0), ("frozen", 1.0), ("full", 1.0)}
    assert found["scratch", 1.0] > 80 and found["full", 1.0] > 80 and found["frozen", 1.0] > 50, found  # chance is 33
    assert result["classes"] == ["ball", "disc", "rod"]
    assert result["sizes"] == {"train": 36, "val": 0, "test": 18}
    assert told[-1][:2] == (18, 18) and "loss" in told[-1][2]
    assert seen == [1, 2, 3]  # what is done is handed on after every fit


@pytest.mark.parametrize("encoder", ["run", "token_run"])
def test_points_are_told_apart(encoder: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(encoder)
    config = settings({"name": "segment", "votes": 2, "background": [0]}, modes=("frozen", "full"))
    result = finetune(TinySource(), [folder], config, CPU)
    assert result["classes"] == ["0", "1"]
    assert figures(result, "foreground_mIoU") == figures(result, "IoU_1")
    found = figures(result, "mIoU")
    assert found["full", 1.0] > 70 and found["frozen", 1.0] > 50, found  # all of one class: 25
    row = result["results"][0]["metrics"]
    assert np.mean([row["IoU_0"]["mean"], row["IoU_1"]["mean"]]) == pytest.approx(row["mIoU"]["mean"])


@pytest.mark.parametrize("encoder", ["run", "token_run"])
def test_parts_are_told_apart(encoder: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(encoder)
    config = settings({"name": "part"}, modes=("frozen", "full"))
    result = finetune(TinySource(), [folder], config, CPU)
    assert len(result["classes"]) == 6
    for metric in ("instance_mIoU", "class_mIoU"):
        found = figures(result, metric)
        assert found["full", 1.0] > 65 and found["frozen", 1.0] > 45, found  # all of one part: 25


def test_objects_by_the_mean_and_the_maximum_of_tokens(run: Path, token_run: Path) -> None:
    config = settings({"name": "classify", "features": "mean_max"}, modes=("full",))
    result = finetune(TinySource(), [token_run], config, CPU)
    assert figures(result, "accuracy")["full", 1.0] > 80
    with pytest.raises(ConfigError, match=r"task.features: mean_max needs tokens.*use pooled"):
        finetune(TinySource(), [run], config, CPU)


def test_few_shot_folds(run: Path) -> None:
    task = {"name": "few_shot", "ways": 2, "shots": 4, "queries": 5, "folds": 3}
    result = finetune(TinySource(), [run], settings(task, modes=("full",)), CPU)
    assert result["results"][0]["repeats"] == 3 and result["sizes"] == {"train": 8, "val": 0, "test": 10}
    cell = result["results"][0]
    assert len(cell["metrics"]["accuracy"]["values"]) == 3 and cell["epochs"] == [6] * 3
    assert cell["metrics"]["accuracy"]["mean"] > 75  # chance is 50
    assert cell["metrics"]["accuracy"]["std"] == pytest.approx(np.std(cell["metrics"]["accuracy"]["values"]))
    with pytest.raises(ConfigError, match="label_fractions"):
        finetune(TinySource(), [run], settings(task, label_fractions=(0.1, 1.0)), CPU)
    with pytest.raises(DataError, match="only 3 of 3 classes"):
        finetune(TinySource(), [run], settings(task | {"ways": 4}), CPU)


def test_folds_that_the_data_has() -> None:
    """As the published lists have them: every fold its own classes, and its own samples to train and to test on."""
    entries = [
        Entry(f"{split}/{kind}/{number}", split, {"kind": kind, "fold": fold})
        for fold, kinds in (("0", KINDS[:2]), ("2", KINDS[1:]), ("10", KINDS[::2]))
        for kind in kinds
        for split, count in (("train", 4), ("test", 5))
        for number in range(count)
    ]
    config = {"name": "few_shot", "ways": 2, "shots": 4, "folds": 3}
    task: Task = TASKS.build(settings(config).task)
    for repeat, kinds in enumerate((KINDS[:2], KINDS[1:], KINDS[::2])):
        parts = task.parts(entries, repeat)
        assert not parts.val
        for part, split, count in ((parts.train, "train", 4), (parts.test, "test", 5)):
            assert sorted(e.path for e in part) == sorted(f"{split}/{k}/{i}" for k in kinds for i in range(count))
    with pytest.raises(DataError, match=r"task\.folds: 3 are asked for, and the data has 2"):
        task.parts([entry for entry in entries if entry.labels["fold"] != "2"], 2)
    with pytest.raises(ConfigError, match=r"fold '0' of the data has 2 classes of 4 training samples each"):
        TASKS.build(settings(config | {"ways": 3}).task).parts(entries, 0)


def test_the_same_seed_gives_the_same_numbers(run: Path) -> None:
    def figures_of(seed: int) -> list[Any]:
        torch.rand(seed + 1)  # whatever was drawn before
        config = settings(
            {"name": "segment", "augment": {"rotation": "so3"}},
            seed=seed,
            epochs=2,
            seeds=2,
            label_fractions=(0.3, 1.0),
        )
        return finetune(TinySource(), [run], config, CPU)["results"]

    state = torch.get_rng_state()
    first = figures_of(0)
    torch.set_rng_state(state)
    assert figures_of(0) == first
    assert figures_of(1) != first
    assert len({str(row["metrics"]) for row in first if row["mode"] != "frozen"}) == 4  # each its own


def shown_to(task: Task, rows: int = 2) -> Shown:
    source = TinySource()
    entries = source.entries()[:rows]
    feed = Feed(source, task, INPUT, CPU)
    return next(iter(feed.testing(entries, rows)))[0][0]


def prepared(name: str, **keys: Any) -> tuple[Task, Parts]:
    task: Task = TASKS.build(settings({"name": name, **keys}).task)
    source = TinySource()
    parts = part_drawn(task, source.entries(), 0.2)
    feed = Feed(source, task, INPUT, CPU)
    task.learn_classes(parts, feed.look)
    return task, parts


def test_frozen_leaves_the_encoder_alone_and_full_does_not(run: Path) -> None:
    task, parts = prepared("classify")
    feed = Feed(TinySource(), task, INPUT, CPU)
    for frozen in (True, False):
        encoder = load_encoder(run)
        before = copy.deepcopy(encoder.state_dict())
        torch.manual_seed(0)
        model = Tuned(encoder, task.head(encoder), frozen)
        fit(model, task, feed, parts, settings({"name": "classify"}, epochs=2), 0)
        same = [torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items()]
        assert all(same) if frozen else not any(same)


def test_the_model_that_is_left_is_the_one_of_the_best_epoch(run: Path) -> None:
    """A learning rate that wrecks the network: the best epoch is an early one, and its figures come back."""
    task, parts = prepared("classify")
    feed = Feed(TinySource(), task, INPUT, CPU)
    config = settings({"name": "classify"}, epochs=6, schedule=ScheduleConfig(), val_every=1)
    encoder = load_encoder(run)
    torch.manual_seed(0)
    model = Tuned(encoder, task.head(encoder), False)
    told: list[str] = []
    best = fit(model, task, feed, parts, config, 0, lambda epoch, status: told.append(status))
    accuracies = [float(status.split()[-1]) for status in told]
    assert best.epoch == len(accuracies) - int(np.argmax(accuracies[::-1]))
    assert evaluate(model, task, feed, parts.val, config) == best.validation


def test_unlabelled_points_have_no_say(run: Path) -> None:
    task, _ = prepared("segment")
    shown = shown_to(task)
    targets = task.targets(shown)
    assert (targets == IGNORE).any()
    scores = torch.randn(len(targets), 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = task.loss(scores, targets)
    known = targets != IGNORE
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(scores[known], targets[known]))
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient[~known].abs().max() == 0 and gradient[known].abs().min() > 0
    shown.view.points.labels["segment"].fill_(IGNORE)  # a batch without any label is no step, and no NaN
    model = Tuned(load_encoder(run), torch.nn.Linear(1, 1), False)

    class Unlabelled(Feed):
        def training(self, *_: Any) -> Any:
            return iter([shown])

    before = copy.deepcopy(model.state_dict())
    feed = Unlabelled(TinySource(), task, INPUT, CPU)
    fit(model, task, feed, Parts(shown.entries), settings({"name": "segment"}, epochs=1), 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("kept", "count"), [(3, 3), (0.5, 0.5)])
def test_as_many_points_keep_their_label_as_were_asked_for(kept: int | float, count: float) -> None:
    task, _ = prepared("segment", label_points=kept)
    source = TinySource()
    entries = source.entries()[:4]
    feed = Feed(source, task, INPUT, CPU)
    seen: dict[str, set[int]] = {}
    for shown in feed.training(entries, 1, 2, 6):
        targets, all_targets = task.training_targets(shown, 5), task.targets(shown)
        assert ((targets == IGNORE) | (targets == all_targets)).all()
        sample, place = task.rows(shown)
        for number, entry in enumerate(shown.entries):
            here = sample == number
            labelled = int((all_targets[here] != IGNORE).sum())
            chosen = set(place[here & (targets != IGNORE)].tolist())
            assert len(chosen) == (kept if isinstance(kept, int) else round(count * labelled))
            assert seen.setdefault(entry.path, chosen) == chosen  # the same ones in every epoch
    assert len(seen) == 4


def test_training_views_are_varied_and_modes_see_the_same() -> None:
    task, _ = prepared("classify", augment={"rotation": "so3"})
    feed = Feed(TinySource(), task, INPUT, CPU)
    entries = TinySource().entries()[:4]
    first, again = (list(feed.training(entries, 3, 2, 4)) for _ in range(2))
    assert [s.entries for s in first] == [s.entries for s in again]
    assert all(torch.equal(a.view.points.xyz, b.view.points.xyz) for a, b in zip(first, again, strict=True))
    clouds: dict[str, list[torch.Tensor]] = {e.path: [] for e in entries}
    for shown in first:
        for number, entry in enumerate(shown.entries):
            clouds[entry.path].append(shown.view.points.dense()[number])
    assert all(len(c) == 2 and not torch.allclose(c[0], c[1]) for c in clouds.values())


def test_broken_samples_are_told_and_not_counted(run: Path) -> None:
    source = TinySource()
    row = source.rows[-1]
    source.rows[-1] = type(row)("test/rod/broken", row.split, row.labels)
    task, _ = prepared("classify")
    feed = Feed(source, task, INPUT, CPU)
    tested = [shown.entries for (shown,), _ in feed.testing(source.rows[-4:], 3)]
    assert [e.path for group in tested for e in group] == [e.path for e in source.rows[-4:-1]]
    result = finetune(source, [run], settings({"name": "classify"}, modes=("frozen",), epochs=1), CPU)
    assert result["bad"] == [{"path": "test/rod/broken", "reason": "broken"}]


def test_weights_are_kept_where_asked_for(run: Path, tmp_path: Path) -> None:
    config = settings({"name": "classify"}, modes=("full",), epochs=1, save=True)
    assert config.save == "all" and settings({"name": "classify"}, save=False).save == "none"
    finetune(TinySource(), [run], config, CPU, weights=tmp_path / "weights")
    tuned = load_encoder(tmp_path / "weights" / "full_100_0")
    before = load_encoder(run).state_dict()
    assert not torch.equal(tuned.state_dict()["blocks.1.0.weight"], before["blocks.1.0.weight"])
    assert (tmp_path / "weights" / "full_100_0" / "head.safetensors").is_file()


@pytest.mark.parametrize("save", ["one", "all", "none"])
def test_so_many_fits_are_kept(save: str, run: Path, tmp_path: Path) -> None:
    task = {"name": "segment"}
    modes, fractions = ("full", "frozen"), (1.0, 0.5)
    config = settings(task, modes=modes, label_fractions=fractions, seeds=2, epochs=1, save=save)
    finetune(TinySource(), [run], config, CPU, weights=tmp_path / "weights")
    kept = {folder.name for folder in (tmp_path / "weights").glob("*")}
    everything = {f"{mode}_{share}_{repeat}" for mode in modes for share in (50, 100) for repeat in (0, 1)}
    assert kept == {"one": {"frozen_100_0"}, "all": everything, "none": set()}[save]


def test_layers_of_the_encoder_learn_more_slowly(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[dict[str, float]] = []
    step = torch.optim.AdamW.step

    def record(self: Any, *args: Any, **kwargs: Any) -> Any:
        rates.append({name: group["lr"] for group in self.param_groups for name in group["param_names"]})
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    config = settings({"name": "classify"}, modes=("full",), epochs=2, layer_decay=0.5, schedule=ScheduleConfig())
    finetune(TinySource(), [run], config, CPU)
    for rate in rates:
        head = rate["head.mlp.0.weight"]
        assert rate["encoder.blocks.1.0.weight"] == pytest.approx(head / 2)
        assert rate["encoder.blocks.0.0.weight"] == pytest.approx(head / 4)
    assert rates[0]["head.mlp.0.weight"] == 0.03 > rates[-1]["head.mlp.0.weight"]


def test_a_loss_that_is_no_number_ends_the_fit(run: Path) -> None:
    optim = OptimConfig(name="sgd", lr=1e30, lr_batch=None, momentum=0.0, weight_decay=0.0)
    config = settings({"name": "classify"}, modes=("full",), optim=optim, schedule=ScheduleConfig())
    with pytest.raises(UserError, match=r"optim\.lr"):
        finetune(TinySource(), [run], config, CPU)


def test_bf16(run: Path) -> None:
    config = settings({"name": "classify"}, modes=("full",), precision="bf16")
    assert figures(finetune(TinySource(), [run], config, CPU), "accuracy")["full", 1.0] > 75


def test_clouds_of_several_sizes(token_run: Path) -> None:
    """The features of points, interpolated cloud by cloud, are those of each cloud alone."""
    from st_ssl.transfer.tasks.points_common import point_features

    encoder = load_encoder(token_run)
    xyz = torch.randn(90, 3, generator=torch.Generator().manual_seed(0))
    batch = PointBatch(xyz, torch.tensor([0, 50, 90]))
    with torch.no_grad():
        both = point_features(encoder(batch), batch)
        alone = [point_features(encoder(part), part) for part in (batch.part(0, 1), batch.part(1, 2))]
    torch.testing.assert_close(both, torch.cat(alone))


def test_what_does_not_fit_together_is_told(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task.target: no target named 'kinds'; did you mean 'kind'"):
        finetune(TinySource(), [run], settings({"name": "classify", "target": "kinds"}), CPU)
    with pytest.raises(DataError, match=r"no labels named 'semantic'.*segment, part"):
        finetune(TinySource(), [run], settings({"name": "segment", "labels": "semantic"}), CPU)
    with pytest.raises(ConfigError, match=r"train/disc/.*none of the 2 classes.*task\.num_classes"):
        finetune(TinySource(), [run], settings({"name": "segment", "labels": "part", "num_classes": 2}), CPU)
    with pytest.raises(ConfigError, match=r"task.background=\[0, 2\]: expected some of the 2 classes"):
        finetune(TinySource(), [run], settings({"name": "segment", "background": [0, 2]}), CPU)
    with pytest.raises(ConfigError, match=r"no parts are given for disc, rod"):
        finetune(TinySource(), [run], settings({"name": "part", "parts": {"ball": [0, 1]}}), CPU)
    other = tmp_path / "other"
    save_encoder(random_encoder(TinyEncoderConfig(dim=8), PointInputConfig(num_points=48), 0), other)
    with pytest.raises(DataError, match="different encoders"):
        finetune(TinySource(), [run, other], settings({"name": "classify"}), CPU)
    with pytest.raises(ValueError, match="crop and dropout"):
        settings({"name": "classify", "vote_augment": {"crop": "sphere"}})
    with pytest.raises(ValueError, match=r"no augment.crop"):
        settings({"name": "segment", "augment": {"dropout": (0, 0.5)}, "label_points": 9})
    video = TinySource()
    video.modality = "video"  # type: ignore[misc]
    with pytest.raises(ConfigError, match="is for points"):
        finetune(video, [run], settings({"name": "classify"}), CPU)


def test_several_runs_are_repetitions(run: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    save_encoder(random_encoder(TinyEncoderConfig(), INPUT, 8), second)
    result = finetune(TinySource(), [run, second], settings({"name": "classify"}, modes=("frozen",), epochs=1), CPU)
    assert result["results"][0]["repeats"] == 2 and len(result["results"][0]["metrics"]["accuracy"]["values"]) == 2


def test_keys_that_weights_do_not_depend_on_can_be_changed(token_run: Path) -> None:
    """More points and more tokens than in pretraining, as is usual for finer tasks."""
    changes: dict[str, Any] = {"encoder": {"tokens": 30}, "input": {"num_points": 56}, "modes": ("scratch", "full")}
    shapes: set[tuple[int, ...]] = set()
    forward = TinyEncoder.forward

    def watched(self: TinyEncoder, clip: PointBatch, keep: torch.Tensor | None = None) -> Features:
        features = forward(self, clip, keep)
        assert features.tokens is not None
        shapes.add((len(clip.xyz) // len(clip), features.tokens.shape[1]))
        return features

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TinyEncoder, "forward", watched)
        finetune(TinySource(), [token_run], settings({"name": "classify"}, epochs=1, **changes), CPU)
    assert shapes == {(56, 30)}
    for wrong, told in (
        ({"encoder": {"token": 30}}, "encoder: token: unknown key; did you mean 'tokens'"),
        ({"input": {"num_points": 0}}, "input: num_points: must be greater than 0"),
        ({"encoder": {"dim": 8}}, "cannot be loaded"),
    ):
        with pytest.raises(UserError, match=told):
            finetune(TinySource(), [token_run], settings({"name": "classify"}, epochs=1, **wrong), CPU)


def test_a_test_part_without_labels_can_be_left_out(run: Path) -> None:
    source = TinySource()
    config = settings({"name": "segment"}, modes=("frozen",), epochs=1, val_share=0.0, test_on="val")
    with pytest.raises(DataError, match=r"test_on=val: no sample"):
        finetune(source, [run], config, CPU)
    source.rows[30:36] = [replace(row, split="val") for row in source.rows[30:36]]
    source.rows[36:] = [replace(row, path=f"{row.path}/broken") for row in source.rows[36:]]
    result = finetune(source, [run], config, CPU)
    assert result["sizes"] == {"train": 30, "val": 0, "test": 6} and not result["bad"]


def test_a_mode_may_have_a_rate_of_its_own(run: Path) -> None:
    config = settings({"name": "classify"}, modes=("frozen", "full"), otherwise={"full": {"lr": 1e-12}})
    assert config.of("full").optim.lr == 1e-12 and config.of("full").layer_decay == config.layer_decay
    assert config.of("frozen") == config
    plain = settings({"name": "classify"}, modes=("frozen", "full"))
    changed, usual = (figures(finetune(TinySource(), [run], c, CPU), "accuracy") for c in (config, plain))
    assert changed["frozen", 1.0] == usual["frozen", 1.0]
    assert changed["full", 1.0] < usual["full", 1.0] - 20  # that rate learns nothing
