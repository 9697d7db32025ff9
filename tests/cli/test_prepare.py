from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from st_ssl.cli.prepare import main
from st_ssl.core.errors import DataError
from st_ssl.data.synthetic import drives
from st_ssl.data.synthetic.drives import SyntheticDriveConfig
from tests.data.made import write_images, write_video
from tests.runs import write_videos


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return write_videos(tmp_path / "videos", 3)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["prepare", *arguments, "--workers", "0"])
    return main()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where what ``verify`` found is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "st_ssl" / "verified"


def test_index_verify_pack(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pack = str(tmp_path / "pack")
    assert run(monkeypatch, "index", str(videos)) == 0
    assert "st_ssl_index.jsonl: 3 videos, 72 frames" in capsys.readouterr().out
    assert run(monkeypatch, "verify", str(videos)) == 0
    assert capsys.readouterr().out.endswith("3 of 3 videos are sound, 0 broken\n")
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
    assert capsys.readouterr().out.endswith("empty.mp4: file is empty\n3 of 4 videos are sound, 1 broken\n")


def test_a_pack_with_failures_tells_how_to_try_them_again(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, pack = videos / "empty.mp4", str(tmp_path / "pack")
    broken.touch()
    assert run(monkeypatch, "pack", str(videos), "--output", pack) == 1
    assert "1 videos are left out: a shard without its .jsonl is packed again" in capsys.readouterr().out
    broken.write_bytes((videos / "00.mp4").read_bytes())
    Path(pack, "shard-00000.jsonl").unlink()
    assert run(monkeypatch, "pack", str(videos), "--output", pack) == 0


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
        ("drives", ("sweeps=2", "beams=4", "columns=36"), "train/drive_0000/poses.txt"),
        ("drives", ("sweeps=2", "beams=4", "columns=36", "--layout=kitti"), "training/label_2/000000.txt"),
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
    with pytest.raises(
        ValueError, match=r"'layout=kiti': layout: (must be 'own', 'kitti', .*did you mean|unknown key)"
    ):
        run(monkeypatch, "synthetic", kind, "--output", str(tmp_path / kind), "--layout", "kiti")


def test_each_data_set_has_a_file_of_its_own(
    videos: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And none is written to the current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "clouds").mkdir()
    np.save(tmp_path / "clouds" / "a.npy", np.random.default_rng(0).random((20, 3)))
    for root, kind in ((tmp_path / "clouds", "points"), (videos, "video"), (tmp_path / "clouds", "points")):
        assert run(monkeypatch, "verify", str(root), "--kind", kind, "--workers", "0") == 0
    kept = sorted(cache.glob("*.jsonl"))
    assert [path.name.rpartition("-")[0] for path in kept] == ["clouds", videos.name]
    assert list((tmp_path / "here").iterdir()) == []
    capsys.readouterr()
    with pytest.raises(DataError, match=r"not a record of these data .*--output"):
        run(monkeypatch, "verify", str(videos), "--output", str(kept[0]))


def scans(folder: Path, tops: dict[str, int]) -> Path:
    """Clouds in 0 … 5 with an intensity up to that of each name, as text with a header."""
    rng = np.random.default_rng(0)
    for name, top in tops.items():
        rows = np.hstack([rng.uniform(0, 5, (60, 3)), rng.integers(0, top, (60, 1)), rng.random((60, 1))])
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(folder / name, rows, header="x,y,z,intensity,echo", delimiter=",", comments="")
    return folder


def test_verify_shows_how_a_data_set_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("train/bus/a.asc", "train/bus/b.asc", "train/car/a.asc", "test/bus/c.asc")
    root = scans(tmp_path / "scans", dict.fromkeys(names, 200))
    (root / "test/car").mkdir()
    (root / "test/car/copy.asc").write_bytes((root / "train/car/a.asc").read_bytes())
    (root / "train/car/empty.asc").touch()
    (root / "notes.docx").write_text("by hand")
    assert run(monkeypatch, "verify", str(root)) == 1
    out = capsys.readouterr().out
    for line in (
        "read as data.format=folder: 6 samples (2 test, 4 train)",
        "labels: folders, 2 classes: bus (1 test, 2 train), car (1 test, 2 train)",
        "left out: 1 .docx",
        "intensity of the range 0 … 255 becomes 0 … 1 (values ",
        "columns left out, whose names mean nothing to us: echo (in 5 of 5 files)",
        f"the same content in several splits: 1 clouds: {root}/test/car/copy.asc = {root}/train/car/a.asc",
        "300 points, 60 to 60 a cloud",
        "labels of points: none",
    ):
        assert line in out, out
    assert out.endswith("train/car/empty.asc: file is empty\n5 of 6 clouds are sound, 1 broken\n")
    assert run(monkeypatch, "verify", str(root), "intensity_range=[0,400]") == 1
    assert "intensity of the range 0 … 400 becomes 0 … 1" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"intensity_rang: unknown key; did you mean 'intensity_range'"):
        run(monkeypatch, "verify", str(root), "data.intensity_rang=[0,400]")


def test_verify_names_outliers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, scale in enumerate((1, 1, 1, 1000)):
        np.save(tmp_path / f"{number}.npy", np.random.default_rng(number).random((50, 3)) * scale)
    assert run(monkeypatch, "verify", str(tmp_path)) == 0
    assert "much wider or narrower than most (0.9" in (out := capsys.readouterr().out)
    assert f"): 1: {tmp_path}/3.npy (" in out


def test_verify_shows_stray_classes_of_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, top in {"train/a": 3, "train/b": 2, "test/a": 3, "test/b": 149}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        xyz = np.random.default_rng(len(name)).random((40, 3))
        np.savez(tmp_path / f"{name}.npz", xyz=xyz, segment=np.where(np.arange(40) > 30, top, -1))
    assert run(monkeypatch, "verify", str(tmp_path)) == 0
    assert (
        f"labels of points, segment: 3 … 149 in test ({tmp_path}/test/b.npz), 2 … 3 in train\n"
        in capsys.readouterr().out
    )


def test_verify_counts_what_has_no_label_length_or_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    for name in ("run", "jump"):
        (root / name).mkdir(parents=True)
        write_images(root / name / "0", 3)
    write_video(root / "a.mp4", 8)
    write_video(root / "run" / "b.mkv", 8, times=[0, 40, 80, 120, 160, 600, 640, 680])
    assert run(monkeypatch, "verify", str(root)) == 0
    out = capsys.readouterr().out
    for line in ("without a label: 1 of 4", "known lengths of 2 of 4: 3 to 3", "no constant frame rate: 1 of 2"):
        assert line in out, out


def test_all_may_be_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"\0" * 99)
    assert run(monkeypatch, "verify", str(tmp_path)) == 1
    assert capsys.readouterr().out.endswith("0 of 2 videos are sound, 2 broken\n")


def test_verify_tells_what_is_wrong_with_boxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, page = tmp_path / "drives", tmp_path / "boxes.html"
    config = SyntheticDriveConfig(num_train=2, num_val=0, num_test=0, sweeps=5, columns=600)
    drives.write_dataset(root, config, num_workers=0, progress=False)
    assert run(monkeypatch, "verify", str(root), "--kind", "drives") == 0
    said = capsys.readouterr().out
    assert "10 of 10 clouds are sound, 0 broken" in said
    assert "in 4 sweeps" in said
    assert "mistake" not in said
    for file in root.rglob("boxes/*.txt"):
        rows = [line.split() for line in file.read_text().splitlines()[1:]]
        low = [[*row[:3], str(float(row[3]) - float(row[6]) / 2), *row[4:]] for row in rows]
        file.write_text("\n".join(map(" ".join, low)))
    assert run(monkeypatch, "verify", str(root), "--kind", "drives", "--page", str(page), "data.classes=[car]") == 1
    said = capsys.readouterr().out
    assert "mistake: centres look like bottoms" in said
    assert said.endswith(f"{page}\n")
    assert "centres look like bottoms" in page.read_text()
    first = next(root.rglob("sweeps/000004.bin"))
    first.write_bytes(b"")
    assert run(monkeypatch, "verify", str(root), "--kind", "drives") == 1
    assert f"left out: {first}" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="ignored without --kind drives: --page"):
        run(monkeypatch, "verify", str(root), "--page", str(page), "--kind", "points")
    with pytest.warns(UserWarning, match=r"ignored with drives: --reader$"):
        run(monkeypatch, "verify", str(root), "--kind", "drives", "--reader", "pyav")
