"""``report``: one self-contained HTML page of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from st_ssl.cli import Parser


def _arguments() -> argparse.Namespace:
    parser = Parser(
        description="Write one self-contained HTML page: curves, views, reconstructions, neighbours, map, probes.",
        epilog="example:\n  python tools/report.py runs/quickstart/video",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="the folder of a run, or of a suite of runs")
    parser.add_argument("--output", type=Path, help="the file to write (default: report.html in the folder)")
    return parser.parse()


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    from st_ssl.engine.run_files import find_runs
    from st_ssl.files import check_writable
    from st_ssl.report.page import write_report

    runs = find_runs(arguments.run)
    output = arguments.output or arguments.run / "report.html"
    check_writable(output.parent)
    print(write_report(runs, output))
