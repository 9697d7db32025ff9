"""How pages are made of their templates, and written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from st_ssl.core.files import write_atomically

if TYPE_CHECKING:
    from jinja2 import Environment


def templates() -> Environment:
    """The templates of this folder."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("st_ssl.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_page(text: str, output: Path) -> Path:
    """Write the page ``text`` to ``output``, whose folder is made, and return it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(output) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="replace")  # a file name may hold bytes that are no text
    return output
