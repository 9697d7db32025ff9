"""List the pretraining methods: what each does, and the paper it is from.

An idea is a folder of st_ssl/methods: contrast, masked, latent, dense, pretext.

examples:
  st-ssl methods
  st-ssl methods --idea contrast
  st-ssl methods --stream points
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from st_ssl.cli import Parser

if TYPE_CHECKING:
    from st_ssl.methods.catalogue import Row


def ideas() -> list[str]:
    """The folders of methods. None is imported, so that help comes without torch."""
    return sorted(file.parent.name for file in (Path(__file__).parents[1] / "methods").glob("*/__init__.py"))


def _arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--idea", choices=ideas(), help="only those of one idea")
    parser.add_argument("--stream", choices=("video", "points"), help="only those that see videos, or clouds")
    parser.add_argument("--markdown", action="store_true", help="as the table of the documentation")
    return parser.parse()


def main() -> None:
    """Run the command."""
    arguments = _arguments()
    from st_ssl.methods.catalogue import markdown, rows

    found = rows(arguments.idea, arguments.stream)
    if arguments.markdown:
        print(markdown(found), end="")
    else:
        _print(found)


def _print(found: Sequence[Row]) -> None:
    from rich.table import Table

    from st_ssl.engine.console import PlainConsole

    table = Table("method", "idea", "sees", "what it does", "paper")
    for row in found:
        table.add_row(row.name, row.idea, row.stream, row.paper.idea, f"{row.paper.authors}, {row.paper.venue}")
    PlainConsole().print(table)
