"""``prepare verify``: decode everything, and tell how a data set is read, so that a wrong guess is seen."""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from st_ssl.core.errors import OutputError, shown
from st_ssl.core.files import check_writable
from st_ssl.core.types import Entry, VideoMeta
from st_ssl.data.account import account_lines
from st_ssl.data.packs import points_index, video_index
from st_ssl.data.packs.file_index import Record
from st_ssl.data.packs.points_index import CloudTable
from st_ssl.data.packs.points_read import CloudPack
from st_ssl.data.packs.read_pack import Pack, packed_items, verify_pack
from st_ssl.data.packs.video_read import VideoPack
from st_ssl.data.sources.base import Listing
from st_ssl.data.streams.points.reading import Reading, decide
from st_ssl.data.streams.video.frame_table import uneven

_FEW = 5
"""The most examples of a kind that the page names."""


def verify(arguments: argparse.Namespace, config: Any) -> int:
    """Decode all samples of the data that ``config`` describes, or every byte of the pack ROOT where it is None, and
    tell what was found: 1 where a sample is broken."""
    if config is None:
        return _pack(arguments)
    file = arguments.output or kept_file(arguments.root)
    listing, reading = find(config)
    if reading is not None:
        return read_clouds(listing, reading, file, arguments.workers)
    return _videos(config, listing, file, arguments.workers)


def kept_file(root: str) -> Path:
    """Where what was found of ROOT is kept, so that a stopped ``verify`` goes on: in the user's folder for caches, or
    that of temporary files where there is none to write to."""
    place = root if "://" in root else str(Path(root).expanduser().absolute())
    name = f"{Path(place).name}-{hashlib.sha256(place.encode(errors='surrogateescape')).hexdigest()[:12]}.jsonl"
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "st_ssl" / "verified"
        check_writable(cache)
    except (OutputError, RuntimeError) as error:  # RuntimeError: no home
        warnings.warn(f"{error}: what is found is kept in {tempfile.gettempdir()}", stacklevel=2)
        return Path(tempfile.gettempdir()) / f"st_ssl-verified-{name}"
    cache.mkdir(parents=True, exist_ok=True)
    return cache / name


def find(config: Any) -> tuple[Listing, Reading | None]:
    """Print how the samples that ``config`` describes are found and read; returns them, and of clouds how."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        listing: Listing = config.listing()
        account = {"listing": listing.summary()}
        reading = decide([e.path for e in listing], config.options) if config.name == "points" else None
        account |= {"reading": reading.account()} if reading is not None else {}
    lines = account_lines(account)
    lines += [text for text in dict.fromkeys(str(warning.message) for warning in warned) if text not in lines]
    for line in lines:
        print(shown(line))
    return listing, reading


def _videos(config: Any, listing: Listing, file: Path, workers: int) -> int:
    records = video_index.survey(
        listing, file, video_index.decode, config.reader, workers, max_pixels=config.max_pixels
    )
    tables = {path: record.table for path, record in records.items() if record.table is not None}
    if tables:
        _tell_metas({path: table.meta for path, table in tables.items()})
    if variable := sum(uneven(table.times(), table.meta.fps) for table in tables.values()):
        print(f"no constant frame rate: {variable} of {len(tables)}")
    return closing(listing, records, file, "videos")


def _tell_metas(metas: Mapping[str, VideoMeta]) -> None:
    sizes = Counter(f"{meta.width}x{meta.height}" for meta in metas.values())
    rates = Counter(f"{meta.fps:.4g}" for meta in metas.values())
    lengths = sorted(meta.num_frames for meta in metas.values())
    hours = sum(meta.num_frames / meta.fps for meta in metas.values()) / 3600
    middle = lengths[len(lengths) // 2]
    print(f"sizes: {_most(sizes)}\nframes a second: {_most(rates)}")
    print(f"lengths: {lengths[0]} to {lengths[-1]} frames (median {middle}), {sum(lengths)} in all, {hours:.2f} hours")
    _outliers("of another rate than most", {p: m.fps for p, m in metas.items()}, float(rates.most_common(1)[0][0]), 1.5)
    _outliers("much shorter or longer than most", {p: m.num_frames for p, m in metas.items()}, middle, 10)


def read_clouds(listing: Listing, reading: Reading | None, file: Path, workers: int) -> int:
    """Read all clouds into ``file`` and tell what is in them; 1 where one is broken."""
    records = points_index.survey(listing, file, reading.options if reading is not None else None, workers)
    tables: dict[str, CloudTable] = {p: record.table for p, record in records.items() if record.table is not None}
    print(points_index.describe(tables.values()))
    if tables:
        points = sorted(table.num_points for table in tables.values())
        extents = sorted(table.extent for table in tables.values())
        points_of = {path: table.num_points for path, table in tables.items()}
        _outliers("of many more or fewer points than most", points_of, points[len(points) // 2], 20)
        extent_of = {path: table.extent for path, table in tables.items()}
        _outliers("much wider or narrower than most", extent_of, extents[len(extents) // 2], 10)
        _tell_ids(listing, tables)
    for path, table in tables.items():
        if table.num_lost:
            total = table.num_points + table.num_lost
            print(f"left out: {shown(path)}: {table.num_lost} of {total} points, which are nowhere (NaN, infinity)")
    return closing(listing, records, file, "clouds")


def _tell_ids(entries: Sequence[Entry], tables: Mapping[str, CloudTable]) -> None:
    """Of each label of points the lowest and highest class of each split, and a file with the highest where it is
    beyond that of another split."""
    ranges: dict[str, dict[str, tuple[int, int, str]]] = defaultdict(dict)
    for entry in entries:
        table = tables.get(os.path.abspath(entry.path))
        for name, (low, high) in (table.ids if table is not None else {}).items():
            least, most, where = ranges[name].get(entry.split, (low, -1, ""))
            known = (most, where) if most >= high else (high, entry.path)
            ranges[name][entry.split] = min(least, low), *known
    for name, splits in ranges.items():
        usual = min(high for _, high, _ in splits.values())
        places = {split: f" ({shown(where)})" if high > usual else "" for split, (_, high, where) in splits.items()}
        print(
            f"labels of points, {name}: "
            + ", ".join(f"{low} … {high} in {at}{places[at]}" for at, (low, high, _) in splits.items())
        )


def _most(counts: Counter[str]) -> str:
    told = ", ".join(f"{name} ({count})" for name, count in counts.most_common(_FEW))
    return told + (f", and {len(counts) - _FEW} more" if len(counts) > _FEW else "")


def _outliers(what: str, values: Mapping[str, float], usual: float, factor: float) -> None:
    """Name some of those whose value is ``factor`` times larger or smaller than ``usual``."""
    odd = {path: value for path, value in values.items() if not usual / factor <= value <= usual * factor}
    if odd:
        named = ", ".join(f"{shown(path)} ({value:g})" for path, value in list(odd.items())[:_FEW])
        print(f"{what} ({usual:g}): {len(odd)}: {named}{' …' if len(odd) > _FEW else ''}")


def closing(entries: Sequence[Entry], records: Mapping[str, Record[Any]], file: Path, items: str) -> int:
    """Tell of copies in several splits, of what is broken and why, and at last how many are sound; 1 where any is
    broken."""

    _tell_copies(entries, records, items)
    print(f"what was found of each is in {file}")
    broken = {path: record.error for path, record in records.items() if record.error is not None}
    return tell(broken, len(records), items)


def _tell_copies(entries: Sequence[Entry], records: Mapping[str, Record[Any]], items: str) -> None:
    """Name samples of the same content in different splits: what is tested on was trained on."""
    seen: dict[str, dict[str, str]] = defaultdict(dict)
    for entry in entries:
        record = records.get(os.path.abspath(entry.path))
        if record is not None and record.digest:
            seen[f"{record.digest} {entry.start} {entry.num_frames}"].setdefault(entry.split, entry.path)
    copies = [list(paths.values()) for paths in seen.values() if len(paths) > 1]
    if copies:
        named = "; ".join(" = ".join(map(shown, paths)) for paths in copies[:_FEW])
        print(f"the same content in several splits: {len(copies)} {items}: {named}{' …' if len(copies) > _FEW else ''}")


def tell(broken: Mapping[str, str | None], total: int, items: str) -> int:
    """What is broken and why, a line each, and last how many of ``total`` are sound."""
    for path, reason in broken.items():
        print(shown(f"broken: {path}: {reason}"))
    print(f"{total - len(broken)} of {total} {items} are sound, {len(broken)} broken")
    return 1 if broken else 0


def _pack(arguments: argparse.Namespace) -> int:
    defaults = {"list": None, "format": "auto", "split": None, "reader": "auto", "output": None}
    ignored = [f"--{name}" for name, value in defaults.items() if getattr(arguments, name) != value]
    if ignored:
        warnings.warn(f"ignored with a pack: {', '.join(ignored)}", stacklevel=2)
    kinds: tuple[type[Pack[Any]], ...] = (VideoPack, CloudPack)
    kind = next(kind for kind in kinds if kind.items == packed_items(arguments.root))
    broken: dict[str, str | None] = dict(verify_pack(arguments.root, kind, arguments.workers))
    root = arguments.root if "://" in arguments.root else os.path.abspath(arguments.root)
    pack = kind(root, whole=False)
    for entry in pack.entries if broken else []:
        if entry.path in broken:
            broken[entry.path] = f"{broken[entry.path]} (packed from {entry.source})"
    return tell(broken, max(len(broken), len(pack.entries) + len(pack.failed)), kind.items)
