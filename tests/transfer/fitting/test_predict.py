"""What was said of test videos is kept as the figures count it, and a network that was kept says the same again."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle

from st_ssl.cli import guarded
from st_ssl.cli.predict import main
from st_ssl.core.errors import ConfigError, DataError, UserError
from st_ssl.core.types import Entry
from st_ssl.report.finetuned import finetuned
from st_ssl.report.recognised import recognised
from st_ssl.transfer.fitting.finetune import finetune
from st_ssl.transfer.fitting.finetune_model import find_tuned, load_tuned
from st_ssl.transfer.fitting.label_fractions import Parts
from st_ssl.transfer.fitting.predict import predict
from st_ssl.transfer.fitting.predictions import Predictions
from st_ssl.transfer.tasks.action_recognition import Recognise, RecogniseConfig
from st_ssl.transfer.tasks.ballot import Shown
from tests.transfer.tiny import recognise_settings, source_of, write_dataset, write_encoder

CPU = torch.device("cpu")


@dataclass
class Made:
    """A fit on a data set with a broken test video: its figures, its predictions, and the network that was kept."""

    root: Path
    result: dict[str, Any]
    predictions: Path
    model: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("made")
    root = write_dataset(folder / "set")
    (root / "09.mp4").write_text("not a video")
    run = write_encoder(folder / "run")
    config = recognise_settings({"clips": 3, "target": "chance"}, modes=("frozen",), epochs=2)
    kept = folder / "predictions"
    kept.mkdir()
    (kept / "0001.npz").write_bytes(b"of an earlier time")
    result = finetune(source_of(root), [run], config, CPU, weights=folder / "weights", predictions=Predictions(kept))
    return Made(root, result, kept, folder / "weights" / "frozen_100_0")


def rows_of(file: Path) -> list[list[str]]:
    with file.open(newline="") as stream:
        return list(csv.reader(stream))


def test_predictions_of_videos_give_the_figures_again(made: Made) -> None:
    classes = json.loads((made.predictions / "classes.json").read_text())
    about = json.loads((made.predictions / "about.json").read_text())
    scores = np.load(made.predictions / "scores.npy", allow_pickle=False)
    rows = [json.loads(line) for line in (made.predictions / "index.jsonl").read_text().splitlines()]
    assert classes == ["0", "1", "2"] and scores.dtype == np.float32 and scores.shape == (7, 3)
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
    tested = [entry for entry in source_of(made.root).entries() if entry.split == "test" and "09" not in entry.name]
    assert [row["path"] for row in rows] == [entry.path for entry in tested]
    assert [row["row"] for row in rows] == list(range(7))
    assert [row["label"] for row in rows] == [entry.labels["chance"] for entry in tested]
    assert [row["prediction"] for row in rows] == [classes[i] for i in scores.argmax(1)]
    assert [row["probability"] for row in rows] == pytest.approx(scores.max(1).tolist(), abs=1e-6)

    truth, said = [row["label"] for row in rows], [row["prediction"] for row in rows]
    figures = {name: figure["mean"] for name, figure in made.result["results"][0]["metrics"].items()}
    assert figures["top1"] == pytest.approx(100 * oracle.accuracy_score(truth, said))
    confusion = oracle.confusion_matrix(truth, said, labels=classes)
    table = rows_of(made.predictions / "confusion.csv")
    assert table == [["", *classes], *([name, *map(str, row)] for name, row in zip(classes, confusion, strict=True))]
    each = rows_of(made.predictions / "per_class.csv")
    assert each[0] == ["class", "count", "accuracy"]
    assert each[1:] == [
        [name, str(row.sum()), f"{100 * hit / row.sum():.2f}"]
        for name, row, hit in zip(classes, confusion, np.diag(confusion), strict=True)
    ]
    bins = about["calibration"]
    assert len(bins["bounds"]) == 16 and sum(bins["count"]) == about["samples"] == about["judged"] == 7
    gaps = [
        count * abs(sure - right)
        for count, sure, right in zip(bins["count"], bins["confidence"], bins["right"], strict=True)
        if count
    ]
    assert figures["ece"] == pytest.approx(100 * sum(gaps) / 7)
    assert (about["task"], about["mode"], about["fraction"], about["votes"]) == ("recognise", "frozen", 1.0, 3)
    assert Predictions(made.predictions).there() and Predictions(made.predictions, None).there()
    assert not list(made.predictions.glob("*.npz"))


def test_what_has_no_label_that_is_a_class_is_not_judged(tmp_path: Path) -> None:
    task = Recognise(RecogniseConfig(target="light"))
    tested = [Entry(f"{number}.mp4", "test", {"light": name}) for number, name in enumerate("010x")]
    assert task.labels.learn(tested[:3]) == ["0", "1"]
    keeper = Predictions(tmp_path).keeper(task, ["0", "1"], tested, {})
    assert keeper is not None
    shown = Shown(None, tested)
    keeper(shown, np.full((4, 2), 0.5, np.float32), task.labels.targets(tested).numpy(), np.arange(4))
    keeper.close()
    about = json.loads((tmp_path / "about.json").read_text())
    assert (about["samples"], about["judged"], sum(about["calibration"]["count"])) == (4, 3, 3)


def test_predictions_of_tags(made: Made, tmp_path: Path) -> None:
    source = source_of(made.root)
    names = ("light", "length")
    rows = [replace(e, labels={}, tags=tuple(e.labels[n] for n in names), num_frames=10) for e in source.entries()]
    rows = [replace(entry, source=f"raw/{entry.name}") for entry in rows]  # as those of a pack are
    source.entries = lambda: rows  # type: ignore[method-assign]
    (tmp_path / "confusion.csv").write_text("of an earlier time")
    config = recognise_settings({"multi_label": True, "target": None}, modes=("full",), epochs=3)
    result = finetune(source, [made.root.parent / "run"], config, CPU, predictions=Predictions(tmp_path))
    scores = np.load(tmp_path / "scores.npy", allow_pickle=False)
    index = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    classes = result["classes"]
    truth = np.array([[name in row["tags"] for name in classes] for row in index])
    precision = 100 * oracle.average_precision_score(truth, scores, average=None)
    assert result["results"][0]["metrics"]["mAP"]["mean"] == pytest.approx(precision.mean())
    each = rows_of(tmp_path / "per_class.csv")
    assert each[0] == ["class", "count", "average_precision"]
    assert [float(row[2]) for row in each[1:]] == pytest.approx(precision.tolist(), abs=0.005)
    assert [int(row[1]) for row in each[1:]] == truth.sum(0).tolist()
    for row, own in zip(index, scores, strict=True):
        assert (row["start"], row["num_frames"], row["source"]) == (0, 10, f"raw/{Path(row['path']).name}")
        expected = sorted((-p, name) for name, p in zip(classes, own.tolist(), strict=True) if p > 0.5)
        assert row["prediction"] == [name for _, name in expected]
        assert row["probability"] == pytest.approx([-p for p, _ in expected], abs=1e-6)
    assert not (tmp_path / "confusion.csv").exists()
    pairs = json.loads((tmp_path / "about.json").read_text())["calibration"]
    assert sum(pairs["count"]) == 7 * 4


def test_a_network_that_was_kept_says_the_same_of_the_test_videos(made: Made) -> None:
    index = [json.loads(line) for line in (made.predictions / "index.jsonl").read_text().splitlines()]
    broken = made.root / "09.mp4"
    answers = predict(made.model, [*(Path(row["path"]) for row in index), broken], CPU, batch_size=4)
    assert answers.paths == [row["path"] for row in index] and answers.classes == ["0", "1", "2"]
    assert [bad.path for bad in answers.bad] == [str(broken)]
    np.testing.assert_allclose(answers.probabilities, np.load(made.predictions / "scores.npy"), rtol=1e-4, atol=1e-6)
    best = answers.best(0, 2)
    assert [value for _, value in best] == sorted(answers.probabilities[0].tolist(), reverse=True)[:2]
    assert best[0][0] == index[0]["prediction"]


def called(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["predict", *map(str, arguments)])
    return guarded(main)


def test_predict_as_it_is_called(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("00.mp4", "03.mp4", "09.mp4"):
        shutil.copy(made.root / name, folder / name)
    output = tmp_path / "out" / "said.jsonl"
    assert called(monkeypatch, folder, "--model", made.model.parent, "--top", 2, "--output", output) == 0
    out, err = capsys.readouterr()
    assert "the likeliest of 3 classes" in " ".join(out.split()) and "1 of 3 videos cannot be read:" in err
    assert f"{folder / '09.mp4'}: " in err
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [Path(line["path"]).name for line in lines] == ["00.mp4", "03.mp4", "09.mp4"]
    assert set(lines[2]) == {"path", "error"}
    for line in lines[:2]:
        assert line["top"][0]["class"] == line["prediction"] and len(line["top"]) == 2
        assert line["probability"] == line["top"][0]["probability"] >= line["top"][1]["probability"]
    assert called(monkeypatch, made.model, folder / "00.mp4") == 0  # the network may come first
    assert "00.mp4" in capsys.readouterr().out.replace("\n", "").replace(" ", "").replace("│", "")
    assert called(monkeypatch, "--model", made.model, folder / "09.mp4", tmp_path / "none.mp4") == 1
    assert "none of 2 videos can be read" in capsys.readouterr().err
    assert called(monkeypatch, "--model", folder, folder / "00.mp4") == 2
    assert f"{folder}: no head.json" in capsys.readouterr().err


def test_networks_that_cannot_be_used_are_named(made: Made, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no nowhere in"):
        find_tuned(made.root.parent / "nowhere")
    state = tmp_path / "stopped" / "finetune" / "mine_unfinished"
    state.mkdir(parents=True)
    (state / "about.json").write_text("{}")
    for place in (tmp_path / "stopped", state.with_name("mine"), state.with_name("mine") / "full_100_0"):
        with pytest.raises(ConfigError, match=r"its fine-tuning 'mine' is not finished; run the same .*on$"):
            find_tuned(place)
    for name in ("a", "b"):
        shutil.copytree(made.model, tmp_path / "run" / "finetune" / name)
    with pytest.raises(ConfigError, match=r"several fine-tuned networks: name one of .*/a, .*/b"):
        find_tuned(tmp_path / "run")
    a, b = (tmp_path / "run" / "finetune" / name for name in ("a", "b"))
    described = json.loads((a / "head.json").read_text())
    assert described["task"]["name"] == "recognise" and described["fit"]["mode"] == "frozen"
    for change, told in (
        ({"format": 2}, "format 2 is newer"),
        ({"task": described["task"] | {"name": "recognize"}}, "did you mean 'recognise'"),
        ({"classes": 3}, "head.json: not the description"),
        ({"classes": ["0", "1"]}, r"head\.safetensors: cannot be loaded"),
        ({"task": {"name": "part"}}, "part: the head of this task cannot be used on its own"),
    ):
        (a / "head.json").write_text(json.dumps(described | change))
        with pytest.raises(UserError, match=told):
            load_tuned(a)
    (b / "head.safetensors").write_bytes((b / "head.safetensors").read_bytes()[:-9])
    with pytest.raises(UserError, match=r"b/head\.safetensors: cannot be loaded"):
        predict(b, [made.root / "00.mp4"], CPU)
    with pytest.raises(DataError, match="none of 1 videos can be read"):
        predict(made.model, [made.root / "09.mp4"], CPU)


def test_the_report_has_the_figures_of_videos(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.predictions, tmp_path / "finetune" / "quick_predictions")
    written = made.result | {"config": {"task": {"name": "recognise"}}}
    (tmp_path / "finetune" / "quick.json").write_text(json.dumps(written))
    found = finetuned(SimpleNamespace(directory=tmp_path, of_clouds=False))  # type: ignore[arg-type]
    assert found is not None and not found.scenes and found.recognised is not None
    assert f"{made.result['results'][0]['metrics']['top1']['mean']:.1f} % right" in str(found.recognised.panels[0])
    (table,) = found.tables
    top1 = made.result["results"][0]["metrics"]["top1"]["mean"]
    rows = {row.name: [cell.value for cell in row.cells] for row in table.rows}
    assert table.heads == ["frozen"] and rows["top1, 100 % of the labels"] == [f"{top1:.1f}"]


def test_the_report_shows_the_hardest_videos_and_what_speaks_for_either_class(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.predictions, tmp_path / "quick_predictions")
    shutil.copytree(made.model, tmp_path / "quick" / made.model.name)
    data = source_of(made.root).video.model_dump(mode="json")
    (tmp_path / "quick.json").write_text(json.dumps({"config": {"data": data}}))
    found = recognised(tmp_path / "quick_predictions")
    rows = [json.loads(line) for line in (made.predictions / "index.jsonl").read_text().splitlines()]
    classes = json.loads((made.predictions / "classes.json").read_text())
    scores = np.load(made.predictions / "scores.npy", allow_pickle=False)
    wrong = [i for i, row in enumerate(rows) if row["label"] != row["prediction"]]
    wrong.sort(key=lambda i: scores[i, classes.index(rows[i]["label"])])
    assert wrong and [sample.name for sample in found.hardest] == [Path(rows[i]["path"]).name for i in wrong[:6]]
    first, row = found.hardest[0], rows[wrong[0]]
    assert first.labels == [("truth", row["label"]), ("said", row["prediction"])]
    assert [caption[0] for caption, _ in first.strips] == ["The clip", row["prediction"], row["label"]]
    assert len({picture.uri for _, picture in first.strips}) == 3


def test_the_hardest_videos_of_official_splits_are_those_of_the_first_one(made: Made, tmp_path: Path) -> None:
    """Also where the name has dots in it."""
    root, beside = tmp_path / "ucf", tmp_path / "quick.v1.5"
    rows = [json.loads(line) for line in (made.predictions / "index.jsonl").read_text().splitlines()]
    for row in rows:
        place = root / row["label"] / f"v_{row['label']}_{Path(row['path']).name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(row["path"], place)
        row["path"] = str(place)
    (root / "classInd.txt").write_text("1 0\n2 1\n3 2\n")
    files = [str(Path(row["path"]).relative_to(root)) for row in rows]
    (root / "trainlist02.txt").write_text("")
    (root / "testlist02.txt").write_text("\n".join(files) + "\n")
    predictions = tmp_path / f"{beside.name}_predictions"
    shutil.copytree(made.predictions, predictions)
    (predictions / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(made.model, beside / "split_2" / made.model.name)
    data = {"name": "video", "root": str(root), "format": "ucf101"}
    (tmp_path / f"{beside.name}.json").write_text(json.dumps({"config": {"data": data, "splits": [2, 1]}}))
    found = recognised(predictions)
    wrong = sum(row["label"] != row["prediction"] for row in rows)
    assert not found.note and len(found.hardest) == min(6, wrong) > 0


def test_predictions_are_in_the_order_of_the_test_part_however_they_come(tmp_path: Path) -> None:
    task = Recognise(RecogniseConfig(target="x"))
    tested = [Entry(f"{i}", "test", {"x": "ab"[i % 2]}) for i in range(4)]
    task.learn_classes(Parts(tested), lambda *_: [])
    keeper = Predictions(tmp_path).keeper(task, ["a", "b"], tested, {})
    assert keeper is not None
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]], np.float32)
    for rows in ([0, 3], [1], [2]):
        keeper(Shown(None, [tested[i] for i in rows]), scores[rows], np.array(rows) % 2, np.arange(len(rows)))
    keeper.close()
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy", allow_pickle=False), scores)
    told = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    assert [row["path"] for row in told] == ["0", "1", "2", "3"]
