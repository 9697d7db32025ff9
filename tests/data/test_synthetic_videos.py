from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from st_ssl.core.errors import DataError
from st_ssl.data.synthetic.shapes2d import sine
from st_ssl.data.synthetic.videos import (
    FACTORS,
    GRID,
    NUISANCES,
    PlantedVideo,
    SyntheticVideoConfig,
    plan_video,
    render,
    write_dataset,
)
from st_ssl.engine.runtime import keep_freed_memory

_Layers = Sequence[tuple[int, tuple[int, ...], int | tuple[int, ...]]]
CONFIG = SyntheticVideoConfig(num_val=240)
TINY = SyntheticVideoConfig(num_train=4, num_test=3)
# blake2b of the frames before encoding: a change here is a change of the data set, and needs a new FORMAT_VERSION
DIGESTS = {
    ("train", 0): "d036234f3274bd8fd540b5fc40b68237",
    ("train", 7): "ca14f94b375303340ece6f45574ad3e9",
    ("test", 3): "3b4a170af1eb935b57ffc28722ac291c",
}


def _plan(config: SyntheticVideoConfig, split: str) -> list[PlantedVideo]:
    return [plan_video(config, split, i) for i in range(config.count(split))]


def _columns(videos: list[PlantedVideo]) -> np.ndarray:
    return np.array([[FACTORS[f].index(v.factors[f]) for f in FACTORS] for v in videos])


def _decode(path: Path) -> np.ndarray:
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _digest(array: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).hexdigest()


@pytest.mark.parametrize(("split", "index"), DIGESTS)
def test_frames_are_the_same_on_every_machine(split: str, index: int) -> None:
    assert _digest(render(CONFIG, plan_video(CONFIG, split, index))) == DIGESTS[split, index]


def test_sine_is_close_to_the_real_one() -> None:
    turns = np.linspace(-2, 2, 1001)
    assert np.allclose([sine(t) for t in turns.tolist()], np.sin(2 * np.pi * turns), atol=2e-3)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_factors_are_balanced_and_independent(split: str) -> None:
    columns = _columns(_plan(CONFIG, split))
    sizes = [len(values) for values in FACTORS.values()]
    for column, size in zip(columns.T, sizes, strict=True):
        counts = np.bincount(column, minlength=size)
        assert counts.max() - counts.min() <= 1
    for i, j in combinations(range(len(sizes)), 2):
        table = np.zeros((sizes[i], sizes[j]))
        np.add.at(table, (columns[:, i], columns[:, j]), 1)
        expected = len(columns) / (sizes[i] * sizes[j])
        freedom = (sizes[i] - 1) * (sizes[j] - 1)
        chi_square = ((table - expected) ** 2 / expected).sum()
        assert chi_square < freedom + 4 * (2 * freedom) ** 0.5, (i, j)  # mean and deviation of chi-square


def test_nuisances_vary_and_are_not_shared_by_the_splits() -> None:
    train, val, test = (_plan(CONFIG, split) for split in ("train", "val", "test"))
    for name in (*NUISANCES, "noise_seed"):
        seen, chosen, unseen = ({v.nuisances[name] for v in videos} for videos in (train, val, test))
        assert {int(k) % 2 for k in seen} == {0}, name
        assert {int(k) % 4 for k in chosen} == {3}, name
        assert {int(k) % 4 for k in unseen} == {1}, name
        assert len(seen) > 100, name
        assert min(len(chosen), len(unseen)) > 50, name


def test_val_changes_no_other_split() -> None:
    for split, index in DIGESTS:
        without = plan_video(SyntheticVideoConfig(), split, index)
        assert without == plan_video(CONFIG, split, index)


def test_a_seed_is_another_data_set() -> None:
    other = SyntheticVideoConfig(seed=1)
    assert (_columns(_plan(CONFIG, "test")) != _columns(_plan(other, "test"))).any(axis=0).all()


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """No flashes: what changes in the background is the camera's doing."""
    monkeypatch.setattr("st_ssl.data.synthetic.videos.FLASH_GAIN", {"bright": 1.0, "dark": 1.0, "": 1.0})


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("size", [64, 128])
def test_box_holds_all_that_moves_and_its_middle_lies_in_its_region(size: int) -> None:
    config = SyntheticVideoConfig(num_frames=48, size=size)
    for index in range(0, 60, 2):
        video = plan_video(config, "train", index)
        still = replace(
            video,
            factors=video.factors | {"camera": "static"},
            nuisances=video.nuisances | {"noise": 0, "drift": GRID // 2},
        )
        frames = render(config, still)
        moving = (frames != frames[:1]).any(axis=(0, 3))
        rows, cols = np.flatnonzero(moving.any(1)), np.flatnonzero(moving.any(0))
        x0, y0, x1, y1 = video.box
        assert x0 <= cols[0] <= cols[-1] < x1
        assert y0 <= rows[0] <= rows[-1] < y1
        if video.factors["motion"] not in ("spin", "horizontal", "vertical"):  # else a part need not change
            assert max(cols[0] - x0, x1 - 1 - cols[-1], rows[0] - y0, y1 - 1 - rows[-1]) <= 3, "the box is too wide"
        half = size // 2
        vertical, horizontal = video.factors["region"].split("_")
        left, top = half * (horizontal == "right"), half * (vertical == "bottom")
        assert 0 <= x0 < x1 <= size
        assert 0 <= y0 < y1 <= size
        assert left < (x0 + x1) / 2 < left + half
        assert top < (y0 + y1) / 2 < top + half


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("camera", ["pan_left", "pan_right"])
def test_pan_shifts_the_background(camera: str) -> None:
    """What the camera turns to comes into the frame from that side: 64 pixels over the clip at the middle speed."""
    video = plan_video(CONFIG, "train", 0)
    video = replace(
        video,
        factors=video.factors | {"camera": camera, "region": "top_left"},
        nuisances=video.nuisances | {"noise": 0, "drift": GRID // 2, "speed": GRID // 2},
    )
    first, last = (render(CONFIG, video)[t, 96:] for t in (0, -1))
    before, after = (first, last) if camera == "pan_right" else (last, first)
    assert np.array_equal(before[:, 64:], after[:, :-64])
    assert not np.array_equal(before, after)


@pytest.mark.usefixtures("steady")
def test_zooms_are_each_other_reversed() -> None:
    video = plan_video(CONFIG, "train", 0)
    nuisances = video.nuisances | {"noise": 0, "drift": GRID // 2}
    zoomed_in, zoomed_out = (
        render(CONFIG, replace(video, factors=video.factors | {"camera": c, "region": "top_left"}, nuisances=nuisances))
        for c in ("zoom_in", "zoom_out")
    )
    assert np.array_equal(zoomed_in[:, 96:], zoomed_out[::-1, 96:])
    edges_before, edges_after = (np.abs(np.diff(zoomed_in[t, 96:].astype(int), axis=1)).sum() for t in (0, -1))
    assert edges_after < edges_before, "the texture grows when the camera zooms in"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    pytest.importorskip("av")
    return write_dataset(tmp_path / "videos", TINY, num_workers=1, progress=False)


def test_files_and_table(dataset: Path) -> None:
    av = pytest.importorskip("av")
    with (dataset / "factors.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert ",".join(rows[0]) == "path,split,scene,shape,motion,tempo,camera,region,order,x0,y0,x1,y1"
    videos = _plan(TINY, "train") + _plan(TINY, "test")
    assert [r["path"] for r in rows] == [v.path for v in videos]
    assert {p.relative_to(dataset).as_posix() for p in dataset.rglob("*") if p.is_file()} == {
        "factors.csv",
        "synthetic.json",
        *(v.path for v in videos),
    }
    for row, video in zip(rows, videos, strict=True):
        assert {f: row[f] for f in FACTORS} == video.factors
        assert tuple(int(row[k]) for k in ("x0", "y0", "x1", "y1")) == video.box
        with av.open(str(dataset / row["path"])) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 24)
            keys = [i for i, frame in enumerate(container.decode(stream)) if frame.key_frame]
        assert keys == list(range(0, 64, 12))
        frames = _decode(dataset / row["path"])
        assert frames.shape == (64, 128, 128, 3)
        assert np.abs(frames.astype(float) - render(TINY, video)).mean() < 8  # chroma is stored at half size


def test_a_stopped_run_is_taken_up(dataset: Path) -> None:
    files = sorted(p for p in dataset.rglob("*") if p.is_file())
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in files}
    assert write_dataset(dataset, TINY, progress=False) == dataset
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in files} == before, "a finished data set was touched"
    lost = dataset / "train" / "00002.mp4"
    frames = _digest(_decode(lost))
    lost.unlink()
    (dataset / "factors.csv").unlink()
    write_dataset(dataset, TINY, num_workers=2, progress=False)
    assert sorted(p for p in dataset.rglob("*") if p.is_file()) == files
    assert _digest(_decode(lost)) == frames
    for path in files:
        assert path.read_bytes() == before[path][0]
        assert path in (lost, dataset / "factors.csv") or path.stat().st_mtime_ns == before[path][1]


def test_a_failed_clip_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, content: bytes) -> int:
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        write_dataset(tmp_path / "videos", TINY, num_workers=1, progress=False)
    assert [p.name for p in (tmp_path / "videos").rglob("*") if p.is_file()] == ["synthetic.json"]


def test_another_data_set_is_left_alone(dataset: Path, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in dataset.rglob("*") if p.is_file()}
    with pytest.raises(DataError, match=r"holds another set of synthetic videos \(config.seed: "):
        write_dataset(dataset, SyntheticVideoConfig(num_train=4, num_test=3, seed=5), progress=False)
    assert {p: p.read_bytes() for p in dataset.rglob("*") if p.is_file()} == before

    (dataset / "synthetic.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        write_dataset(dataset, TINY, progress=False)

    foreign = tmp_path / "holidays"
    foreign.mkdir()
    (foreign / "beach.mp4").write_bytes(b"sea")
    with pytest.raises(DataError, match=r"not empty.*beach\.mp4"):
        write_dataset(foreign, TINY, progress=False)
    assert [p.name for p in foreign.iterdir()] == ["beach.mp4"]
    with pytest.raises(DataError, match="is a file"):
        write_dataset(foreign / "beach.mp4", TINY, progress=False)


def test_wrong_split_and_index_are_named() -> None:
    with pytest.raises(DataError, match=r"'tets' is not one of train, val, test; did you mean 'test'"):
        plan_video(TINY, "tets", 0)
    with pytest.raises(DataError, match="videos 0 to 3"):
        plan_video(TINY, "train", 4)


class _Learner(nn.Module):
    """A small convolutional network with one head per factor: [B, C, H, W] or [B, C, T, H, W] to logits. ``layers``
    are (width, kernel, stride)."""

    def __init__(self, width: int, layers: _Layers, factors: Sequence[str]) -> None:
        super().__init__()
        body: list[nn.Module] = []
        for out, kernel, stride in layers:
            flat = len(kernel) == 2
            padding = tuple(side // 2 for side in kernel)
            body.append((nn.Conv2d if flat else nn.Conv3d)(width, out, kernel, stride, padding, bias=False))  # type: ignore[arg-type]
            body += [(nn.BatchNorm2d if flat else nn.BatchNorm3d)(out), nn.ReLU()]
            width = out
        self.body = nn.Sequential(*body)
        self.sizes = [len(FACTORS[factor]) for factor in factors]
        self.heads = nn.Linear(6 * width, sum(self.sizes))

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        h = self.body(clip)
        inner = tuple(range(2, h.ndim))
        quadrants = F.adaptive_avg_pool2d(h.mean(2) if h.ndim == 5 else h, 2).flatten(1)
        return self.heads(torch.cat([h.mean(inner), h.amax(inner), quadrants], 1)).split(self.sizes, 1)


def _rendered(config: SyntheticVideoConfig, split: str) -> tuple[Tensor, Tensor]:
    """All clips of a split before encoding, uint8 [B, T, H, W, 3], and their factors [B, 7]."""
    videos = _plan(config, split)
    return torch.from_numpy(np.stack([render(config, v) for v in videos])), torch.from_numpy(_columns(videos))


def _pixel_neighbours(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Accuracy per factor of the nearest neighbour in the pixels of four frames shrunk to 8 x 8."""

    def pixels(clips: Tensor) -> Tensor:
        frames = clips[:, :: clips.shape[1] // 4].float().permute(0, 1, 4, 2, 3)
        return F.adaptive_avg_pool2d(frames.flatten(0, 1), 8).reshape(len(clips), -1)

    nearest = torch.cdist(pixels(test[0]), pixels(train[0])).argmin(1)
    hits = (train[1][nearest] == test[1]).float().mean(0)
    return dict(zip(FACTORS, hits.tolist(), strict=True))


def _still(clips: Tensor) -> Tensor:
    """One frame of each clip, its colours in any order: float [B, 3, H, W]."""
    frames = clips[torch.arange(len(clips)), torch.randint(clips.shape[1], (len(clips),))]
    return frames[..., torch.randperm(3)].permute(0, 3, 1, 2).float() / 64 - 2


def _moving(clips: Tensor) -> Tensor:
    """What changes from every fourth frame to the next one, without colour: float [B, 1, T, H, W]."""
    grey = clips[:, int(torch.randint(4, ())) :: 4].float().mean(-1)
    return (grey[:, 1:] - grey[:, :-1])[:, None] / 64


def _supervised(
    factors: Sequence[str],
    look: Callable[[Tensor], Tensor],
    layers: _Layers,
    batch: int,
    epochs: int,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
) -> dict[str, float]:
    """Accuracy per factor of ``_Learner`` on what ``look`` sees of a clip."""
    torch.manual_seed(0)
    net = _Learner(look(train[0][:1]).shape[1], layers, factors)
    columns = [[*FACTORS].index(factor) for factor in factors]
    steps = len(train[0]) // batch
    optimiser = torch.optim.AdamW(net.parameters(), 8e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 8e-3, total_steps=epochs * steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(train[0]))[: steps * batch].view(steps, batch):
            pairs = zip(net(look(train[0][chosen])), train[1][chosen][:, columns].T, strict=True)
            optimiser.zero_grad()
            torch.stack([F.cross_entropy(logits, truth) for logits, truth in pairs]).sum().backward()
            optimiser.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        parts = [torch.stack([x.argmax(1) for x in net(look(clips))], 1) for clips in test[0].split(batch)]
    hits = (torch.cat(parts) == test[1][:, columns]).float().mean(0)
    return dict(zip(factors, hits.tolist(), strict=True))


@pytest.mark.slow
def test_every_factor_can_be_learned_and_pixels_do_not_give_it_away() -> None:
    """What stands still by a network that sees one frame, what moves by one that sees differences of small frames."""
    still = SyntheticVideoConfig(num_train=3000, num_test=300, num_frames=2, size=64)
    moving = SyntheticVideoConfig(num_train=1400, num_test=300, num_frames=40, size=32)
    keep_freed_memory()
    flat: _Layers = ((24, (5, 5), 2), (48, (3, 3), 2), (96, (3, 3), 2))
    deep: _Layers = ((16, (3, 5, 5), (1, 2, 2)), (48, (3, 3, 3), (1, 2, 2)), (64, (3, 3, 3), 2))
    train, test = (_rendered(still, split) for split in ("train", "test"))
    learned = _supervised(("scene", "shape", "region"), _still, flat, 32, 5, train, test)
    train, test = (_rendered(moving, split) for split in ("train", "test"))
    learned |= _supervised(("motion", "tempo", "camera", "order"), _moving, deep, 16, 9, train, test)
    pixels = _pixel_neighbours(train, test)
    print("pixels", pixels, "learned", learned)
    assert learned.keys() == FACTORS.keys()
    assert all(accuracy >= 0.9 for accuracy in learned.values()), learned
    assert pixels["scene"] <= 0.35, pixels
    assert all(pixels[f] <= 0.5 for f in ("shape", "motion", "tempo", "camera")), pixels
