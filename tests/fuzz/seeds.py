"""Small valid files of every format that is read, which mutations begin with, and the public reader of each."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from st_ssl.core.errors import sample_fault
from st_ssl.core.inputs import PointInputConfig
from st_ssl.core.types import Entry
from st_ssl.data.packs.file_index import read_records
from st_ssl.data.packs.points_index import CloudTable, survey
from st_ssl.data.packs.points_read import CloudPack
from st_ssl.data.packs.points_write import CloudPackConfig, CloudPacker
from st_ssl.data.packs.video_index import read_index
from st_ssl.data.packs.video_index import survey as survey_videos
from st_ssl.data.packs.write_pack import write_pack
from st_ssl.data.sources import points as clouds
from st_ssl.data.sources import video as videos
from st_ssl.data.streams.points import ReadOptions, read_cloud
from st_ssl.data.streams.video import open_video
from st_ssl.encoders.base import ENCODERS, describe_encoder, save_encoder
from st_ssl.engine.run_config import load_runs
from st_ssl.training.checkpoint import Checkpointer, load_checkpoint
from tests.data.made import write_video

XYZ = np.random.default_rng(0).normal(size=(24, 3)).astype("f4")
FEW = ReadOptions(surface_points=32)
OFF = "OFF\n4 3 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n3 0 1 2\n3 0 2 3\n4 0 1 2 3\n"
STL = "solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\nvertex 1 1 0\nendfacet\nendsolid a\n"
HEADERS = {
    "ply": "ply\nformat {how} 1.0\nelement vertex 24\nproperty float x\nproperty float y\nproperty float z\n"
    "element face 2\nproperty list uchar int vertex_indices\nend_header\n",
    "pcd": "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 24\nHEIGHT 1\n"
    "VIEWPOINT 0 0 0 1 0 0 0\nPOINTS 24\nDATA {how}\n",
}


@dataclass(frozen=True)
class Seed:
    """A file at ``path`` below a folder, of which each mutation gets a copy; ``read`` goes through what the folder
    holds as a run does. ``weight``: how often it is mutated, compared with others; ``moves``: reading moves files."""

    path: str
    read: Callable[[Path], object]
    weight: int = 1
    moves: bool = False


def make(folder: Path) -> dict[str, Seed]:
    """Write all of them: by name, each with a folder of that name below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds: dict[str, Seed] = {}
    for name in _clouds(folder):
        item = "#0" if name.endswith(("many.h5", ".pkl")) else ""
        seeds[name] = Seed(name, lambda at, name=name, item=item: read_cloud(f"{at / name}{item}", FEW), 3)  # type: ignore[misc]
    seeds |= _videos(folder) | _images(folder) | _packs(folder) | _lists(folder) | _runs(folder)
    return seeds


def _clouds(folder: Path) -> list[str]:
    def put(name: str, content: str | bytes) -> None:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        names.append(name)

    names: list[str] = []
    text = "\n".join(" ".join(f"{value:.4f}" for value in row) for row in XYZ) + "\n"
    faces, big = (
        b"".join(b"\3" + np.array([i, i + 1, i + 2], kind).tobytes() for i in range(2)) for kind in ("<i4", ">i4")
    )
    put("text.ply", HEADERS["ply"].format(how="ascii") + text + "3 0 1 2\n3 1 2 3\n")
    put("binary.ply", HEADERS["ply"].format(how="binary_little_endian").encode() + XYZ.tobytes() + faces)
    put("big.ply", HEADERS["ply"].format(how="binary_big_endian").encode() + XYZ.astype(">f4").tobytes() + big)
    put("text.pcd", HEADERS["pcd"].format(how="ascii") + text)
    put("binary.pcd", HEADERS["pcd"].format(how="binary").encode() + XYZ.tobytes())
    plain = b"".join(b"\x1f" + XYZ.T.tobytes()[at : at + 32] for at in range(0, XYZ.nbytes, 32))
    sizes = np.array([len(plain), XYZ.nbytes], dtype="<u4").tobytes()
    put("packed.pcd", HEADERS["pcd"].format(how="binary_compressed").encode() + sizes + plain)
    put("a.off", OFF)
    put("a.obj", "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1 2 3 4\nf 1/1/1 -2 -1\n")
    put("text.stl", STL)
    facets = np.zeros(4, dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("more", "<u2")])
    facets["corners"] = XYZ[:12].reshape(4, 3, 3)
    put("binary.stl", b"\0" * 80 + np.array([4], dtype="<u4").tobytes() + facets.tobytes())
    put("a.xyz", text)
    put("header.csv", "x,y,z,label\n" + "".join(f"{a},{b},{c},{i % 2}\n" for i, (a, b, c) in enumerate(XYZ.tolist())))
    put("a.pts", "24\n" + text)
    put("a.bin", np.c_[XYZ, XYZ[:, :1] ** 2].astype("<f4").tobytes())
    for name in ("a.npy", "a.npz", "packed.npz", "a.h5", "many.h5", "a.las", "a.laz", "a.pkl"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    np.save(folder / "a.npy" / "a.npy", XYZ)
    np.savez(folder / "a.npz" / "a.npz", xyz=XYZ, normal=XYZ, label=np.arange(24))
    np.savez_compressed(folder / "packed.npz" / "packed.npz", xyz=np.tile(XYZ, (40, 1)))
    (folder / "a.pkl" / "a.pkl").write_bytes(_few_shot())
    return [*names, "a.npy", "a.npz", "packed.npz", "a.pkl", *_optional(folder)]


def _optional(folder: Path) -> list[str]:
    """Those that packages of the extra "points" write."""
    import h5py
    import laspy

    with h5py.File(folder / "a.h5" / "a.h5", "w") as file:
        file["data"], file["normal"] = XYZ, XYZ
    with h5py.File(folder / "many.h5" / "many.h5", "w") as file:
        file.create_dataset("data", data=np.stack([XYZ] * 6), chunks=(1, 24, 3), compression="gzip")
        file["label"], file["pid"] = np.arange(6), np.zeros((6, 24), dtype=np.uint8)
    las = laspy.LasData(laspy.LasHeader(point_format=3, version="1.2"))
    las.x, las.y, las.z = XYZ.T.astype(np.float64)
    for name in ("a.las", "a.laz"):
        las.write(str(folder / name / name))
    return ["a.h5", "many.h5", "a.las", "a.laz"]


def _few_shot() -> bytes:
    """{"train": [(points, 0)], "test": [(points, 1)]} as NumPy and the fourth protocol write it, opcode by opcode."""

    def text(value: str) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value.encode()

    def number(value: int) -> bytes:
        return b"K" + bytes([value])

    dtype = text("numpy") + text("dtype") + b"\x93" + text("f4") + b"\x89\x88\x87R"
    dtype += b"(" + number(3) + text("<") + b"NNN" + b"J\xff\xff\xff\xff" * 2 + number(0) + b"tb"
    buffer = b"B" + len(XYZ.tobytes()).to_bytes(4, "little") + XYZ.tobytes()
    array = text("numpy._core.numeric") + text("_frombuffer") + b"\x93("
    array += buffer + dtype + number(24) + number(3) + b"\x86" + text("C") + b"tR"
    rows = [b"](" + array + number(label) + b"\x86e" for label in (0, 1)]
    return b"\x80\x04}(" + text("train") + rows[0] + text("test") + rows[1] + b"u."


def _play(path: Path) -> int:
    with sample_fault(str(path)), open_video(path) as video:
        return sum(1 for _ in video.read(range(video.meta.num_frames)))


VIDEOS = {
    "a.mp4": {"bf": "2", "g": "4"},
    "a.mkv": {"bf": "2", "g": "4"},
    "a.ts": {"bf": "2", "g": "4"},
    "a.avi": {"codec": "mpeg4", "g": "4"},
    "a.webm": {"codec": "libvpx", "g": "4"},
    "a.mpg": {"codec": "mpeg2video", "g": "4"},
    "a.gif": {"codec": "gif"},
}


def _videos(folder: Path) -> dict[str, Seed]:
    for name, how in VIDEOS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        write_video(folder / name / name, 8, size=(32, 32), **how)  # type: ignore[arg-type]
    return {name: Seed(name, lambda at, name=name: _play(at / name)) for name in VIDEOS}  # type: ignore[misc]


IMAGES = ("jpg", "png", "webp", "bmp")


def _images(folder: Path) -> dict[str, Seed]:
    """Folders of three images, one of which is mutated."""
    pixels = np.random.default_rng(1).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    seeds = {}
    for suffix in IMAGES:
        inner = folder / f"images.{suffix}" / "frames"
        inner.mkdir(parents=True, exist_ok=True)
        for number in range(3):
            Image.fromarray(pixels).save(inner / f"{number}.{suffix}")
        seeds[f"images.{suffix}"] = Seed(f"frames/1.{suffix}", lambda at: _play(at / "frames"), 2)
    return seeds


def _pack(at: Path) -> object:
    pack = CloudPack(str(at))
    return [pack.open(entry.path) for entry in pack.entries]


def _packs(folder: Path) -> dict[str, Seed]:
    """The description, a list and a tar of a pack, and both kinds of index."""
    inside = folder / "a.npy" / "a.npy"
    seeds = {}
    for name in ("pack.json", "shard-00000.jsonl", "shard-00000.tar"):
        write_pack([Entry(str(inside))] * 2, folder / name, CloudPacker(CloudPackConfig()), progress=False)
        seeds[name] = Seed(name, _pack, 3)
    (folder / "clouds.jsonl").mkdir()
    (folder / "videos.jsonl").mkdir()
    survey([Entry(str(inside))], folder / "clouds.jsonl" / "clouds.jsonl", progress=False)
    survey_videos([Entry(str(folder / "a.mp4" / "a.mp4"))], folder / "videos.jsonl" / "videos.jsonl", progress=False)
    seeds["clouds.jsonl"] = Seed("clouds.jsonl", lambda at: read_records(at / "clouds.jsonl", CloudTable.from_json), 3)
    seeds["videos.jsonl"] = Seed("videos.jsonl", lambda at: read_index(at / "videos.jsonl"), 3)
    return seeds


def _lists(folder: Path) -> dict[str, Seed]:
    texts = {
        "clouds.txt": "a.npy chair\nb.h5#3 chair\nc.ply table\n",
        "videos.txt": "a.mp4 0\nb.mp4 1\nc.mp4 1\n",
        "videomae.txt": "a.mp4 0 10 1\nb.mp4 5 -1 2\n",
        "table.csv": "path,label,split\na.mp4,run,train\nb.mp4,jump,test\n",
    }
    seeds = {}
    for name, text in texts.items():
        (folder / name).mkdir()
        (folder / name / name).write_text(text)
        for there in ("a.npy", "a.mp4"):
            (folder / name / there).write_text("there")
        read = clouds.read_source if name == "clouds.txt" else videos.read_source
        seeds[name] = Seed(name, lambda at, name=name, read=read: read(at / name), 3)  # type: ignore[misc]
    return seeds


def _runs(folder: Path) -> dict[str, Seed]:
    recipe = Path(__file__).parents[2] / "configs" / "quickstart" / "points.yaml"
    (folder / "run.yaml").mkdir()
    shutil.copy(recipe, folder / "run.yaml" / "run.yaml")
    model = ENCODERS.config("point_vit").model_validate(
        {"name": "point_vit", "dim": 24, "depth": 1, "heads": 3, "num_groups": 8, "group_size": 4}
    )
    save_encoder(ENCODERS.build(model, PointInputConfig(num_points=64)), folder / "encoder.json")
    tensors = {"model": {"w": torch.arange(4.0)}, "optimizer": {}}
    seeds = {
        "run.yaml": Seed("run.yaml", lambda at: load_runs(at / "run.yaml"), 3),
        "encoder.json": Seed("encoder.json", describe_encoder, 3),
    }
    for name in ("manifest.json", "state.json", "model.safetensors"):
        Checkpointer(folder / name).save(1, tensors, {"value": 1})
        seeds[name] = Seed(f"step_00000001/{name}", lambda at: load_checkpoint(at / "step_00000001"), 3)
        seeds[f"latest of {name}"] = Seed(f"step_00000001/{name}", _latest, moves=True)
        shutil.copytree(folder / name, folder / f"latest of {name}")
    return seeds


def _latest(at: Path) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Checkpointer(at).latest()
