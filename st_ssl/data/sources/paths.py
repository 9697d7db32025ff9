"""Where the files are that lists name, also where they are spelled a little differently there."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath

from st_ssl.core.errors import DataError
from st_ssl.data.sources.base import Kind, exists, in_folder
from st_ssl.data.sources.folders import files_below


class Finder:
    """The files that a list names, in the first of ``folders`` that has them. Absolute paths stay where they exist.

    Where a name is not there as it is written, it is looked for in other spellings: without a slash in front, with
    slashes for backslashes, with its accents composed or not (NFC, NFD), with the extension that it lacks; and where
    nothing of a list is found and its names have no folders, anywhere below the first folder, if there only once.
    """

    def __init__(self, kind: Kind, folders: Sequence[Path]) -> None:
        self.kind = kind
        self.folders = [str(folder) for folder in dict.fromkeys(folders)]
        self._listed = lru_cache(maxsize=None)(self._list)

    def all(self, names: Sequence[str]) -> list[str]:
        """The paths of ``names``; what is nowhere is where it should be in the first folder."""
        paths = [self.one(name) for name in names]
        if any("/" in name or "\\" in name for name in names) or any(map(exists, paths)):
            return paths
        below: dict[str, list[str]] = {}
        for path in files_below(Path(self.folders[0]), self.kind):
            for name in (path.name, path.stem):
                below.setdefault(_composed(name), []).append(str(path))
        places = [below.get(_composed(name), []) for name in names]
        return [found[0] if len(found) == 1 else path for found, path in zip(places, paths, strict=True)]

    def one(self, name: str) -> str:
        """The path of one name, as ``all`` says but for looking anywhere."""
        for folder in self.folders:
            if exists(path := os.path.join(folder, name)):
                return path
        for text in dict.fromkeys((name.lstrip("/"), name.replace("\\", "/").lstrip("/"))):
            for folder in self.folders:
                if found := self._spelled(folder, PurePosixPath(text).parts):
                    return found
        return os.path.join(self.folders[0], name)

    def _spelled(self, folder: str, parts: Sequence[str]) -> str | None:
        for at, part in enumerate(parts):
            there = exists if at == len(parts) - 1 else os.path.isdir
            path = os.path.join(folder, part)
            if not there(path):
                names = self._listed(folder).get(_composed(part), [])
                if len(names) != 1 or not there(path := os.path.join(folder, names[0])):
                    return None
            folder = path
        return folder if parts else None

    def _list(self, folder: str) -> dict[str, list[str]]:
        """The names in a folder by what they may be called: as they are, and without the extension of a sample."""
        names: dict[str, list[str]] = {}
        stems: dict[str, list[str]] = {}
        try:
            found = [item.name for item in in_folder(folder)] if os.path.isdir(folder) else []
        except DataError:  # it cannot be listed: what is named in it is missing
            found = []
        for name in found:
            names.setdefault(_composed(name), []).append(name)
            if self.kind.is_file(name):
                stems.setdefault(_composed(os.path.splitext(name)[0]), []).append(name)
        return stems | names


def _composed(name: str) -> str:
    """One spelling of the names that look the same: composed (NFC)."""
    return unicodedata.normalize("NFC", name)
