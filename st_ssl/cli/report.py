"""``report``: one self-contained HTML page of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from st_ssl.cli import Parser


def _arguments() -> argparse.Namespace:
    parser = Parser(
        description="Write one self-contained HTML page: curves, views, reconstructions, neighbours, map, probes.",
        epilog="examples:\n  python tools/report.py runs/quickstart/video\n"
        "  python tools/report.py runs/quickstart/points --viewer rerun --save clouds.rrd",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="the folder of a run, or of a suite of runs")
    parser.add_argument("--output", type=Path, help="the file to write (default: report.html in the folder)")
    parser.add_argument(
        "--viewer", choices=["open3d", "rerun"], help="show the clouds of the report in this viewer; no page is written"
    )
    parser.add_argument(
        "--save",
        type=Path,
        metavar="PLACE",
        help="open no window: write a folder of .ply files (open3d), or a recording .rrd (rerun)",
    )
    arguments = parser.parse()
    if arguments.save is not None and arguments.viewer is None:
        parser.error("--save goes with --viewer; where the page is written to is --output")
    if arguments.output is not None and arguments.viewer is not None:
        parser.error("--output is of the page, which --viewer does not write; did you mean --save?")
    return arguments


def _check_place(option: str, place: Path, folder: bool) -> None:
    """Raise ``OutputError`` where a folder, or a file, cannot be written at ``place``."""
    from st_ssl.errors import OutputError
    from st_ssl.files import check_writable

    if place.exists() and place.is_dir() != folder:
        there, expected = ("file", "folder") if folder else ("folder", "file")
        raise OutputError(f"{option} {place} is a {there}, and a {expected} is to be written: choose another name")
    check_writable(place if folder else place.parent, f"{option} ")


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    from st_ssl.engine.run_files import find_runs
    from st_ssl.report.page import write_report
    from st_ssl.report.viewers import show_clouds

    runs = find_runs(arguments.run)
    if arguments.viewer is not None:
        if arguments.save is not None:
            _check_place(f"--viewer {arguments.viewer} --save", arguments.save, arguments.viewer == "open3d")
        saved = show_clouds(runs, arguments.viewer, arguments.save)
        if saved is not None:
            print(saved)
        return
    output = arguments.output or arguments.run / "report.html"
    _check_place("--output", output, folder=False)
    print(write_report(runs, output))
