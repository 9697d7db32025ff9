"""Folders of data sets that are written once: claimed by one configuration, their files complete or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from st_ssl.errors import DataError


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """A hidden name beside ``path`` to write a file under; it takes the name ``path`` where the block ends well."""
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a text in one step."""
    with write_atomically(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")


def claim_folder(folder: Path, stamp: str, mine: dict[str, Any], what: str) -> None:
    """Make ``folder`` that of ``what``, described by ``mine`` (JSON) in the file ``stamp`` in it; ``DataError`` where
    it already holds anything else, and then nothing is changed."""
    file = folder / stamp
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file: a {what} needs a folder of its own")
    foreign = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []
    if file.exists():
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{file} is not valid JSON ({error}): choose another folder, or remove this one") from error
        if found != mine:
            raise DataError(
                f"{folder} holds another {what}: {stamp} says {found}, asked for is {mine}; nothing was changed, "
                "choose another folder or remove this one"
            )
    elif foreign:
        raise DataError(
            f"{folder} is not empty and has no {stamp} (found {', '.join(foreign[:3])}"
            f"{', …' if len(foreign) > 3 else ''}): nothing was changed, choose an empty or new folder"
        )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(file, json.dumps(mine, indent=2) + "\n")
