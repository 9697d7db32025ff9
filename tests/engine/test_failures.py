"""What goes wrong: losses that are not finite, and files that are not videos."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from st_ssl.core.errors import DataError
from st_ssl.data.base import Batch
from st_ssl.engine.quarantine import Quarantine
from st_ssl.engine.runtime import Runtime
from st_ssl.engine.trainer import Trainer, TrainingError
from tests.data.loading.disasters import crash, hang
from tests.ddp import run_ranks
from tests.runs import CPU, call, load, metrics, tiny, train, write_config, write_video

# -------------------------------------------------------------------- not finite


def spoil(trainer: Trainer, at: int, ranks: tuple[int, ...] = (0,)) -> None:
    """Make the loss NaN at step ``at`` (from 1), on some ranks alone."""
    losses = trainer.method.losses

    def spoiled(outputs: Any) -> Any:
        result = losses(outputs)
        if trainer.step + 1 == at and trainer.runtime.rank in ranks:
            result.loss = result.loss * float("nan")
        return result

    trainer.method.losses = spoiled  # type: ignore[method-assign]


def test_a_nan_loss_stops_before_the_update_and_names_the_samples(videos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trainer = Trainer(load(tiny(videos, run, engine={"checkpoint_every": 1})), Runtime(CPU))
    spoil(trainer, at=3)
    with pytest.raises(TrainingError) as caught:
        trainer.fit()
    message = str(caught.value)
    assert "the loss is not finite at step 3; the weights are still those of step 2" in message
    paths = [trainer.entries[index].path for _, index, _ in trainer.order.step(2)]
    assert f"rank 0: {', '.join(paths)}" in message
    clean = train(tiny(videos, tmp_path / "clean"), stop_at=2)
    for name, parameter in trainer.method.named_parameters():
        assert torch.equal(parameter, clean.method.get_parameter(name))
    assert [row["step"] for row in metrics(run)] == [1, 2]
    assert max(path.name for path in (run / "checkpoints").iterdir()) == "step_00000002"
    train(tiny(videos, run, engine={"checkpoint_every": 1}))  # mended, it goes on
    assert len(metrics(run)) == 12


def test_a_gradient_that_is_not_finite_stops_too(videos: Path, tmp_path: Path) -> None:
    trainer = Trainer(load(tiny(videos, tmp_path / "run")), Runtime(CPU))
    before = {name: p.clone() for name, p in trainer.method.named_parameters()}
    next(trainer.method.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match="the gradient is not finite at step 1; the weights are still"):
        trainer.fit()
    assert all(torch.equal(p, before[name]) for name, p in trainer.method.named_parameters())


def nan_on_one(rank: int, world_size: int, data: dict[str, Any]) -> dict[str, Any]:
    """What a rank is told when rank 1 alone has a NaN, and the step its weights are of."""
    trainer = Trainer(load(data | {"output_dir": f"{data['output_dir']}-{rank}"}), Runtime(CPU, rank, world_size))
    spoil(trainer, at=3, ranks=(1,))
    try:
        trainer.fit()
    except TrainingError as error:
        paths = [trainer.entries[index].path for _, index, _ in trainer.order.step(2)[2:]]
        return {"message": str(error), "step": trainer.step, "paths": ", ".join(paths)}
    return {"message": "", "step": trainer.step, "paths": ""}


@pytest.mark.ddp
def test_a_nan_on_one_of_two_ranks_stops_both(videos: Path, tmp_path: Path) -> None:
    for told in run_ranks(nan_on_one, 2, tmp_path, tiny(videos, tmp_path / "run")):
        assert told["step"] == 2
        assert "the loss is not finite at step 3" in told["message"]
        assert told["message"].endswith(f"rank 1: {told['paths']}")


# -------------------------------------------------------------------- broken files

BROKEN = {3: "empty", 11: "truncated", 17: "text", 25: "missing", 38: "one_frame"}


@pytest.fixture(scope="module")
def folder(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 videos, of which five are broken, each in its own way, in ``broken.txt``, and none in ``healthy.txt``."""
    folder = tmp_path_factory.mktemp("broken")
    names = [f"v{number:02d}.mp4" for number in range(40)]
    for number, name in enumerate(names):
        shutil.copy(videos / f"{number % 12:02d}.mp4", folder / name)
    (folder / "empty.mp4").write_bytes(b"")
    whole = (videos / "11.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mp4").write_text("this is not a video\n" * 100)
    write_video(folder / "one_frame.mp4", 0, num_frames=1)
    (folder / "healthy.txt").write_text("\n".join(names))
    mixed = [f"{BROKEN[number]}.mp4" if number in BROKEN else name for number, name in enumerate(names)]
    (folder / "broken.txt").write_text("\n".join(mixed))
    return folder


def bad_samples(run: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (run / "bad_samples.jsonl").read_text().splitlines()]


def test_broken_files_are_replaced_and_each_is_listed_once_with_its_reason(folder: Path, tmp_path: Path) -> None:
    data = tiny(folder / "broken.txt", tmp_path / "run", data={"num_workers": 2}, engine={"epochs": 2})
    train(data, stop_at=13)
    train(data)  # resumed in the second pass, it lists none again
    rows = metrics(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 21))
    reasons = {Path(row["path"]).stem: row["reason"] for row in bad_samples(tmp_path / "run")}
    assert len(bad_samples(tmp_path / "run")) == 5
    assert reasons.keys() == set(BROKEN.values())
    assert all(reasons.values())
    assert "single frame" in reasons["one_frame"]
    assert rows[-1]["broken"] == 5


def test_the_healthy_samples_are_seen_as_if_nothing_were_broken(folder: Path, tmp_path: Path) -> None:
    def batches(listing: str) -> list[Batch]:
        trainer = Trainer(load(tiny(folder / listing, tmp_path / listing)), Runtime(CPU))
        return [batch for batch, _ in trainer._batches(0, 10)]

    replaced = 0
    for with_broken, reference in zip(batches("broken.txt"), batches("healthy.txt"), strict=True):
        assert torch.equal(with_broken.wanted, reference.wanted)
        for row, (index, wanted) in enumerate(zip(with_broken.indices, with_broken.wanted, strict=True)):
            assert (int(index) != int(wanted)) == (int(wanted) in BROKEN)
            assert int(index) not in BROKEN
            replaced += int(index) != int(wanted)
            for view, other in zip(with_broken.views, reference.views, strict=True):
                if index == wanted:
                    assert torch.equal(view.clip[row], other.clip[row])
                    assert all(torch.equal(value[row], other.params[name][row]) for name, value in view.params.items())
    assert replaced == 5


@pytest.mark.parametrize(("how", "reason"), [("hang", "hung for 2 s"), ("crash", "crashed (signal 11, SIGSEGV)")])
def test_a_decoder_that_hangs_or_crashes_costs_one_sample(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, reason: str
) -> None:
    from st_ssl.data.packs import video_index as index

    open_video = index.open_video
    merely_broken = train(tiny(list_with(videos, tmp_path, "gone.mp4"), tmp_path / "broken"))

    def opened(path: str, *rest: Any) -> Any:
        if path.endswith("victim.mp4"):
            hang() if how == "hang" else crash()
        return open_video(path, *rest)

    monkeypatch.setattr(index, "open_video", opened)
    settings = {"num_workers": 2, "sample_timeout": 2.0}
    trainer = train(tiny(list_with(videos, tmp_path, "victim.mp4"), tmp_path / "run", data=settings))
    (row,) = bad_samples(tmp_path / "run")
    assert row["path"].endswith("victim.mp4")
    assert row["reason"] == f"decoder {reason}"
    for name, parameter in trainer.method.named_parameters():  # all other samples are untouched
        assert torch.equal(parameter, merely_broken.method.get_parameter(name))


def list_with(videos: Path, folder: Path, name: str) -> Path:
    """A list of all of ``videos``, with ``name`` in place of number 5."""
    paths = sorted(str(path) for path in videos.iterdir())
    paths[5] = str(folder / name)
    file = folder / f"{name}.txt"
    file.write_text("\n".join(paths))
    return file


def test_more_than_the_share_stops_the_run(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "broken.txt").read_text().splitlines()
    lines[0] = "also_missing.mp4"
    (folder / "six.txt").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"6 of 40 samples are broken, more than data\.max_bad_share=0\.1") as caught:
        train(tiny(folder / "six.txt", tmp_path / "run"))
    assert str(tmp_path / "run" / "bad_samples.jsonl") in str(caught.value)
    assert len(bad_samples(tmp_path / "run")) == 6
    train(tiny(folder / "six.txt", tmp_path / "run", data={"max_bad_share": 0.2}))
    assert len(bad_samples(tmp_path / "run")) == 6


def test_a_folder_of_nothing_but_broken_files_ends_in_a_message(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number:02d}.mp4").write_text("not a video")
    config = write_config(tmp_path / "config.yaml", tiny(folder, tmp_path / "run", data={"num_workers": 2}))
    code, _, err = call("pretrain", config)
    assert code == 1
    assert err.startswith("error: ")
    assert "samples are broken" in err
    listed = bad_samples(tmp_path / "run")
    for row in listed[:5]:
        assert f"  {row['path']}: {row['reason']}" in err
    assert "Traceback" not in err


def test_half_a_line_of_the_list_is_mended(tmp_path: Path) -> None:
    from st_ssl.data.base import BadSample

    file = tmp_path / "bad_samples.jsonl"
    file.write_text('{"path": "a{}.mp4", "reason": "empty"}\n{"path": "b{}')
    quarantine = Quarantine(file, 100, 0.1)
    assert quarantine.known == {"a{}.mp4": "empty"}
    quarantine.add([BadSample("b{}.mp4", "text"), BadSample("a{}.mp4", "again")])
    quarantine.add([BadSample("c.mp4", "text")])
    quarantine.add([BadSample("d.mp4", "text")], write=False)
    assert [row["path"] for row in map(json.loads, file.read_text().splitlines())] == ["a{}.mp4", "b{}.mp4", "c.mp4"]
    assert Quarantine(file, 100, 0.1).known == {"a{}.mp4": "empty", "b{}.mp4": "text", "c.mp4": "text"}


def test_five_are_never_too_many_and_a_share_counts_beyond() -> None:
    from st_ssl.data.base import BadSample

    few, many = Quarantine(None, 6, 0.1), Quarantine(None, 100, 0.1)
    few.add(BadSample(f"{n}.mp4", "empty") for n in range(5))
    few.check()
    many.add(BadSample(f"{n}.mp4", "empty") for n in range(10))
    many.check()
    for quarantine in (few, many):
        quarantine.add([BadSample("one more.mp4", "empty")])
        with pytest.raises(DataError, match=r"0\.mp4: empty"):
            quarantine.check()
