"""Packs of clouds hold what readers give, to the last bit; what is wrong with one is named."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from st_ssl.augment.points import PointAugment, PointAugmentConfig
from st_ssl.cli.prepare import main
from st_ssl.core.errors import DataError, SampleError
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.types import Entry, PointCloud
from st_ssl.data.loading.sample_dataset import collate
from st_ssl.data.packs.points_index import CloudTable
from st_ssl.data.packs.points_read import CloudPack, decode, encode
from st_ssl.data.packs.points_write import CloudPackConfig, CloudPacker
from st_ssl.data.packs.read_pack import verify_pack
from st_ssl.data.packs.write_pack import write_pack
from st_ssl.data.points.dataset import PointDataConfig, PointSource
from st_ssl.data.points.views import augmented_views
from st_ssl.data.sources.points import read_source
from st_ssl.data.streams.points import ReadOptions, read_cloud
from st_ssl.data.video.dataset import VideoDataConfig, VideoSource
from tests.data.streams.points.test_scenes import write_pointcept

CONFIG = CloudPackConfig(shard_size=2, surface_points=50)
FEW = ReadOptions(surface_points=50)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene, a mesh, a cloud with labels, one far from the origin, and one that is none."""
    folder = tmp_path_factory.mktemp("raw") / "clouds"
    rng = np.random.default_rng(0)
    write_pointcept(folder / "train" / "office" / "scene")
    (folder / "train" / "chair").mkdir()
    (folder / "train" / "chair" / "a.off").write_text("OFF 4 2 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n")
    (folder / "test" / "chair").mkdir(parents=True)
    b, xyz, segment = folder / "test" / "chair" / "b.npz", rng.normal(size=(40, 3)), np.arange(40) * 10**8 - 1
    np.savez(b, xyz=xyz, color=rng.random((40, 3)), segment=segment)
    np.save(folder / "test" / "far.npy", rng.random((30, 4)) + np.array([500_000.0, 5_000_000.0, 0, 0]))
    np.save(folder / "test" / "one.npy", np.zeros((1, 3)))
    return folder


@pytest.fixture(scope="module")
def packed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("packed") / "pack"
    broken = write_pack(read_source(root), output, CloudPacker(CONFIG), progress=False)
    assert broken == [(f"{root}/test/one.npy", "has 1 point: a cloud needs at least 2")]
    return output


def same(a: PointCloud, b: PointCloud) -> None:
    """Equal to the last bit, in type too."""
    for kind in ("attributes", "labels"):
        assert getattr(a, kind).keys() == getattr(b, kind).keys()
    arrays = [
        (cloud.xyz, cloud.pose, *dict(sorted((cloud.attributes | cloud.labels).items())).values()) for cloud in (a, b)
    ]
    for x, y in zip(*arrays, strict=True):
        assert (x is None) == (y is None)
        if x is not None:
            assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())
    assert a.time == b.time


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_packed_cloud_is_the_one_that_was_read(root: Path, packed: Path) -> None:
    pack = CloudPack(str(packed))
    raw = [entry for entry in read_source(root) if not entry.path.endswith("one.npy")]
    assert [(e.split, e.labels, e.source) for e in pack.entries] == [
        (e.split, e.labels, str(Path(e.path).relative_to(root))) for e in raw
    ]
    for entry, small in zip(raw, pack.entries, strict=True):
        same(pack.open(small.path), read_cloud(entry.path, FEW))
    assert pack.open(pack.entries[1].path).pose is not None  # the one that is far away
    assert pack.failed == [("test/one.npy", "could not be packed: has 1 point: a cloud needs at least 2")]
    assert verify_pack(str(packed), CloudPack, progress=False) == pack.failed


def test_samples_are_those_of_the_files(root: Path, packed: Path, tmp_path: Path) -> None:
    whole = tmp_path / "clouds"
    shutil.copytree(root, whole)
    (whole / "test" / "one.npy").unlink()
    sources = [
        PointSource(PointDataConfig(root=str(whole), surface_points=50)),
        PointSource(PointDataConfig(root=str(packed))),
    ]
    augment = PointAugment(PointAugmentConfig(jitter=0.01, crop="sphere"), 16)
    views = augmented_views(PointInputConfig(), augment, 2)
    datasets = [source.dataset(source.entries(), views, 5) for source in sources]
    assert [len(dataset) for dataset in datasets] == [4, 4]
    for key in ((0, 3), (2, 0), (1, 1), (0, 2)):
        a, b = (collate([dataset[key]]) for dataset in datasets)
        assert torch.equal(a.metadata, b.metadata)
        for x, y in zip(a.views, b.views, strict=True):
            assert torch.equal(x.points.xyz, y.points.xyz)
            assert x.points.source is not None and y.points.source is not None
            assert torch.equal(x.points.source, y.points.source)
            for kind in ("attributes", "labels"):
                one, other = getattr(x.points, kind), getattr(y.points, kind)
                assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert not collate([datasets[0][0, 3]]).bad


class Interrupted(CloudPacker):
    """Is stopped within the second shard."""

    def make(self, entry: Entry, name: str) -> tuple[bytes, CloudTable]:
        if entry.path.endswith("a.off"):
            raise KeyboardInterrupt
        return super().make(entry, name)


def test_any_order_of_machines_and_interruptions_gives_the_same_bytes(root: Path, packed: Path, tmp_path: Path) -> None:
    entries = read_source(root)
    for part in ((1, 2), (0, 2)):
        write_pack(entries, tmp_path / "parts", CloudPacker(CONFIG), part, progress=False)
    assert files(tmp_path / "parts") == files(packed)
    with pytest.raises(KeyboardInterrupt):
        write_pack(entries, tmp_path / "again", Interrupted(CONFIG), progress=False)
    assert len(list((tmp_path / "again").glob("*.jsonl"))) == 1
    with pytest.raises(DataError, match=r"is not complete: shard 1 of 3 is missing"):
        CloudPack(str(tmp_path / "again"))
    write_pack(entries, tmp_path / "again", CloudPacker(CONFIG), progress=False)
    assert files(tmp_path / "again") == files(packed)


def test_a_flipped_byte_is_caught_and_named(packed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(packed, tmp_path / "pack"))
    row = json.loads((copy / "shard-00001.jsonl").read_text().splitlines()[1])
    tar = copy / "shard-00001.tar"
    spoilt = bytearray(tar.read_bytes())
    spoilt[row["offset"] + row["size"] // 2] ^= 1
    tar.write_bytes(spoilt)
    path = f"{tar}/00001-000001.safetensors"
    with pytest.raises(SampleError, match="damaged: its bytes are not those that were packed"):
        CloudPack(str(copy)).open(path)
    failed = verify_pack(str(copy), CloudPack, progress=False)
    assert [name for name, _ in failed] == [path, "test/one.npy"]


def test_a_tar_that_is_missing_is_noticed_and_packed_again(root: Path, packed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(packed, tmp_path / "pack"))
    (copy / "shard-00001.tar").unlink()
    with pytest.raises(DataError, match=r"pack is not complete: shard-00001.tar is missing beside its list"):
        CloudPack(str(copy))
    for scheme in ("", "file://"):
        failed = verify_pack(f"{scheme}{copy}", CloudPack, progress=False)
        assert [name for name, _ in failed] == [f"{scheme}{copy}/shard-00001.tar", "test/one.npy"]
        assert "run `st-ssl prepare pack` again" in failed[0][1]
    write_pack(read_source(root), copy, CloudPacker(CONFIG), progress=False)
    assert files(copy) == files(packed)


def test_thinning_keeps_one_point_of_each_voxel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "raw").mkdir()
    np.savez(tmp_path / "raw" / "a.npz", xyz=rng.uniform(-3, 3, (500, 3)).astype("f4"), segment=np.arange(500))
    np.save(tmp_path / "raw" / "small.npy", rng.random((9, 3)))
    packer = CloudPacker(CloudPackConfig(voxel_size=1.5))
    failed = write_pack(read_source(tmp_path / "raw"), tmp_path / "pack", packer, progress=False)
    assert failed == [(f"{tmp_path}/raw/small.npy", "lies in one voxel of 1.5: a cloud needs at least 2 points")]
    pack, whole = CloudPack(str(tmp_path / "pack")), read_cloud(tmp_path / "raw" / "a.npz")
    thin = pack.open(pack.entries[0].path)
    cells = [{tuple(cell) for cell in np.floor((c.xyz - whole.xyz.min(0)) / 1.5).tolist()} for c in (whole, thin)]
    assert cells[0] == cells[1]
    assert len(thin) == len(cells[0]) < 500
    same(thin, whole.take(thin.labels["segment"]))
    with pytest.raises(DataError, match="holds another pack"):
        write_pack(read_source(tmp_path / "raw"), tmp_path / "pack", CloudPacker(CloudPackConfig()), progress=False)
    tiny = CloudPacker(CloudPackConfig(voxel_size=1e-9))
    failed = write_pack(read_source(tmp_path / "raw"), tmp_path / "tiny", tiny, progress=False)
    assert "voxels of 1e-09 are too small for its extent of" in failed[0][1]


def test_a_file_holds_a_cloud_to_the_last_bit_in_little_room() -> None:
    rng = np.random.default_rng(0)
    xyz = rng.normal(size=(300, 3)).astype(np.float32)
    color = (rng.integers(0, 256, (300, 3)) / 255.0).astype(np.float32)
    for attributes in (
        {"color": color},
        {"color": np.nextafter(color, np.float32(2))},
        {"normal": -color},
        {"a.b": -0 * xyz},
    ):
        for high in (100, 30_000, 2**31 - 1, 2**40):
            labels = {"segment": rng.integers(-1, high, 300)}
            cloud = PointCloud(xyz, attributes, labels, np.eye(4) * 1.1, 12.5)
            same(decode("x", encode(cloud)), cloud)
    assert len(encode(PointCloud(xyz, {"color": color}, {"part": np.arange(300) % 9}))) < 300 * (12 + 3 + 1) + 400


def test_bytes_that_are_no_cloud() -> None:
    with pytest.raises(SampleError, match="not a safetensors file"):
        decode("x", b"x" * 40)


def test_a_pack_of_clouds_is_none_of_videos(packed: Path) -> None:
    with pytest.raises(DataError, match=r"pack.json: a pack of clouds, not of videos: read it with data.name=points"):
        VideoSource(VideoDataConfig(root=str(packed)))
    with pytest.warns(UserWarning, match="ignored with a pack: data.format, data.surface_points$"):
        PointSource(PointDataConfig(root=str(packed), format="csv", surface_points=7))


def test_the_command(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pack = str(tmp_path / "pack")

    def run(*arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["prepare", *arguments, "--workers", "0"])
        assert main() == 1  # one cloud is broken
        return capsys.readouterr().out.splitlines()

    lines = run("pack", str(root), "--output", pack, "voxel_size=0.1")
    assert lines[0] == f"{root}: taken for clouds by its files (--kind video if it is not)"
    assert lines[-4] == f"{pack}: train on it with data.name=points data.root={pack}"
    assert lines[-3] == "1 clouds are left out: a shard without its .jsonl is packed again"
    assert json.loads((tmp_path / "pack" / "pack.json").read_text())["config"]["voxel_size"] == 0.1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    *_, broken, last = run("verify", pack)
    assert broken.startswith("broken: test/one.npy: could not be packed")
    assert last == "4 of 5 clouds are sound, 1 broken"
    with pytest.raises(DataError, match="is a pack: it needs no index"):
        run("index", pack)
