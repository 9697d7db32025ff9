"""Detection: boxes read as they lie, learned, told apart by class, and kept for people to look at."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from st_ssl.cli import guarded
from st_ssl.cli.predict import main as predict_main
from st_ssl.core.boxes import Boxes
from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.types import Entry
from st_ssl.data.base import DATA
from st_ssl.data.loading.sample_dataset import collate
from st_ssl.ops.boxes import iou_bev, points_in_boxes
from st_ssl.transfer.detection.average_precision import DetectionMeter
from st_ssl.transfer.fitting.finetune import finetune
from st_ssl.transfer.fitting.finetune_config import FinetuneConfig, finetune_model, overfitting
from st_ssl.transfer.fitting.finetune_model import load_tuned
from st_ssl.transfer.fitting.finetune_setup import Setup
from st_ssl.transfer.fitting.label_fractions import Parts
from st_ssl.transfer.fitting.outcomes import OutcomeStore
from st_ssl.transfer.fitting.predict import find_boxes
from st_ssl.transfer.fitting.predictions import Predictions
from st_ssl.transfer.fitting.task_loader import Feed
from st_ssl.transfer.tasks.base import TASKS
from st_ssl.transfer.tasks.detection import LOOKED_AT, Detect
from tests.transfer.streets import DETECTOR, INPUT, source, streets, write_encoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return streets(tmp_path_factory.mktemp("planted"))


def config(root: Path, task: dict[str, Any] | None = None, **changes: Any) -> FinetuneConfig:
    """One seed of a few steps."""
    settings = {
        "task": {"name": "detect", "detector": DETECTOR, **(task or {})},
        "data": {"name": "drives", "root": str(root), "num_workers": 0},
        "modes": ["scratch"],
        "seeds": 1,
        "steps": 4,
        "epochs": 1,
        "batch_size": 4,
        "optim": {"name": "adamw", "lr": 0.01, "lr_batch": None},
        "schedule": {"warmup_epochs": 0},
        "curve": False,
    }
    return finetune_model().model_validate(settings | changes)


def task(root: Path, **keys: Any) -> Detect:
    found = TASKS.build(TASKS.config("detect").model_validate({"detector": DETECTOR, **keys}))
    assert isinstance(found, Detect)
    found.of_data(source(root))
    return found


def test_a_few_sweeps_are_learned_by_heart(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Setup.model

    def quick(self: Setup, *given: Any) -> Any:
        """The network with batch norm for few steps."""
        model = plain(self, *given)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                module.momentum = 0.2
        return model

    monkeypatch.setattr(Setup, "model", quick)
    optim = {"name": "adamw", "lr": 0.02, "lr_batch": None}
    made = overfitting(config(root, {"min_points": 5}, steps=110, batch_size=2, optim=optim), 2)
    run = write_encoder(tmp_path / "run")
    result = finetune(DATA.build(made.data), [run], made, CPU)
    (row,) = result["results"]
    assert result["metric"] == "AP_car"
    assert row["metrics"]["AP_car"]["mean"] > 90


def test_what_is_found_is_kept_and_measured_alike(root: Path, tmp_path: Path) -> None:
    made = config(root, steps=30, modes=["scratch", "full"], label_fractions=[0.5, 1.0])
    run = write_encoder(tmp_path / "run")
    store = OutcomeStore()
    data = DATA.build(made.data)
    weights, said = tmp_path / "weights", Predictions(tmp_path / "said", 2)
    result = finetune(data, [run], made, CPU, weights=weights, predictions=said, outcomes=store)
    assert result["classes"] == ["car", "cyclist", "pedestrian"]
    assert result["sizes"] == {"train": 12, "val": 0, "test": 4}
    labels = {row["fraction"]: row["labels"] for row in result["results"]}
    assert labels == {0.5: {"train": 6, "val": 0}, 1.0: {"train": 12, "val": 0}}
    # Outcomes of single sweeps make up the figure that is told, but for the rounding of scores.
    kept = [row for row in result["results"] if row["mode"] == "full" and row["fraction"] == 1.0]
    parts = store.repeats("full", 1.0)[0, 0]
    figure = task(root).figure
    assert abs(float(figure(parts.sum(0))) - kept[0]["metrics"]["AP_car"]["mean"]) < 2
    # What is kept of the sweeps gives the same figure again.
    about = json.loads((tmp_path / "said" / "about.json").read_text())
    arrays = np.load(tmp_path / "said" / "boxes.npz")
    assert sorted(path.name for path in (tmp_path / "said").glob("0*.npz")) == ["0000.npz", "0003.npz"]
    assert list(about["sweeps"]) == ["0", "1", "2", "3"]
    meter = DetectionMeter(result["classes"], about["overlaps"])
    for number in range(4):
        own, true = arrays["sweep"] == number, arrays["true_sweep"] == number
        meter.add(
            Boxes(arrays["values"][own], arrays["classes"][own], {"score": arrays["score"][own]}),
            Boxes(arrays["true_values"][true], arrays["true_classes"][true], {"points": arrays["true_points"][true]}),
        )
    assert meter.result()["AP_car"] == pytest.approx(kept[0]["metrics"]["AP_car"]["mean"])
    # The network is there to be used.
    model, again, classes = load_tuned(weights / "full_100_0")
    assert isinstance(again, Detect) and classes == result["classes"]
    feed = Feed(data, again, INPUT, CPU)
    ((shown,), asked) = next(feed.testing([e for e in data.entries() if e.split == "test"], 2))
    with torch.no_grad():
        ballot = again.ballot(asked)
        ballot.add(shown, model(shown))
    assert ballot.means().shape[1] == 12
    _predicted(root, weights / "full_100_0", shown, ballot, tmp_path)


def _predicted(root: Path, model: Path, shown: Any, ballot: Any, tmp_path: Path) -> None:
    """The network says the same of a sweep's file, and of those of a folder with a broken one; what it says is read
    back as labels."""
    sweeps = root / "test" / "drive_0000" / "sweeps"
    found = find_boxes(model, [sweeps / "000000.bin"], CPU, 0.2)
    (first,) = found.found
    own = ballot.means()[ballot.means()[:, 0] == 0].numpy()
    own = own[own[:, 2] >= 0.2]
    np.testing.assert_allclose(np.sort(first.boxes.facts["score"]), np.sort(own[:, 2]), atol=1e-5)
    drive = tmp_path / "mine" / "drive"
    shutil.copytree(sweeps, drive / "sweeps")
    (drive / "sweeps" / "000009.bin").write_bytes(b"")
    monkeypatch = pytest.MonkeyPatch()
    words = [
        "predict",
        str(drive / "sweeps"),
        "--model",
        str(model),
        "--output",
        str(tmp_path / "out"),
        "--score",
        "0.2",
    ]
    monkeypatch.setattr("sys.argv", words)
    try:
        assert guarded(predict_main) == 0
    finally:
        monkeypatch.undo()
    rows = [json.loads(line) for line in (tmp_path / "out" / "index.jsonl").read_text().splitlines()]
    assert [Path(row["path"]).name for row in rows] == [*(f"00000{i}.bin" for i in range(4)), "000009.bin"]
    assert rows[-1]["error"] == "file is empty"
    shutil.copytree(tmp_path / "out" / "boxes", drive / "boxes")
    (drive / "sweeps" / "000009.bin").unlink()
    data = source(tmp_path / "mine")
    boxes = collate([data.dataset(data.entries(), data.evaluation(INPUT))[0, 0]]).views[0].points.boxes
    assert boxes is not None
    assert len(boxes.values) == sum(rows[0]["boxes"].values()) == len(first.boxes)
    np.testing.assert_allclose(boxes.values[:, :7], first.boxes.values[:, :7], atol=1e-3)


def test_true_boxes_hold_their_points_after_augmentation(root: Path) -> None:
    data, own = source(root), task(root, min_points=3)
    own.head(_encoder())
    feed = Feed(data, own, INPUT, CPU)
    entries = [entry for entry in data.entries() if entry.split == "train"]
    shown = next(feed.training(entries, 0, 4, 1))
    boxes = own.known(shown)
    assert boxes.facts["points"].sum() > 200
    assert (boxes.classes >= 0).sum() > 5
    assert (boxes.classes[boxes.facts["points"] < 3] == -1).all()
    targets = own.targets(shown)
    assert targets[:, 0].long().equal(boxes.cloud)
    # Boxes that are predictions of themselves are all found.
    for cloud in range(len(boxes)):
        values = torch.from_numpy(boxes.boxes(cloud).values[:, :7])
        assert (iou_bev(values, values).diagonal() > 0.999).all()


def test_classes_whose_boxes_teach_nothing_are_a_warning(root: Path) -> None:
    data = source(root)
    train = [entry for entry in data.entries() if entry.split == "train"]
    for least, lost in ((1, False), (10**6, True)):
        own = task(root, min_points=least)
        own.head(_encoder())
        own.begin(train)
        shown = next(Feed(data, own, INPUT, CPU).training(train, 0, len(train), 1))
        given = own.known(shown).facts["given"]
        looks = -(-LOOKED_AT // len(train))
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            for _ in range(2 * looks):
                assert own.training_targets(shown, 0).equal(own.targets(shown))
        told = [str(one.message) for one in seen]
        assert len(told) == lost
        for number, name in enumerate(own.classes if lost else ()):
            assert f"{name} {looks * int((given == number).sum())}" in told[0]
        assert not lost or "fewer than task.min_points=1000000 points" in told[0]


def test_a_batch_in_parts_has_the_loss_of_the_whole(root: Path) -> None:
    data, own = source(root), task(root)
    head = own.head(_encoder())
    feed = Feed(data, own, INPUT, CPU)
    shown = next(feed.training([entry for entry in data.entries() if entry.split == "train"], 0, 4, 1))
    cells = own.detector.head.ground.size[::-1]
    scores = torch.randn(4, 8 + len(own.classes), *cells)
    targets = own.targets(shown)
    whole = own.loss(scores, targets)
    parts = []
    for half in (slice(0, 2), slice(2, 4)):
        rows = targets[(targets[:, 0] >= half.start) & (targets[:, 0] < half.stop)].clone()
        rows[:, 0] -= half.start
        parts.append((own.loss(scores[half], rows), own.weight(rows)))
    total = sum(weight for _, weight in parts)
    torch.testing.assert_close(sum(loss * weight / total for loss, weight in parts), whole)
    assert head is not None


def test_fractions_are_evenly_spread_sweeps_or_whole_drives(root: Path) -> None:
    train = [Entry(f"drive{i // 20}", start=i % 20, num_frames=1, window=True) for i in range(200)]
    own = task(root)
    first, second = (own.fraction(train, 0.05, repeat) for repeat in (0, 1))
    assert len(first) == 10 and len({entry.path for entry in first}) == 10
    assert first != second
    assert own.fraction(train, 0.001, 0)
    drives = task(root, labels="drives").fraction(train, 0.1, 0)
    assert len(drives) == 20 and len({entry.path for entry in drives}) == 1


def test_some_of_the_classes(root: Path) -> None:
    own = task(root, classes=("cyclist", "car"))
    assert own.classes == ("cyclist", "car")
    assert own.metric == "AP_cyclist"
    own.head(_encoder())
    data = source(root)
    feed = Feed(data, own, INPUT, CPU)
    entries = [entry for entry in data.entries() if entry.split == "train"]
    shown = next(feed.training(entries, 0, 4, 1))
    raw, known = shown.view.points.boxes, own.known(shown)
    assert raw is not None
    assert set(known.classes[raw.classes == 2].tolist()) == {-1}  # pedestrians
    assert set(known.classes[raw.classes == 0].tolist()) <= {1, -1}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"classes": ("car", "cyclst")}, r"task.classes: no class 'cyclst'.*did you mean 'cyclist'"),
        ({"primary": "tram"}, r"task.primary: no class 'tram' .*car, cyclist, pedestrian"),
    ],
)
def test_unknown_classes(root: Path, keys: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        task(root, **keys)


def test_sweeps_without_boxes_are_told(root: Path) -> None:
    own = task(root)
    with pytest.raises(DataError, match="none of 1 training sweeps has a box of car, cyclist, pedestrian"):
        own.learn_classes(Parts([Entry("x")], [], [Entry("y")]), lambda *_: [])


def test_data_without_boxes() -> None:
    own = TASKS.build(TASKS.config("detect").model_validate({}))
    with pytest.raises(ConfigError, match="these clouds have no boxes"):
        own.of_data(DATA.build(DATA.config("points").model_validate({})))


def _encoder() -> Any:
    from st_ssl.encoders.base import ENCODERS, random_encoder
    from tests.transfer.streets import ENCODER

    return random_encoder(ENCODERS.config("second").model_validate(ENCODER), INPUT, 0)


def test_objects_are_pasted_from_the_labels_that_are_used(root: Path) -> None:
    made = task(root, paste={"car": 12, "pedestrian": 9}, paste_points=8)
    data = source(root)
    train = [entry for entry in data.entries() if entry.split == "train"][::4]  # one of each drive
    made.begin(train)
    views = made.training_views(data, INPUT)
    paste = views.specs[0].transforms[0]  # type: ignore[attr-defined]
    plain = task(root).training_views(data, INPUT)

    def clouds(shown: Any, epochs: int) -> list[Any]:
        dataset = data.dataset(train, shown)
        return [dataset[epoch, row].views[0].content[0] for epoch in range(epochs) for row in range(len(train))]

    before = clouds(plain, 1)
    counts, without = (
        np.mean([np.bincount(cloud.boxes.classes, minlength=3) for cloud in own], 0)
        for own in (clouds(views, 4), before)
    )
    assert counts[0] > without[0] + 1 and counts[2] > without[2] + 1
    assert counts[1] == without[1], "cyclists are not pasted"
    seen = 0
    for cloud in before:
        inside = points_in_boxes(torch.from_numpy(cloud.xyz), torch.from_numpy(cloud.boxes.values[:, :7]))
        seen += int(((inside.sum(0).numpy() >= 8) & (cloud.boxes.classes == 0)).sum())
    assert len(paste.bank[0]) == seen, "no object of another sweep"
    again = made.training_views(data, INPUT)
    assert again.specs[0].transforms[0].bank is paste.bank  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"task\.paste: no class 'cars'; did you mean 'car'\?"):
        task(root, paste={"cars": 3})


def test_objects_are_moved_after_others_were_pasted(root: Path) -> None:
    data = source(root)
    train = [entry for entry in data.entries() if entry.split == "train"]
    shown = []
    for more in ({}, {"move": {"shift": [1, 1, 0]}}, {"move": {}, "paste": {"car": 12}}):
        made = task(root, augment={"rotation": "none"}, **more)
        made.begin(train)
        one = data.dataset(train, made.training_views(data, INPUT))[0, 0].views[0].content[0]
        assert one.boxes is not None
        shown.append(one.boxes)
    plain, moved, both = shown
    assert len(moved) == len(plain) < len(both)
    assert (np.abs(moved.values - plain.values)[:, [0, 1, 6]] > 1e-3).any(0).all()
    np.testing.assert_array_equal(moved.values[:, 2:6], plain.values[:, 2:6])


def test_rare_classes_are_shown_more_often(root: Path) -> None:
    tags = [("car",)] * 6 + [("car", "pedestrian")] * 2 + [("cyclist",)] + [()]
    train = [Entry(f"drive{row}", "train", tags=own) for row, own in enumerate(tags)]
    assert task(root).drawn(train) == train
    drawn = task(root, balanced=True).drawn(train)
    # 8 sweeps have cars, 2 pedestrians, 1 a cyclist: 11 in all, of which each class has a third
    assert len(drawn) == 9
    assert [sum(name in entry.tags for entry in drawn) for name in ("cyclist", "pedestrian", "car")] == [3, 3, 6]
    assert drawn.count(train[8]) == 3 and train[9] not in drawn
    assert task(root, balanced=True).drawn([train[9]]) == [train[9]]
