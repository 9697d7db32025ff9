"""Write one self-contained HTML page: curves, views, reconstructions, neighbours, map, probes.

examples:
  st-ssl report runs/quickstart/video
  st-ssl report runs/quickstart/points --viewer open3d --save clouds
"""

from __future__ import annotations

import argparse
from pathlib import Path

from st_ssl.cli import Parser


def _arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("run", type=Path, help="the folder of a run, or of a suite of runs")
    parser.add_argument("--output", type=Path, help="the file to write (default: report.html in the folder)")
    viewer = "show the clouds of the report in this viewer; no page is written"
    parser.add_argument("--viewer", choices=["open3d"], help=viewer)
    save = "with --viewer: open no window, write a folder of .ply files"
    parser.add_argument("--save", type=Path, metavar="PLACE", help=save)
    arguments = parser.parse()
    if arguments.save is not None and arguments.viewer is None:
        parser.error("--save goes with --viewer; where the page is written to is --output")
    if arguments.output is not None and arguments.viewer is not None:
        parser.error("--output is of the page, which --viewer does not write; did you mean --save?")
    return arguments


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    from st_ssl.core.errors import OutputError
    from st_ssl.core.files import check_file, check_writable
    from st_ssl.engine.run_files import find_runs
    from st_ssl.report.page import write_report
    from st_ssl.report.viewers import show_clouds

    runs = find_runs(arguments.run)
    if arguments.viewer is not None:
        if place := arguments.save:
            what = "--viewer open3d --save "
            if place.is_file():
                raise OutputError(f"{what}{place} is a file, and a folder is to be written: choose another name")
            check_writable(place, what)
        show_clouds(runs, place)
        if place:
            print(place)
        return
    output = arguments.output or arguments.run / "report.html"
    check_file(output, "--output ")
    print(write_report(runs, output))
