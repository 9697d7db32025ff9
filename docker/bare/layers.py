"""Copying between stacked trees as COPY does: what is not changed on the way is linked, not written a second time."""

from __future__ import annotations

import fnmatch
import os
import posixpath
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path

from root import Root, is_opaque, is_removed


def merged(root: Root, path: str) -> dict[str, Path]:
    """All that is at and under ``path`` inside, by path relative to it (``""`` for itself), parents first."""
    found: dict[str, Path] = {}
    for tree in reversed(root.trees):
        place = tree
        for part in ("", *path.strip("/").split("/")):
            place = place / part
            if os.path.lexists(place) and (is_removed(place) or is_opaque(place)):
                found.clear()
        if os.path.lexists(place) and not is_removed(place):
            _lay(found, place)
    return dict(sorted(found.items()))


def _lay(found: dict[str, Path], place: Path) -> None:
    """Put the files of one tree over what the trees below it hold."""
    if place.is_symlink() or not place.is_dir():
        found.clear()
    found[""] = place
    for folder, names, files in os.walk(place):
        for name in (*names, *files):
            path = Path(folder, name)
            relative = path.relative_to(place).as_posix()
            hides = not stat.S_ISDIR(path.lstat().st_mode) or is_opaque(path)
            if hides and relative in found and stat.S_ISDIR(found[relative].lstat().st_mode):
                for under in [one for one in found if one.startswith(relative + "/")]:
                    del found[under]
            if is_removed(path):
                found.pop(relative, None)
            else:
                found[relative] = path


def make_folder(root: Root, path: str, owner: tuple[int, int] = (0, 0)) -> Path:
    """The folder ``path`` in the uppermost tree; what is new of it belongs to ``owner``, the rest stays as it was."""
    place = root.tree
    place.mkdir(parents=True, exist_ok=True)
    for part in path.strip("/").split("/"):
        below = root.find("/" + (place / part).relative_to(root.tree).as_posix())
        place = place / part
        if below is not None and not below.is_dir():
            raise NotADirectoryError(f"{path}: {part} is not a folder inside")
        if below is None:
            place.mkdir()
            os.chown(place, *owner)
        elif below != place:
            place.mkdir()
            shutil.copystat(below, place)
            os.chown(place, below.stat().st_uid, below.stat().st_gid)
    return place


def select(files: Mapping[str, Path], pattern: str) -> dict[str, dict[str, Path]]:
    """What a source of COPY means among ``files``: for each match its name, and what is at and under it."""
    pattern = posixpath.normpath(pattern).strip("/")
    if pattern == ".":
        return {"": {"": Path(os.curdir)} | dict(files)}
    tops = [one for one in files if one == pattern or (fnmatch.fnmatchcase(one, pattern) and _level(one, pattern))]
    return {
        top: {"": files[top]} | {one[len(top) + 1 :]: at for one, at in files.items() if one.startswith(top + "/")}
        for top in tops
    }


def _level(one: str, pattern: str) -> bool:
    return one.count("/") == pattern.count("/")


def copy(
    root: Root, items: Mapping[str, dict[str, Path]], target: str, owner: tuple[int, int], mode: int | None, link: bool
) -> None:
    """Lay what ``select`` found into ``target`` of the uppermost tree of ``root``, by COPY's rules.

    A folder's content goes into the target; a file goes there under the target's name, or under its own where the
    target ends with a slash or is a folder. With ``link`` (for files of other layers, which are never written to again)
    those that keep owner and mode are linked instead, where they lie on the same disk.
    """
    inside = root.resolve(target)
    existing = root.find(inside)
    into = target.endswith(("/", "/.")) or len(items) > 1 or (existing is not None and existing.is_dir())
    for top, files in items.items():
        first = files[""]
        if first.is_dir() and not first.is_symlink():
            base = make_folder(root, inside, owner)
            for relative, source in files.items():
                if relative:
                    _place(root, source, posixpath.join(inside, relative), base / relative, owner, mode, link)
        else:
            path = posixpath.join(inside, posixpath.basename(top)) if into else inside
            make_folder(root, posixpath.dirname(path), owner)
            _place(root, first, path, root.tree / path.lstrip("/"), owner, mode, link)


def _place(
    root: Root, source: Path, inside: str, place: Path, owner: tuple[int, int], mode: int | None, link: bool
) -> None:
    state = source.lstat()
    if stat.S_ISDIR(state.st_mode):
        make_folder(root, inside, owner)
        if not place.is_symlink():
            place.chmod(mode if mode is not None else stat.S_IMODE(state.st_mode))
        return
    if os.path.lexists(place):
        place.unlink()
    if stat.S_ISLNK(state.st_mode):
        place.symlink_to(os.readlink(source))
        os.chown(place, *owner, follow_symlinks=False)
        return
    same = (state.st_uid, state.st_gid) == owner and mode in (None, stat.S_IMODE(state.st_mode))
    if same and link and state.st_dev == place.parent.stat().st_dev:
        os.link(source, place)
        return
    shutil.copy2(source, place)
    os.chown(place, *owner)
    if mode is not None:
        place.chmod(mode)
