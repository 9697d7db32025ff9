"""Make data ready. Steps can be stopped and started again; what is done is not done twice.

examples:
  st-ssl prepare synthetic videos --output data/planted num_train=1000 num_val=240 seed=1
  st-ssl prepare synthetic videos --output data/hard objects=2 occlusion=0.3 cuts=1 scene_motion=0.9 watermark=clock
  st-ssl prepare synthetic shapes --output data/shapes num_train=1000     # objects; rooms: furnished rooms
  st-ssl prepare synthetic drives --output data/drives num_val=2 seed=1   # streets, as a spinning LiDAR sees them
  st-ssl prepare synthetic drives --output data/as_kitti --layout kitti num_val=2
  st-ssl prepare index data/kinetics                      # once: runs then open files without scanning them
  st-ssl prepare verify data/kinetics                     # decode everything, tell what is broken and why
  st-ssl prepare verify data/modelnet40                   # videos or clouds? the files tell; --kind says which
  st-ssl prepare verify data/kitti --kind drives --page boxes.html    # of drives also what is wrong with boxes
  st-ssl prepare poses /my/drives                         # of drives that have none: how the sensor moved
  st-ssl prepare pack data/kinetics --output packed short_side=256
  st-ssl prepare pack data/kinetics --output packed --shard 3/16    # the fourth of sixteen machines
  st-ssl prepare pack data/scannet --output packed voxel_size=0.02  # clouds, of each voxel one point
  st-ssl pretrain CONFIG data.root=packed
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from st_ssl.cli import Parser, configured
from st_ssl.core.limits import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable

    from st_ssl.core.config import Config

DATA_KEYS = "how samples are read, as data.KEY: series, max_pixels; of clouds columns, intensity_range, max_points …"
PACK_SETTINGS = "shard_size; of videos short_side, crf, keyframes; of clouds voxel_size; and keys of data as for verify"
SYNTHETIC_SETTINGS = """num_train, num_val (0 writes no validation part), num_test, seed, ...; of videos also objects,
occlusion, cuts, scene_motion, watermark; the last line says what was written"""
OUTPUT = """index: the file (default: st_ssl_index.jsonl in ROOT or beside the list); verify: the file with what was
found of every sample (default: one in the user's cache folder); pack: the folder"""


def _arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    synthetic = steps.add_parser("synthetic", help="write data whose factors are known")
    synthetic.add_argument("kind", choices=["videos", "shapes", "rooms", "drives"], help="what to write")
    synthetic.add_argument("--output", type=Path, required=True, help="the folder to write to")
    synthetic.add_argument("--layout", help="of drives: own (default), kitti, semantic_kitti or nuscenes")
    synthetic.add_argument("overrides", nargs="*", metavar="key=value", help=SYNTHETIC_SETTINGS)
    _place(index := steps.add_parser("index", help="look at every video or cloud once: what it is, how large"))
    _place(verify := steps.add_parser("verify", help="decode all samples, tell how they are read"), ("drives",))
    verify.add_argument("--page", type=Path, help="of drives: the page (.html) with their boxes to write")
    for step in (index, verify):
        step.add_argument("--columns", type=int, help="float32 numbers of a point in .bin, as data.bin_columns")
        step.add_argument("overrides", nargs="*", metavar="key=value", help=DATA_KEYS)
    poses = steps.add_parser("poses", help="find how the sensor moved, for drives of one's own without poses")
    poses.add_argument("root", help="a folder of drives, as data.root takes it")
    poses.add_argument("--range", type=float, default=100.0, metavar="METRES", help="of the sensor (default: 100)")
    poses.add_argument("--voxel", type=float, default=1.0, metavar="METRES", help="of the map (default: 1)")
    poses.add_argument("--overwrite", action="store_true", help="find them again where there are some, too")
    poses.add_argument("overrides", nargs="*", metavar="key=value", help="how sweeps are read: near, rate, bin_columns")
    pack = steps.add_parser("pack", help="make videos or clouds small and quick to read, in a few large files")
    _place(pack)
    pack.add_argument("--shard", default="0/1", metavar="i/N", help="write every N-th shard from the i-th (from 0) on")
    pack.add_argument("overrides", nargs="*", metavar="key=value", help=PACK_SETTINGS)
    cores = max(1, int(usable_cores()))
    for step in steps.choices.values():
        step.add_argument("--workers", type=_count, default=cores, help="processes (default: %(default)s)")
    arguments, step = parser.parse_step(steps)
    if unknown := [text for text in arguments.overrides if "=" not in text]:
        step.refuse(unknown)
    if arguments.step == "pack":
        arguments.shard = _shard(step, arguments.shard)
        if arguments.output is None:
            step.error("pack needs --output FOLDER")
    return arguments


def _place(parser: argparse.ArgumentParser, more: tuple[str, ...] = ()) -> None:
    parser.add_argument("root", help="a folder of videos or clouds, a list, or (verify) a pack: what data.root takes")
    kinds = ["auto", "video", "points", *more]
    parser.add_argument("--kind", choices=kinds, default="auto", help="what is in ROOT (auto: told by its files)")
    parser.add_argument("--list", type=Path, help="a list file whose paths are relative to ROOT, as data.list")
    parser.add_argument("--output", type=Path, help=OUTPUT)
    parser.add_argument("--format", default="auto", help="what the list is, as data.format (default: %(default)s)")
    parser.add_argument("--split", type=int, help="which of several official splits, as data.split")
    parser.add_argument("--reader", default="auto", help="of videos: auto, pyav, decord, ... (default: %(default)s)")


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text}: expected 0 or more")
    return int(text)


def _shard(parser: argparse.ArgumentParser, text: str) -> tuple[int, int]:
    number, _, total = text.partition("/")
    if not (number.isdigit() and total.isdigit() and int(number) < int(total)):
        parser.error(f"--shard {text}: expected i/N with i from 0 to N - 1, such as 0/16")
    return int(number), int(total)


def main() -> int:
    """Run the command: 1 where a sample is broken."""
    arguments = _arguments()
    return {"synthetic": _synthetic, "index": _index, "verify": _verify, "poses": _poses, "pack": _pack}[
        arguments.step
    ](arguments)


def _synthetic(arguments: argparse.Namespace) -> int:
    from st_ssl.data.synthetic import drives, rooms, shapes, videos

    kinds: dict[str, tuple[type[Config], Callable[..., Path]]] = {
        "videos": (videos.SyntheticVideoConfig, videos.write_dataset),
        "shapes": (shapes.SyntheticShapeConfig, shapes.write_dataset),
        "rooms": (rooms.SyntheticRoomConfig, rooms.write_dataset),
        "drives": (drives.SyntheticDriveConfig, drives.write_dataset),
    }
    model, write = kinds[arguments.kind]
    layout = [] if arguments.layout is None else [f"layout={arguments.layout}"]
    config = configured(model, [*arguments.overrides, *layout], {})
    print(write(arguments.output, config, num_workers=arguments.workers))
    counts = {key: value for key, value in config if key in ("num_train", "num_val", "num_test")}
    print(f"{arguments.kind}: {', '.join(f'{count} {key[4:]} ({key})' for key, count in counts.items())}")
    return 0


def _is_points(arguments: argparse.Namespace) -> bool:
    """Whether ROOT has clouds: as ``--kind`` says, or its files do, which is told."""
    from st_ssl.data.sources.detect import modality_of

    if arguments.kind != "auto":
        return bool(arguments.kind == "points")
    points = modality_of(arguments.root, arguments.list, arguments.format) == "points"
    if points:
        print(f"{arguments.root}: taken for clouds by its files (--kind video if it is not)")
    return points


def _data(arguments: argparse.Namespace, points: bool, overrides: list[str]) -> Any:
    """The configuration of the data that ROOT, its options and keys describe. Raises ``DataError`` for a pack."""
    from st_ssl.core.errors import DataError
    from st_ssl.data.packs.read_pack import is_pack

    if is_pack(arguments.root):
        raise DataError(f"{arguments.root} is a pack: it needs no {arguments.step}; train on it with data.root")
    if points and arguments.reader != "auto":
        warnings.warn(f"ignored with clouds: --reader {arguments.reader}", stacklevel=2)
    given = {
        "root": arguments.root,
        "format": arguments.format,
        "list": arguments.list and str(arguments.list),
        "split": arguments.split,
        "reader": None if points else arguments.reader,
        "bin_columns": getattr(arguments, "columns", None) if points else None,
    }
    values = {key: value for key, value in given.items() if value is not None}
    return configured(_model(points), [text.removeprefix("data.") for text in overrides], values)


def _model(points: bool) -> type[Config]:
    """Of one kind of data; light, since importing torch takes seconds."""
    from st_ssl.data.points.config import PointDataConfig
    from st_ssl.data.video.config import VideoDataConfig

    return PointDataConfig if points else VideoDataConfig


def _poses(arguments: argparse.Namespace) -> int:
    from st_ssl.cli.prepare.poses import write_poses
    from st_ssl.data.drives.config import DriveDataConfig

    config = configured(DriveDataConfig, arguments.overrides, {"root": arguments.root})
    return write_poses(config, arguments.range, arguments.voxel, arguments.overwrite, arguments.workers)


def _index(arguments: argparse.Namespace) -> int:
    from st_ssl.cli.prepare.verify import find, read_clouds, tell
    from st_ssl.data.packs.video_index import INDEX_FILE, survey

    root = Path(arguments.root).expanduser()
    file = arguments.output or (root.parent if root.is_file() else root) / INDEX_FILE
    points = _is_points(arguments)
    config = _data(arguments, points, arguments.overrides)
    if points:
        return read_clouds(*find(config), file, arguments.workers)
    how = {"reader": config.reader, "max_pixels": config.max_pixels}
    records = survey(config.listing(), file, num_workers=arguments.workers, **how)
    metas = [record.table.meta for record in records.values() if record.table is not None]
    frames, seconds = sum(m.num_frames for m in metas), sum(m.num_frames / m.fps for m in metas)
    print(f"{file}: {len(records)} videos, {frames} frames, {seconds / 3600:.2f} hours")
    broken = {path: record.error for path, record in records.items() if record.error is not None}
    return tell(broken, len(records), "videos")


def _verify(arguments: argparse.Namespace) -> int:
    from st_ssl.cli.prepare.verify import verify
    from st_ssl.data.packs.read_pack import is_pack

    if arguments.kind == "drives":
        return _verify_drives(arguments)
    if arguments.page is not None:
        warnings.warn(f"ignored without --kind drives: --page {arguments.page}", stacklevel=2)
    pack = is_pack(arguments.root)
    return verify(arguments, None if pack else _data(arguments, _is_points(arguments), arguments.overrides))


def _verify_drives(arguments: argparse.Namespace) -> int:
    from st_ssl.cli.prepare.verify import kept_file
    from st_ssl.cli.prepare.verify_drives import verify_drives
    from st_ssl.data.drives.config import DriveDataConfig

    defaults = {"list": None, "format": "auto", "split": None, "reader": "auto"}
    ignored = [f"--{name}" for name, value in defaults.items() if getattr(arguments, name) != value]
    if ignored:
        warnings.warn(f"ignored with drives: {', '.join(ignored)}", stacklevel=2)
    given = {"root": arguments.root} | ({} if arguments.columns is None else {"bin_columns": arguments.columns})
    config = configured(DriveDataConfig, [text.removeprefix("data.") for text in arguments.overrides], given)
    return verify_drives(config, arguments.output or kept_file(arguments.root), arguments.workers, arguments.page)


def _pack(arguments: argparse.Namespace) -> int:
    from st_ssl.cli.prepare.verify import tell
    from st_ssl.data.packs.points_write import CloudPackConfig, CloudPacker
    from st_ssl.data.packs.video_write import PackConfig, VideoPacker
    from st_ssl.data.packs.write_pack import Packer, write_pack
    from st_ssl.data.streams.points.reading import decide

    points, output = _is_points(arguments), arguments.output
    model: type[Config] = CloudPackConfig if points else PackConfig
    own, keys = _divided(arguments.overrides, model, _model(points))
    config = configured(model, own, {})
    data = _data(arguments, points, keys)
    entries = data.listing()
    packer: Packer
    if points:
        options = decide([entry.path for entry in entries], data.options).options
        ranges = {key: getattr(options, key) for key in ("bin_columns", "color_range", "intensity_range")}
        config = config.model_copy(update=ranges)
        packer = CloudPacker(config, options)
    else:
        packer = VideoPacker(config, data.reader, data.max_pixels)
    broken = write_pack(entries, output, packer, arguments.shard, arguments.workers)
    missing = -(-len(entries) // config.shard_size) - len(list(output.glob("shard-*.jsonl")))
    how = f"data.name=points data.root={output}" if points else f"data.root={output}"
    print(f"{output}: {f'{missing} shards are missing' if missing else f'train on it with {how}'}")
    if broken:
        print(f"{len(broken)} {packer.pack.items} are left out: a shard without its .jsonl is packed again")
    return tell(dict(broken), len(entries), packer.pack.items)


def _divided(overrides: list[str], pack: type[Config], data: type[Config]) -> tuple[list[str], list[str]]:
    """Settings of a pack, and keys of the data in it: one that both know is given to both."""
    named = [(text.partition("=")[0].strip(), text) for text in overrides]
    own = [text for key, text in named if key in pack.model_fields or key not in data.model_fields]
    return own, [text for key, text in named if key in data.model_fields]
