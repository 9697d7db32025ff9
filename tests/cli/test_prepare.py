from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from st_ssl.cli.prepare import main
from st_ssl.core.errors import DataError
from tests.runs import write_videos


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return write_videos(tmp_path / "videos", 3)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["prepare", *arguments, "--workers", "0"])
    return main()


def test_index_verify_pack(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pack = str(tmp_path / "pack")
    assert run(monkeypatch, "index", str(videos)) == 0
    assert "st_ssl_index.jsonl: 3 videos, 72 frames" in capsys.readouterr().out
    assert run(monkeypatch, "verify", str(videos)) == 0
    assert f"verified_{videos.name}.jsonl: 3 videos decoded" in capsys.readouterr().out
    assert (
        run(monkeypatch, "pack", str(videos), "--output", pack, "short_side=32", "shard_size=2", "--shard", "1/2") == 0
    )
    assert "1 shards are missing" in capsys.readouterr().out
    assert run(monkeypatch, "pack", str(videos), "--output", pack, "short_side=32", "shard_size=2") == 0
    assert f"train on it with data.root={pack}" in capsys.readouterr().out
    assert run(monkeypatch, "verify", pack) == 0
    assert run(monkeypatch, "verify", f"file://{pack}") == 0
    with pytest.warns(UserWarning, match=r"ignored with a pack: --format, --split, --reader$"):
        run(monkeypatch, "verify", pack, "--reader", "decord", "--split", "2", "--format", "folder")
    with pytest.raises(DataError, match="is a pack: it needs no index"):
        run(monkeypatch, "index", pack)


def test_what_is_broken_is_told_and_counts(
    videos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (videos / "empty.mp4").touch()
    assert run(monkeypatch, "index", str(videos)) == 1
    assert capsys.readouterr().out.endswith("empty.mp4: file is empty\n")


def test_a_pack_with_failures_tells_how_to_try_them_again(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, pack = videos / "empty.mp4", str(tmp_path / "pack")
    broken.touch()
    assert run(monkeypatch, "pack", str(videos), "--output", pack) == 1
    assert "1 videos are left out; the same command with --retry packs their shards again" in capsys.readouterr().out
    broken.write_bytes((videos / "00.mp4").read_bytes())
    assert run(monkeypatch, "pack", str(videos), "--output", pack, "--retry") == 0


@pytest.mark.parametrize("shard", ["2/2", "1", "a/b", "-1/2"])
def test_a_shard_that_is_none(shard: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(monkeypatch, "pack", "videos", "--output", "pack", f"--shard={shard}")
    assert "expected i/N with i from 0 to N - 1" in capsys.readouterr().err


@pytest.mark.parametrize("step", ["pack", "synthetic"])
def test_a_folder_that_cannot_be_made(videos: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    with pytest.raises(DataError, match=r"/proc/new cannot be written to"):
        run(monkeypatch, step, str(videos) if step == "pack" else "videos", "--output", "/proc/new")


def test_a_mistyped_setting(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"short_sid.*did you mean 'short_side'"):
        run(monkeypatch, "pack", str(videos), "--output", str(tmp_path / "pack"), "short_sid=32")


@pytest.mark.parametrize(
    ("kind", "settings", "file"),
    [
        ("shapes", ("num_points=64",), "train/00000.npz"),
        ("rooms", ("num_points=500", "num_views=1"), "train/room_00000/coord.npy"),
    ],
)
def test_synthetic_clouds(
    kind: str, settings: tuple[str, ...], file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("num_train=1", "num_val=0", "num_test=0", *settings)
    assert run(monkeypatch, "synthetic", kind, "--output", str(tmp_path / kind), *few) == 0
    assert (tmp_path / kind / file).is_file()
    with pytest.raises(ValueError, match=r"num_trian.*did you mean 'num_train'"):
        run(monkeypatch, "synthetic", kind, "--output", str(tmp_path / kind), "num_trian=1")


def test_each_data_set_has_a_file_of_its_own(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clouds").mkdir()
    np.save(tmp_path / "clouds" / "a.npy", np.random.default_rng(0).random((20, 3)))
    for root, kind in ((tmp_path / "clouds", "points"), (videos, "video"), (tmp_path / "clouds", "points")):
        assert run(monkeypatch, "verify", str(root), "--kind", kind, "--workers", "0") == 0
    assert sorted(path.name for path in tmp_path.glob("verified*")) == [
        "verified_clouds.jsonl",
        f"verified_{videos.name}.jsonl",
    ]
    capsys.readouterr()
    with pytest.raises(DataError, match=r"not a record of these data .*--output"):
        run(monkeypatch, "verify", str(videos), "--output", "verified_clouds.jsonl")
