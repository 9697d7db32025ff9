"""Files that are complete or not there: however the process that writes one ends, and whoever else writes it too."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from uuid import uuid4

from st_ssl.core.config import differences
from st_ssl.core.errors import OutputError, nearest
from st_ssl.core.plain_json import NOT_PLAIN, load_json


def missing_folder(folder: Path) -> str:
    """What there is to say of a folder that does not exist: where its path ends, and the nearest of the folders there;
    "" for one that does."""
    gone = folder.absolute()
    if gone.exists():
        return ""
    while not gone.parent.exists():
        gone = gone.parent
    there = sorted(path.name for path in gone.parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    more = ", …" if len(there) > 5 else ""
    near = nearest(gone.name, there) or (f" (there are: {', '.join(there[:5])}{more})" if there else "")
    return f"there is no {gone.name} in {gone.parent}{near}"


def check_writable(folder: Path, what: str = "") -> None:
    """Raise ``OutputError`` where ``folder`` cannot be made or written to, ``what`` being put before its name. It is
    tried, and nothing is left of that."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return
    except OSError as error:
        links = [path for path in (folder, *folder.parents) if path.is_symlink() and not path.exists()]
        more = f"; {links[0]} is a link to {os.readlink(links[0])}, which is not there" if links else ""
        raise OutputError(f"{what}{folder}: cannot be written to: {error.strerror}{more}") from error
    finally:
        for path in made:
            with suppress(OSError):  # not made, or not empty: somebody else uses it by now
                path.rmdir()


def check_file(file: Path, what: str = "") -> None:
    """Raise ``OutputError`` where no ``file`` can be written, as where it is a folder; ``what`` as above."""
    if file.is_dir():
        raise OutputError(f"{what}{file} is a folder, and a file is to be written: choose another name")
    check_writable(file.parent, what)


@contextmanager
def write_atomically(path: Path, alone: bool = False) -> Iterator[Path]:
    """A hidden name beside ``path``, of this writer alone, to write a file (or a new folder) under: where the block
    ends well it goes to disk and takes the name ``path`` in one step, else it is removed. ``alone``: it is a file that
    nobody else writes, so that what killed writers left of it is removed first. Raises ``OSError`` where the disk
    refuses."""
    if alone:
        for left in path.parent.glob(f".{escape(path.name)}.*.partial"):
            left.unlink(missing_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        yield unfinished
        sync(unfinished)
        os.replace(unfinished, path)
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.unlink(missing_ok=True)


def replace_text(path: Path, text: str, alone: bool = False) -> None:
    """Write ``text`` to a file in one step: killed at any moment it holds either the old text or the new one. ``alone``
    as in ``write_atomically``."""
    with write_atomically(path, alone) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="")


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Comma-separated values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(rows)
    return text.getvalue()


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def claim_folder(folder: Path, stamp: str, mine: dict[str, Any], what: str, note: str = "") -> None:
    """Make ``folder`` that of ``what``, described by ``mine`` (JSON) in the file ``stamp`` in it. It may be claimed
    again with the same description, also by several processes at once; where it holds anything else (hidden files
    aside), or cannot be written to, that is an ``OutputError``, with ``note`` behind it, and nothing is changed."""
    file = folder / stamp
    try:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file: a {what} needs a folder of its own")
        folder.mkdir(parents=True, exist_ok=True)
        foreign = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if not file.exists():  # asked after that: another machine may have begun in between
            if foreign:
                found = f"{', '.join(foreign[:3])}{', …' if len(foreign) > 3 else ''}"
                raise OutputError(
                    f"{folder} is not empty and has no {stamp} (found {found}): nothing was changed, choose an empty "
                    "or new folder"
                )
            replace_text(file, json.dumps(mine, indent=2) + "\n")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written to ({error.strerror}): choose another folder") from error
    try:
        changed = differences(load_json(file.read_text(encoding="utf-8")), mine)
    except (OSError, *NOT_PLAIN) as error:
        raise OutputError(f"{file} is not valid JSON ({error}): choose another folder, or remove this one") from error
    if changed:
        raise OutputError(
            f"{folder} holds another {what} ({'; '.join(changed.values())}): nothing was changed, choose another "
            f"folder, or remove this one{note}"
        )
