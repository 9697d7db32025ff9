from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tarfile
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms.v2.functional import resize

from st_ssl.augment.video import centre_crop
from st_ssl.core.errors import DataError, SampleError
from st_ssl.core.files import replace_text
from st_ssl.core.types import Entry
from st_ssl.data.base import training_part
from st_ssl.data.clip_plans import RandomClips
from st_ssl.data.loading.loader import build_loader
from st_ssl.data.loading.sample_dataset import collate
from st_ssl.data.loading.sample_order import Order, StepSampler
from st_ssl.data.packs.read_pack import verify_pack
from st_ssl.data.packs.video_read import VideoPack
from st_ssl.data.packs.video_write import PackConfig, VideoPacker
from st_ssl.data.packs.write_pack import write_pack
from st_ssl.data.sources.video import read_source
from st_ssl.data.streams.video import open_video
from st_ssl.data.streams.video.pyav import PyAVReader
from st_ssl.data.video.dataset import VideoDataConfig, VideoSource
from st_ssl.data.views import Views, each
from tests.runs import write_videos
from tests.waiting import LONG, until

CONFIG = PackConfig(short_side=32, crf=10, shard_size=4)


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    root = write_videos(tmp_path_factory.mktemp("raw") / "videos", 10)
    return [Entry(e.path, e.split, {"number": str(i)}) for i, e in enumerate(read_source(root))]


@pytest.fixture(scope="module")
def packed(entries: list[Entry], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("pack") / "pack"
    assert write_pack(entries, output, VideoPacker(CONFIG), progress=False) == []
    return output


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_packed_video_is_the_raw_one_made_small(entries: list[Entry], packed: Path) -> None:
    pack = VideoPack(str(packed))
    assert [e.labels for e in pack.entries] == [e.labels for e in entries]
    assert [e.split for e in pack.entries] == [e.split for e in entries]
    for raw, small in zip(entries, pack.entries, strict=True):
        with open_video(raw.path) as a, pack.open(small.path) as b:
            assert a.meta.num_frames == b.meta.num_frames
            assert a.meta.fps == pytest.approx(b.meta.fps)
            assert min(b.meta.width, b.meta.height) == 32
            wanted = [0, 3, a.meta.num_frames - 1]
            for (_, x), (_, y) in zip(a.read(wanted), b.read(wanted), strict=True):
                shrunken = resize(torch.from_numpy(x).movedim(2, 0), [b.meta.height, b.meta.width], antialias=True)
                assert (shrunken.movedim(0, 2).float() - torch.from_numpy(y)).abs().mean() < 8


def test_shards_are_plain_tars(packed: Path) -> None:
    names = []
    for tar in sorted(packed.glob("*.tar")):
        with tarfile.open(tar) as archive:
            names += archive.getnames()
    assert names == [f"{i // 4:05d}-{i % 4:06d}.mp4" for i in range(10)]


def test_several_machines_and_processes_write_the_same_bytes(
    entries: list[Entry], packed: Path, tmp_path: Path
) -> None:
    for part in (1, 0):
        write_pack(entries, tmp_path / "pack", VideoPacker(CONFIG), (part, 2), num_workers=2, progress=False)
    assert content(tmp_path / "pack") == content(packed)


KILLED = """
import sys, time
from pathlib import Path
from st_ssl.data.packs import write_pack as packing
from st_ssl.data.packs.video_write import PackConfig, VideoPacker
from st_ssl.data.packs.write_pack import write_pack
from st_ssl.data.sources.video import read_source
from st_ssl.core.types import Entry
write_shard = packing._write_shard
def held(output, packer, number, *how):
    if number == 2:
        time.sleep(int(sys.argv[3]))
    write_shard(output, packer, number, *how)
packing._write_shard = held
entries = [Entry(e.path, e.split, {"number": str(i)}) for i, e in enumerate(read_source(Path(sys.argv[1])))]
write_pack(entries, Path(sys.argv[2]), VideoPacker(PackConfig(short_side=32, crf=10, shard_size=4)), progress=False)
"""


def test_a_pack_killed_in_the_middle_goes_on_to_the_same_bytes(
    entries: list[Entry], packed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "pack"
    root = Path(entries[0].path).parent
    command = [sys.executable, "-c", KILLED, str(root), str(output)]
    process = subprocess.Popen([*command, str(LONG)])
    until(lambda: list(output.glob("*.jsonl")), process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert len(list(output.glob("*.jsonl"))) < 3
    with pytest.raises(DataError, match=r"is not complete: shard . of 3 is missing"):
        VideoPack(str(output))
    subprocess.run([*command, "0"], check=True)
    assert {n: b for n, b in content(output).items() if not n.endswith(".partial")} == content(packed)


def test_nothing_is_left_to_remove_when_a_shard_is_finished(
    entries: list[Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(path: Path, text: str, alone: bool = False) -> None:  # a kill right after this leaves what is there now
        assert sorted(p.name for p in path.parent.iterdir()) == ["pack.json", "shard-00000.tar"]
        replace_text(path, text, alone)

    monkeypatch.setattr("st_ssl.data.packs.write_pack.replace_text", listed)
    assert write_pack(entries[:2], tmp_path / "pack", VideoPacker(CONFIG), progress=False) == []


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_one_flipped_byte_is_caught(packed: Path, tmp_path: Path, place: float) -> None:
    copy = tmp_path / "pack"
    copy.mkdir()
    for name, data in content(packed).items():
        (copy / name).write_bytes(data)
    row = json.loads((copy / "shard-00001.jsonl").read_text().splitlines()[2])
    tar = copy / "shard-00001.tar"
    spoilt = bytearray(tar.read_bytes())
    spoilt[row["offset"] + int(place * row["size"])] ^= 1
    tar.write_bytes(spoilt)
    pack = VideoPack(str(copy))
    with pytest.raises(SampleError, match="damaged"):
        pack.open(f"{copy}/shard-00001.tar/{row['name']}")
    failed = verify_pack(str(copy), VideoPack, progress=False)
    assert [path for path, _ in failed] == [f"{copy}/shard-00001.tar/{row['name']}"]
    assert verify_pack(str(packed), VideoPack, progress=False) == []


def test_broken_videos_are_listed_and_left_out(entries: list[Entry], tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"\0" * 100)
    bad = Entry(str(tmp_path / "bad.mp4"))
    broken = write_pack([entries[0], bad, entries[1]], tmp_path / "pack", VideoPacker(CONFIG), progress=False)
    assert [path for path, _ in broken] == [bad.path]
    bad_name = os.path.relpath(bad.path, os.path.commonpath([tmp_path, entries[0].path]))
    assert [e.labels["number"] for e in VideoPack(str(tmp_path / "pack")).entries] == ["0", "1"]
    failed = verify_pack(str(tmp_path / "pack"), VideoPack, progress=False)
    assert [(path, reason.partition(":")[0]) for path, reason in failed] == [(bad_name, "could not be packed")]


def test_a_shard_without_its_list_is_packed_again(entries: list[Entry], tmp_path: Path) -> None:
    videos = []
    for entry in entries[:5]:
        path = tmp_path / Path(entry.path).name
        path.write_bytes(Path(entry.path).read_bytes())
        videos.append(replace(entry, path=str(path)))
    lost = Path(videos[3].path)
    whole = lost.read_bytes()
    output, config = tmp_path / "pack", PackConfig(short_side=32, shard_size=2)

    def pack() -> list[str]:
        return [path for path, _ in write_pack(videos, output, VideoPacker(config), progress=False)]

    lost.unlink()
    assert pack() == pack() == [str(lost)]
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    lost.write_bytes(whole)
    (output / "shard-00001.jsonl").unlink()
    assert pack() == []
    assert len(VideoPack(str(output)).entries) == 5
    after = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"shard-00001.tar", "shard-00001.jsonl"}
    write_pack(videos, tmp_path / "at once", VideoPacker(config), progress=False)
    assert content(output) == content(tmp_path / "at once")


def test_another_pack_is_not_written_over(entries: list[Entry], packed: Path, tmp_path: Path) -> None:
    before = content(packed)
    with pytest.raises(DataError, match="holds another pack"):
        write_pack(entries, packed, VideoPacker(PackConfig(short_side=16)), progress=False)
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="not empty"):
        write_pack(entries, tmp_path, VideoPacker(CONFIG), progress=False)
    assert content(packed) == before


def test_two_ranks_see_every_clip_once_in_one_order_for_any_number_of_workers(packed: Path) -> None:
    source = VideoSource(VideoDataConfig(root=str(packed)))
    entries = source.entries()
    views = Views(each(RandomClips(4, 1), centre_crop(16)))
    seen: dict[int, list[list[int]]] = {}
    pixels: dict[int, list[np.ndarray]] = {}
    for workers in (0, 1, 4):
        for rank in (0, 1):
            sampler = StepSampler(Order(0, len(entries), 2), 0, 5, rank, 2)
            loader = build_loader(source.dataset(entries, views), sampler, collate, workers)
            for batch in loader:
                seen.setdefault(workers, []).append(batch.indices.tolist())
                pixels.setdefault(workers, []).append(batch.views[0].clip.numpy())
    assert sorted(i for batch in seen[0] for i in batch) == list(range(10))
    assert seen[0] == seen[1] == seen[4]
    for workers in (1, 4):
        assert all(np.array_equal(a, b) for a, b in zip(pixels[0], pixels[workers], strict=True))


def test_a_pack_is_read_through_a_url(packed: Path) -> None:
    local, remote = VideoPack(str(packed)), VideoPack(f"file://{packed}")
    for a, b in zip(local.entries[:2], remote.entries[:2], strict=True):
        with local.open(a.path) as x, remote.open(b.path) as y:
            np.testing.assert_array_equal(next(x.read([1]))[1], next(y.read([1]))[1])


def test_a_url_that_is_no_pack_is_told() -> None:
    with pytest.raises(DataError, match=r"memory://nothing/pack.json: not the description of a pack"):
        VideoSource(VideoDataConfig(root="memory://nothing"))


def test_changed_labels_and_splits_are_another_pack(entries: list[Entry], packed: Path) -> None:
    for changed in (replace(entries[0], labels={"number": "7"}), replace(entries[0], split="test")):
        with pytest.raises(DataError, match=r"holds another pack \(sources: "):
            write_pack([changed, *entries[1:]], packed, VideoPacker(CONFIG), progress=False)


def test_the_same_videos_in_another_folder_are_the_same_pack(
    entries: list[Entry], packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").symlink_to(Path(entries[0].path).parent)
    moved = [replace(e, path=str(tmp_path / "elsewhere" / Path(e.path).name)) for e in entries]
    assert write_pack(moved, packed, VideoPacker(CONFIG), progress=False) == []
    monkeypatch.chdir(tmp_path)
    typed = [replace(e, path=f"./elsewhere/./{Path(e.path).name}") for e in entries]
    assert write_pack(typed, tmp_path / "anew", VideoPacker(CONFIG), progress=False) == []
    assert content(tmp_path / "anew") == content(packed)


def test_a_packed_video_knows_where_it_came_from(entries: list[Entry], packed: Path) -> None:
    assert [e.source for e in VideoPack(str(packed)).entries] == [Path(e.path).name for e in entries]


def test_settings_that_a_pack_ignores_are_a_warning(packed: Path) -> None:
    with pytest.warns(UserWarning, match=r"ignored with a pack: data.split, data.reader"):
        VideoSource(VideoDataConfig(root=str(packed), split=2, reader="decord"))


def test_what_is_known_of_a_video_takes_little_room(packed: Path, tmp_path: Path) -> None:
    videos, copies = 10, 2000
    listed = [(packed / f"shard-{n:05d}.jsonl").read_text().splitlines() for n in range(3)]
    rows = [json.loads(line) for shard in listed for line in shard]
    rng = np.random.default_rng(0)
    for at in range(copies):  # what a pack of other videos would say: other names, places and checksums
        row = rows[at % videos] | {"name": f"00000-{at:06d}.mp4", "source": f"{rng.bytes(8).hex()}.mp4"}
        place = {
            "crc32": int(rng.integers(2**32)),
            "size": int(rng.integers(10**6)),
            "offset": int(rng.integers(10**9)),
        }
        rows.append(row | place)
    (tmp_path / "shard-00000.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[videos:]))
    about = json.loads((packed / "pack.json").read_text()) | {"shards": 1, "videos": copies}
    about["config"]["shard_size"] = copies
    (tmp_path / "pack.json").write_text(json.dumps(about))
    (tmp_path / "shard-00000.tar").touch()
    tracemalloc.start()
    pack = VideoPack(str(tmp_path))
    gc.collect()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(pack.entries) == copies
    assert used < 200 * copies
    for at in (0, 63, 64, 1999, 5):
        entry, row = pack.entries[at], rows[videos + at]
        assert (entry.source, entry.labels) == (row["source"], row["labels"])
        assert pack.row(entry.path) == row
    assert [entry.path for entry in pack.entries[-2:]] == [pack.entries[i].path for i in (1998, 1999)]
    with pytest.raises(IndexError):
        pack.entries[copies]


def test_training_takes_its_part_of_a_pack(entries: list[Entry], tmp_path: Path) -> None:
    mixed = [replace(e, split="test" if i % 3 == 1 else "train") for i, e in enumerate(entries[:5])]
    write_pack(mixed, tmp_path / "pack", VideoPacker(CONFIG), progress=False)
    part = training_part(VideoPack(str(tmp_path / "pack")).entries)
    assert [e.labels["number"] for e in part] == ["0", "2", "3"]
    assert [e.labels["number"] for e in part[1:]] == ["2", "3"]
    tests = [e for e in mixed if e.split == "test"]
    assert training_part(tests) is tests


def test_storage_without_its_package_is_told() -> None:
    with pytest.raises(DataError, match=r"no-such-storage://bucket/pack"):
        VideoPack("no-such-storage://bucket/pack")


HIDDEN = {"concat": b"ffconcat version 1.0\n#\xc3\xa9\nfile sub/s.dat\n", "hls": b"#EXTM3U\n#\xc3\xa9\nfile:///s.ts\n"}


@pytest.mark.parametrize("kind", HIDDEN)
@pytest.mark.parametrize("marked", [True, False])
def test_a_video_cannot_name_other_files(entries: list[Entry], tmp_path: Path, kind: str, marked: bool) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "s.dat").write_bytes(Path(entries[0].path).read_bytes())
    path = tmp_path / "x.mp4"
    path.write_bytes((b"\xef\xbb\xbf" if marked else b"") + HIDDEN[kind])
    for backend in ("pyav", "decord"):
        with pytest.raises(SampleError, match="names other files"):
            open_video(path, backend)
    with pytest.raises(SampleError, match="names other files"):
        PyAVReader(str(path), data=path.read_bytes())
