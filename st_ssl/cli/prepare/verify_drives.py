"""``prepare verify --kind drives``: read all sweeps, and tell what is wrong with their boxes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from st_ssl.cli.prepare.verify import read_clouds
from st_ssl.core.errors import SampleError, shown
from st_ssl.core.types import Entry
from st_ssl.data.account import account_lines
from st_ssl.data.box_checks import BoxReport, Frame, check_boxes
from st_ssl.data.drives.config import DriveDataConfig
from st_ssl.data.drives.dataset import DriveSource
from st_ssl.data.sources.base import Listing
from st_ssl.data.streams.points.drives import DriveSweeps

MOST = 500
"""Sweeps whose boxes are looked at; of more, so many that are spread evenly."""


def verify_drives(config: DriveDataConfig, file: Path, workers: int, page: Path | None) -> int:
    """Read all sweeps of the drives that ``config`` describes into ``file``, tell what was found in them and in their
    boxes, and write the latter to ``page``: 1 where a file is broken, or boxes are wrong."""
    if page is not None:
        from st_ssl.report.figures import require_matplotlib

        require_matplotlib()
    source = DriveSource(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are in the account
        lines = account_lines(source.account())
    for line in lines:
        print(shown(line))
    sweeps = [Entry(path, drive.split) for drive in source.drives.values() for path in drive.files]
    broken = read_clouds(Listing(sweeps), source.reading, file, workers)
    places = _spread([(path, at) for path, drive in source.drives.items() for at in sorted(drive.boxes)])
    if not places:
        print("no sweep has boxes")
        return broken
    seen: dict[str, tuple[str, int]] = {}
    report = check_boxes(_frames(source, places, seen), source.box_classes)
    tell_boxes(report)
    if page is not None:
        from st_ssl.report.boxes import examples, write_box_page

        chosen = [seen[name] for name in examples(report, list(seen))]
        title = f"Boxes of {Path(config.root or '').name}"
        print(write_box_page(list(_frames(source, chosen, {})), report, page, title))
    return int(bool(broken or source.survey.broken or report.mistakes or len(seen) < len(places)))


def tell_boxes(report: BoxReport) -> None:
    """Print what was found in boxes: counts, what a detector may be given, and findings."""
    print(f"boxes: {report.boxes} in {report.frames} sweeps")
    for row in report.rows:
        far = "or more" if np.isinf(row.far) else f"to {row.far:g}"
        told = f"{row.boxes}, {row.empty} empty, {row.points:.0f} points in the median"
        print(f"  {row.name}, {row.near:g} {far} m: {told}")
    if report.proposal is not None:
        for name, (length, width, height, z, _) in report.proposal.sizes.items():
            print(f"  {name}: mean size {length:.2f} x {width:.2f} x {height:.2f} m, centre at z {z:.2f}")
        print(f"  99 % of boxes are within {', '.join(f'{side:g}' for side in report.proposal.extent)}")
    for finding in report.findings:
        where = "" if finding.example is None else f" ({finding.example[0]}, box {finding.example[1]})"
        print(shown(f"{finding.kind}: {finding.guess}{where}"))


def _spread(places: list[tuple[str, int]]) -> list[tuple[str, int]]:
    if len(places) <= MOST:
        return places
    print(f"boxes of {MOST} of {len(places)} sweeps are looked at, spread evenly")
    return [places[number] for number in np.linspace(0, len(places) - 1, MOST).astype(int)]


def _frames(source: DriveSource, places: list[tuple[str, int]], seen: dict[str, tuple[str, int]]) -> Iterator[Frame]:
    """The sweeps ``places`` (drive, number) that can be read, noted in ``seen`` by what they are called."""
    for path, at in places:
        drive = source.drives[path]
        try:
            ((_, cloud),) = DriveSweeps(drive, source.sweep_options).read([at])
        except SampleError as error:
            print(shown(f"left out: {error}"))
            continue
        assert cloud.boxes is not None
        name = f"{Path(path).name}, sweep {at}"
        name = path + name[len(Path(path).name) :] if name in seen else name
        seen[name] = path, at
        yield name, cloud.xyz, cloud.boxes
