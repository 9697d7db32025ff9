"""What extraction writes, what it refuses, and its command."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from st_ssl.core.errors import ConfigError, DataError
from st_ssl.core.types import Entry
from st_ssl.data.packs.video_write import PackConfig, VideoPacker
from st_ssl.data.packs.write_pack import write_pack
from st_ssl.encoders.base import load_encoder
from st_ssl.transfer.features import extract as module
from st_ssl.transfer.features.extract import extract
from tests.runs import tiny, write_config
from tests.transfer.features.extraction import CPU, LOST, command, config_of, contents, rows_of
from tests.transfer.tiny import INPUT, write_clip, write_encoder

pytestmark = pytest.mark.usefixtures("small_parts")


def test_rows_are_the_features_of_the_videos_in_their_order(dataset: Path, run: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    extract(run, config_of(dataset, tokens=True), tmp_path / "out", CPU, lambda *now: told.append(now))
    names = ["bad_samples.jsonl", "extract.json", "features.npy", "index.jsonl", "tokens.npy"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    features = np.load(tmp_path / "out" / "features.npy", mmap_mode="r", allow_pickle=False)
    tokens = np.load(tmp_path / "out" / "tokens.npy", mmap_mode="r", allow_pickle=False)
    assert (features.shape, features.dtype) == ((22, 24), np.float32)
    assert (tokens.shape, tokens.dtype) == ((22, 8, 24), np.float16)
    index = rows_of(tmp_path / "out")
    assert [row["row"] for row in index] == list(range(22))
    expected = [f"{i:02d}.mp4" for i in range(24) if f"{i:02d}.mp4" not in LOST]
    assert [Path(row["path"]).name for row in index] == expected
    assert index[0]["split"] == "test"
    assert index[1]["labels"]["light"] == "bright"
    bad = {Path(row["path"]).name: row["reason"] for row in rows_of(tmp_path / "out", "bad_samples.jsonl")}
    assert bad == LOST
    assert told[0] == (0, 24)
    assert told[-1] == (24, 24)
    assert told == sorted(told)

    encoder = load_encoder(run)
    for row in (0, 9, 21):
        clip = decoded(Path(index[row]["path"]), index[row]["frames"][0])
        with torch.inference_mode():
            alone = encoder(clip[None])
        # Where the resized pixels lie half a grey level apart the features differ in the third digit.
        np.testing.assert_allclose(features[row], alone.pooled[0], atol=0.01)
        np.testing.assert_allclose(tokens[row], alone.as_tokens()[0], atol=0.05)
        assert np.abs(features - alone.pooled[0].numpy()).max(1).argmin() == row


def decoded(path: Path, frames: list[int]) -> torch.Tensor:
    """A clip [3, T, H, W] by other means: all frames, resized by torch, normalised."""
    import av

    with av.open(str(path)) as container:
        images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    clip = torch.from_numpy(np.stack([images[i] for i in frames])).permute(0, 3, 1, 2)[..., :, 4:28]  # 24 of 32 wide
    small = torch.nn.functional.interpolate(clip.float(), INPUT.size, mode="bilinear", antialias=True).round()
    mean, std = (torch.tensor(v)[:, None, None, None] for v in (INPUT.mean, INPUT.std))
    return (small.permute(1, 0, 2, 3) / 255 - mean) / std


def test_several_clips_have_features_of_their_own(dataset: Path, run: Path, tmp_path: Path) -> None:
    extract(run, config_of(dataset, clips=3, tokens=True, format="safetensors"), tmp_path / "out", CPU)
    extract(run, config_of(dataset), tmp_path / "one", CPU)
    with safe_open(tmp_path / "out" / "features.safetensors", framework="np") as file:
        assert list(file.keys()) == ["features", "tokens"]
        features, tokens = file.get_tensor("features"), file.get_tensor("tokens")
    assert (features.shape, features.dtype) == ((22, 3, 24), np.float32)
    assert (tokens.shape, tokens.dtype) == ((22, 3, 8, 24), np.float16)
    frames = np.array([row["frames"] for row in rows_of(tmp_path / "out")])
    assert frames.shape == (22, 3, 4)
    assert (np.diff(frames[:, :, 0]) > 0).all()
    middle = np.load(tmp_path / "one" / "features.npy")  # a single clip is the one in the middle
    np.testing.assert_array_equal(frames[:, 1], [row["frames"][0] for row in rows_of(tmp_path / "one")])
    np.testing.assert_allclose(features[:, 1], middle, rtol=1e-5, atol=1e-6)


def test_workers_change_nothing(dataset: Path, run: Path, tmp_path: Path) -> None:
    extract(run, config_of(dataset), tmp_path / "none", CPU)
    extract(run, config_of(dataset, data={"num_workers": 2}), tmp_path / "two", CPU)
    assert contents(tmp_path / "none") == contents(tmp_path / "two")


def test_parts_of_videos_are_told_apart_and_noticed(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    root = tmp_path / "set"
    root.mkdir()
    write_clip(root / "a.mp4", 100, 60)
    listing = root / "list.txt"
    listing.write_text("a.mp4 0 20\na.mp4 30 30\n")
    config = config_of(root, data={"list": str(listing), "format": "videomae"})
    extract(run, config, tmp_path / "out", CPU)
    first, second = rows_of(tmp_path / "out")
    assert (first["start"], first["num_frames"]) == (0, 20)
    assert (second["start"], second["num_frames"]) == (30, 30)
    assert 0 <= min(first["frames"][0]) <= max(first["frames"][0]) < 20
    assert 30 <= min(second["frames"][0]) <= max(second["frames"][0]) < 60
    listing.write_text("a.mp4 0 20\na.mp4 20 30\n")
    with pytest.raises(ConfigError, match=r"holds another set of features \(.*list: "):
        extract(run, config, tmp_path / "out", CPU)


def test_rows_of_a_pack_name_the_videos_that_were_packed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "raw" / "a").mkdir(parents=True)
    paths = [tmp_path / "raw" / name for name in ("a/x.mp4", "y.mp4")]
    for path in paths:
        write_clip(path, 50, 12)
    entries = [Entry(str(paths[0]), labels={"n": "0"}, tags=("wet", "cold")), Entry(str(paths[1]))]
    write_pack(entries, tmp_path / "pack", VideoPacker(PackConfig(short_side=16)), progress=False)
    extract(run, config_of(tmp_path / "pack"), tmp_path / "out", CPU)
    first, second = rows_of(tmp_path / "out")
    assert (first["source"], first["tags"], first["labels"]) == ("a/x.mp4", ["wet", "cold"], {"n": "0"})
    assert first["path"] == f"{tmp_path}/pack/shard-00000.tar/00000-000000.mp4"
    assert second["source"] == "y.mp4"
    assert "tags" not in second


@pytest.mark.parametrize("change", [{"start": 1}, {"num_frames": 9}, {"labels": {"x": "2"}}, {"tags": ("t",)}])
def test_every_change_of_a_video_is_a_change_of_the_settings(run: Path, change: dict[str, Any]) -> None:
    config = config_of(Path("set"))
    entry = Entry("a.mp4", labels={"x": "1"})
    before = module.settings_of(run, config, [entry])
    assert module.settings_of(run, config, [Entry("a.mp4", labels={"x": "1"})]) == before
    assert module.settings_of(run, config, [replace(entry, **change)]) != before


# -------------------------------------------------------------------- mistakes


def test_too_many_broken_videos_stop_it_and_are_tried_again(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    root, away = tmp_path / "set", tmp_path / "away"
    root.mkdir()
    for i in range(12):
        write_clip(root / f"{i:02d}.mp4", 20 * i, 12)
    listing = root / "list.txt"
    listing.write_text("".join(f"{i:02d}.mp4\n" for i in range(12)))
    config = config_of(root, data={"list": str(listing)})
    extract(run, config, tmp_path / "whole", CPU)
    shutil.copytree(root, away)
    for i in range(2, 10):
        (root / f"{i:02d}.mp4").unlink()
    with pytest.raises(DataError, match=r"(?s)8 of 12 videos are broken, more than .*=0\.1 allows.*02\.mp4: file is"):
        extract(run, config, tmp_path / "out", CPU)
    assert not (tmp_path / "out" / "index.jsonl").exists()
    extract(run, config_of(root, data={"list": str(listing), "max_bad_share": 0.7}), tmp_path / "out", CPU)
    assert len(rows_of(tmp_path / "out")) == 4
    with pytest.raises(DataError, match="8 of 12"):
        extract(run, config, tmp_path / "again", CPU)
    shutil.copytree(away, root, dirs_exist_ok=True)  # the disk is back
    extract(run, config, tmp_path / "again", CPU)
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_nothing_but_broken_videos_is_an_error_and_tried_again(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "set").mkdir()
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "set" / name).write_bytes(b"")
    for _ in range(2):
        with pytest.raises(DataError, match=r"(?s)2 of 2 videos are broken.*a\.mp4: file is empty"):
            extract(run, config_of(tmp_path / "set"), tmp_path / "out", CPU)
    write_clip(tmp_path / "set" / "a.mp4", 100, 12)
    extract(run, config_of(tmp_path / "set"), tmp_path / "out", CPU)
    assert len(rows_of(tmp_path / "out")) == len(rows_of(tmp_path / "out", "bad_samples.jsonl")) == 1


def test_a_folder_of_something_else_is_left_alone(dataset: Path, run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match=r"mine is not empty and has no extract\.json \(found thesis\.tex\)"):
        extract(run, config_of(dataset), tmp_path / "mine", CPU)
    with pytest.raises(ConfigError, match=r"thesis\.tex is a file: a set of features needs a folder"):
        extract(run, config_of(dataset), tmp_path / "mine" / "thesis.tex", CPU)
    extract(run, config_of(dataset), tmp_path / "out", CPU)
    other = write_encoder(tmp_path / "other", seed=1)
    for where, config, named in (
        (run, config_of(dataset, clips=2), "clips: 1 before, 2 now"),
        (other, config_of(dataset), "weights: "),
    ):
        with pytest.raises(ConfigError, match=rf"holds another set of features \(.*{named}"):
            extract(where, config, tmp_path / "out", CPU)
    (tmp_path / "out" / "extract.json").write_text("[3]")
    with pytest.raises(ConfigError, match=r"extract\.json is not valid JSON"):
        extract(run, config_of(dataset), tmp_path / "out", CPU)


def test_the_command(dataset: Path, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    where = tmp_path / "out"
    arguments = (run, "--data", dataset, "--output", where, "--clips", 2, "data.num_workers=0", "device=cpu")
    assert command(*arguments) == 0
    told = f"{where}: features of 22 samples; 2 broken, listed in {where / 'bad_samples.jsonl'}\n"
    out, err = capfd.readouterr()
    assert out == told
    assert "extract: samples 24/24, " in err
    assert "s left" in err
    assert np.load(where / "features.npy").shape == (22, 2, 24)
    assert command(*arguments) == 0
    assert capfd.readouterr() == (told, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--clip", "2"), "unknown option --clip; did you mean '--clips'?"),
        (("--tokns",), "unknown option --tokns; did you mean '--tokens'?"),
        (("--clips", "0"), "command line, '--clips 0': clips: must be greater than 0, not '0'"),
        (("--clips", "many"), "clips: must be a whole number, not 'many'"),
        (("--format", "npz"), "did you mean 'npy'?"),
        (("data.num_wokers=1",), "data.num_wokers: unknown key; did you mean 'num_workers'?"),
        (("batchsize=1",), "batchsize: unknown key; did you mean 'batch_size'?"),
    ],
)
def test_mistyped_options_are_named(
    dataset: Path,
    run: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command(run, "--data", dataset, "--output", tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_data_are_those_of_the_run_where_none_are_named(
    dataset: Path, run: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(run, "--output", tmp_path / "out") == 2
    assert f"{run} has no config.yaml that tells its data: --data ROOT is needed" in capsys.readouterr().err
    own = write_encoder(tmp_path / "own")
    write_config(own / "config.yaml", tiny(videos, own))
    assert command(own, "--output", tmp_path / "out", "device=cpu") == 0
    assert [Path(row["path"]) for row in rows_of(tmp_path / "out")] == sorted(videos.iterdir())


def test_a_folder_of_several_runs_is_answered_with_their_names(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b", "a"):
        write_encoder(tmp_path / "suite" / name)
    for data in ((), ("--data", dataset)):
        assert command(tmp_path / "suite", *data, "--output", tmp_path / "out") == 2
        assert "is not the folder of a pretrained encoder (but these in it are: a, b)" in capsys.readouterr().err
