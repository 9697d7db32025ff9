from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from st_ssl.cli.benchmark import main, scenes
from st_ssl.cli.benchmark.data import DECODING, Line, _cells
from st_ssl.cli.benchmark.peers import PEERS
from st_ssl.cli.benchmark.timing import alternate, ratio
from st_ssl.core.errors import ConfigError, DataError, UserError
from tests.runs import write_videos

SMALL = ["--frames", "4", "--size", "32", "--runs", "1", "--threads", "1"]


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # so that what the command sets is taken back
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    main()
    return capsys.readouterr().out


def test_contestants_take_turns() -> None:
    calls: list[str] = []
    seconds = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 4
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_the_median_of_paired_rounds() -> None:
    assert ratio({"slow": [2.0, 9.0, 8.0], "fast": [1.0, 3.0, 1.0]}, "slow", "fast") == 3.0


def test_visible(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = run(capsys, monkeypatch, "visible", "--variant", "Ti", "--batch", "1", "--ratio", "0.5", *SMALL)
    assert "4 of 8 tokens visible" in out
    times = r"[\d.]+ times as long \([\d.]+ in processor time\)"
    assert re.search(rf"\n  visible tokens +[\d.]+ ms\n  all tokens +[\d.]+ ms: {times}\n$", out)


def test_made_videos_look_to_a_codec_like_real_scenes(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    scenes.write_scene(tmp_path / "a.mp4", 3)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec.name, stream.width, stream.height, stream.average_rate) == ("h264", 340, 256, 30)
        frames = [
            (frame.key_frame, av.video.frame.PictureType(frame.pict_type).name) for frame in container.decode(stream)
        ]
    assert [at for at, (key, _) in enumerate(frames) if key] == [0, 250]
    assert len(frames) == 300
    assert {kind for _, kind in frames} == {"I", "P", "B"}
    # real scenes of this size at crf 23: 75 to 650 kbit/s, nine files; noise alone would take thousands
    assert 100e3 < (tmp_path / "a.mp4").stat().st_size * 8 / 10 < 450e3


def test_made_videos_are_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    monkeypatch.setattr(scenes, "NUM_FRAMES", 60)
    written = []
    for number in (1, 1, 2):
        scenes.write_scene(tmp_path / "a.mp4", number)
        written.append((tmp_path / "a.mp4").read_bytes())
    assert written[0] == written[1] != written[2]


@pytest.mark.parametrize(
    ("more", "line"),
    [([], ""), (["--clips", "2"], "2 clips of a file, "), (["--packed", "32"], "packed at short side 32, ")],
)
def test_data(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: list[str], line: str
) -> None:
    root = str(write_videos(tmp_path / "videos", 2))
    out = run(capsys, monkeypatch, "data", "--root", root, "--stride", "1", *SMALL, *more)
    assert "2 videos" in out
    assert "\n| | st_ssl | decoding alone |\n|---|---|---|\n" in out
    options = " ".join(["--size", "32", *more])
    assert re.search(rf"\n\| {line}to 32² \(`{options}`\) \| \*\*[\d.]+\*\* \| [\d.]+ \([\d.]+ ×\) \|\n", out)


def test_a_table_in_one_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Five lines; the peers run once for each size, and every contestant in every round."""
    calls: list[str] = []

    def build(paths: list[str], num_frames: int, stride: int, size: int) -> Callable[[], object]:
        assert (len(paths), num_frames, stride) == (2, 4, 1)
        print("chatter")
        return lambda: calls.append(f"peer {size}")

    monkeypatch.setitem(PEERS, "peer", lambda _: build)
    monkeypatch.setattr("st_ssl.cli.benchmark.data._decode_alone", lambda *_: calls.append("decoding"))
    root = str(write_videos(tmp_path / "videos", 2))
    few = ["--frames", "4", "--stride", "1", "--runs", "2", "--threads", "1"]
    out = run(capsys, monkeypatch, "data", "--table", "--peer", "peer", "--root", root, *few)
    assert calls == ["peer 112", "peer 224", "decoding"] * 3
    rows = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == [
        "to 112²",
        "to 224² (`--size 224`)",
        "2 clips of a file, to 112² (`--clips 2`)",
        "packed at short side 128, to 112² (`--packed 128`)",
        "packed at short side 256, to 224² (`--size 224 --packed 256`)",
    ]
    assert {len(row) for row in rows[1:]} == {4}
    assert ["raw" in row[2] for row in rows[1:]] == [False, False, False, True, True]
    assert "chatter" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("visible", "--ratio", "abc"), "--ratio: abc: expected a share between 0 and 1"),
        (("visible", "--ratio", "nan"), "--ratio: nan: expected a share between 0 and 1"),
        (("visible", "--device", "xpu"), "--device: xpu: expected cpu, cuda or one of several such as cuda:1"),
        (("step", "--device", "cuda:x"), "--device: cuda:x: expected cpu, cuda"),
    ],
)
def test_arguments_that_are_none(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit):
        run(capsys, monkeypatch, *arguments)
    assert said in capsys.readouterr().err


def test_a_pack_that_would_be_too_small(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = str(write_videos(tmp_path / "videos", 1))
    with pytest.raises(ConfigError, match=r"--packed 8.*16"):
        run(capsys, monkeypatch, "data", "--root", root, "--packed", "8", *SMALL)


def test_videos_of_which_none_can_be_used(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken.mp4").write_bytes(bytes(100))
    monkeypatch.setattr("st_ssl.cli.benchmark.data._decode_alone", lambda *_: None)
    with pytest.raises(DataError, match=r"no video can be used:\n  .*broken.mp4: "):
        run(capsys, monkeypatch, "data", "--root", str(tmp_path), *SMALL)


def test_a_table_has_its_own_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "data", "--table", "--size", "64"])
    with pytest.raises(ConfigError, match="leave out --size, --clips and --packed"):
        main()


def test_a_cell_is_the_median_of_paired_rounds() -> None:
    line = Line(clips=2)
    seconds = {line.title: [1.0, 2.0, 4.0], "peer 112": [3.0, 2.0, 40.0], DECODING: [1.0, 1.0, 1.0]}
    assert _cells(line, ["peer", DECODING], 10, seconds) == ["**10.0**", "3.3 (6.00 ×)", "10.0 (1.00 ×)"]


def test_an_unknown_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "data", "--peer", "pytorchvido"])
    with pytest.raises(ConfigError, match="no such peer; did you mean 'pytorchvideo'"):
        main()


def test_a_checkout_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "data", "--peer", f"videomae={tmp_path}"])
    with pytest.raises(ConfigError, match="expected the folder of a checkout"):
        main()


def test_what_a_checkout_needs_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "kinetics.py").touch()
    (tmp_path / "datasets.py").write_text("raise ModuleNotFoundError('No module', name='cv2')\n")
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    told = r"--peer videomae=.* needs the package opencv-python: pip install opencv-python"
    with pytest.raises(UserError, match=told):
        PEERS["videomae"](str(tmp_path))([], 2, 1, 16)


def test_step_beside_its_peer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr("st_ssl.cli.benchmark.step.DECODER_DEPTH", 1)
    small = ["--variant", "S", "--batch", "1", "--ratio", "0.5", "--peer", "transformers"]
    out = run(capsys, monkeypatch, "step", *small, *SMALL)
    assert re.search(r"\n  transformers +[\d.]+ ms: [\d.]+ times as long \(.*\)\n  20 matmuls +", out)
    assert re.search(r"\n[\d.]+ steps/s, [\d.]+ clips/s\n\d+ GFLOP/s: \d+% of what matrix products", out)


def test_sampling(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("open3d", exc_type=ImportError)
    out = run(capsys, monkeypatch, "sampling", "--points", "500", "--samples", "20", "--batch", "2", *SMALL[-4:])
    assert "500 to 20, 1 threads" in out
    assert re.findall(r"\n  (.*?) +[\d.]+ ms: [\d.]+ times as long", out) == ["open3d", "usual loop"]


def test_the_usual_loop_cuts_the_patches_that_we_do() -> None:
    from st_ssl.cli.benchmark.points import _patches, _usual_patches

    xyz = torch.rand(3, 1024, 3, generator=torch.Generator().manual_seed(0))
    assert _patches(xyz).sort().values.equal(_usual_patches(xyz).sort().values)


def test_sparse_beside_its_peer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("spconv", reason="spconv is not installed")
    small = ["--variant", "tiny", "--voxels", "2000", "--runs", "1", "--threads", "1", "--peer", "spconv"]
    out = run(capsys, monkeypatch, "sparse", *small)
    found = re.search(r"a room of ([\d,]+) voxels", out)
    assert found is not None and 1000 < int(found[1].replace(",", "")) < 4000
    assert len(re.findall(r"\n  spconv +[\d.]+ ms: [\d.]+ times as long", out)) == 2


def test_a_sweep_beside_its_peer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("spconv", reason="spconv is not installed")
    draws = np.random.default_rng(0)
    near = draws.uniform((0, -3, -3, 0), (9, 3, 1, 1), (400, 4))
    np.concatenate([near, near - (100, 0, 0, 0)]).astype("<f4").tofile(tmp_path / "000000.bin")
    few = ["--runs", "1", "--threads", "1", "--peer", "spconv"]
    out = run(capsys, monkeypatch, "sweep", "--file", str(tmp_path / "000000.bin"), *few)
    found = re.search(r"backbone, (\d+) voxels of 0.05 × 0.05 × 0.1 m", out)
    assert found is not None and 380 < int(found[1]) <= 400
    assert len(re.findall(r"\n  spconv +[\d.]+ ms: [\d.]+ times as long", out)) == 1
